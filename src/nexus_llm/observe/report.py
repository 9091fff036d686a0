"""The report of one gateway as JSON for programs and as one self-contained HTML page for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any, Literal

from nexus_llm.observe.drift import Drift
from nexus_llm.observe.objectives import LEAST_REQUESTS, OBJECTIVES, Objective
from nexus_llm.observe.snapshots import Snapshot, burns, counted, firing, quantile

State = Literal["met", "missed", "inconclusive"]

LATENCIES = {
    "first_token_seconds": "vllm:time_to_first_token_seconds",
    "between_tokens_seconds": "vllm:inter_token_latency_seconds",
    "answer_seconds": "vllm:e2e_request_latency_seconds",
    "queue_seconds": "vllm:request_queue_time_seconds",
}
_USAGE = {
    "requests": "nexus_requests_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generated_tokens": "vllm:generation_tokens_total",
    "refused": "nexus_requests_refused_total",
    "timeouts": "nexus_timeouts_total",
    "clients_left": "nexus_client_disconnects_total",
    "engine_restarts": "nexus_engine_restarts",
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "telemetry_dropped": "nexus_telemetry_dropped_total",
}


def report_document(
    target: str, looks: Sequence[Snapshot], drift: Sequence[Drift], notes: Sequence[str]
) -> dict[str, Any]:
    """Everything that the page says, of looks in the order of time; without a history, of one."""
    now = looks[-1]
    return {
        "target": target,
        "time": now.time,
        "looks": len(looks),
        "objectives": [_objective(one, looks) for one in OBJECTIVES],
        "latency": {name: _percentiles(now, histogram) for name, histogram in LATENCIES.items()},
        "usage": {name: now.total(sample) for name, sample in _USAGE.items()},
        "drift": [asdict(one) for one in drift],
        "notes": list(notes),
    }


def report_html(document: dict[str, Any]) -> str:
    """The page, without scripts or links; everything that came from outside is escaped."""
    import time

    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "number": _number,
        "moment": lambda value: time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(value)),
    }
    source = (resources.files("nexus_llm.observe") / "report_page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(document=document)


def state(objective: Objective, bad: float, total: float) -> State:
    """Whether an objective was met. A budget of less than one event is none that could be kept.

    >>> state(OBJECTIVES[0], 0, 999), state(OBJECTIVES[0], 0, 1_000), state(OBJECTIVES[0], 2, 1_000)
    ('inconclusive', 'met', 'missed')
    """
    if total < LEAST_REQUESTS:
        return "inconclusive"
    if bad > total * objective.budget_share * (1 + 1e-9):
        return "missed"
    return "met" if round(total * objective.budget_share, 9) >= 1 else "inconclusive"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _objective(objective: Objective, looks: Sequence[Snapshot]) -> dict[str, Any]:
    """State and budget since the server started, for its counters begin there; burn rates by window."""
    bad, total = counted(objective.name, looks[-1])
    found = burns(objective.name, looks)
    return {
        "name": objective.name,
        "title": objective.title,
        "target_share": objective.good_share,
        "good_share": (total - bad) / total if total else None,
        "bad": bad,
        "all": total,
        "state": state(objective, bad, total),
        "burn_rates": {one.window: one.rate for one in found},
        "alerts": firing(found),
    }


def _percentiles(look: Snapshot, histogram: str) -> dict[str, float | None]:
    buckets = look.buckets(histogram)
    return {f"p{share * 100:g}": quantile(buckets, share) for share in (0.5, 0.95, 0.99)}

"""What the service promises, and when to wake somebody: objectives, burn rates, and Prometheus' rules for both.

A *burn rate* is how fast the error budget goes: 1 spends exactly the budget of 30 days in 30 days. An alert asks for a
rate over a long window, so that a blip is none, and over a short one, so that it ends when the trouble does.

Source: Beyer et al. 2018, "The Site Reliability Workbook", chapter 5, "Alerting on SLOs", approach 6 and table 5-8:
14.4 over 1 h and 5 min (2 % of the budget), 6 over 6 h and 30 min (5 %), 1 over 3 d and 6 h (10 %); and 3 over 1 d and
2 h (10 %), which the chapter's own rules have besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

PERIOD_DAYS = 30


@dataclass(frozen=True)
class Objective:
    """A share of events that are to be good."""

    name: str
    title: str
    good_share: float
    bad: str
    """PromQL of the events that were not good in `WINDOW`."""
    all: str
    """PromQL of all events in `WINDOW`."""
    runbook: str

    @property
    def budget_share(self) -> float:
        """The share that may be bad."""
        return 1 - self.good_share

    def burn_rate(self, bad: float, total: float) -> float:
        """How many times too fast the budget goes; 0 where nothing happened."""
        return bad / total / self.budget_share if total else 0.0


@dataclass(frozen=True)
class Tier:
    """One pair of windows."""

    severity: Literal["page", "ticket"]
    burn_rate: float
    long: str
    short: str
    """Windows as Prometheus writes them."""


TIERS = (
    Tier("page", 14.4, "1h", "5m"),
    Tier("page", 6, "6h", "30m"),
    Tier("ticket", 3, "1d", "2h"),
    Tier("ticket", 1, "3d", "6h"),
)
WINDOW_SECONDS = {"5m": 300, "30m": 1800, "1h": 3600, "2h": 7200, "6h": 21_600, "1d": 86_400, "3d": 259_200}
"""Every window, shortest first."""

LEAST_REQUESTS = 50
"""Fewer requests in a window say nothing: one failure of ten is no rate (the workbook on low-traffic services)."""


def _slow(histogram: str, seconds: float) -> str:
    fast = f'sum(increase({histogram}_bucket{{le="{seconds}"}}[WINDOW]))'
    return f"sum(increase({histogram}_count[WINDOW])) - {fast}"


OBJECTIVES = (
    Objective(
        name="availability",
        title="Requests that the server does not fail: no 5xx, no stream that breaks off",
        good_share=0.999,
        bad='sum(increase(nexus_requests_total{outcome="failed"}[WINDOW]))',
        all="sum(increase(nexus_requests_total[WINDOW]))",
        runbook="error-rate",
    ),
    Objective(
        name="first-token",
        title="First tokens within 2 s",
        good_share=0.95,
        bad=_slow("vllm:time_to_first_token_seconds", 2.0),
        all="sum(increase(vllm:time_to_first_token_seconds_count[WINDOW]))",
        runbook="high-latency",
    ),
    Objective(
        name="answer",
        title="Whole answers within 30 s",
        good_share=0.95,
        bad=_slow("vllm:e2e_request_latency_seconds", 30.0),
        all="sum(increase(vllm:e2e_request_latency_seconds_count[WINDOW]))",
        runbook="high-latency",
    ),
)


def prometheus_rules(objectives: Sequence[Objective] = OBJECTIVES) -> dict[str, Any]:
    """A rules file: of each objective all burn rates and an alert a severity; and what tells of the engine."""
    return {"groups": [*(_group(one) for one in objectives), {"name": "nexus-engine", "rules": _ENGINE_RULES}]}


def _series(objective: Objective, window: str) -> str:
    return f"nexus_burn_rate:{objective.name.replace('-', '_')}:{window}"


def _group(objective: Objective) -> dict[str, Any]:
    """Recorded once and compared often. Too few requests record nothing, so that no alert can come of them."""
    recorded = [
        {
            "record": _series(objective, window),
            "expr": f"({objective.bad}) / ({objective.all}) / {objective.budget_share:.6g}".replace("WINDOW", window)
            + f" and ({objective.all}) >= {LEAST_REQUESTS}".replace("WINDOW", window),
        }
        for window in WINDOW_SECONDS
    ]
    alerts = [_burning(objective, severity) for severity in dict.fromkeys(tier.severity for tier in TIERS)]
    return {"name": f"nexus-{objective.name}", "rules": [*recorded, *alerts]}


def _burning(objective: Objective, severity: str) -> dict[str, Any]:
    """One alert a severity, over all its pairs of windows: two of one name and labels would end each other."""
    tiers = [tier for tier in TIERS if tier.severity == severity]
    pairs = [
        " and ".join(f"{_series(objective, window)} > {tier.burn_rate}" for window in (tier.long, tier.short))
        for tier in tiers
    ]
    words = " or ".join(f"{tier.burn_rate} times too fast over {tier.long}" for tier in tiers)
    return _alert(
        f"slo-{objective.name}-{severity}",
        " or ".join(f"({pair})" for pair in pairs),
        severity,
        f"{objective.title}: the budget of {PERIOD_DAYS} days goes {words}.",
        objective.runbook,
    )


def _alert(name: str, expression: str, severity: str, words: str, runbook: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "labels": {"severity": severity},
        "annotations": {"description": words, "runbook": f"docs/runbooks/{runbook}.md"},
    }


_ENGINE_RULES = [
    _alert("engine-down", "nexus_engine_up == 0", "page", "The engine does not answer.", "engine-crash-loop"),
    _alert(
        "engine-restarts",
        "increase(nexus_engine_restarts[15m]) >= 3",
        "page",
        "The engine died and came back three times in a quarter of an hour.",
        "engine-crash-loop",
    ),
    _alert(
        "cache-full",
        "min_over_time(vllm:kv_cache_usage_perc[10m]) > 0.95",
        "ticket",
        "The key-value cache has been full for ten minutes: requests wait for memory, not for time.",
        "gpu-memory",
    ),
]

"""A load test's result as one JSON document."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_llm.serve.bench.plan import Slo
from nexus_llm.serve.bench.records import UNFINISHED, Floats, Records, percentiles, rounded
from nexus_llm.serve.bench.run import Client, Measured

LATE_AFTER_SECONDS = 0.05
"""A request that the client sends later than this after its time is late."""
MAX_LATE_SHARE = 0.01
"""More late ones than this, and what was measured is the client."""
MAX_CLIENT_CORE_SHARE = 0.9
"""The client has one core; above this it reads answers later than they come."""
_TIMELINE_BINS = 120
_DISTRIBUTION_BINS = 40

Mask = NDArray[np.bool_]


def summary(measured: Measured, *, environment: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Rates, percentiles, errors, goodput, and whether the client kept up; with the plan and how it came about.

    Latencies are of requests that ended well, and count from when each had to be sent. Tokens are those of good
    requests, and what unfinished ones had received when the test was cut off.
    """
    records, seconds = measured.records, max(measured.seconds, 1e-9)
    good = records.is_kind("")
    latencies = _latencies(records, good)
    tokens = _tokens(records, good)
    sending = _sending(measured)
    client = _client(measured.client, seconds)
    reasons = _reasons(sending, client)
    return {
        "output_tokens_per_second": round((tokens["output"] + tokens["output_unfinished"]) / seconds, 2),
        "requests_per_second": round(int(good.sum()) / seconds, 3),
        "ttft_seconds": percentiles(latencies["ttft"]),
        "inter_token_seconds": records.gaps.percentiles(),
        "time_per_output_token_seconds": percentiles(latencies["tpot"]),
        "e2e_seconds": percentiles(latencies["e2e"]),
        "errors": records.errors(),
        "goodput": _goodput(measured.plan.slo, latencies, good, sent=len(records), seconds=seconds),
        "requests": {
            "planned": measured.planned,
            "sent": len(records),
            "good": int(good.sum()),
            "failed": sum(records.errors().values()),
            "unfinished": int(records.is_kind(UNFINISHED).sum()),
            "retries": int(records.counts("retries").sum()),
        },
        "tokens": tokens,
        "seconds": round(measured.seconds, 3),
        "stopped_early": measured.stopped_early,
        "is_valid": not reasons,
        "not_valid_because": reasons,
        "sending": sending,
        "client": client,
        "timeline": _timeline(records, seconds),
        "distributions": _distributions(records, latencies),
        "plan": measured.plan.described() | {"extra_fields": list(measured.accepted_extras)},
        "environment": dict(environment or {}),
    }


def _latencies(records: Records, good: Mask) -> dict[str, Floats]:
    """Seconds per good request, by the names that an SLO uses."""
    scheduled, first, last = (records.seconds(name)[good] for name in ("scheduled", "first", "last"))
    after_first = (_output_tokens(records)[good] - 1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_token = np.where(after_first > 0, (last - first) / after_first, np.nan)
    return {
        "ttft": first - scheduled,
        "itl": records.seconds("mean_gap")[good],
        "stall": records.seconds("longest_gap")[good],
        "tpot": per_token,
        "e2e": records.seconds("ended")[good] - scheduled,
    }


def _output_tokens(records: Records) -> NDArray[np.int64]:
    """As the usage says, else as many as there were pieces of text."""
    said = records.counts("output_tokens")
    return np.where(said >= 0, said, records.counts("pieces"))


def _tokens(records: Records, good: Mask) -> dict[str, Any]:
    said, pieces, asked = (records.counts(name)[good] for name in ("output_tokens", "pieces", "asked_output_tokens"))
    by_usage = int((said >= 0).sum())
    given = records.counts("input_tokens")[good]
    output = _output_tokens(records)[good]
    counted_by = "usage" if by_usage == len(said) else "pieces" if by_usage == 0 else "mixed"
    return {
        "counted_by": counted_by if len(said) else None,
        "answers_with_usage": by_usage,
        "answers_without_text": int((pieces == 0).sum()),
        "answers_longer_than_asked": int((output > asked).sum()),
        "output": int(output.sum()),
        "output_unfinished": int(records.counts("pieces")[records.is_kind(UNFINISHED)].sum()),
        "output_per_answer": percentiles(output.astype(np.float64)),
        "input_per_request": percentiles(given[given >= 0].astype(np.float64)),
        "per_piece": round(int(output.sum()) / int(pieces.sum()), 3) if pieces.sum() else None,
    }


def _goodput(
    slo: Slo, latencies: Mapping[str, Floats], good: Mask, *, sent: int, seconds: float
) -> dict[str, Any] | None:
    """Requests a second that met every bound; of all that were sent, failed ones included."""
    bounds = slo.bounds()
    if not bounds:
        return None
    met = {name: _meets(latencies, name, bound) for name, bound in bounds.items()}
    together = np.logical_and.reduce(list(met.values())) if good.any() else np.zeros(0, dtype=np.bool_)
    return {
        "slo_seconds": bounds,
        "requests_per_second": round(int(together.sum()) / seconds, 3),
        "share": round(int(together.sum()) / sent, 4) if sent else None,
        "met": {name: int(which.sum()) for name, which in met.items()},
    }


def _meets(latencies: Mapping[str, Floats], name: str, bound: float) -> Mask:
    # An answer of one piece has no gap that could be too long; one without any text has no first piece in time.
    values = latencies[name]
    met: Mask = values <= bound
    return met if name in ("ttft", "e2e") else met | (np.isnan(values) & ~np.isnan(latencies["ttft"]))


def _sending(measured: Measured) -> dict[str, Any] | None:
    """How well the client kept to its schedule; None in a closed loop, which has none."""
    if measured.plan.load == "closed" or not len(measured.records):
        return None
    late = measured.records.seconds("sent") - measured.records.seconds("scheduled")
    return {
        "scheduled_requests_per_second": round(_rate(measured.records.seconds("scheduled")), 3),
        "sent_requests_per_second": round(_rate(measured.records.seconds("sent")), 3),
        "late_after_seconds": LATE_AFTER_SECONDS,
        "late": int((late > LATE_AFTER_SECONDS).sum()),
        "late_share": round(float((late > LATE_AFTER_SECONDS).mean()), 4),
        "lateness_seconds": percentiles(late) | {"max": rounded(float(late.max()))},
    }


def _rate(times: Floats) -> float:
    return (len(times) - 1) / max(float(times.max() - times.min()), 1e-9)


def _client(client: Client, seconds: float) -> dict[str, Any]:
    return {
        "core_share": round(client.cpu_seconds / seconds, 3),
        "wake_up_lag_seconds": percentiles(np.array(client.lags)) | {"max": rounded(max(client.lags, default=0.0))},
    }


def _reasons(sending: Mapping[str, Any] | None, client: Mapping[str, Any]) -> list[str]:
    reasons = []
    if sending and sending["late_share"] > MAX_LATE_SHARE:
        reasons.append(
            f"the client sent {sending['late_share']:.1%} of the requests more than {LATE_AFTER_SECONDS * 1000:.0f} ms "
            f"late (at most {MAX_LATE_SHARE:.0%} may be)"
        )
    if client["core_share"] > MAX_CLIENT_CORE_SHARE:
        reasons.append(
            f"the client used {client['core_share']:.0%} of its core (at most {MAX_CLIENT_CORE_SHARE:.0%} may be)"
        )
    return reasons


def _timeline(records: Records, seconds: float) -> dict[str, Any]:
    """Requests sent, ended well and failed in each bin of time, and the most and the mean that ran in it."""
    bins = max(1, min(_TIMELINE_BINS, int(seconds / 0.1)))
    edges = np.linspace(0, seconds, bins + 1)
    sent, ended, good = records.seconds("sent"), records.seconds("ended"), records.is_kind("")
    moments = np.concatenate([sent, ended])
    order = np.argsort(moments, kind="stable")
    running = np.cumsum(np.concatenate([np.ones(len(sent)), -np.ones(len(ended))])[order])
    return {
        "bin_seconds": round(seconds / bins, 6),
        "sent": _counted(sent, edges),
        "good": _counted(ended[good], edges),
        "failed": _counted(ended[~good & ~records.is_kind(UNFINISHED)], edges),
        "running": _most_running(moments[order], running, edges),
    }


def _counted(moments: Floats, edges: Floats) -> list[int]:
    # A request that ended at the very end was measured a moment after the clock was last read.
    return [int(count) for count in np.histogram(np.minimum(moments, edges[-1]), bins=edges)[0]]


def _most_running(moments: Floats, running: Floats, edges: Floats) -> list[int]:
    most = []
    for begin, end in itertools.pairwise(edges):
        low, high = np.searchsorted(moments, [begin, end])
        at_begin = running[low - 1] if low else 0.0
        most.append(int(max(at_begin, running[low:high].max(initial=0.0))))
    return most


def _distributions(records: Records, latencies: Mapping[str, Floats]) -> dict[str, Any]:
    """Counts between logarithmic edges, in seconds, for the page's plots."""
    found = {}
    for name, values in (("ttft", latencies["ttft"]), ("tpot", latencies["tpot"]), ("e2e", latencies["e2e"])):
        known = np.maximum(values[~np.isnan(values)], 1e-6)
        edges = _edges(known)
        found[f"{name}_seconds"] = {"edges": edges, "counts": [int(n) for n in np.histogram(known, bins=edges)[0]]}
    gaps = records.gaps
    spread = np.array([value for value in gaps.percentiles().values() if value])
    edges = _edges(np.concatenate([spread / 20, spread * 5]) if len(spread) else spread)
    found["inter_token_seconds"] = {"edges": edges, "counts": gaps.coarse([0.0, *edges[1:-1], 1e6])}
    return found


def _edges(values: Floats) -> list[float]:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.001, 1.0)
    edges: Sequence[float] = np.geomspace(low / 1.02, max(high * 1.02, low * 1.2), _DISTRIBUTION_BINS + 1).tolist()
    return [round(edge, 9) for edge in edges]

"""What a gateway's /metrics say, and what happened between two looks: counts, latencies, burn rates. Pure.

A look is one snapshot: every sample of the page by its name and labels. Two of them tell what happened in between;
with a file of them, as `nexus observe report URL --history FILE` keeps, every window of an objective can be told
without a Prometheus.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nexus_llm.observe.objectives import LEAST_REQUESTS, OBJECTIVES, TIERS, WINDOW_SECONDS

_COUNTED = (
    "nexus_requests_total{",
    "vllm:time_to_first_token_seconds_bucket{",
    "vllm:e2e_request_latency_seconds_bucket{",
)
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Snapshot:
    """One look."""

    time: float
    """Seconds since 1970."""
    values: Mapping[str, float]
    """Sample as it stands on the page, labels included → value."""

    def total(self, name: str, **labels: str) -> float:
        """The sum over every series of that name with these labels."""
        return math.fsum(value for key, value in self.values.items() if _fits(key, name, labels))

    def buckets(self, histogram: str) -> dict[float, float]:
        """Upper bound → how many samples were up to it, over all series of a histogram, bounds ascending."""
        found: dict[float, float] = {}
        for key, value in self.values.items():
            name, labels = _parts(key)
            if name == f"{histogram}_bucket":
                bound = float(labels["le"])
                found[bound] = found.get(bound, 0.0) + value
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class Burn:
    """How fast one objective's budget went in one window; None where nothing is known or too little happened."""

    window: str
    bad: float
    all: float
    rate: float | None


def snapshot(page: str, *, time: float) -> Snapshot:
    """The samples of a page in Prometheus' text form.

    >>> snapshot('# TYPE a counter\\na_total{x="1"} 2\\n', time=0.0).total("a_total", x="1")
    2.0
    """
    found = (_SAMPLE.match(line) for line in page.splitlines() if not line.startswith("#"))
    return Snapshot(time, {f"{one[1]}{{{one[2] or ''}}}": float(one[3]) for one in found if one})


def worth_keeping(look: Snapshot) -> Snapshot:
    """What later looks compare themselves with: the counts that burn rates are made of, a tenth of the page."""
    return Snapshot(look.time, {key: value for key, value in look.values.items() if key.startswith(_COUNTED)})


def between(before: Snapshot | None, after: Snapshot) -> Snapshot:
    """What happened from one look to the next. A counter that fell began anew, as after a restart."""
    if before is None:
        return after
    grown = {
        key: value - before.values.get(key, 0.0) if value >= before.values.get(key, 0.0) else value
        for key, value in after.values.items()
    }
    return Snapshot(after.time, grown)


def over_window(looks: Sequence[Snapshot], seconds: float) -> Snapshot | None:
    """What happened in the last so many seconds, of looks in the order of time; None where they do not reach back.

    Steps are added up, so that a restart in the middle loses nothing but what the last look before it missed. A look
    may be a tenth of the window too young or too old: nobody looks to the second.
    """
    last = looks[-1]
    first = min(range(len(looks)), key=lambda index: abs(last.time - seconds - looks[index].time))
    if abs(last.time - looks[first].time - seconds) > seconds / 10:
        return None
    steps = [between(one, two) for one, two in pairwise(looks[first:])]
    return Snapshot(last.time, {key: math.fsum(step.values.get(key, 0.0) for step in steps) for key in last.values})


def counted(objective: str, grown: Snapshot) -> tuple[float, float]:
    """Bad events and all events of one of `OBJECTIVES`, of what happened."""
    if objective == "availability":
        return grown.total("nexus_requests_total", outcome="failed"), grown.total("nexus_requests_total")
    histogram, bound = {
        "first-token": ("vllm:time_to_first_token_seconds", 2.0),
        "answer": ("vllm:e2e_request_latency_seconds", 30.0),
    }[objective]
    buckets = grown.buckets(histogram)
    total = buckets.get(math.inf, 0.0)
    return total - buckets.get(bound, total), total


def burns(objective: str, looks: Sequence[Snapshot]) -> list[Burn]:
    """The burn rate over every window that the looks reach back to."""
    (promise,) = [one for one in OBJECTIVES if one.name == objective]
    found = []
    looks = [*looks[:-1], worth_keeping(looks[-1])]
    for window, seconds in WINDOW_SECONDS.items():
        grown = over_window(looks, seconds)
        bad, total = (0.0, 0.0) if grown is None else counted(objective, grown)
        rate = promise.burn_rate(bad, total) if total >= LEAST_REQUESTS else None
        found.append(Burn(window, bad, total, rate))
    return found


def firing(found: Sequence[Burn]) -> list[str]:
    """Severities whose pair of windows burns too fast, `page` first."""
    rates = {one.window: one.rate or 0.0 for one in found}
    return list(
        dict.fromkeys(
            tier.severity for tier in TIERS if rates[tier.long] > tier.burn_rate and rates[tier.short] > tier.burn_rate
        )
    )


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The value that `share` of a histogram's samples do not exceed, as Prometheus estimates it: evenly in a bucket.

    >>> quantile({1.0: 5, 2.0: 10, math.inf: 10}, 0.75)
    1.5
    """
    bounds = list(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return None
    below, start = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= share * total:
            if math.isinf(bound):
                return start
            inside = buckets[bound] - below
            return start + (bound - start) * (share * total - below) / inside if inside else bound
        below, start = buckets[bound], bound
    return start


def _parts(key: str) -> tuple[str, dict[str, str]]:
    name, _, labels = key.partition("{")
    return name, dict(_LABEL.findall(labels))


def _fits(key: str, name: str, labels: Mapping[str, str]) -> bool:
    if not key.startswith(name + "{"):
        return False
    have = _parts(key)[1]
    return all(have.get(label) == value for label, value in labels.items())

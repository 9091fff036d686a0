"""What was measured, in memory that does not grow with tokens: ten numbers a request, and one histogram of gaps.

100,000 requests take 9 MB, however long their answers are.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
UNFINISHED = "unfinished"
"""Cut off by the end of the test: neither good nor an error."""
_SHORTEST_SECONDS, _LONGEST_SECONDS = 1e-6, 1e5
_BIN_RATIO = 1.005
"""Each bin's end over its begin: a percentile is right within 0.25 %."""
_BINS = math.ceil(math.log(_LONGEST_SECONDS / _SHORTEST_SECONDS) / math.log(_BIN_RATIO))
_COLUMNS = ("scheduled", "sent", "first", "last", "ended", "longest_gap", "mean_gap")
_COUNTS = ("number", "output_tokens", "input_tokens", "pieces", "asked_output_tokens", "retries")


@dataclass(slots=True)
class RequestTimes:
    """One request; times in seconds since the start of the test."""

    number: int = 0
    scheduled: float = 0.0
    """When it had to be sent. In a closed loop, when it was."""
    sent: float = 0.0
    arrivals: array[float] = field(default_factory=lambda: array("d"))
    """When each piece of text came."""
    ended: float = 0.0
    output_tokens: int | None = None
    """As the server's usage says; None where it says nothing."""
    input_tokens: int | None = None
    asked_output_tokens: int = 0
    retries: int = 0
    error: str | None = None


class GapHistogram:
    """Times between pieces of text, counted in bins that are each 0.5 % wide."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(_BINS + 1, dtype=np.int64)

    def add(self, seconds: Floats) -> None:
        """Counts these. What is shorter than a microsecond came in one read, and counts as 0."""
        places = np.log(np.maximum(seconds, _SHORTEST_SECONDS) / _SHORTEST_SECONDS) / math.log(_BIN_RATIO)
        bins = np.where(seconds < _SHORTEST_SECONDS, 0, np.minimum(places.astype(np.int64) + 1, _BINS))
        self.counts += np.bincount(bins, minlength=_BINS + 1)

    def percentiles(self) -> dict[str, float | None]:
        """By nearest rank, as the geometric middle of its bin; None where nothing was counted."""
        sums = np.cumsum(self.counts)
        if not sums[-1]:
            return dict.fromkeys(QUANTILES)
        ranks = {name: max(1, math.ceil(share * int(sums[-1]))) for name, share in QUANTILES.items()}
        return {name: rounded(self._middle(int(np.searchsorted(sums, rank)))) for name, rank in ranks.items()}

    def coarse(self, edges: Sequence[float]) -> list[int]:
        """Counts between each edge and the next, in seconds."""
        middles = np.array([self._middle(place) for place in range(_BINS + 1)])
        counts, _ = np.histogram(middles, bins=np.asarray(edges), weights=self.counts)
        return [int(count) for count in counts]

    def _middle(self, place: int) -> float:
        return 0.0 if place == 0 else _SHORTEST_SECONDS * _BIN_RATIO ** (place - 0.5)


class Records:
    """All finished requests as columns, in the order of their ends."""

    def __init__(self) -> None:
        self._floats = {name: array("d") for name in _COLUMNS}
        self._counts = {name: array("q") for name in _COUNTS}
        self._kinds = array("H")  # place in `kinds`
        self.kinds: list[str] = [""]
        """The kinds of ends; the first is a good one."""
        self.gaps = GapHistogram()

    def __len__(self) -> int:
        return len(self._kinds)

    def add(self, times: RequestTimes) -> None:
        """Keeps what one request measured. Its pieces are counted and forgotten."""
        pieces = np.frombuffer(times.arrivals, dtype=np.float64) if times.arrivals else np.empty(0)
        gaps = np.diff(pieces)
        is_good = times.error is None
        if is_good and len(gaps):
            self.gaps.add(gaps)
        nothing = math.nan
        values = (
            times.scheduled,
            times.sent,
            pieces[0] if len(pieces) else nothing,
            pieces[-1] if len(pieces) else nothing,
            times.ended,
            gaps.max() if len(gaps) else nothing,
            gaps.mean() if len(gaps) else nothing,
        )
        for name, value in zip(_COLUMNS, values, strict=True):
            self._floats[name].append(value)
        # −1: the server did not say.
        said = [-1 if count is None else count for count in (times.output_tokens, times.input_tokens)]
        counts = (times.number, *said, len(pieces), times.asked_output_tokens, times.retries)
        for name, count in zip(_COUNTS, counts, strict=True):
            self._counts[name].append(count)
        kind = times.error or ""
        if kind not in self.kinds:
            self.kinds.append(kind)
        self._kinds.append(self.kinds.index(kind))

    def seconds(self, name: str) -> Floats:
        """One column of times; not-a-number where there was none."""
        return np.array(self._floats[name], dtype=np.float64)

    def counts(self, name: str) -> NDArray[np.int64]:
        """One column of counts; −1 where the server did not say."""
        return np.array(self._counts[name], dtype=np.int64)

    def is_kind(self, kind: str) -> NDArray[np.bool_]:
        """Which requests ended that way; the empty kind is the good one."""
        place = self.kinds.index(kind) if kind in self.kinds else -1
        which: NDArray[np.bool_] = np.array(self._kinds, dtype=np.int64) == place
        return which

    def errors(self) -> dict[str, int]:
        """Kind → requests, without good and unfinished ones."""
        found = Counter(self.kinds[place] for place in self._kinds)
        return {kind: count for kind, count in sorted(found.items()) if kind not in ("", UNFINISHED)}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each request as JSON values; times in seconds since the start, null where there was none."""
        for place, kind in enumerate(self._kinds):
            row: dict[str, Any] = {name: self._counts[name][place] for name in _COUNTS}
            row |= {name: rounded(self._floats[name][place]) for name in _COLUMNS}
            yield {key: None if value == -1 else value for key, value in row.items()} | {
                "error": self.kinds[kind] or None
            }


def percentiles(values: Floats) -> dict[str, float | None]:
    """50th, 90th, 95th and 99th percentile by nearest rank, of those that are numbers; None where there are none.

    >>> percentiles(np.array([3.0, 1.0, 2.0, math.nan]))
    {'p50': 2.0, 'p90': 3.0, 'p95': 3.0, 'p99': 3.0}
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return dict.fromkeys(QUANTILES)
    found = np.quantile(known, list(QUANTILES.values()), method="inverted_cdf")
    return {name: rounded(float(value)) for name, value in zip(QUANTILES, found, strict=True)}


def rounded(value: float) -> float | None:
    """Microseconds are the finest that any clock here tells; None for not-a-number."""
    return None if math.isnan(value) else round(value, 6)

"""Whether what is asked and answered still looks like what the model was trained on. Pure.

Lengths are compared by the two-sample Kolmogorov-Smirnov test and the population stability index, categories
(languages) by the index alone, and, where an engine embeds, vectors by a permutation test on the distance of their
means. Each says `steady`, `drifted`, or `inconclusive` where there is too little to tell.

The index is the sum of (p - q) ln(p / q) over bins; above 0.2 it is customarily called a shift (Siddiqi 2006, "Credit
Risk Scorecards"). Without any drift it is distributed as (1/n + 1/m) chi-squared with one degree fewer than bins
(Yurdakul 2018, "Statistical Properties of Population Stability Index"): with 10 bins, chance
exceeds 0.2 once in 56 looks at 200 samples of each, and 8 times in a million at 400. Hence `LEAST_SAMPLES`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Verdict = Literal["steady", "drifted", "inconclusive"]

LEAST_SAMPLES = 400
PSI_LIMIT = 0.2
SIGNIFICANCE = 0.001
"""Of the tests: one false alarm in a thousand looks."""
LEAST_KS = 0.1
"""With enough samples every difference is significant; below this largest distance of two shares it does not matter."""
_BINS = 10
_PERMUTATIONS = 2_000


@dataclass(frozen=True)
class Drift:
    """One comparison with the training data."""

    what: str
    verdict: Verdict
    statistic: str
    """`psi`, `ks` or `embedding`."""
    value: float | None
    limit: float
    samples: int
    """Of what is in service."""
    reference_samples: int


def length_drift(what: str, reference: Sequence[float], current: Sequence[float]) -> list[Drift]:
    """Both comparisons of two samples of lengths; the index is over tenths of the reference."""
    ordered = sorted(reference)
    edges = [ordered[len(ordered) * index // _BINS] for index in range(1, _BINS)] if ordered else []
    known, now = (Counter(bisect_right(edges, one) for one in sample) for sample in (reference, current))
    return [count_drift(what, known, now), _ks_drift(what, ordered, sorted(current))]


def count_drift(what: str, reference: Mapping[Any, float], current: Mapping[Any, float]) -> Drift:
    """The stability index of counts by bin or category; half a count in each keeps an empty one finite."""
    known, now = (round(math.fsum(counts.values())) for counts in (reference, current))
    bins = sorted({*reference, *current}, key=str)
    value = 0.0
    for one in bins:
        p = (current.get(one, 0) + 0.5) / (now + 0.5 * len(bins))
        q = (reference.get(one, 0) + 0.5) / (known + 0.5 * len(bins))
        value += (p - q) * math.log(p / q)
    return _judged(what, "psi", value, PSI_LIMIT, now, known)


def binned(lengths: Sequence[float], bounds: Sequence[float]) -> dict[float, float]:
    """How many lengths fall into each bucket of a histogram, by upper bound: to set beside a server's own buckets."""
    counts = Counter(bounds[bisect_left(bounds, one)] for one in lengths)
    return {bound: float(counts[bound]) for bound in bounds}


def embedding_drift(what: str, reference: NDArray[np.floating[Any]], current: NDArray[np.floating[Any]]) -> Drift:
    """Whether the mean directions of two sets of vectors differ more than those of the same vectors dealt at random.

    The value is how often a random deal was as far apart: small means drifted.
    """
    import numpy as np

    vectors = np.concatenate([reference, current]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = len(reference)
    generator = np.random.default_rng(0)

    def distance(order: NDArray[np.integer[Any]]) -> float:
        return float(np.linalg.norm(vectors[order[:known]].mean(axis=0) - vectors[order[known:]].mean(axis=0)))

    observed = distance(np.arange(len(vectors)))
    further = sum(distance(generator.permutation(len(vectors))) >= observed for _ in range(_PERMUTATIONS))
    share = (further + 1) / (_PERMUTATIONS + 1)
    enough = min(known, len(current)) >= 50  # each vector tells more than one length does
    verdict: Verdict = "inconclusive" if not enough else "drifted" if share < SIGNIFICANCE else "steady"
    return Drift(what, verdict, "embedding", round(share, 5), SIGNIFICANCE, len(current), known)


def _ks_drift(what: str, reference: Sequence[float], current: Sequence[float]) -> Drift:
    """The largest distance of two empirical distributions; the limit is the asymptotic one of the two-sample test."""
    n, m = len(reference), len(current)
    if not n or not m:
        return _judged(what, "ks", None, LEAST_KS, m, n)
    value = max(
        abs(bisect_right(reference, one) / n - bisect_right(current, one) / m) for one in {*reference, *current}
    )
    limit = math.sqrt(-math.log(SIGNIFICANCE / 2) / 2) * math.sqrt((n + m) / (n * m))
    return _judged(what, "ks", value, max(limit, LEAST_KS), m, n)


def _judged(what: str, statistic: str, value: float | None, limit: float, samples: int, known: int) -> Drift:
    if value is None or min(samples, known) < LEAST_SAMPLES:
        verdict: Verdict = "inconclusive"
    else:
        verdict = "drifted" if value > limit else "steady"
    return Drift(what, verdict, statistic, value if value is None else round(value, 5), round(limit, 5), samples, known)

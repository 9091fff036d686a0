"""How sure an effect is: four estimates with an interval and one-sided p-values, and Holm's correction.

Every estimate answers the same four questions (`Effect`), so that one rule judges them all.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nexus_llm.errors import MissingExtraError

_RESAMPLES = 10_000
# Resampled values that are held at once: 4 million indices and as many scores are 64 MB.
_VALUES_AT_ONCE = 4_000_000
# Fewer items than this cannot carry a bootstrap's interval; a gate then says so instead of guessing.
MIN_ITEMS = 8

Floats = npt.NDArray[np.float64]


class Effect(Protocol):
    """An estimated number, and how sure it is."""

    @property
    def estimate(self) -> float:
        """The number."""

    @property
    def item_variance(self) -> float:
        """What one item adds: the variance of the estimate is about this through the number of items."""

    def interval(self, confidence: float) -> tuple[float, float]:
        """The two-sided confidence interval; infinite where there are too few items."""

    def p_above(self, limit: float) -> float:
        """How likely an estimate this far above `limit` is if the truth is `limit`: small shows a truth above."""

    def p_below(self, limit: float) -> float:
        """Likewise, below."""


@dataclass(frozen=True)
class BootstrapT:
    """A mean, or a ratio of sums, by the bootstrap-t (Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
    section 12.5): resamples give the distribution of t = (mean − estimate) / standard error."""

    estimate: float
    standard_error: float
    items: int
    resampled: Floats
    """t of every resample that has a spread; none where all items are the same, or too few."""

    @property
    def item_variance(self) -> float:
        return self.standard_error**2 * self.items

    def interval(self, confidence: float) -> tuple[float, float]:
        if self.items < MIN_ITEMS:
            return -math.inf, math.inf
        if not self.resampled.size:
            return self.estimate, self.estimate
        tail = (1 - confidence) / 2
        t_low, t_high = np.quantile(self.resampled, [tail, 1 - tail])
        return float(self.estimate - t_high * self.standard_error), float(self.estimate - t_low * self.standard_error)

    def p_above(self, limit: float) -> float:
        if self.items < MIN_ITEMS:
            return 1.0
        if not self.resampled.size:
            return float(self.estimate < limit)
        return float(np.mean(self.resampled >= (self.estimate - limit) / self.standard_error))

    def p_below(self, limit: float) -> float:
        if self.items < MIN_ITEMS:
            return 1.0
        if not self.resampled.size:
            return float(self.estimate > limit)
        return float(np.mean(self.resampled <= (self.estimate - limit) / self.standard_error))


def bootstrap_t(values: Floats, weights: Floats | None = None, *, seed: int) -> BootstrapT:
    """The mean of `values`, or sum of values through sum of weights; items are drawn again whole."""
    count = len(values)
    weights = np.ones(count) if weights is None else weights
    if count < MIN_ITEMS:
        return BootstrapT(float(values.sum() / weights.sum()), math.nan, count, np.empty(0))
    estimate, error = _mean_and_error(values, weights)
    if not error > 0:
        return BootstrapT(float(estimate), 0.0, count, np.empty(0))
    generator = np.random.default_rng(seed)
    found, at_once = [], max(1, _VALUES_AT_ONCE // count)
    for start in range(0, _RESAMPLES, at_once):
        drawn = generator.integers(0, count, (min(at_once, _RESAMPLES - start), count))
        means, errors = _mean_and_error(values[drawn], weights[drawn])
        # Resamples without spread (one item drawn again and again) have no t.
        has_spread = errors > 0
        found.append((means - estimate)[has_spread] / errors[has_spread])
    return BootstrapT(float(estimate), float(error), count, np.concatenate(found))


@dataclass(frozen=True, slots=True)
class PairedShares:
    """The difference of two shares over the same items, from the items in which the two sides disagree.

    At 0 the p-value is that of McNemar's exact test; elsewhere the larger of that test's, moved (it takes the number
    of disagreements as given), and of Tango's score test (Tango 1998, Statistics in Medicine 17:891), which does not.
    """

    wins: int
    """Items that only the second side has right."""
    losses: int
    """Items that only the first side has right."""
    items: int

    @property
    def estimate(self) -> float:
        return (self.wins - self.losses) / self.items

    @property
    def item_variance(self) -> float:
        # One disagreement more: none among 50 items does not show that there are none.
        return (self.wins + self.losses + 1) / self.items - self.estimate**2

    def interval(self, confidence: float) -> tuple[float, float]:
        tail = (1 - confidence) / 2
        return self._lower_end(tail), -PairedShares(self.losses, self.wins, self.items)._lower_end(tail)

    def p_above(self, limit: float) -> float:
        return max(self._exact(limit), self._score(limit))

    def p_below(self, limit: float) -> float:
        return PairedShares(self.losses, self.wins, self.items).p_above(-limit)

    def _lower_end(self, tail: float) -> float:
        """The least truth that the data do not rule out."""
        from scipy.optimize import brentq

        if self.losses == self.items:
            return -1.0
        return float(brentq(lambda limit: self.p_above(limit) - tail, -1.0, self.estimate, xtol=1e-9))

    def _exact(self, limit: float) -> float:
        from scipy.special import bdtrc

        disagreements, expected = self.wins + self.losses, limit * self.items
        if expected < -disagreements:
            return 0.0
        if expected >= disagreements:
            return 1.0
        return float(bdtrc(self.wins - 1, disagreements, (1 + expected / disagreements) / 2))

    def _score(self, limit: float) -> float:
        from scipy.special import ndtr

        limit = round(limit, 12)  # squares of smaller numbers vanish
        # The likeliest share of losses if the truth is `limit`: Tango's equation, with his names.
        a = 2 * self.items
        b = -self.wins - self.losses + (2 * self.items - self.wins + self.losses) * limit
        c = -self.losses * limit * (1 - limit)
        losing = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = self.items * (2 * losing + limit * (1 - limit))
        distance = self.wins - self.losses - self.items * limit
        if variance <= 0:
            return float(distance <= 0)
        return float(ndtr(-distance / math.sqrt(variance)))


@dataclass(frozen=True, slots=True)
class FewDifferences:
    """A mean change that stands on too few items for a bootstrap: with 6 of 60 that differ, it was wrong on each side
    in 5.5 % of cases at a nominal 2.5 % (benchmarks/gate_error_rates.py). What is sure is how often items get worse
    at most (Clopper and Pearson), and that none of them loses more than `largest`; likewise for better."""

    estimate: float
    better: int
    worse: int
    items: int
    largest: float

    @property
    def item_variance(self) -> float:
        return (self.better + self.worse + 1) / self.items * self.largest**2

    def interval(self, confidence: float) -> tuple[float, float]:
        tail = (1 - confidence) / 2
        return -self._most(self.worse, tail), self._most(self.better, tail)

    def p_above(self, limit: float) -> float:
        from scipy.special import bdtr

        return 1.0 if limit >= 0 else float(bdtr(self.worse, self.items, min(1.0, -limit / self.largest)))

    def p_below(self, limit: float) -> float:
        from scipy.special import bdtr

        return 1.0 if limit <= 0 else float(bdtr(self.better, self.items, min(1.0, limit / self.largest)))

    def _most(self, seen: int, tail: float) -> float:
        from scipy.special import betaincinv

        share = float(betaincinv(seen + 1, self.items - seen, 1 - tail)) if seen < self.items else 1.0
        return share * self.largest


@dataclass(frozen=True, slots=True)
class OneShare:
    """How far the share of right items lies above `wanted`; exact (Clopper and Pearson 1934)."""

    hits: int
    items: int
    wanted: float

    @property
    def estimate(self) -> float:
        return self.hits / self.items - self.wanted

    @property
    def item_variance(self) -> float:
        share = (self.hits + 1) / (self.items + 2)  # never 0 or 1: 50 of 50 does not show that all are right
        return share * (1 - share)

    def interval(self, confidence: float) -> tuple[float, float]:
        from scipy.special import betaincinv

        tail, misses = (1 - confidence) / 2, self.items - self.hits
        low = float(betaincinv(self.hits, misses + 1, tail)) if self.hits else 0.0
        high = float(betaincinv(self.hits + 1, misses, 1 - tail)) if misses else 1.0
        return low - self.wanted, high - self.wanted

    def p_above(self, limit: float) -> float:
        from scipy.special import bdtrc

        return float(bdtrc(self.hits - 1, self.items, min(max(limit + self.wanted, 0.0), 1.0)))

    def p_below(self, limit: float) -> float:
        from scipy.special import bdtr

        return float(bdtr(self.hits, self.items, min(max(limit + self.wanted, 0.0), 1.0)))


def require_scipy() -> None:
    """Does nothing where scipy is installed: all but the perplexities' bootstrap stands on its distributions.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("scipy") is None:
        raise MissingExtraError.for_extra("eval", "scipy")


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p-value corrected for how many there are: those at or below a level are wrong together, any of them, in at
    most that share of cases (Holm 1979, Scandinavian Journal of Statistics 6:65).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [1.0] * len(order), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, p_values[place] * (len(order) - rank)))
        corrected[place] = largest
    return corrected


def items_needed(effect: Effect, limit: float, *, confidence: float) -> int | None:
    """About how many items would decide in four of five cases, if the effect stays as measured.

    None where nobody can say: the estimate is at the limit, or more than 100,000 would be needed.
    """
    distance = abs(effect.estimate - limit)
    if not distance > 0 or not math.isfinite(effect.item_variance):
        return None
    quantile = NormalDist().inv_cdf
    needed = (quantile((1 + confidence) / 2) + quantile(0.8)) ** 2 * effect.item_variance / distance**2
    return math.ceil(needed) if needed <= 100_000 else None


def _mean_and_error(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """The ratio of sums along the last axis and its standard error.

    Source: Cochran 1977, "Sampling Techniques", section 6.4 (the linearised variance of a ratio).
    """
    count = weights.shape[-1]
    total = weights.sum(-1)
    mean = values.sum(-1) / total
    residuals = values - mean[..., None] * weights
    return mean, np.sqrt((residuals**2).sum(-1) * count / (count - 1)) / total

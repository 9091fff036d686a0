"""Who asks when and how much: arrivals and lengths, the same for the same seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nexus_llm.cost.capacity.simulate import Counts, Demand, Floats
from nexus_llm.cost.day import hourly_profile
from nexus_llm.cost.money import HOURS_PER_MONTH
from nexus_llm.cost.quantities import Traffic
from nexus_llm.errors import UsageError


@dataclass(frozen=True, slots=True)
class LengthSpread:
    """Standard deviation of lengths over their mean; 0 makes all the same. Lengths are lognormal.

    The defaults are those of 19,366 conversations with Azure's service (AzurePublicDataset, trace of 2023-11-16, CC BY
    4.0: 1,155 ± 1,109 tokens in, 211 ± 163 out).
    """

    input_cv: float = 0.96
    output_cv: float = 0.77


def month(traffic: Traffic, *, spread: LengthSpread | None = None, seed: int) -> Demand:
    """A month of requests: a day's rhythm whose busiest hour has `peak_ratio` times the mean, Poisson within.

    Raises:
        UsageError: a peak that no day has.
    """
    shape = np.array(hourly_profile(traffic.peak_ratio))[np.arange(round(HOURS_PER_MONTH)) % 24]
    # 730 hours end in a night: their mean is not a day's
    return hourly(traffic.requests_per_month * shape / shape.sum(), traffic, spread=spread, seed=seed)


def hourly(
    requests_per_hour: Floats,
    traffic: Traffic,
    *,
    spread: LengthSpread | None = None,
    trace: Demand | None = None,
    seed: int,
) -> Demand:
    """Hours with so many requests on average, Poisson within; lengths are those of `traffic`, or drawn from a trace's
    requests and scaled to it."""
    source = np.random.default_rng(seed)
    counts = source.poisson(requests_per_hour)
    hours = np.repeat(np.arange(len(counts)), counts)
    arrived = np.sort(hours + source.random(len(hours))) * 3600.0
    if trace is not None:
        given, said = _of_mean(trace, traffic)
        drawn = source.integers(len(trace), size=len(arrived))
        return Demand(arrived, given[drawn], said[drawn])
    return Demand(arrived, *_lengths(len(arrived), traffic, spread or LengthSpread(), source))


def poisson(
    rate_per_second: float, count: int, traffic: Traffic, *, spread: LengthSpread | None = None, seed: int
) -> Demand:
    """So many requests that know nothing of one another. For one seed another rate only scales the gaps."""
    source = np.random.default_rng(seed)
    arrived = np.cumsum(source.exponential(size=count)) / rate_per_second
    return Demand(arrived, *_lengths(count, traffic, spread or LengthSpread(), source))


def recorded(arrived_seconds: Floats, input_tokens: Counts, output_tokens: Counts, *, speed: float = 1.0) -> Demand:
    """A trace, played `speed` times as fast.

    Raises:
        UsageError: columns of unequal length, or no positive speed.
    """
    if not len(arrived_seconds) == len(input_tokens) == len(output_tokens) or not 0 < speed < math.inf:
        raise UsageError("the trace's columns differ in length, or its speed is not above 0", fix="give a whole trace")
    order = np.argsort(arrived_seconds, kind="stable")
    moved = (arrived_seconds[order] - arrived_seconds[order[0]]) / speed if len(order) else arrived_seconds
    return Demand(moved, np.maximum(input_tokens[order], 1), np.maximum(output_tokens[order], 1))


def replayed(trace: Demand, rate_per_second: float, traffic: Traffic) -> Demand:
    """A trace played so fast that on average so many come a second, its lengths scaled to the means of `traffic`."""
    seconds = float(trace.arrived_seconds[-1] - trace.arrived_seconds[0])
    return recorded(
        trace.arrived_seconds, *_of_mean(trace, traffic), speed=rate_per_second * seconds / (len(trace) - 1)
    )


def _of_mean(trace: Demand, traffic: Traffic) -> tuple[Counts, Counts]:
    """(prompts, answers) of a trace with the means of `traffic`."""

    def scaled(tokens: Counts, mean: float) -> Counts:
        found: Counts = np.maximum(np.rint(tokens * (mean / tokens.mean())), 1).astype(np.int64)
        return found

    return scaled(trace.input_tokens, traffic.input_tokens), scaled(trace.output_tokens, traffic.output_tokens)


def _lengths(count: int, traffic: Traffic, spread: LengthSpread, source: np.random.Generator) -> tuple[Counts, Counts]:
    return (
        _lognormal(count, traffic.input_tokens, spread.input_cv, source),
        _lognormal(count, traffic.output_tokens, spread.output_cv, source),
    )


def _lognormal(count: int, mean: float, cv: float, source: np.random.Generator) -> Counts:
    """Whole numbers of at least 1 with this mean and this standard deviation over it; cut at 10 times the mean, as
    every engine has a longest request."""
    if cv == 0:
        return np.full(count, max(1, round(mean)), np.int64)
    sigma = math.sqrt(math.log1p(cv * cv))
    drawn = source.lognormal(math.log(mean) - sigma * sigma / 2, sigma, count)
    found: Counts = np.clip(np.rint(drawn), 1, max(1, round(10 * mean))).astype(np.int64)
    return found

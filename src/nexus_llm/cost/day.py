"""How many machines run over a mean day: all the time for the busiest hour, or as many as each hour needs.

With a scaling policy the count follows the day's rhythm hour by hour, and each start is paid for beyond its hours: the
cold start before it takes requests, and the cool-down before it is stopped. Together these are at most an hour, so more
requests never mean fewer machine hours: one machine-hour more saves at most one start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from nexus_llm.cost.money import DAYS_PER_MONTH, SECONDS_PER_MONTH
from nexus_llm.cost.quantities import Traffic
from nexus_llm.errors import UsageError
from nexus_llm.recipe import ScalingRecipe

BUSIEST_HOUR = 14
_STEEPEST_RATIO = 23.9


@dataclass(frozen=True, slots=True)
class Level:
    """Machines that run in the same hours."""

    machines: int
    hours: float
    """Of each, in a month."""


@dataclass(frozen=True, slots=True)
class Day:
    """24 hours of machines, spares included."""

    machines: tuple[int, ...]
    """By hour, from midnight in the service's own time."""
    on_shares: tuple[float, ...]
    """Share of each hour in which they run: below 1 where they stop between requests."""
    days_per_month: float = DAYS_PER_MONTH
    start_hours: float = 0.0
    """Paid for at each start, beyond the hours above."""
    cold_share: float = 0.0
    """Of the requests, that find no machine and wait for one to start."""

    @property
    def most(self) -> int:
        return max(self.machines)

    @property
    def machine_hours(self) -> float:
        """In a month, of all machines."""
        return math.fsum(level.machines * level.hours for level in self.levels())

    def levels(self) -> tuple[Level, ...]:
        """The first machines first: those that run longest.

        >>> steady(2).levels()
        (Level(machines=2, hours=730.0),)
        """
        found = []
        for below, top in pairwise(sorted({0, *self.machines})):
            on = [share if count >= top else 0.0 for count, share in zip(self.machines, self.on_shares, strict=True)]
            starts = math.fsum(max(now - before, 0.0) for before, now in pairwise([on[-1], *on]))
            if self.days_per_month < DAYS_PER_MONTH:
                starts = max(starts, on[0])  # the day before may have been one without machines
            hours = min(math.fsum(on) + starts * self.start_hours, 24.0)
            found.append(Level(top - below, hours * self.days_per_month))
        return tuple(found)


def steady(machines: int) -> Day:
    """The same machines all the time."""
    return Day((machines,) * 24, (1.0,) * 24)


def scaled(traffic: Traffic, requests_per_second: float, scaling: ScalingRecipe, *, spare: int) -> Day:
    """The machines that follow the day; `requests_per_second` is what one of them takes within the objective."""
    rates, days = hourly_rates(traffic, scaling)
    awake = _awake(scaling)
    cold, pause = scaling.cold_start_seconds, scaling.scale_in_cooldown_seconds
    counts, shares, waiting = [], [], 0.0
    for hour, rate in enumerate(rates):
        needed = math.ceil(rate / (requests_per_second * scaling.target_share) - 1e-9)
        counts.append(max(needed, scaling.min_replicas, 1) + spare if hour in awake else 0)
        share = 1.0 if hour in awake else 0.0
        if share and scaling.min_replicas == 0 and needed <= 1:
            # A machine runs from a request until none has come for `pause`; then the next one starts it again. With
            # Poisson arrivals that is a renewal process, off for 1 / rate seconds of each turn on average.
            off = 1 / (rate * cold + math.exp(min(rate * pause, 700.0)))
            share, waiting = 1 - off, waiting + rate * off
        shares.append(share)
    return Day(tuple(counts), tuple(shares), days, (cold + pause) / 3600, waiting / sum(rates))


def hourly_rates(traffic: Traffic, scaling: ScalingRecipe) -> tuple[tuple[float, ...], float]:
    """Requests a second in each hour of a day on which the service is awake, and how many such days a month has.

    Asleep, nobody asks: the same requests come in fewer hours.
    """
    days = DAYS_PER_MONTH * (5 / 7 if scaling.weekdays_only else 1.0)
    profile = np.array(hourly_profile(min(traffic.peak_ratio, _STEEPEST_RATIO)))
    profile[BUSIEST_HOUR] = max(profile[BUSIEST_HOUR], traffic.peak_ratio)  # steeper than any day's rhythm
    awake = _awake(scaling)
    profile[[hour not in awake for hour in range(24)]] = 0.0
    by_day = traffic.requests_per_month / days
    if len(awake) == 24 and not scaling.weekdays_only:
        return tuple((traffic.requests_per_month / SECONDS_PER_MONTH * profile).tolist()), days
    return tuple((by_day * profile / profile.sum() / 3600).tolist()), days


@lru_cache(maxsize=64)
def hourly_profile(peak_ratio: float) -> tuple[float, ...]:
    """24 rates over their mean: one smooth hump whose highest hour is `peak_ratio`.

    The shape is exp(k cos(hour - 14)), the circle's counterpart of a bell curve; k follows from the peak.

    >>> profile = hourly_profile(3.0)
    >>> round(max(profile), 6), round(sum(profile) / 24, 6), profile.index(max(profile))
    (3.0, 1.0, 14)

    Raises:
        UsageError: a ratio that no day of 24 hours has.
    """
    if not 1 <= peak_ratio <= _STEEPEST_RATIO:
        raise UsageError(f"a peak ratio of {peak_ratio} cannot be", fix="from 1 (always the same) to below 24")
    waves = np.cos(2 * np.pi * (np.arange(24) - BUSIEST_HOUR) / 24)
    low, high = 0.0, 1_000.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 / np.exp(middle * (waves - 1)).mean() < peak_ratio else (low, middle)
    rates = np.exp(low * (waves - 1))
    return tuple((rates / rates.mean()).tolist())


def _awake(scaling: ScalingRecipe) -> Sequence[int]:
    first, end = scaling.awake_hours
    return range(first, end)

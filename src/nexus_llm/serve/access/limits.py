"""How much a key may use: exact sliding windows of a minute and a budget a month, as pure functions over a meter.

A meter keeps what was admitted in each second of the last minute. A request counts until the end of the second that
follows 60 s, so no 60 s hold more than the limit, wherever they begin; a place is free again at most 1 s later than it
had to be. Token buckets and fixed windows are cheaper, but let twice the limit through in a badly placed minute.

Money is counted in billionths of a dollar, as integers: a token of a small model costs some 50 of them, and sums of
floats drift.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Literal

WINDOW_SECONDS = 60
NANO_PER_USD = 1_000_000_000
CLOCK_JITTER_SECONDS = 5  # what lies further in the future was written before somebody set the clock back

RefusalReason = Literal["requests", "tokens", "too_large", "budget", "budget_held"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may use at most; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    nano_usd_per_month: int | None = None

    @property
    def are_none(self) -> bool:
        return self == Limits()


@dataclass(frozen=True, slots=True)
class Prices:
    usd_per_million_prompt_tokens: float = 0.0
    usd_per_million_completion_tokens: float = 0.0

    def nano_usd(self, *, prompt_tokens: int, completion_tokens: int) -> int:
        """The cost in billionths of a dollar, rounded up.

        >>> Prices(0.15, 0.60).nano_usd(prompt_tokens=1_000, completion_tokens=100)
        210000
        """
        # $1 per million tokens is 1,000,000 millionths of a billionth... of a dollar (10^-12) per token.
        prompt = round(self.usd_per_million_prompt_tokens * 1e6) * prompt_tokens
        completion = round(self.usd_per_million_completion_tokens * 1e6) * completion_tokens
        return -(-(prompt + completion) // 1_000)


@dataclass(frozen=True, slots=True)
class Second:
    at: int
    """Seconds since 1970."""
    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Meter:
    """What a key has used lately."""

    seconds: tuple[Second, ...] = ()
    """Oldest first."""
    month: str = ""
    """`2026-11`, UTC."""
    spent_nano_usd: int = 0
    """Of requests of this month that have ended."""
    held_nano_usd: int = 0
    """The most that requests of this month that have not ended may still cost."""


@dataclass(frozen=True, slots=True)
class Hold:
    at: int
    """When it was admitted, seconds since 1970."""
    tokens: int
    nano_usd: int


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: RefusalReason
    retry_after_seconds: float | None = None
    """None: waiting does not help (within this month)."""


@dataclass(frozen=True, slots=True)
class Allowance:
    limit: int
    remaining: int
    reset_seconds: int
    """Until all of it is there again, if nothing more is asked for."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a key stands with its limits; None where it has none."""

    requests: Allowance | None = None
    tokens: Allowance | None = None


def admit(meter: Meter, limits: Limits, *, tokens: int, nano_usd: int, now: float) -> tuple[Meter, Hold] | Refusal:
    """The meter with one more request on it and what is held for that; or why there is no room.

    `meter` must be of the month of `now` (see `month_of`).
    """
    meter = at_time(meter, now)
    refusal = _refusal(meter, limits, tokens=tokens, nano_usd=nano_usd, now=now)
    if refusal is not None:
        return refusal
    second = max(int(now), meter.seconds[-1].at if meter.seconds else 0)
    entry = Second(second, 1, tokens)
    before = meter.seconds
    if before and before[-1].at == second:
        entry = Second(second, before[-1].requests + 1, before[-1].tokens + tokens)
        before = before[:-1]
    counted = replace(meter, seconds=(*before, entry), held_nano_usd=meter.held_nano_usd + nano_usd)
    return counted, Hold(second, tokens, nano_usd)


def settle(meter: Meter, hold: Hold, *, tokens: int, nano_usd: int) -> Meter:
    """The meter once a request has ended and its real tokens and cost are known."""
    seconds = tuple(
        replace(one, tokens=max(0, one.tokens + tokens - hold.tokens)) if one.at == hold.at else one
        for one in meter.seconds
    )
    if month_of(hold.at) != meter.month:
        return replace(meter, seconds=seconds)  # its month is over, and so is what was held in it
    return replace(
        meter,
        seconds=seconds,
        spent_nano_usd=meter.spent_nano_usd + nano_usd,
        held_nano_usd=max(0, meter.held_nano_usd - hold.nano_usd),
    )


def at_time(meter: Meter, now: float) -> Meter:
    """The meter without what is too old to count. Entries from a future that a wrong clock made count from now."""
    kept = tuple(one for one in meter.seconds if one.at >= int(now) - WINDOW_SECONDS)
    future = [one for one in kept if one.at > now + CLOCK_JITTER_SECONDS]
    if future:
        past = [one for one in kept if one.at < int(now)]
        rest = kept[len(past) :]
        kept = (*past, Second(int(now), sum(one.requests for one in rest), sum(one.tokens for one in rest)))
    return replace(meter, seconds=kept)


def standing(meter: Meter, limits: Limits, now: float) -> Standing:
    """What is left of each limit at `now` (seconds since 1970), and the seconds until all of it is back."""
    meter = at_time(meter, now)
    reset = math.ceil(_free_at(meter.seconds[-1]) - now) if meter.seconds else 0

    def allowance(limit: int | None, used: int) -> Allowance | None:
        return None if limit is None else Allowance(limit, max(0, limit - used), reset if used else 0)

    return Standing(
        allowance(limits.requests_per_minute, sum(one.requests for one in meter.seconds)),
        allowance(limits.tokens_per_minute, sum(one.tokens for one in meter.seconds)),
    )


def month_of(seconds: float) -> str:
    """The calendar month in UTC.

    >>> month_of(0)
    '1970-01'
    """
    return time.strftime("%Y-%m", time.gmtime(seconds))


def day_of(seconds: float) -> str:
    """The calendar day in UTC.

    >>> day_of(86_400)
    '1970-01-02'
    """
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _refusal(meter: Meter, limits: Limits, *, tokens: int, nano_usd: int, now: float) -> Refusal | None:
    budget = limits.nano_usd_per_month
    # A budget that is used up exactly admits nothing more, not even what costs nothing.
    if budget is not None and (meter.spent_nano_usd >= budget or meter.spent_nano_usd + nano_usd > budget):
        return Refusal("budget")
    if limits.requests_per_minute is not None:
        wait = _wait([(one, one.requests) for one in meter.seconds], 1, limits.requests_per_minute, now)
        if wait is not None:
            return Refusal("requests", wait)
    if limits.tokens_per_minute is not None:
        if tokens > limits.tokens_per_minute:
            return Refusal("too_large")
        wait = _wait([(one, one.tokens) for one in meter.seconds], tokens, limits.tokens_per_minute, now)
        if wait is not None:
            return Refusal("tokens", wait)
    if budget is not None and meter.spent_nano_usd + meter.held_nano_usd + nano_usd > budget:
        return Refusal("budget_held", 1.0)
    return None


def _wait(used: list[tuple[Second, int]], asked: int, limit: int, now: float) -> float | None:
    """Seconds until `asked` more fit; None: they fit now."""
    over = sum(amount for _, amount in used) + asked - limit
    if over <= 0:
        return None
    for one, amount in used:
        over -= amount
        if over <= 0:
            return max(0.0, _free_at(one) - now)
    return float(WINDOW_SECONDS)  # a limit of zero


def _free_at(second: Second) -> int:
    return second.at + WINDOW_SECONDS + 1

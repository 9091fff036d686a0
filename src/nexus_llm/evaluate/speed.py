"""How fast the answers came, beside how good they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from nexus_llm.records import Answer


@dataclass(frozen=True, slots=True)
class Speed:
    """As one who asks sees it: answers that were made side by side do not add up. `nexus bench` measures a server's
    throughput."""

    answers: int
    """Those that say how long they took and how many tokens they have."""
    tokens: int
    first_token_seconds: float | None
    """Median; None where nobody measured it."""
    tokens_per_second: float | None
    """Of all those tokens over the sum of their answers' seconds."""
    usd_per_million_tokens: float | None
    """Generated tokens, at the machine's price and this rate; None without a price."""


def speed_of(answers: Sequence[Answer], *, usd_per_hour: float | None = None) -> Speed:
    """The speed of the answers that arrived. `usd_per_hour` is what the machine that gave them costs.

    >>> speed_of([Answer("1", "a b", "stop", tokens=20, seconds=2.0)], usd_per_hour=0.36).usd_per_million_tokens
    10.0
    """
    timed = [one for one in answers if one.error is None and one.tokens and one.seconds > 0]
    tokens, seconds = sum(one.tokens or 0 for one in timed), sum(one.seconds for one in timed)
    rate = tokens / seconds if timed else None
    firsts = [one.first_token_seconds for one in answers if one.first_token_seconds is not None]
    price = usd_per_hour / 3600 / rate * 1e6 if rate and usd_per_hour is not None else None
    return Speed(len(timed), tokens, median(firsts) if firsts else None, rate, price)

"""How fast places at the engine become free, measured while all are taken: what waiting times are computed from."""

from __future__ import annotations

import math

MEMORY_SECONDS = 60.0
"""What was measured so long ago, counted in busy seconds, weighs 1/e."""
TRUSTED_TICKETS = 8
"""Before as many have ended, there is no rate: the first few may end together and tell anything."""


class Throughput:
    """Tokens a second, as tickets count them (prompt and answer at most), over the time in which somebody had to wait.

    Idle time says nothing about speed, so that it is left out. Tickets that are given back early count in full:
    their places are free just the same, and that is what those who wait want to know.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._fresh_tokens = 0
        """Since the last look, so that they do not fade with the time before them."""
        self._seconds = 0.0
        self._ended = 0
        self._busy_since: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """None while too little was seen."""
        return self._tokens / self._seconds if self._ended >= TRUSTED_TICKETS and self._seconds > 0 else None

    def freed(self, tokens: int) -> None:
        """So many tokens' places became free."""
        if self._busy_since is not None:
            self._fresh_tokens += tokens
            self._ended += 1

    def observe(self, *, is_full: bool, now: float) -> None:
        """Told at every change whether the engine is full; `now` never goes back."""
        if self._busy_since is not None:
            seconds = now - self._busy_since
            kept = math.exp(-seconds / MEMORY_SECONDS)
            self._tokens = self._tokens * kept + self._fresh_tokens
            self._fresh_tokens = 0
            self._seconds = self._seconds * kept + seconds
        self._busy_since = now if is_full else None

"""The processes of one training run, and the little that they must say to one another."""

from __future__ import annotations

from typing import Protocol


class Ranks(Protocol):
    """Processes 0 to size - 1, of which this is `rank`. Every method is called by all of them, in the same order."""

    rank: int
    size: int

    def total(self, value: float) -> float:
        """The sum of everybody's value, the same in every process."""

    def any(self, flag: bool) -> bool:
        """Whether somebody's flag is true."""


class OnlyOne:
    """One process alone."""

    rank = 0
    size = 1

    def total(self, value: float) -> float:
        return value

    def any(self, flag: bool) -> bool:
        return flag

"""Ranks that are threads of this process: what processes would say to one another, without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class ThreadRanks:
    """One of several; all of them share `slots` and `barrier_of_all`."""

    def __init__(self, rank: int, slots: list[Any], barrier_of_all: threading.Barrier) -> None:
        self.rank, self.size = rank, len(slots)
        self._slots, self._barrier = slots, barrier_of_all

    def gather(self, value: Any) -> list[Any]:
        self._slots[self.rank] = value
        self._barrier.wait()
        found = list(self._slots)
        self._barrier.wait()
        return found

    def total(self, value: float) -> float:
        return sum(self.gather(value))

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))

    def barrier(self) -> None:
        self._barrier.wait()


def run_ranks(size: int, work: Callable[[ThreadRanks], Any]) -> list[Any]:
    """What `work` gives in each of `size` ranks; the first rank's error is raised."""
    slots: list[Any] = [None] * size
    barrier = threading.Barrier(size, timeout=60)
    with ThreadPoolExecutor(size) as pool:
        running = [pool.submit(work, ThreadRanks(rank, slots, barrier)) for rank in range(size)]
        return [one.result() for one in running]

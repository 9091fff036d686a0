"""Who may go to the engine: at most so many at once, first come first served, and only so many in the queue."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_RETRY_AFTER_SECONDS = 60
SMOOTHING = 0.2  # weight of the newest request in the running mean of how long one takes


class QueueFullError(Exception):
    """As many wait as may wait."""

    def __init__(self, *, waiting: int, retry_after_seconds: int) -> None:
        super().__init__(waiting, retry_after_seconds)
        self.waiting = waiting
        self.retry_after_seconds = retry_after_seconds


@dataclass(eq=False, slots=True)
class Ticket:
    """A place with the engine or in the queue. Give it back with `Admission.leave`, whatever happens."""

    turn: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the engine may be used."""
    started_at: float = 0.0


class Admission:
    """The door to the engine."""

    def __init__(self, *, max_running: int, max_waiting: int, clock: Callable[[], float]) -> None:
        self.max_running = max_running
        self._max_waiting = max_waiting
        self._clock = clock
        self._running: set[Ticket] = set()
        self._queue: deque[Ticket] = deque()
        self._mean_seconds = 1.0

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def enter(self, count: int = 1) -> list[Ticket]:
        """Places for `count` sequences, all or none, behind those who came before.

        Raises:
            QueueFullError: some of them would have to wait, and the queue has no room for those.
        """
        free = self.max_running - self.running if not self._queue else 0
        if self.waiting + max(0, count - free) > self._max_waiting:
            raise QueueFullError(waiting=self.waiting, retry_after_seconds=self._retry_after_seconds())
        tickets = [Ticket() for _ in range(count)]
        self._queue.extend(tickets)
        self._let_in()
        return tickets

    def leave(self, ticket: Ticket) -> None:
        """Frees a place, used or still waited for; a second time changes nothing."""
        if ticket in self._running:
            self._running.remove(ticket)
            seconds = self._clock() - ticket.started_at
            self._mean_seconds += SMOOTHING * (seconds - self._mean_seconds)
        elif ticket in self._queue:
            self._queue.remove(ticket)
        self._let_in()

    def _let_in(self) -> None:
        while self._queue and len(self._running) < self.max_running:
            ticket = self._queue.popleft()
            ticket.started_at = self._clock()
            self._running.add(ticket)
            ticket.turn.set()

    def _retry_after_seconds(self) -> int:
        """Whole seconds until a place in the queue is likely to be free."""
        seconds = self._mean_seconds / self.max_running
        return min(MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(seconds)))

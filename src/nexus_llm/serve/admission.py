"""Who may go to the engine, and when: so many sequences and tokens at once, the others wait their turn or are refused.

- *Order*: keys in turn, priorities within bounds; see `fair_queue`.
- *Room*: a request runs when there is a place for each of its sequences and room in the key-value cache for all that
  it may become. More than the cache holds would make the engine drop and recompute what it already knew.
- *Long and short*: a request that does not fit beside those that run lets others pass, until they were given as many
  tokens as the cache holds; then it is next, whatever comes. So short ones never wait for more than what runs, and a
  long one never for more than one cache more. A request as large as the cache runs alone.
- *Refused before work is wasted*: when the queue is full in requests or in tokens, and when the measured throughput
  says that the turn would come after the deadline. Whoever waits longer than that is told at once.
- *Whose queue is full*: not of a key that waits for less than another one. The last requests of the key that waits for
  the most give way to it, while that one still waits for more. This is longest queue drop; without it a single key
  could fill the queue and keep all others out, however fairly the queue takes turns. Source: Suter, Lakshman, Stiliadis
  and Choudhury 1998, "Design considerations for supporting TCP with per-flow queueing" (IEEE INFOCOM).
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from nexus_llm.serve import api_errors
from nexus_llm.serve.fair_queue import FairQueue, Ticket
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.throughput import Throughput

RefusalReason = Literal["queue_full", "deadline_unreachable", "queue_timeout"]


class NotAdmittedError(Exception):
    """There is no room, or not in time."""

    def __init__(self, reason: RefusalReason, *, waiting: int, retry_after_seconds: int) -> None:
        super().__init__(reason, waiting, retry_after_seconds)
        self.reason = reason
        self.waiting = waiting
        self.retry_after_seconds = retry_after_seconds


class Admission:
    """The door to the engine."""

    def __init__(
        self,
        *,
        max_running: int,
        max_waiting: int,
        clock: Callable[[], float],
        max_waiting_tokens: int | None = None,
        max_waiting_seconds: float = math.inf,
        capacity_tokens: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`capacity_tokens` tells how much of all that runs the engine can hold; None where nobody knows."""
        self.max_running = max_running
        self.running = 0
        """Places that are taken."""
        self.running_tokens = 0
        self.throughput = Throughput()
        self._max_waiting = max_waiting
        self._max_waiting_tokens = max_waiting_tokens
        self._max_waiting_seconds = max_waiting_seconds
        self._capacity_tokens = capacity_tokens
        self._clock = clock
        self._queue = FairQueue()
        self._arriving: dict[Ticket, None] = {}  # a set would forget their order
        self._arriving_places = 0
        self._turns_away = False
        """Somebody was refused since the engine was last idle: it is as busy as if they waited."""
        self._held: Ticket | None = None
        """Had its turn, and does not fit beside those that run."""
        self._passed_tokens = 0
        """What was given to others meanwhile."""

    @property
    def waiting(self) -> int:
        """Sequences that have no place yet."""
        return self._queue.places + self._arriving_places + (self._held.places if self._held else 0)

    @property
    def waiting_tokens(self) -> int:
        return self._queue.tokens + (self._held.tokens if self._held else 0)

    def arrive(self, *, key: str = "", places: int = 1, priority: int = 0, deadline: float | None = None) -> Ticket:
        """A ticket for a request whose prompt is not encoded yet: that is work, too. `enter` is next.

        Raises:
            NotAdmittedError: the queue has no room, and no key waits for more.
        """
        latest = self._clock() + self._max_waiting_seconds
        ticket = Ticket(key, places, priority, latest if deadline is None else min(latest, deadline))
        free = max(0, self.max_running - self.running)
        over = self.waiting + places - free - self._max_waiting
        self._push_out(self._who_gives_way(ticket, over, _places, self._mean_tokens()))
        self._arriving[ticket] = None
        self._arriving_places += places
        return ticket

    def enter(self, ticket: Ticket, *, tokens: int) -> None:
        """Puts a ticket into the queue, or lets it in.

        Raises:
            NotAdmittedError: it would have to wait, and the queue has no room for so much, or for so long; or it gave
                way meanwhile.
        """
        self._has_arrived(ticket)
        self._check_way(ticket)
        ticket.tokens = max(1, tokens)
        if self._queue.waiting or self._held or not self._fits(ticket):
            self._push_out(self._check_wait(ticket))
        self._queue.push(ticket)
        self._let_in()

    async def wait(self, ticket: Ticket) -> None:
        """Returns when it is the ticket's turn.

        Raises:
            NotAdmittedError: its deadline came first, or it gave way. It has left the queue then.
        """
        if not ticket.turn.is_set():
            try:
                async with asyncio.timeout_at(None if math.isinf(ticket.deadline) else ticket.deadline):
                    await ticket.turn.wait()
            except TimeoutError:
                self.leave(ticket)
                raise self._refusal("queue_timeout", self._seconds_for(self.waiting_tokens)) from None
        self._check_way(ticket)

    def free(self, ticket: Ticket, *, tokens: int) -> None:
        """Gives back the place of one of a ticket's sequences and its tokens, as far as the ticket runs."""
        if ticket.is_running:
            self._give_back(ticket, 1, tokens)
            self._let_in()

    def leave(self, ticket: Ticket) -> None:
        """Frees all that a ticket holds, used or still waited for; a second time changes nothing."""
        self._has_arrived(ticket)
        if ticket.is_running:
            self._give_back(ticket, ticket.places, ticket.tokens)
        elif ticket is self._held:
            self._held = None
        elif ticket.is_waiting:
            self._queue.remove(ticket)
        self._let_in()

    def _has_arrived(self, ticket: Ticket) -> None:
        if ticket in self._arriving:
            del self._arriving[ticket]
            self._arriving_places -= ticket.places

    def _give_back(self, ticket: Ticket, places: int, tokens: int) -> None:
        ticket.places -= places
        ticket.tokens -= tokens
        ticket.is_running = ticket.places > 0
        if not ticket.is_running:
            tokens += ticket.tokens
            ticket.tokens = 0
        self.running -= places
        self.running_tokens -= tokens
        self.throughput.freed(tokens)

    def _let_in(self) -> None:
        while (ticket := self._next()) is not None:
            ticket.is_running = True
            self.running += ticket.places
            self.running_tokens += ticket.tokens
            ticket.turn.set()
        self._turns_away = self._turns_away and self.running > 0
        is_waiting = self._held is not None or self._queue.waiting > 0
        is_full = is_waiting or self._turns_away or self.running >= self.max_running
        self.throughput.observe(is_full=is_full, now=self._clock())
        if not (self.running or is_waiting):
            self._queue.rest()

    def _next(self) -> Ticket | None:
        """Who goes in now, no longer in the queue; None: nobody can."""
        if self._held is not None and self._fits(self._held):
            held, self._held = self._held, None
            return held
        head = self._queue.peek()
        if head is None:
            return None
        if self._fits(head):
            if self._held is not None:
                if self._passed_tokens + head.tokens > (self._capacity_tokens() or 0):
                    return None
                self._passed_tokens += head.tokens
            return self._queue.pop()
        if self._held is None and self.running + head.places <= self.max_running:
            self._held, self._passed_tokens = self._queue.pop(), 0
            return self._next()
        return None

    def _fits(self, ticket: Ticket) -> bool:
        if self.running + ticket.places > self.max_running:
            return False
        capacity = self._capacity_tokens()
        return not self.running or capacity is None or self.running_tokens + ticket.tokens <= capacity

    def _check_wait(self, ticket: Ticket) -> list[Ticket]:
        """Looks whether a ticket may wait; gives those that have to give way to it."""
        over = self.waiting + ticket.places - self._max_waiting
        gone = self._who_gives_way(ticket, over, _places, self._mean_tokens())
        most = self._max_waiting_tokens
        if most is not None and self.waiting_tokens:  # however large, one may always wait
            over = self.waiting_tokens + ticket.tokens - most
            gone += self._who_gives_way(ticket, over, _tokens, over)
        held = self._held.tokens if self._held else 0
        seconds = self._seconds_for(self._queue.tokens_before(ticket) + held + ticket.tokens)
        late = 0.0 if seconds is None else self._clock() + seconds - ticket.deadline
        if late > 0:
            raise self._refusal("deadline_unreachable", late)
        return gone

    def _who_gives_way(self, ticket: Ticket, over: int, size: Callable[[Ticket], int], tokens: float) -> list[Ticket]:
        """The last tickets of the keys that wait for the most, as many as have to go until `over` is free.

        Raises:
            NotAdmittedError: no key waits for more than the ticket's would. `tokens` have to be given first.
        """
        lines: defaultdict[str, list[Ticket]] = defaultdict(list)
        for other in itertools.chain(self._queue.tickets(), self._arriving) if over > 0 else ():
            lines[other.key].append(other)
        sizes = {key: sum(map(size, line)) for key, line in lines.items()}
        own = sizes.pop(ticket.key, 0) + size(ticket)
        gone = []
        while over > 0:
            key = max(sizes, key=sizes.__getitem__, default=ticket.key)
            if sizes.get(key, 0) <= own:
                raise self._refusal("queue_full", self._seconds_for(tokens))
            last = lines[key].pop()
            if size(last):  # the tokens of one that only arrives are not known
                gone.append(last)
                sizes[key] -= size(last)
                over -= size(last)
        return gone

    def _push_out(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            self._has_arrived(ticket)
            if ticket.is_waiting:  # one may be in the list twice, for its place and for its tokens
                self._queue.remove(ticket)
            ticket.gave_way = True
            ticket.turn.set()

    def _check_way(self, ticket: Ticket) -> None:
        if ticket.gave_way:
            raise self._refusal("queue_full", self._seconds_for(self.waiting_tokens))

    def _mean_tokens(self) -> float:
        return self.running_tokens / max(1, self.running)

    def _seconds_for(self, tokens: float) -> float | None:
        """Time in which so many tokens' places become free; None where nothing was measured yet."""
        rate = self.throughput.tokens_per_second
        return tokens / rate if rate else None

    def _refusal(self, reason: RefusalReason, seconds: float | None) -> NotAdmittedError:
        self._turns_away = True
        return NotAdmittedError(reason, waiting=self.waiting, retry_after_seconds=api_errors.retry_after(seconds or 0))


def _places(ticket: Ticket) -> int:
    return ticket.places


def _tokens(ticket: Ticket) -> int:
    return ticket.tokens


@contextmanager
def refusals_told(metrics: ServerMetrics) -> Iterator[None]:
    """Makes what is not admitted in a block the client's error, and counts it.

    Raises:
        ApiError: 429 or 503, with `retry-after`.
    """
    try:
        yield
    except NotAdmittedError as error:
        metrics.refused(error.reason)
        raise api_errors.not_admitted(
            error.reason, waiting=error.waiting, retry_after_seconds=error.retry_after_seconds
        ) from None

"""Who is next at the engine's door: keys in turn, however many requests each of them sends.

Start-time fair queueing. Each key has a start tag: the virtual time, in tokens, at which its next request is due. The
key with the lowest tag goes first, and its tag moves on by what that request may take, prompt and answer together.
Virtual time is the tag of the request that went last, and a key that comes back begins there: rest earns no credit.

**How unfair it can get.** Over any time in which two keys both have requests waiting, what they were let through
differs by at most one largest request of each, in tokens. Proof: Goyal, Vin and Cheng 1996, "Start-time Fair Queuing"
(ACM SIGCOMM), theorem 1, with equal weights.

**Priorities** (vLLM's: a lower number runs sooner) move a request by `PRIORITY_TOKENS` of virtual time a step, and not
its key's tag. So a step buys a head start once and no larger share, and what waits is never more than its head start
away from its turn: it cannot starve, because virtual time goes on with every token that anybody gets. Between keys
whose requests are `d` steps apart, the bound above grows by `d` times `PRIORITY_TOKENS`.

Entering, leaving and taking the next one cost O(log n).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

PRIORITY_TOKENS = 16_384
"""What one step of priority is worth: at 400 tokens a second, 41 s of the whole engine."""
REMEMBERED_KEYS = 1_024  # then those with nothing waiting are forgotten, which forgives each its last request


@dataclass(eq=False, slots=True)
class Ticket:
    """A place with the engine or in the queue. Give it back with `Admission.leave`, whatever happens."""

    key: str = ""
    """Whose request it is: keys take turns."""
    places: int = 1
    """Sequences that run at once."""
    priority: int = 0
    """A lower number runs sooner."""
    deadline: float = math.inf
    """When waiting ends, by the loop's clock."""
    tokens: int = 0
    """Prompt and answer at most, all sequences together; known once the prompt is encoded."""
    is_waiting: bool = False
    is_running: bool = False
    gave_way: bool = False
    """To a key that waits for less: there is no turn to come."""
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the engine may be used, or never will be."""


@dataclass(eq=False, slots=True)
class _Line:
    key: str
    start: float
    """The start tag, in tokens."""
    entries: list[tuple[float, int, Ticket]] = field(default_factory=list)
    """A heap of (rank within the key, order of arrival, ticket); who has left stays until it comes to the top."""
    tokens_by_priority: dict[int, int] = field(default_factory=dict)
    version: int = 0
    """Of its entry in the heap of lines; older entries count no more."""

    def head(self) -> Ticket | None:
        while self.entries and not self.entries[0][2].is_waiting:
            heapq.heappop(self.entries)
        return self.entries[0][2] if self.entries else None


class FairQueue:
    """The tickets that wait."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._order: list[tuple[float, int, int, _Line]] = []
        """A heap of (rank, tie, version, line)."""
        self._virtual_time = 0.0
        self._count = itertools.count()
        self._most_lines = REMEMBERED_KEYS
        self.waiting = 0
        """Tickets."""
        self.places = 0
        self.tokens = 0

    def push(self, ticket: Ticket) -> None:
        """Puts a ticket in, behind those whose turn comes sooner."""
        line = self._lines.get(ticket.key)
        if line is None:
            self._forget_idle_lines()
            line = self._lines[ticket.key] = _Line(ticket.key, self._virtual_time)
        was_empty = line.head() is None
        if was_empty:
            line.start = max(line.start, self._virtual_time)
        ticket.is_waiting = True
        rank = self._virtual_time + PRIORITY_TOKENS * ticket.priority
        heapq.heappush(line.entries, (rank, next(self._count), ticket))
        self._count_in(line, ticket, 1)
        if line.head() is ticket:
            self._rank(line)

    def peek(self) -> Ticket | None:
        """Whose turn is next."""
        while self._order:
            _, _, version, line = self._order[0]
            head = line.head() if version == line.version else None
            if head is not None:
                return head
            heapq.heappop(self._order)
        return None

    def pop(self) -> Ticket:
        """Takes out the ticket that `peek` shows; its key pays for it with its next turn."""
        ticket = self.peek()
        assert ticket is not None
        line = self._lines[ticket.key]
        self._virtual_time = max(self._virtual_time, line.start)
        line.start += ticket.tokens
        self.remove(ticket)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        """Takes out a ticket that waits, wherever it stands."""
        line = self._lines[ticket.key]
        was_head = line.head() is ticket
        ticket.is_waiting = False
        self._count_in(line, ticket, -1)
        if was_head:
            self._rank(line)

    def rest(self) -> None:
        """Forgets who had what. For when nobody waits or runs: a busy period is over."""
        self._lines.clear()
        self._order.clear()
        self._virtual_time = 0.0

    def tickets(self) -> Iterator[Ticket]:
        """All that wait; those of a key in the order of their turns. Costs O(n log n)."""
        for line in self._lines.values():
            yield from (ticket for _, _, ticket in sorted(line.entries) if ticket.is_waiting)

    def tokens_before(self, ticket: Ticket) -> int:
        """What goes to others before a ticket that would come now: its key's own queue as far as it is not less
        urgent, and of each other key as much as that, or all it has. Costs O(keys)."""
        own = self._lines.get(ticket.key)
        ours = 0
        if own is not None:
            ours = sum(tokens for priority, tokens in own.tokens_by_priority.items() if priority <= ticket.priority)
        share = ours + ticket.tokens
        others = (sum(line.tokens_by_priority.values()) for line in self._lines.values() if line is not own)
        return ours + sum(min(tokens, share) for tokens in others)

    def _rank(self, line: _Line) -> None:
        """Puts a line where its head belongs, and makes its older entries void."""
        line.version += 1
        head = line.head()
        if head is not None:
            rank = line.start + PRIORITY_TOKENS * head.priority
            heapq.heappush(self._order, (rank, next(self._count), line.version, line))

    def _count_in(self, line: _Line, ticket: Ticket, sign: int) -> None:
        self.waiting += sign
        self.places += sign * ticket.places
        self.tokens += sign * ticket.tokens
        left = line.tokens_by_priority.get(ticket.priority, 0) + sign * ticket.tokens
        line.tokens_by_priority[ticket.priority] = left
        if not left:
            del line.tokens_by_priority[ticket.priority]

    def _forget_idle_lines(self) -> None:
        if len(self._lines) >= self._most_lines:
            self._lines = {key: line for key, line in self._lines.items() if line.head() is not None}
            self._most_lines = max(REMEMBERED_KEYS, 2 * len(self._lines))  # so that it is rare however many wait

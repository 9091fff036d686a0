"""The door to the engine: nobody starves, nobody gets more than their share, and nobody waits for nothing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.serve.admission import Admission, NotAdmittedError
from nexus_llm.serve.fair_queue import PRIORITY_TOKENS, FairQueue, Ticket
from nexus_llm.serve.throughput import TRUSTED_TICKETS, Throughput


@dataclass
class FakeClock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Door:
    """An admission with a clock of its own, and those who came in, in their order."""

    max_running: int = 1
    max_waiting: int = 1_000
    max_waiting_tokens: int | None = None
    max_waiting_seconds: float = float("inf")
    capacity_tokens: int | None = None
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.admission = Admission(
            max_running=self.max_running,
            max_waiting=self.max_waiting,
            clock=self.clock,
            max_waiting_tokens=self.max_waiting_tokens,
            max_waiting_seconds=self.max_waiting_seconds,
            capacity_tokens=lambda: self.capacity_tokens,
        )
        self.known: list[Ticket] = []

    def enter(self, key: str = "", *, tokens: int = 100, places: int = 1, priority: int = 0, **o: float) -> Ticket:
        ticket = self.admission.arrive(key=key, places=places, priority=priority, **o)
        try:
            self.admission.enter(ticket, tokens=tokens)
        except NotAdmittedError:
            self.admission.leave(ticket)
            raise
        self.known.append(ticket)
        return ticket

    def serve(self) -> Iterator[Ticket]:
        """Ends what runs, one after the other, at a token a millisecond, until nothing is left."""
        while running := [ticket for ticket in self.known if ticket.is_running]:
            ticket = running[0]
            tokens = ticket.tokens
            yield ticket
            self.clock.now += tokens / 1_000
            self.admission.leave(ticket)
            self.known.remove(ticket)

    def measured(self) -> Door:
        """After so much work that its speed is known: 1,000 tokens a second."""
        for _ in range(2 * TRUSTED_TICKETS):
            self.enter()
        assert len(list(self.serve())) == 2 * TRUSTED_TICKETS
        return self


@given(
    entries=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 50), st.sampled_from("abc")), max_size=20),
    leaves=st.lists(st.integers(0, 30), max_size=20),
)
def test_no_more_run_or_wait_than_may_and_no_place_is_lost(
    entries: list[tuple[int, int, str]], leaves: list[int]
) -> None:
    door = Door(max_running=3, max_waiting=4, capacity_tokens=60)
    admission, tickets = door.admission, []
    for places, tokens, key in entries:
        before = (admission.running, admission.waiting, admission.running_tokens, admission.waiting_tokens)
        try:
            tickets.append(door.enter(key, tokens=tokens, places=places))
        except NotAdmittedError as refused:
            assert refused.reason == "queue_full"  # noqa: PT017
            assert 1 <= refused.retry_after_seconds <= 60  # noqa: PT017
            assert before == (
                admission.running, admission.waiting, admission.running_tokens, admission.waiting_tokens
            )  # fmt: skip
        if leaves and tickets:
            ticket = tickets[leaves.pop() % len(tickets)]
            admission.leave(ticket)
            admission.leave(ticket)
        assert admission.running <= 3
        assert admission.waiting <= 4
        assert admission.running_tokens <= 60
        assert admission.running or not admission.waiting
    for ticket in tickets:
        admission.leave(ticket)
    assert (admission.running, admission.waiting, admission.running_tokens, admission.waiting_tokens) == (0, 0, 0, 0)


@given(seed=st.integers(0, 10_000), keys=st.integers(2, 5), largest=st.integers(1, 500), priority=st.integers(0, 1))
def test_two_keys_that_wait_differ_by_one_largest_request_of_each_at_most(
    seed: int, keys: int, largest: int, priority: int
) -> None:
    """The bound that the queue states, over every stretch in which both have something waiting."""
    source, queue = random.Random(seed), FairQueue()
    names = [f"key-{number}" for number in range(keys)]
    given_tokens: Counter[str] = Counter()
    for name in names:  # the first key floods, the others come with a few; all keep a backlog all the time
        for _ in range(200 if name == "key-0" else 50):
            step = priority if name == "key-0" else 0
            queue.push(Ticket(name, tokens=source.randint(1, largest), priority=step))
    bound = 2 * largest + priority * PRIORITY_TOKENS
    while all(any(t.is_waiting for _, _, t in queue._lines[name].entries) for name in names):
        ticket = queue.pop()
        given_tokens[ticket.key] += ticket.tokens
        assert max(given_tokens[a] - given_tokens[b] for a in names for b in names) <= bound


def test_a_key_that_comes_after_a_flood_waits_for_one_request_and_not_for_the_flood() -> None:
    door = Door()
    for _ in range(100):
        door.enter("flood")
    late = door.enter("quiet")
    order = list(door.serve())
    assert order.index(late) <= 2


def test_a_key_that_asks_for_much_gets_as_many_tokens_and_not_as_many_requests() -> None:
    door = Door()
    for _ in range(60):
        door.enter("long", tokens=1_000)
        door.enter("short", tokens=100)
    first = Counter(ticket.key for ticket, _ in zip(door.serve(), range(55), strict=False))
    assert first["short"] == pytest.approx(10 * first["long"], abs=11)


def test_rest_earns_no_credit() -> None:
    """A key that was away for long does not get all of the engine until it has caught up."""
    door = Door()
    door.enter("back")
    for _ in range(100):
        door.enter("busy")
    served = door.serve()
    for _ in range(50):
        next(served)
    for _ in range(20):
        door.enter("back")
    order = [next(served).key for _ in range(20)]
    assert 9 <= order.count("busy") <= 11


def test_requests_of_a_key_keep_their_order() -> None:
    door = Door()
    tickets = [door.enter("one", tokens=size) for size in (5, 900, 1, 70)]
    assert list(door.serve()) == tickets


def test_a_lower_priority_number_goes_first_and_a_higher_one_is_not_forgotten() -> None:
    door = Door()
    door.enter("a")
    patient = door.enter("a", priority=1)
    normal = door.enter("a")
    urgent = door.enter("a", priority=-1)
    assert list(door.serve())[1:] == [urgent, normal, patient]
    # Others that keep coming pass it for a step's worth of tokens, and no longer.
    door.enter("a")
    patient = door.enter("a", priority=1)
    passed, size = 0, 1_000
    served = door.serve()
    while next(served) is not patient:
        passed += size
        door.enter("a", tokens=size)
    assert PRIORITY_TOKENS - 3 * size <= passed <= PRIORITY_TOKENS + 3 * size


def test_an_urgent_request_overtakes_those_of_other_keys() -> None:
    door = Door()
    door.enter("a")
    normal, urgent = door.enter("b"), door.enter("c", priority=-1)
    assert list(door.serve())[1:] == [urgent, normal]


def test_urgent_requests_of_one_key_do_not_starve_another_key() -> None:
    door = Door()
    for _ in range(200):
        door.enter("pushy", tokens=1_000, priority=-2)
        door.enter("meek", tokens=1_000)
    order = [ticket.key for ticket in door.serve()][:100]
    assert order.count("meek") >= 50 - 2 * PRIORITY_TOKENS // 1_000 // 2 - 2


def test_what_runs_never_exceeds_the_cache_and_a_request_as_large_as_it_runs_alone() -> None:
    door = Door(max_running=10, capacity_tokens=1_000)
    small = [door.enter(tokens=300) for _ in range(3)]
    giant = door.enter(tokens=5_000)
    assert [ticket.is_running for ticket in small] == [True] * 3
    assert not giant.is_running
    for ticket in small:
        assert not giant.is_running
        door.admission.leave(ticket)
    assert giant.is_running
    assert not door.enter(tokens=1).is_running


def test_short_requests_pass_a_long_one_that_does_not_fit_but_not_for_ever() -> None:
    door = Door(max_running=10, capacity_tokens=1_000)
    running = [door.enter("others", tokens=250) for _ in range(3)]
    long = door.enter("long", tokens=900)
    passed = 0
    for _ in range(40):  # short ones end as fast as they come
        short = door.enter("short", tokens=100)
        if not short.is_running:
            break
        passed += short.tokens
        door.admission.leave(short)
    assert passed == door.capacity_tokens, "as many tokens as the cache holds may pass"
    for ticket in running:
        door.admission.leave(ticket)
    assert long.is_running


def test_the_queue_is_bounded_in_tokens_and_one_request_may_always_wait() -> None:
    door = Door(max_waiting_tokens=1_000)
    door.enter()
    door.enter(tokens=50_000)
    with pytest.raises(NotAdmittedError) as caught:
        door.enter(tokens=1)
    assert caught.value.reason == "queue_full"


@given(
    keys=st.integers(1, 4),
    arrivals=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=10, max_size=60),
)
def test_no_key_is_kept_out_of_the_queue_by_another_one(keys: int, arrivals: list[tuple[int, bool]]) -> None:
    """Whoever waits for no more than an equal share of the queue is let in, and stays."""
    door = Door(max_running=1, max_waiting=12)
    door.enter("runs")
    tickets: list[Ticket] = []
    for number, is_encoded in arrivals:
        name = f"key-{number % keys}"
        waiting = Counter[str]()
        for ticket in tickets:
            waiting[ticket.key] += 0 if ticket.gave_way else ticket.places
        try:
            ticket = door.admission.arrive(key=name)
            tickets.append(ticket)
            if is_encoded:
                door.admission.enter(ticket, tokens=100)
        except NotAdmittedError as refused:
            assert refused.reason == "queue_full"  # noqa: PT017
            assert waiting[name] >= max(waiting.values()) - 1, "another one waits for more"
        after = Counter(ticket.key for ticket in tickets if not ticket.gave_way)
        for name, held in waiting.items():
            assert after[name] >= min(held, 12 // keys), "a key with no more than its share lost some of it"
        assert door.admission.waiting <= 12


def test_a_full_queue_makes_room_for_another_key_and_tells_the_one_that_goes() -> None:
    door = Door(max_running=1, max_waiting=3)
    _running, first, second, third = (door.enter("flood") for _ in range(4))
    with pytest.raises(NotAdmittedError):
        door.enter("flood")

    async def another_comes_while_it_waits() -> None:
        waits = asyncio.create_task(door.admission.wait(third))
        await asyncio.sleep(0)
        door.enter("quiet")
        await waits

    with pytest.raises(NotAdmittedError) as caught:
        asyncio.run(another_comes_while_it_waits())
    (quiet,) = (ticket for ticket in door.known if ticket.key == "quiet")
    assert caught.value.reason == "queue_full"
    assert (first.gave_way, second.gave_way, third.gave_way) == (False, False, True)
    with pytest.raises(NotAdmittedError):
        door.enter("quiet", places=2)  # would wait for more than the flood then
    door.admission.leave(third)
    assert door.admission.waiting == 3
    assert [ticket for ticket in door.serve() if ticket in (first, second, quiet)] == [quiet, first, second]


def test_a_request_that_is_still_encoded_gives_way_too() -> None:
    door = Door(max_running=1, max_waiting=2)
    door.enter("flood")
    kept, gone = (door.admission.arrive(key="flood") for _ in range(2))
    door.enter("quiet")
    assert (kept.gave_way, gone.gave_way) == (False, True)
    with pytest.raises(NotAdmittedError):
        door.admission.enter(gone, tokens=100)
    door.admission.enter(kept, tokens=100)
    assert door.admission.waiting == 2


def test_a_queue_that_is_full_in_tokens_makes_room_as_well_and_only_as_much_as_it_must() -> None:
    door = Door(max_waiting_tokens=1_000)
    door.enter("flood")
    flood = [door.enter("flood", tokens=200) for _ in range(5)]
    door.enter("quiet", tokens=300)
    assert [ticket.gave_way for ticket in flood] == [False, False, False, True, True]
    with pytest.raises(NotAdmittedError):  # it would wait for more than the flood
        door.enter("quiet", tokens=500)
    assert door.admission.waiting_tokens == 900
    assert sum(ticket.gave_way for ticket in flood) == 2


def test_nobody_gives_way_to_a_request_that_is_refused_all_the_same() -> None:
    door = Door(max_waiting_tokens=10_000).measured()
    door.enter("flood", tokens=30_000)
    flood = [door.enter("flood", tokens=2_000) for _ in range(5)]
    with pytest.raises(NotAdmittedError) as caught:
        door.enter("quiet", tokens=1_000, deadline=door.clock.now)
    assert caught.value.reason == "deadline_unreachable"
    assert not any(ticket.gave_way for ticket in flood)


def test_requests_that_are_still_encoded_count_as_waiting() -> None:
    door = Door(max_running=1, max_waiting=1)
    first, second = door.admission.arrive(), door.admission.arrive()
    with pytest.raises(NotAdmittedError):
        door.admission.arrive()
    door.admission.leave(second)
    door.admission.leave(first)
    assert door.admission.waiting == 0


def test_retry_after_comes_from_the_measured_throughput() -> None:
    door = Door(max_running=1, max_waiting=0).admission
    door.throughput._tokens, door.throughput._seconds, door.throughput._ended = 100.0, 10.0, TRUSTED_TICKETS
    ticket = door.arrive()
    door.enter(ticket, tokens=120)
    with pytest.raises(NotAdmittedError) as caught:
        door.arrive()
    assert caught.value.retry_after_seconds == 12  # 120 tokens at 10 a second


def test_who_cannot_be_served_in_time_is_refused_at_once_and_others_are_not() -> None:
    door = Door(max_waiting_seconds=60).measured()
    for _ in range(30):
        door.enter("flood", tokens=1_000)  # 30 s of work
    with pytest.raises(NotAdmittedError) as caught:
        door.enter("flood", tokens=1_000, deadline=door.clock.now + 10)
    assert caught.value.reason == "deadline_unreachable"
    assert 15 <= caught.value.retry_after_seconds <= 30
    # Fairness is part of the estimate: another key's turn comes after one request of the flood.
    door.enter("quiet", tokens=1_000, deadline=door.clock.now + 10)
    # So is urgency: the flood's own backlog is behind it.
    door.enter("flood", tokens=1_000, priority=-1, deadline=door.clock.now + 10)
    with pytest.raises(NotAdmittedError):
        for _ in range(100):
            door.enter("flood", tokens=1_000)
    assert door.admission.waiting_tokens <= 62_000


def test_nobody_is_refused_by_an_estimate_before_there_is_one() -> None:
    door = Door(max_waiting_seconds=0.001)
    for _ in range(50):
        door.enter(tokens=10_000)


def test_a_wrong_estimate_is_corrected_while_everybody_is_refused() -> None:
    """Else a slow hour would make a server refuse whoever has to wait until it is restarted."""
    door = Door(max_running=10, capacity_tokens=150, max_waiting_seconds=1.0).measured()
    door.admission.throughput._tokens = door.admission.throughput._seconds * 0.01  # as if it had hung
    refused = 0
    for _ in range(200):
        running = door.enter(tokens=100)
        try:
            waiting = door.enter(tokens=100)
            door.admission.leave(waiting)
        except NotAdmittedError:
            refused += 1
        door.clock.now += 0.1
        door.admission.leave(running)
        door.known.clear()
    assert 0 < refused < 200
    rate = door.admission.throughput.tokens_per_second
    assert rate is not None
    assert rate > 100


def test_speed_is_measured_over_busy_time_only() -> None:
    speed = Throughput()
    now = 0.0
    for _ in range(10):
        speed.observe(is_full=True, now=now)
        now += 1
        speed.freed(50)
        speed.observe(is_full=False, now=now)
        now += 1_000  # nobody waits for hours
    assert speed.tokens_per_second == pytest.approx(50)


def test_a_ticket_gives_its_places_back_one_by_one() -> None:
    door = Door(max_running=3, capacity_tokens=400)
    several = door.enter(places=3, tokens=300)
    waiting = door.enter(tokens=150)
    door.admission.free(several, tokens=100)
    assert waiting.is_running
    assert (door.admission.running, door.admission.running_tokens) == (3, 350)
    door.admission.leave(several)
    door.admission.free(several, tokens=100)
    assert (door.admission.running, door.admission.running_tokens) == (1, 150)


def test_who_waits_longer_than_allowed_is_told_at_once() -> None:
    async def wait() -> None:
        loop = asyncio.get_running_loop()
        door = Admission(max_running=1, max_waiting=5, clock=loop.time, max_waiting_seconds=0.05)
        first, second = door.arrive(), door.arrive()
        door.enter(first, tokens=1)
        door.enter(second, tokens=1)
        await door.wait(first)
        began = loop.time()
        with pytest.raises(NotAdmittedError) as caught:
            await door.wait(second)
        assert caught.value.reason == "queue_timeout"
        assert loop.time() - began < 5
        assert (door.running, door.waiting) == (1, 0)

    asyncio.run(wait())


def test_ten_thousand_waiting_requests_cost_no_more_each_than_a_hundred() -> None:
    """By counting comparisons and not by time: a busy machine proves the same."""

    class Counted(float):
        comparisons = 0

        def __lt__(self, other: object) -> bool:
            Counted.comparisons += 1
            return float(self) < float(other)  # type: ignore[arg-type]

    def comparisons_each(count: int) -> float:
        queue, source = FairQueue(), random.Random(7)
        queue._virtual_time = Counted(0)
        Counted.comparisons = 0
        for number in range(count):
            queue.push(Ticket(f"key-{number % 300}", tokens=source.randint(1, 999)))
        while queue.peek() is not None:
            queue.pop()
        return Counted.comparisons / count

    few, many = comparisons_each(100), comparisons_each(10_000)
    assert many < few + 60, "logarithmic: 6.6 doublings, a few comparisons for each"


def test_keys_without_requests_are_forgotten() -> None:
    queue = FairQueue()
    for number in range(50_000):
        queue.push(Ticket(f"key-{number}", tokens=10))
        queue.pop()
    assert len(queue._lines) <= 1_025
    assert all(before[0] <= after[0] for before, after in pairwise(sorted(queue._order)))

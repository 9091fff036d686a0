"""The load test itself: a closed loop (a fixed number at once) or an open one (requests come when they come).

In an open loop every latency counts from the moment at which the request was *scheduled*: a client that waits for slow
answers before it sends the next request would otherwise leave out just the requests that the slowness would have hit
("coordinated omission": Tene 2013, "How NOT to Measure Latency"). What the client itself sends late is told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from nexus_llm.serve.bench.attempt import Server, attempt, client_session, get_to_know
from nexus_llm.serve.bench.plan import Arrival, BenchPlan, arrivals
from nexus_llm.serve.bench.prompts import Prompts
from nexus_llm.serve.bench.records import Records, RequestTimes

TICK_SECONDS = 0.25
_WARMUP_NUMBER = 1 << 40
"""Warm-up prompts are numbered from here on, so that no counted prompt equals one."""


@dataclass(slots=True)
class Client:
    """How busy the client itself was."""

    cpu_seconds: float = 0.0
    lags: list[float] = field(default_factory=list)
    """How much too late its loop woke up, four times a second: its own pauses, which it measures as the server's."""


@dataclass(slots=True)
class Measured:
    plan: BenchPlan
    records: Records
    seconds: float = 0.0
    client: Client = field(default_factory=Client)
    stopped_early: str | None = None
    """`max_seconds` or `interrupted` where it did not come to its end."""
    planned: int = 0
    """Requests that the plan had."""
    accepted_extras: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    finished: int
    planned: int
    running: int
    failed: int
    tokens: int
    """Pieces of text so far."""


async def run_bench(
    plan: BenchPlan, *, stop: asyncio.Event, on_progress: Callable[[Progress], None] = lambda _: None
) -> Measured:
    """What was measured, of the whole plan or of as much as was done when `stop` was set.

    Raises:
        DataError: the trace cannot be read.
        ServingError: the server does not answer even one request.
        UsageError: the plan has no request in it.
    """
    planned = arrivals(plan)
    async with client_session(plan) as session:
        server, count = await get_to_know(session, plan)
        prompts = Prompts(count, seed=plan.seed)
        if plan.warmup:
            warm = [Arrival(0.0, one.input_tokens, one.output_tokens) for one in planned[: plan.warmup]]
            warm += [warm[0]] * (plan.warmup - len(warm))
            warming = _Test(plan, server, prompts, warm, first_number=_WARMUP_NUMBER)
            await warming.run(stop, closed=True, limit_seconds=None, on_progress=lambda _: None)
        test = _Test(plan, server, prompts, planned)
        if not stop.is_set():
            closed = plan.load == "closed"
            await test.run(stop, closed=closed, limit_seconds=plan.max_seconds, on_progress=on_progress)
    measured = test.measured
    measured.accepted_extras = tuple(server.extras)
    measured.stopped_early = (
        "interrupted" if stop.is_set() and measured.stopped_early is None else measured.stopped_early
    )
    return measured


class _Test:
    """One burst of requests and what came of it."""

    def __init__(
        self, plan: BenchPlan, server: Server, prompts: Prompts, planned: Sequence[Arrival], first_number: int = 0
    ) -> None:
        self._plan, self._server, self._prompts, self._planned = plan, server, prompts, planned
        self._first_number = first_number
        self._now: Callable[[], float] = time.perf_counter
        self._running = self._failed = self._tokens = 0
        self.measured = Measured(plan, Records(), planned=len(planned))

    async def run(
        self,
        stop: asyncio.Event,
        *,
        closed: bool,
        limit_seconds: float | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        """Until all is done, `stop` is set, or the time is over."""
        start, cpu = time.perf_counter(), time.process_time()
        self._now = lambda: time.perf_counter() - start
        sending = asyncio.create_task(self._closed() if closed else self._open())
        stopping = asyncio.create_task(stop.wait())
        watching = asyncio.create_task(self._watch(on_progress))
        try:
            done, _ = await asyncio.wait(
                {sending, stopping}, timeout=limit_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if sending not in done:
                self.measured.stopped_early = "interrupted" if stopping in done else "max_seconds"
        finally:
            for task in (sending, stopping, watching):
                task.cancel()
            results = await asyncio.gather(sending, stopping, watching, return_exceptions=True)
        self.measured.seconds = self._now()
        self.measured.client.cpu_seconds = time.process_time() - cpu
        if isinstance(results[0], Exception):
            raise results[0]
        on_progress(self._progress())

    async def _closed(self) -> None:
        numbers = iter(range(len(self._planned)))
        places = min(self._plan.concurrency, len(self._planned))
        async with asyncio.TaskGroup() as group:
            for _ in range(places):
                group.create_task(self._worker(numbers))

    async def _worker(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            body = self._body(number)
            await self._one(number, body, scheduled=None)

    async def _open(self) -> None:
        places = asyncio.Semaphore(self._plan.max_in_flight)
        async with asyncio.TaskGroup() as group:
            for number, arrival in enumerate(self._planned):
                body = self._body(number)  # written before its time, so that writing makes nothing late
                await asyncio.sleep(max(0.0, arrival.at_seconds - self._now()))
                await places.acquire()
                task = group.create_task(self._one(number, body, scheduled=arrival.at_seconds))
                task.add_done_callback(lambda _: places.release())

    def _body(self, number: int) -> bytes:
        arrival = self._planned[number]
        prompt = self._prompts.text(self._first_number + number, arrival)
        return self._server.body(prompt, arrival.output_tokens)

    async def _one(self, number: int, body: bytes, *, scheduled: float | None) -> None:
        sent = self._now()
        times = RequestTimes(
            number=number,
            scheduled=sent if scheduled is None else scheduled,
            sent=sent,
            asked_output_tokens=self._planned[number].output_tokens,
        )
        self._running += 1
        try:
            await attempt(self._server, body, times, now=self._now)
        finally:
            self._running -= 1
            self._failed += times.error is not None
            self._tokens += len(times.arrivals)
            self.measured.records.add(times)

    async def _watch(self, on_progress: Callable[[Progress], None]) -> None:
        """Tells how far it is, and notices when this very task is woken too late."""
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                before = self._now()
                await asyncio.sleep(TICK_SECONDS)
                self.measured.client.lags.append(max(0.0, self._now() - before - TICK_SECONDS))
                on_progress(self._progress())

    def _progress(self) -> Progress:
        done = len(self.measured.records)
        return Progress(done, len(self._planned), self._running, self._failed, self._tokens)

"""A small balancer on loopback, in the place of the ALB: one request at a time to the task with the fewest open ones.

It does what a rollout relies on: two groups of tasks share the requests by weight, a task gets them only while it says
that it is ready, one that is taken out keeps its open answers to their end, and what was answered is counted as an ALB
counts it. It is no product: no TLS, no limits, no retries (an ALB retries no POST either).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, web

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "host", "content-length"})
BLUE, GREEN = "blue", "green"
_DRAIN_SECONDS = 120.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Answered:
    """One request's end."""

    at: float
    """Seconds since 1970."""
    status: int
    by_task: bool
    """Or else by the balancer itself."""


@dataclass
class _Target:
    url: str
    group: str
    open: int = 0
    served: int = 0
    takes_new: bool = True


@dataclass
class Balancer:
    """A running one."""

    loop: asyncio.AbstractEventLoop
    url: str = ""
    answered: list[Answered] = field(default_factory=list)
    _targets: dict[str, _Target] = field(default_factory=dict)
    _weights: dict[str, int] = field(default_factory=lambda: {BLUE: 100})
    _owed: dict[str, float] = field(default_factory=dict)

    @property
    def served(self) -> dict[str, int]:
        """Requests that each task has had, by its address; those of tasks that are gone count too."""
        return {url: one.served for url, one in self._targets.items()}

    def add(self, url: str, group: str = BLUE) -> None:
        """From now on the task gets its part of the group's requests."""
        self._targets[url] = _Target(url, group)

    def weigh(self, weights: Mapping[str, int]) -> None:
        """From now on each group gets so many of a hundred requests; one that is not named gets none."""
        self._owed, self._weights = {}, dict(weights)

    def remove(self, url: str) -> float:
        """Seconds until the task's last open answer had ended; it gets no new request meanwhile. 0 for a task that was
        never added."""
        if url not in self._targets:
            return 0.0
        return asyncio.run_coroutine_threadsafe(self._drained(self._targets[url]), self.loop).result(_DRAIN_SECONDS)

    async def _drained(self, target: _Target) -> float:
        began = self.loop.time()
        target.takes_new = False
        while target.open:
            await asyncio.sleep(_POLL_SECONDS)
        return self.loop.time() - began

    async def forward(self, request: web.Request, client: ClientSession) -> web.StreamResponse:
        """The chosen task's answer, passed on as it comes."""
        group = self._turn()
        ready = [one for one in self._targets.values() if one.takes_new and one.group == group]
        if not ready:
            return self._refused(503, "no task is ready")
        target = min(ready, key=lambda one: (one.open, one.served))
        target.open, target.served = target.open + 1, target.served + 1
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
            body = await request.read()
            async with client.request(
                request.method, target.url + request.path_qs, headers=headers, data=body
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
                self.answered.append(Answered(time.time(), answer.status, by_task=True))
                response = web.StreamResponse(status=answer.status, headers=kept)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response
        except (ClientError, TimeoutError) as error:
            return self._refused(502, f"the task did not answer ({error})")
        finally:
            target.open -= 1

    def _turn(self) -> str:
        """The group whose turn it is: each gains its weight, and who has most pays for the request."""
        for group, weight in self._weights.items():
            self._owed[group] = self._owed.get(group, 0) + weight
        group = max(self._owed, key=lambda one: self._owed[one])
        self._owed[group] -= sum(self._weights.values())
        return group

    def _refused(self, status: int, why: str) -> web.Response:
        self.answered.append(Answered(time.time(), status, by_task=False))
        return web.json_response({"error": {"message": why}}, status=status)


@contextlib.contextmanager
def running_balancer() -> Iterator[Balancer]:
    """A balancer without tasks on a free loopback port, in a thread of its own, until the block ends."""
    balancer = Balancer(asyncio.new_event_loop())
    ready, stopping = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with ClientSession(timeout=ClientTimeout(total=None), auto_decompress=False) as client:

            async def handle(request: web.Request) -> web.StreamResponse:
                return await balancer.forward(request, client)

            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            address: Any = runner.addresses[0]
            balancer.url = f"http://127.0.0.1:{address[1]}"
            ready.set()
            await stopping.wait()
            await runner.cleanup()

    thread = threading.Thread(target=lambda: balancer.loop.run_until_complete(serve()), name="balancer", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield balancer
    finally:
        balancer.loop.call_soon_threadsafe(stopping.set)
        thread.join()
        balancer.loop.close()

"""Keeps one engine process alive, and no request waiting for a dead one.

An engine that dies is started again, after a pause that doubles. Its requests without a token so far are given to the
new one, once; the others end with `EngineDiedError`, because a client that has seen half an answer cannot be given
another one. More deaths than the budget allows, and the supervisor gives up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nexus_llm.errors import ServingError
from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineRequest, EngineStep
from nexus_llm.serve.engines.process import EngineCommand, EngineProcess

log = logging.getLogger("nexus_llm.serve.engine")


class EngineDiedError(Exception):
    """The engine died after this request's first token, or twice before it."""


class EngineDownError(Exception):
    """There is no engine any more: it died too often, or the server stops."""


class EngineState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class SupervisorLimits:
    """How patient the supervisor is."""

    start_seconds: float = 300.0
    """Time for one start, reading the weights included."""
    stall_seconds: float = 120.0
    """With requests live and not one message for so long, the engine counts as hung and is killed."""
    stop_seconds: float = 5.0
    """Time for the engine to leave when asked to, before it is killed."""
    first_pause_seconds: float = 0.5
    """Pause before a restart; doubles with each further death."""
    max_deaths: int = 5
    """Deaths within the window that are still answered by a restart."""
    window_seconds: float = 600.0


_LIMITS = {"vllm": SupervisorLimits(start_seconds=1_830.0, stop_seconds=15.0)}
"""Of engines that need others: above the engine's own `start_seconds` and `STOP_SECONDS`, which tell or do more."""


class TokenStream:
    """The tokens of one request, or of a few, as they come. Several steps that nobody collected come as one list."""

    def __init__(self, on_end: Callable[[int], None] = lambda _id: None) -> None:
        """`on_end` is told the id of a request when its last tokens come, however late somebody collects them."""
        self.last_push_at: float | None = None
        """By `time.monotonic`; None before the first tokens."""
        self._on_end = on_end
        self._deltas: list[EngineDelta] = []
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None  # an Event costs half as much again, and only one ever waits

    async def next(self) -> list[EngineDelta]:
        """All deltas since the last call, at least one.

        Raises:
            EngineDiedError: the engine died and the request cannot go on.
            EngineDownError: there is no engine any more.
        """
        if not self._deltas and self._error is None:  # an end may have come together with the deltas before it
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        deltas, self._deltas = self._deltas, []
        if not deltas and self._error is not None:
            raise self._error
        return deltas

    def push(self, delta: EngineDelta) -> None:
        self._deltas.append(delta)
        self.last_push_at = time.monotonic()
        self._wake()
        if delta.finish:
            self._on_end(delta.id)

    def fail(self, error: Exception) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(slots=True)
class _Live:
    request: EngineRequest
    stream: TokenStream
    has_tokens: bool = False
    was_retried: bool = False


class EngineSupervisor:
    """The engine, as the gateway uses it."""

    def __init__(self, command: EngineCommand, *, limits: SupervisorLimits | None = None) -> None:
        self.state = EngineState.LOADING
        self.facts: EngineFacts | None = None
        self.restarts = 0
        self.cache_share = 0.0
        self.open_generations = 0
        """Answers that still need this engine; their owners count."""
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Resolves when the engine died too often."""
        self._command = command
        self._limits = limits or _LIMITS.get(command.name, SupervisorLimits())
        self._live: dict[int, _Live] = {}
        self._process: EngineProcess | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._busy_since = 0.0
        self._pause_share = 0.0
        self._deaths: list[float] = []

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> EngineFacts:
        """Starts the engine and waits until it is ready.

        Raises:
            ServingError: it cannot load, or takes too long. A first start is not tried again: the reason would stay.
        """
        try:
            self.facts = await self._launch()
        except EngineDiedError as error:
            self.state = EngineState.FAILED
            raise ServingError(
                f"the {self._command.name} engine cannot start: {error}",
                fix="check the model's weights file; the lines above may say more",
            ) from None
        self.state = EngineState.READY
        self._watcher = asyncio.create_task(self._watch())
        return self.facts

    def submit(self, request: EngineRequest, stream: TokenStream) -> None:
        """Hands a request to the engine, or to the next one while it restarts. Its deltas go to `stream`, which
        several requests may share.

        Raises:
            EngineDownError: there is no engine and there will be none.
        """
        if self.state in (EngineState.FAILED, EngineState.STOPPED):
            raise EngineDownError
        if not self._live:
            self._busy_since = asyncio.get_running_loop().time()
        self._live[request.id] = _Live(request, stream)
        if self.state is EngineState.READY and self._process is not None:
            self._process.add(request)

    def cancel(self, request_id: int) -> None:
        """Frees what a request holds in the engine; finished ids are fine."""
        if self._live.pop(request_id, None) is not None and self._process is not None:
            self._process.cancel(request_id)

    def pause(self, share: float) -> None:
        """Lets the engine rest for so many seconds after each that all cores worked for it: another one needs them."""
        if share != self._pause_share and self.state is EngineState.READY and self._process is not None:
            self._pause_share = share
            self._process.pause(share)

    async def stop(self) -> None:
        """Ends the engine and every request that is still live. No process is left afterwards."""
        was_ready = self.state is EngineState.READY
        self.state = EngineState.STOPPED
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        self._fail_all(EngineDownError())
        if self._process is not None:
            # While it loads it does not listen, so there is nothing to wait for.
            await self._process.stop(grace_seconds=self._limits.stop_seconds if was_ready else 0)

    async def _launch(self) -> EngineFacts:
        self._pause_share = 0.0
        process = self._process = await EngineProcess.spawn(self._command, self._deliver)
        first_news: set[asyncio.Future[Any]] = {process.ready, process.ended}
        await asyncio.wait(first_news, timeout=self._limits.start_seconds, return_when=asyncio.FIRST_COMPLETED)
        if process.ready.done():
            return process.ready.result()
        if process.ended.done():
            raise EngineDiedError(process.ended.result())
        await process.kill()
        raise EngineDiedError(f"not ready after {self._limits.start_seconds:g} s")

    def _deliver(self, step: EngineStep) -> None:
        self.cache_share = step.cache_share
        for delta in step.deltas:
            live = self._live.get(delta.id)
            if live is None:
                continue  # cancelled while the step ran
            live.has_tokens = live.has_tokens or bool(delta.token_ids)
            if delta.finish:
                del self._live[delta.id]
            live.stream.push(delta)

    async def _watch(self) -> None:
        while True:
            reason = await self._death()
            log.error("engine.died", extra={"reason": reason, "live": len(self._live)})
            self.state = EngineState.RESTARTING
            self.cache_share = 0.0
            self._sort_out_live()
            while not await self._revive():
                if self.state is EngineState.FAILED:
                    return
            for live in self._live.values():
                assert self._process is not None
                self._process.add(live.request)
            self.state = EngineState.READY

    async def _death(self) -> str:
        """Waits for the engine's end, or brings it about when it hangs. Returns the reason."""
        process, loop = self._process, asyncio.get_running_loop()
        assert process is not None
        stall = self._limits.stall_seconds
        while not process.ended.done():
            await asyncio.wait({process.ended}, timeout=stall / 4)
            if self._live and loop.time() - max(process.last_message_at, self._busy_since) > stall:
                await process.kill()
                return f"hung: no step for {stall:g} s"
        return process.ended.result()

    def _sort_out_live(self) -> None:
        """Keeps what may be tried again, ends the rest."""
        for request_id, live in list(self._live.items()):
            if live.has_tokens or live.was_retried:
                del self._live[request_id]
                live.stream.fail(EngineDiedError())
            live.was_retried = True

    async def _revive(self) -> bool:
        """One try to start the engine again; gives up for good where the budget is spent."""
        loop = asyncio.get_running_loop()
        self._deaths = [at for at in self._deaths if loop.time() - at < self._limits.window_seconds] + [loop.time()]
        if len(self._deaths) > self._limits.max_deaths:
            log.error("engine.given_up", extra={"deaths": len(self._deaths)})
            self.state = EngineState.FAILED
            self.given_up.set_result(None)
            self._fail_all(EngineDownError())
            return False
        await asyncio.sleep(self._limits.first_pause_seconds * 2 ** (len(self._deaths) - 1))
        try:
            self.facts = await self._launch()
        except (EngineDiedError, OSError) as error:  # OSError: no descriptor or no process to be had just now
            log.error("engine.died", extra={"reason": str(error), "live": len(self._live)})
            return False
        self.restarts += 1
        self._busy_since = loop.time()
        log.info("engine.restarted", extra={"restarts": self.restarts})
        return True

    def _fail_all(self, error: Exception) -> None:
        for live in self._live.values():
            live.stream.fail(error)
        self._live.clear()

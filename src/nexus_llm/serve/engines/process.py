"""One engine process as the gateway sees it: started, spoken to, and ended. The named edge for subprocesses here."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from nexus_llm.serve.engines import wire
from nexus_llm.serve.engines.port import EngineFacts, EngineRequest, EngineStep

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LEFT_BEHIND_SECONDS = 5.0  # for what a dead engine has left to end by itself; vLLM's take one
STDERR = 2  # what an engine's native library prints goes where our own log goes, never between JSON on stdout


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """Which engine to run, and its settings as JSON values."""

    name: str
    settings: dict[str, Any]


class EngineProcess(asyncio.Protocol):
    """A running child. `ended` resolves with the reason as soon as it is gone or hangs up."""

    def __init__(self, on_step: Callable[[EngineStep], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[EngineFacts] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.last_message_at = loop.time()
        self._loop = loop
        self._on_step = on_step
        self._splitter = wire.LineSplitter()
        self._unsent: list[bytes] = []
        self._fatal: str | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._is_stopping = False

    @classmethod
    async def spawn(cls, command: EngineCommand, on_step: Callable[[EngineStep], None]) -> EngineProcess:
        """Starts the child; wait for `ready` or `ended` next."""
        self = cls(on_step)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._child = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "nexus_llm.serve.engines.child"),
                    *(command.name, json.dumps(command.settings), str(theirs.fileno()), str(os.getpid())),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=STDERR,
                )
            await self._loop.create_unix_connection(lambda: self, sock=ours)
        except BaseException:
            ours.close()  # a child that was started hears of it and leaves
            raise
        return self

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def add(self, request: EngineRequest) -> None:
        self._send(wire.add_message(request))

    def cancel(self, request_id: int) -> None:
        self._send({"cancel": request_id})

    def pause(self, share: float) -> None:
        self._send({"pause": share})

    async def stop(self, *, grace_seconds: float) -> None:
        """Hangs up, waits for the child to leave, and kills it when it does not."""
        assert self._child is not None
        self._is_stopping = True
        self._flush()
        if self._transport is not None:
            self._transport.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._child.wait(), grace_seconds)
        await self.kill()

    async def kill(self) -> None:
        """Ends the child at once, and then what it ran; waits until all are gone."""
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()
        await self._child.wait()
        await _end_group(self._child.pid)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self.last_message_at = self._loop.time()
        for message in self._splitter.feed(data):
            if "step" in message:
                self._on_step(wire.read_step(message))
            elif "ready" in message and not self.ready.done():
                self.ready.set_result(wire.read_facts(message))
            elif "fatal" in message:
                self._fatal = str(message["fatal"])

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._burial = self._loop.create_task(self._bury())  # held, or it could be collected before it is done

    async def _bury(self) -> None:
        assert self._child is not None
        if not self._is_stopping:
            await self.kill()
        await self._child.wait()
        if not self.ended.done():
            self.ended.set_result(self._fatal or f"exit code {self._child.returncode}")

    def _send(self, message: wire.Message) -> None:
        # What comes in one round of the loop leaves together: a write for each wakes the engine for each, and was an
        # eighth of what a short request costs the gateway.
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(wire.encode(message))

    def _flush(self) -> None:
        lines, self._unsent = b"".join(self._unsent), []
        if lines and self._transport is not None:
            self._transport.write(lines)


async def _end_group(leader: int) -> None:
    """Ends the processes that a child left behind in its group: a server's own workers, which hold memory and GPUs.
    They are asked first, for what they share with one another outlives them otherwise."""
    for number, seconds in ((signal.SIGTERM, LEFT_BEHIND_SECONDS), (signal.SIGKILL, 1.0)):
        deadline = time.monotonic() + seconds
        try:
            os.killpg(leader, number)
            while time.monotonic() < deadline:
                await asyncio.sleep(0.05)
                os.killpg(leader, 0)
        except OSError:  # there are none, or none any more
            return


def run_below(command: list[str], *, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A server of another program, for an engine that is one; on Linux it is told to end when this process dies. It is
    not killed: that would leave processes of its own behind.

    All that it prints comes through its `stdout`, which has to be read.

    Call it before any thread is started: what runs between fork and exec must not meet a lock that one holds.

    Raises:
        RuntimeError: the program cannot be run.
    """
    before_exec = None
    if sys.platform == "linux":
        library = ctypes.CDLL(None)

        def before_exec() -> None:
            library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=before_exec,  # noqa: PLW1509 - see above
        )
    except OSError as error:
        raise RuntimeError(f"{command[0]} cannot be run ({error.strerror})") from error

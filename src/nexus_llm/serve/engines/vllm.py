"""vLLM behind the engine's port: this process runs `vllm serve` as its own child and speaks to it over loopback HTTP.

The gateway supervises this process; this process ends when its vLLM does, so both are started again together. Each
request is one HTTP stream; cancelling closes it, which is vLLM's own sign to stop.

What was seen of version 0.32.0, on a CPU, and is handled here where nothing else is said:
- a schema or a stop token that it does not take is a 200 and an error event in the stream: that request is refused;
- its log quotes what it refuses: once it serves, only levels, places and types of errors are passed on;
- on a CPU, what runs without an adapter beside one with it may get that one's tokens (GPUs have other kernels, which
  were not tried): nothing is done about it;
- beside adapters, two prompts scored at once end it, so that it does not say that it could score any;
- once a document of a schema is whole, it goes on with other text unless it may end by its own end token;
- killed, it leaves the processes of its engine behind, and 400 MB in /dev/shm: it is told to end;
- it tells its makers how it is used unless it is told not to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx

from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineRequest, EngineStep, Feature
from nexus_llm.serve.engines.process import run_below
from nexus_llm.serve.engines.vllm_exchange import Exchange, exchange
from nexus_llm.serve.engines.vllm_protocol import (
    REFUSALS,
    VllmAnswerError,
    VllmMetrics,
    completion_body,
    log_summary,
    read_answer,
    read_event,
    read_metrics,
    vllm_arguments,
)

log = logging.getLogger("nexus_llm.serve.engine")

SERVED_NAME = "model"
NEWS_SECONDS = 0.02  # how long a step waits for news; requests that come meanwhile wait as long
METRICS_SECONDS = 1.0
WEB_SECONDS = 5.0  # for its health and its metrics
STOP_SECONDS = 10.0
LAST_WORDS_SECONDS = 1.0
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
"""No call to anybody that the user did not ask for; the user's own variables come first."""
FEATURES: tuple[Feature, ...] = ("logprobs", "top_logprobs", "prompt_logprobs", "logit_bias", "json_schema")


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """How vLLM is run; most fields are those of `vllm_arguments`."""

    folder: str
    max_running: int = 64
    context_tokens: int | None = None
    gpu_memory_share: float = 0.9
    gpus: int = 1
    adapters: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    """Further flags of `vllm serve`."""
    program: tuple[str, ...] = ("vllm",)
    """What runs vLLM; another program for tests."""
    start_seconds: float = 1_800.0
    """A large model is read and compiled for minutes."""


class VllmEngine:
    def __init__(self, server: subprocess.Popen[bytes], port: int, *, adapters: frozenset[str] = frozenset()) -> None:
        self._server = server
        self._adapters = adapters
        self._port = port
        self._web = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WEB_SECONDS, trust_env=False)
        self._news: queue.SimpleQueue[EngineDelta | Exception] = queue.SimpleQueue()
        self._live: set[int] = set()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._metrics = VllmMetrics()
        self._metrics_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._is_serving = False
        self._log_thread = threading.Thread(target=self._pass_log_on, name="vllm-log", daemon=True)
        self._log_thread.start()

    @classmethod
    def load(cls, settings: VllmSettings) -> tuple[VllmEngine, EngineFacts]:
        """The engine once vLLM is healthy and has answered one request.

        Raises:
            RuntimeError: vLLM ends, or takes too long.
        OSError: there is no such program.
        """
        started = time.monotonic()
        port = _free_port()
        arguments = vllm_arguments(
            settings.folder, port=port, served_name=SERVED_NAME, max_running=settings.max_running,
            context_tokens=settings.context_tokens, gpu_memory_share=settings.gpu_memory_share, gpus=settings.gpus,
            adapters=settings.adapters, more=tuple(settings.arguments),
        )  # fmt: skip
        server = run_below([*settings.program, *arguments], environment=QUIET | os.environ)
        engine = cls(server, port, adapters=frozenset(settings.adapters))
        try:
            engine._wait_until_healthy(started + settings.start_seconds)
            engine._warm_up()
            engine._is_serving = True
        except BaseException:
            engine.close()
            raise
        beside_adapters: tuple[Feature, ...] = (*(one for one in FEATURES if one != "prompt_logprobs"), "adapters")
        features = beside_adapters if settings.adapters else FEATURES
        capacity = engine._read_metrics().capacity_tokens or settings.max_running * (settings.context_tokens or 2048)
        return engine, EngineFacts("vllm", capacity, time.monotonic() - started, features)

    def add(self, request: EngineRequest) -> None:
        if not request.token_ids or request.max_tokens < 1:
            raise ValueError("a request needs a prompt and room for one token")
        if request.adapter is not None and request.adapter not in self._adapters:
            raise ValueError("there is no adapter of that name")
        self._live.add(request.id)
        self._call(self._begin(request))

    def cancel(self, request_id: int) -> None:
        self._live.discard(request_id)
        self._call(self._end(request_id))

    def step(self) -> EngineStep:
        deltas: list[EngineDelta] = []
        with contextlib.suppress(queue.Empty):
            deltas.append(self._taken(self._news.get(timeout=NEWS_SECONDS)))
            while True:
                deltas.append(self._taken(self._news.get_nowait()))
        # A cancelled stream leaves behind it what it had brought.
        deltas = [delta for delta in deltas if delta.id in self._live]
        self._live.difference_update(delta.id for delta in deltas if delta.finish)
        if self._server.poll() is not None:
            raise RuntimeError(f"vLLM ended with code {self._server.returncode}")
        now = time.monotonic()
        if now - self._metrics_at > METRICS_SECONDS or not self._tasks:
            self._metrics_at = now
            self._read_metrics()
        return EngineStep(deltas, self._metrics.cache_share)

    def close(self) -> None:
        self._server.terminate()
        try:
            self._server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._log_thread.join(LAST_WORDS_SECONDS)  # why it ended; what it left behind may hold its end of the log
        self._web.close()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _pass_log_on(self) -> None:
        assert self._server.stdout is not None
        told = None
        for line in self._server.stdout:
            if not self._is_serving:
                sys.stderr.buffer.write(line)
                sys.stderr.flush()
                continue
            summary = log_summary(line.decode(errors="replace"))
            if summary is not None and summary != told:  # a trace is many lines of one place
                told = summary
                log.warning("vllm.log: %s", summary)

    def _taken(self, news: EngineDelta | Exception) -> EngineDelta:
        if isinstance(news, Exception):
            raise news
        return news

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _begin(self, request: EngineRequest) -> None:
        self._tasks[request.id] = asyncio.get_running_loop().create_task(self._answer(request))

    async def _end(self, request_id: int) -> None:
        task = self._tasks.pop(request_id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _answer(self, request: EngineRequest) -> None:
        """Carries one request from vLLM's stream into the queue."""
        body = json.dumps(completion_body(request, served_name=SERVED_NAME)).encode()
        try:
            async with exchange(self._port, "/v1/completions", body) as answer:
                status = await answer.status()
                if status in REFUSALS:
                    self._news.put(EngineDelta(request.id, [], [], "refused"))
                    return
                if status != 200:
                    raise VllmAnswerError(f"vLLM answers {status}")
                await self._read(answer, request)
        except (OSError, VllmAnswerError) as error:
            reason = str(error) if isinstance(error, VllmAnswerError) else type(error).__name__
            if not await self._is_healthy():
                self._news.put(RuntimeError(f"vLLM's stream broke: {reason}"))
                return
            log.error("vllm.stream_broke: %s", reason)  # others go on
            self._news.put(EngineDelta(request.id, [], [], "capacity"))
        finally:
            self._tasks.pop(request.id, None)

    async def _is_healthy(self) -> bool:
        try:
            return (await asyncio.to_thread(self._web.get, "/health")).status_code == 200
        except httpx.HTTPError:
            return False

    async def _read(self, answer: Exchange, request: EngineRequest) -> None:
        if request.prompt_logprobs:
            delta = read_answer(b"".join([piece async for piece in answer.pieces()]), request)
            if delta is not None:
                self._news.put(delta)
            return
        async for line in answer.lines():
            delta = read_event(line, request)
            if delta is None:
                continue
            if delta.token_ids or delta.finish:
                self._news.put(delta)
            if delta.finish:
                return
        raise VllmAnswerError("the stream ended before the answer")

    def _wait_until_healthy(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self._server.poll() is not None:
                raise RuntimeError(f"vLLM ended with code {self._server.returncode} while it loaded")
            with contextlib.suppress(httpx.HTTPError):
                if self._web.get("/health").status_code == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError("vLLM is not healthy in time")

    def _warm_up(self) -> None:
        self.add(EngineRequest(id=0, token_ids=[1] * 16, max_tokens=1))
        while True:
            if any(delta.finish for delta in self.step().deltas):
                return

    def _read_metrics(self) -> VllmMetrics:
        with contextlib.suppress(httpx.HTTPError):
            self._metrics = read_metrics(self._web.get("/metrics").text)
        return self._metrics


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

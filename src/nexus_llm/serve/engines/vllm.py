"""vLLM behind the engine's port: this process runs `vllm serve` as its own child and speaks to it over loopback HTTP.

The gateway supervises this process; this process ends when its vLLM does, so both are started again together. Each
request is one HTTP stream; cancelling closes it, which is vLLM's own sign to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx

from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineRequest, EngineStep, Feature
from nexus_llm.serve.engines.process import run_below
from nexus_llm.serve.engines.vllm_protocol import (
    VllmAnswerError,
    VllmMetrics,
    completion_body,
    read_answer,
    read_event,
    read_metrics,
    vllm_arguments,
)

SERVED_NAME = "model"
NEWS_SECONDS = 0.02  # how long a step waits for news; requests that come meanwhile wait as long
METRICS_SECONDS = 1.0
READ_SECONDS = 600.0  # between two tokens; a full queue inside vLLM keeps a stream silent for long
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
    def __init__(self, server: subprocess.Popen[bytes], url: str, *, adapters: frozenset[str] = frozenset()) -> None:
        self._server = server
        self._adapters = adapters
        self._url = url
        self._news: queue.SimpleQueue[EngineDelta | Exception] = queue.SimpleQueue()
        self._live: set[int] = set()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._metrics = VllmMetrics()
        self._metrics_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(10, read=READ_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()

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
        server = run_below([*settings.program, *arguments])
        engine = cls(server, f"http://127.0.0.1:{port}", adapters=frozenset(settings.adapters))
        try:
            engine._wait_until_healthy(started + settings.start_seconds)
            engine._warm_up()
        except BaseException:
            engine.close()
            raise
        features = (*FEATURES, *(("adapters",) if settings.adapters else ()))
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
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._loop.call_soon_threadsafe(self._loop.stop)

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
        body = completion_body(request, served_name=SERVED_NAME)
        try:
            async with self._client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code in (400, 404, 422):
                    self._news.put(EngineDelta(request.id, [], [], "refused"))
                    return
                if response.status_code != 200:
                    raise VllmAnswerError(f"vLLM answers {response.status_code}")
                await self._read(response, request)
        except (httpx.HTTPError, VllmAnswerError) as error:
            # The text of an HTTP error may quote the request: the type is enough.
            reason = str(error) if isinstance(error, VllmAnswerError) else type(error).__name__
            self._news.put(RuntimeError(f"vLLM's stream broke: {reason}"))
        finally:
            self._tasks.pop(request.id, None)

    async def _read(self, response: httpx.Response, request: EngineRequest) -> None:
        if request.prompt_logprobs:
            delta = read_answer((await response.aread()).decode(), request)
            if delta is not None:
                self._news.put(delta)
            return
        async for line in response.aiter_lines():
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
                if httpx.get(f"{self._url}/health", timeout=2, trust_env=False).status_code == 200:
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
            self._metrics = read_metrics(httpx.get(f"{self._url}/metrics", timeout=2, trust_env=False).text)
        return self._metrics


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

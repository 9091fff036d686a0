"""The one object that the edge tells of requests: it begins a record for each, and hands the finished ones on."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from starlette.types import Scope

from nexus_llm.errors import MissingExtraError, ServingError
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.telemetry.emf import QUEUE_PERIOD_SECONDS, queue_line, request_line
from nexus_llm.serve.telemetry.record import RequestRecord, known_method
from nexus_llm.serve.telemetry.samples import Samples
from nexus_llm.serve.telemetry.trace_context import trace_context
from nexus_llm.serve.telemetry.tracing import Tracing, make_exporter, wanted_endpoint

log = logging.getLogger("nexus_llm.serve.request")

SERVICE_VARIABLE = "NEXUS_SERVICE"


class Telemetry:
    """Without anything configured: the access log, and a traceparent that is passed on as it came."""

    def __init__(
        self,
        *,
        service: str = "nexus-llm",
        slow_seconds: float | None = None,
        trace_share: float = 1.0,
        tracing: Tracing | None = None,
        emf: TextIO | None = None,
        samples: Samples | None = None,
    ) -> None:
        """`emf` gets CloudWatch's lines; it is closed at the end unless it is stdout or stderr."""
        self._service = service
        self._slow_seconds = slow_seconds
        self._trace_share = trace_share
        self._tracing = tracing
        self._emf = emf
        self._samples = samples
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def open(cls, recipe: ServeRecipe, *, model_name: str, metrics: ServerMetrics) -> Telemetry:
        """What the recipe and the environment ask for.

        Raises:
            ServingError: a file or a folder cannot be written to.
            MissingExtraError: the recipe names a collector, and the exporter is not installed.
        """
        told = recipe.telemetry
        service = told.service or os.environ.get(SERVICE_VARIABLE) or model_name
        samples = None
        if recipe.samples.share > 0:
            samples = Samples(recipe.samples, dropped=lambda count: metrics.dropped("samples", count))
        return cls(
            service=service,
            slow_seconds=told.slow_request_seconds,
            trace_share=told.trace_share,
            tracing=_tracing(told.otlp_endpoint, service, lambda count: metrics.dropped("spans", count)),
            emf=_emf_stream(told.emf),
            samples=samples,
        )

    def begin(self, scope: Scope, request_id: str) -> RequestRecord:
        """The record of a request that has just arrived."""
        return RequestRecord(
            request_id=request_id,
            method=known_method(scope["method"]),
            path_is_api=scope["method"] == "POST" and not scope["path"].startswith("/admin"),
            trace=trace_context(scope["headers"], is_tracing=self._tracing is not None, share=self._trace_share),
            sample=None if self._samples is None else self._samples.begin(request_id),
        )

    def end(self, record: RequestRecord) -> None:
        """Tells of a finished request wherever it is wanted; never waits for another machine."""
        log.info("request.answered", extra=record.fields())
        if self._slow_seconds is not None and record.seconds > self._slow_seconds:
            log.warning("request.slow", extra=record.fields())
        # Health checks come every few seconds and tell nothing; a caller that traces wants its whole trace.
        is_followed = record.trace is not None and record.trace.parent_id is not None
        if self._tracing is not None and (record.path_is_api or is_followed):
            self._tracing.send(record)
        if self._emf is not None and record.path_is_api:
            self._write(request_line(record, service=self._service))
        if self._samples is not None:
            self._samples.write(record)

    def start(self, load: Callable[[], tuple[int, int]]) -> None:
        """Begins what happens from time to time; `load` tells how many requests wait and run. `aclose` ends it."""
        loop = asyncio.get_running_loop()
        if self._emf is not None:
            self._tasks.append(loop.create_task(self._tell_queue(load)))
        if self._samples is not None:
            self._tasks.append(loop.create_task(self._samples.keep_removing()))

    async def aclose(self) -> None:
        """Sends and writes what is left, for some seconds at most."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for part in (self._tracing, self._samples):
            if part is not None:
                await asyncio.to_thread(part.close)
        if self._emf is not None and self._emf not in (sys.stdout, sys.stderr):
            self._emf.close()

    async def _tell_queue(self, load: Callable[[], tuple[int, int]]) -> None:
        while True:
            waiting, running = load()
            now_ms = time.time_ns() // 1_000_000
            self._write(queue_line(waiting, running=running, service=self._service, timestamp_ms=now_ms))
            await asyncio.sleep(QUEUE_PERIOD_SECONDS)

    def _write(self, line: str) -> None:
        assert self._emf is not None
        try:
            self._emf.write(line + "\n")
            self._emf.flush()
        except OSError as error:  # a full disk must not fail a request that is answered
            log.error("telemetry.emf_not_written", extra={"reason": error.strerror})


def _tracing(endpoint: str | None, service: str, dropped: Callable[[int], None]) -> Tracing | None:
    if not wanted_endpoint(endpoint):
        return None
    try:
        return Tracing(make_exporter(endpoint), service=service, dropped=dropped)
    except MissingExtraError as error:
        if endpoint is not None:
            raise
        # A platform sets the variable for all that runs on it, whether it can trace or not.
        logging.getLogger("nexus_llm.serve.telemetry").warning("telemetry.no_exporter", extra={"fix": error.fix})
        return None


def _emf_stream(place: str | None) -> TextIO | None:
    if place is None:
        return None
    if place in ("stdout", "stderr"):
        return sys.stdout if place == "stdout" else sys.stderr
    try:
        return Path(place).open("a", encoding="utf-8")
    except OSError as error:
        raise ServingError(
            f"serve.telemetry.emf {place} cannot be written to ({error.strerror})",
            fix="name stdout, stderr, or a file that this user may write to",
        ) from error

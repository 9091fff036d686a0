"""Sends spans to an OpenTelemetry collector by OTLP over HTTP, from a thread that no request ever waits for.

A finished request goes into a bounded queue. A full queue or a collector that does not take the spans costs those
spans, which are counted, and nothing else. The standard variables OTEL_EXPORTER_OTLP_ENDPOINT, …_HEADERS, …_TIMEOUT,
…_CERTIFICATE, OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME mean here what they mean elsewhere. The SDK's own batch
processor is not used: it tells only its log what it drops, and starts a span's work within the request.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nexus_llm.errors import MissingExtraError
from nexus_llm.serve.telemetry.record import RequestRecord
from nexus_llm.serve.telemetry.spans import PlannedSpan, planned_spans

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("nexus_llm.serve.telemetry")

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
QUEUE_REQUESTS = 2_048  # a request is 6 spans of about 1 kB: 12 MB at most
BATCH_REQUESTS = 128
BATCH_SECONDS = 1.0
CLOSE_SECONDS = 3.0
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def wanted_endpoint(endpoint: str | None) -> bool:
    """Whether spans are to be sent: the recipe or the environment names a collector, and nothing switches it off."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return endpoint is not None or any(os.environ.get(name) for name in ENDPOINT_VARIABLES)


def make_exporter(endpoint: str | None) -> SpanExporter:
    """What posts spans to `endpoint`/v1/traces, or where the environment says.

    Raises:
        MissingExtraError: the exporter is not installed.
    """
    try:
        is_installed = importlib.util.find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:  # a part of the name before the last is missing
        is_installed = False
    if not is_installed:
        raise MissingExtraError.for_extra("otel", _EXPORTER)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter() if endpoint is None else OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")


class Tracing:
    """A queue of finished requests and the thread that sends their spans. `dropped` is told how many were lost."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        service: str,
        dropped: Callable[[int], None],
        queue_requests: int = QUEUE_REQUESTS,
    ) -> None:
        from opentelemetry.sdk.resources import Resource

        version = importlib.metadata.version("nexus-llm-platform")
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
        self._resource = Resource.create({**named, "service.version": version})
        self._exporter = exporter
        self._dropped = dropped
        self._queue: queue.Queue[RequestRecord] = queue.Queue(queue_requests)
        self._stopping = threading.Event()
        # A daemon: a collector that hangs must not keep a server from ending.
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)
        self._thread.start()

    def send(self, record: RequestRecord) -> None:
        """Takes a finished request; never waits."""
        if record.trace is None or not record.trace.is_sampled:
            return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped(1)

    def close(self) -> None:
        """Sends what is left, for CLOSE_SECONDS at most. Blocks: call it beside the event loop."""
        self._stopping.set()
        self._thread.join(CLOSE_SECONDS)
        self._exporter.shutdown()
        self._dropped(self._queue.qsize())

    def _work(self) -> None:
        while not (self._stopping.is_set() and self._queue.empty()):
            batch = self._batch()
            if batch and not self._export(batch):
                self._dropped(len(batch))
                log.warning("telemetry.spans_lost", extra={"requests": len(batch)})

    def _batch(self) -> list[RequestRecord]:
        """What comes within BATCH_SECONDS, or less where that is enough or the end is near."""
        batch: list[RequestRecord] = []
        until = time.monotonic() + BATCH_SECONDS
        while len(batch) < BATCH_REQUESTS and (left := until - time.monotonic()) > 0:
            try:
                batch.append(self._queue.get(timeout=0.0 if self._stopping.is_set() else min(left, 0.2)))
            except queue.Empty:
                if self._stopping.is_set():
                    break
        return batch

    def _export(self, batch: list[RequestRecord]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            spans = [span for record in batch for span in _readable(record, self._resource)]
            return self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - whatever a library does: the thread lives on, and the loss is counted
            return False


def _readable(record: RequestRecord, resource: Resource) -> list[ReadableSpan]:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    assert record.trace is not None
    trace_id = int(record.trace.trace_id, 16)
    callers = record.trace.parent_id
    kinds = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}

    def context(span_id: str) -> SpanContext:
        return SpanContext(trace_id, int(span_id, 16), is_remote=span_id == callers, trace_flags=TraceFlags(1))

    def readable(span: PlannedSpan) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            context=context(span.span_id),
            parent=None if span.parent_id is None else context(span.parent_id),
            resource=resource,
            attributes=span.attributes,
            kind=kinds[span.kind],
            status=Status(StatusCode.ERROR if span.is_error else StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=InstrumentationScope("nexus_llm.serve"),
        )

    return [readable(span) for span in planned_spans(record)]

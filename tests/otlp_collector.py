"""An OpenTelemetry collector over HTTP, as small as one can be: it decodes what it gets, and can be slow or refuse."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Collector:
    """What came in, and how it answers."""

    url: str = ""
    raw: list[bytes] = field(default_factory=list)
    status: int = 200
    answer_seconds: float = 0.0
    resources: list[dict[str, Any]] = field(default_factory=list)
    spans: list[Any] = field(default_factory=list)

    def named(self, name: str, *, seconds: float = 30) -> Any:
        """The first span of that name, waited for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for span in list(self.spans):
                if span.name == name:
                    return span
            time.sleep(0.02)
        raise AssertionError(f"no span {name} among {[span.name for span in self.spans]}")


def attributes(span: Any) -> dict[str, Any]:
    """A span's attributes as Python values."""
    return {one.key: _value(one.value) for one in span.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free loopback port."""
    state = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            time.sleep(state.answer_seconds)
            state.raw.append(body)
            if self.path == "/v1/traces" and state.status == 200:
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    state.resources.append({one.key: _value(one.value) for one in resource.resource.attributes})
                    for scope in resource.scope_spans:
                        state.spans.extend(scope.spans)
            with contextlib.suppress(OSError):
                self.send_response(state.status)
                self.send_header("content-length", "0")
                self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()

"""The outermost layer of the gateway: request ids, a bound on bodies, one log line a request, no raw exceptions."""

from __future__ import annotations

import logging
import re
import uuid

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nexus_llm.serve import api_errors
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.responses import send_document
from nexus_llm.serve.telemetry.record import RequestRecord, recording
from nexus_llm.serve.telemetry.telemetry import Telemetry

log = logging.getLogger("nexus_llm.serve.request")

MAX_BODY_BYTES = 16 << 20
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")  # visible ASCII: safe in a header and in a log


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, *, metrics: ServerMetrics, telemetry: Telemetry) -> None:
        self._app = app
        self._metrics = metrics
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = self._telemetry.begin(scope, _request_id(scope))
        exchange = _Exchange(record, receive, send)
        with recording(record):
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except Exception as error:  # noqa: BLE001 - the last place that can keep it from the client
                # Type and place only: the text of an exception may quote a prompt.
                log.error("request.failed", extra={"request_id": record.request_id, "error": _where(error)})
                await exchange.fail(api_errors.internal_error())
        route = getattr(scope.get("route"), "path", "unknown")
        record.finish(route=route, status=exchange.status, key_id=scope.get("nexus_key_id"))
        self._metrics.responded(route, record.status)
        self._telemetry.end(record)


class _Exchange:
    """One request and its response."""

    def __init__(self, record: RequestRecord, receive: Receive, send: Send) -> None:
        self.status = 0
        self._record = record
        self._receive = receive
        self._send = send
        self._body_bytes_left = MAX_BODY_BYTES

    async def receive(self) -> Message:
        message = await self._receive()
        self._body_bytes_left -= len(message.get("body", b""))
        if self._body_bytes_left < 0:
            raise HTTPException(413, headers={"connection": "close"})
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            ours = [(b"x-request-id", self._record.request_id.encode())]
            if self._record.receipt is not None:
                ours.append((b"x-nexus-receipt", self._record.receipt.encode()))
            message["headers"] = [*message.get("headers", []), *ours]
        await self._send(message)

    async def fail(self, error: api_errors.ApiError) -> None:
        """Answers with an error, as far as that is still possible."""
        self._record.error_code = error.code
        if not self.status:
            await send_document(self.send, error.status, error.body())


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return str(given)
    return uuid.uuid4().hex


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    return f"{type(error).__name__} at {place}"

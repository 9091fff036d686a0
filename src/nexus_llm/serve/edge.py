"""The outermost layer of the gateway: request ids, a bound on bodies, one log line a request, no raw exceptions."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nexus_llm.serve import api_errors
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.responses import send_document

log = logging.getLogger("nexus_llm.serve.request")

MAX_BODY_BYTES = 16 << 20
CLIENT_GONE = 499  # nginx counts clients that leave before the answer begins so; it is never sent
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")  # visible ASCII: safe in a header and in a log


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, *, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - the last place that can keep it from the client
            # Type and place only: the text of an exception may quote a prompt.
            log.error("request.failed", extra={"request_id": exchange.request_id, "error": _where(error)})
            await exchange.fail(api_errors.internal_error())
        route = getattr(scope.get("route"), "path", "unknown")
        exchange.status = exchange.status or CLIENT_GONE
        self._metrics.responded(route, exchange.status)
        log.info(
            "request.answered",
            extra={
                "request_id": exchange.request_id,
                "method": scope["method"],
                "route": route,
                "status": exchange.status,
                "key": scope.get("nexus_key_id"),  # the part that lets nobody in
                "seconds": round(time.monotonic() - exchange.started_at, 3),
            },
        )


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request_id = _request_id(scope)
        self.status = 0
        self.started_at = time.monotonic()
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
            message["headers"] = [*message.get("headers", []), (b"x-request-id", self.request_id.encode())]
        await self._send(message)

    async def fail(self, error: api_errors.ApiError) -> None:
        """Answers with an error, as far as that is still possible."""
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

"""The outermost layer of the gateway: request ids, bounds on bodies, one log line a request, no raw exceptions."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nexus_llm.recipe import TimeoutsRecipe
from nexus_llm.serve import api_errors
from nexus_llm.serve.deadlines import told_seconds, until
from nexus_llm.serve.dialects.anthropic_answer import error_body
from nexus_llm.serve.logs import place_of
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.responses import send_document
from nexus_llm.serve.telemetry.record import RequestRecord, recording
from nexus_llm.serve.telemetry.telemetry import Telemetry

log = logging.getLogger("nexus_llm.serve.request")

MAX_BODY_BYTES = 16 << 20
MAX_HELD_BYTES = 256 << 20  # of the bodies of all open requests: 500 prompts of 128k tokens
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")  # visible ASCII: safe in a header and in a log


class BodyRefusedError(HTTPException):
    """The body is not read any further. FastAPI would turn any other exception into its own 400."""

    def __init__(self, error: api_errors.ApiError) -> None:
        super().__init__(error.status)
        self.error = error


class Edge:
    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: ServerMetrics,
        telemetry: Telemetry,
        timeouts: TimeoutsRecipe = TimeoutsRecipe(),  # noqa: B008 - immutable
    ) -> None:
        self.held_bytes = 0
        """Of the bodies of all open requests: a thousand slow clients shall not fill the memory with their halves."""
        self.body_seconds = timeouts.body_seconds
        self.metrics = metrics
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = self._telemetry.begin(scope, _request_id(scope))
        exchange = _Exchange(self, record, receive, send)
        with recording(record):
            try:
                with until(told_seconds(scope)):
                    await self._app(scope, exchange.receive, exchange.send)
            except ClientDisconnect:
                pass  # its body will never be whole: no fault of ours, and nobody is there to be told
            except Exception as error:  # noqa: BLE001 - the last place that can keep it from the client
                log.error("request.failed", extra={"request_id": record.request_id, "error": place_of(error)})
                await exchange.fail(api_errors.internal_error(), path=scope["path"])
            finally:
                self.held_bytes -= exchange.body_bytes
        route = getattr(scope.get("route"), "path", "unknown")
        record.finish(route=route, status=exchange.status, key_id=scope.get("nexus_key_id"))
        self.metrics.responded(route, record.status)
        if record.path_is_api:
            self.metrics.requested(is_failure=record.is_failure)
        if record.tally is not None:
            record.tally.count(record)
        self._telemetry.end(record)


class _Exchange:
    def __init__(self, edge: Edge, record: RequestRecord, receive: Receive, send: Send) -> None:
        self.status = 0
        self._record = record
        self._receive = receive
        self._send = send
        self.body_bytes = 0
        self._edge = edge
        self._is_body_whole = False

    async def receive(self) -> Message:
        if self._is_body_whole:  # what comes now is the client's departure, which may take its time
            return await self._receive()
        edge = self._edge
        left = self._record.started_at + edge.body_seconds - time.monotonic()
        try:
            async with asyncio.timeout(left):
                message = await self._receive()
        except TimeoutError:
            edge.metrics.timed_out("body")
            raise BodyRefusedError(api_errors.timed_out("body")) from None
        self._is_body_whole = not message.get("more_body", False)
        taken = len(message.get("body", b""))
        self.body_bytes += taken
        edge.held_bytes += taken
        if self.body_bytes > MAX_BODY_BYTES:
            raise BodyRefusedError(api_errors.body_too_large(MAX_BODY_BYTES))
        if edge.held_bytes > MAX_HELD_BYTES:
            edge.metrics.refused("memory_full")
            raise BodyRefusedError(api_errors.bodies_too_large())
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            ours = [(b"x-request-id", self._record.request_id.encode())]
            if self._record.receipt is not None:
                ours.append((b"x-nexus-receipt", self._record.receipt.encode()))
            message["headers"] = [*message.get("headers", []), *ours]
        await self._send(message)

    async def fail(self, error: api_errors.ApiError, *, path: str) -> None:
        """Answers with an error, as far as that is still possible."""
        self._record.error_code = error.code
        if not self.status:
            await send_document(self.send, error.status, error_body(error, path=path))


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return str(given)
    return uuid.uuid4().hex

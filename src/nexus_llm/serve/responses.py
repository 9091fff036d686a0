"""Sends a generation to the client, whole or as server-sent events, and stops it when the client leaves."""

from __future__ import annotations

import logging

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nexus_llm.serve.answers import WholeChoice, Writer
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.generation import Generation
from nexus_llm.serve.generator import Generator
from nexus_llm.serve.presence import WhilePresent
from nexus_llm.serve.telemetry.record import DISCONNECTED, current_record

log = logging.getLogger("nexus_llm.serve.request")

EVENT_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    # nginx and some load balancers would otherwise collect the stream before they pass it on.
    "x-accel-buffering": "no",
}


class GenerationResponse(Response):
    """The answer to a generation request.

    The status line waits for the first token: until then the answer can still be a proper error.
    """

    def __init__(self, generation: Generation, writer: Writer, *, generator: Generator, is_stream: bool) -> None:
        super().__init__()
        self._generation = generation
        self._writer = writer
        self._generator = generator
        self._is_stream = is_stream
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            async with WhilePresent(receive) as client:
                await self._answer(send)
            if client.has_left:
                self._generator.metrics.disconnects.inc()
                current_record().error_code = DISCONNECTED
                log.info("request.disconnected", extra={"completion_tokens": self._generation.completion_tokens})
        finally:
            self._generation.close()

    async def _answer(self, send: Send) -> None:
        try:
            await (self._stream(send) if self._is_stream else self._whole(send))
        except ApiError as error:
            current_record().error_code = error.code
            if self._has_started:
                await send_body(send, self._writer.failure(error), more=False)
            else:
                await send_document(send, error.status, self._writer.refusal(error), headers=error.headers)

    async def _stream(self, send: Send) -> None:
        news = await self._generation.next()
        self._generation.lift_deadline()
        await send_start(send, 200, EVENT_STREAM_HEADERS)
        self._has_started = True
        piece = self._writer.opening(self._generation.choice_count)
        while news:
            piece += self._writer.chunks(news)
            if piece:
                await send_body(send, piece, more=True)
            piece = b""
            news = await self._generation.next()
        await send_body(send, self._writer.closing(self._generation.usage()), more=False)

    async def _whole(self, send: Send) -> None:
        choices = [WholeChoice() for _ in range(self._generation.choice_count)]
        while news := await self._generation.next():
            for one in news:
                choices[one.index].add(one.delta)
        await send_document(send, 200, self._writer.whole(choices, self._generation.usage()))


async def send_document(send: Send, status: int, body: bytes, *, headers: dict[str, str] | None = None) -> None:
    length = {"content-type": "application/json", "content-length": str(len(body))}
    await send_start(send, status, length | (headers or {}))
    await send_body(send, body, more=False)


async def send_start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def send_body(send: Send, body: bytes, *, more: bool) -> None:
    """A piece of the body, the last one unless `more`."""
    await send({"type": "http.response.body", "body": body, "more_body": more})

"""Sends a generation to the client, whole or as server-sent events, and stops it when the client leaves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nexus_llm.serve.answers import Usage, WholeChoice
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.generation import ChoiceDelta, Generation
from nexus_llm.serve.generator import Generator
from nexus_llm.serve.presence import WhilePresent
from nexus_llm.serve.telemetry.record import DISCONNECTED, current_record
from nexus_llm.serve.text import AnsweredCall, TokenLogprob

log = logging.getLogger("nexus_llm.serve.request")

EVENT_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    # nginx and some load balancers would otherwise collect the stream before they pass it on.
    "x-accel-buffering": "no",
}


class Writer(Protocol):
    """How an endpoint words what all of them do: one writer for each answer, which may remember what it wrote.

    A stream is `opening`, `chunks` as often as there is news, then `closing`, or `failure` in its place.
    """

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> bytes:
        """The JSON document of an answer that is not streamed."""

    def opening(self, choice_count: int) -> bytes:
        """The first events of a stream; may be nothing."""

    def chunks(self, news: Sequence[ChoiceDelta]) -> bytes:
        """Events for what is new; may be nothing."""

    def closing(self, usage: Usage) -> bytes:
        """The last events of a stream that is whole."""

    def failure(self, error: ApiError) -> bytes:
        """The last events of a stream that breaks off."""

    def refusal(self, error: ApiError) -> bytes:
        """The JSON document of an error in place of the answer."""


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
        await send_body(send, self._writer.closing(self._usage()), more=False)

    async def _whole(self, send: Send) -> None:
        texts = [""] * self._generation.choice_count
        logprobs: list[list[TokenLogprob]] = [[] for _ in texts]
        reasons = [""] * self._generation.choice_count
        calls: list[list[AnsweredCall]] = [[] for _ in texts]
        embeddings: list[Sequence[float]] = [()] * self._generation.choice_count
        stops: list[str | None] = [None] * self._generation.choice_count
        while news := await self._generation.next():
            for one in news:
                texts[one.index] += one.delta.text
                logprobs[one.index] += one.delta.logprobs
                reasons[one.index] = one.delta.finish_reason or ""
                calls[one.index] += one.delta.calls
                embeddings[one.index] = one.delta.embedding
                stops[one.index] = one.delta.stop_string
        parts = zip(texts, logprobs, reasons, calls, embeddings, stops, strict=True)
        choices = [WholeChoice(*values) for values in parts]
        await send_document(send, 200, self._writer.whole(choices, self._usage()))

    def _usage(self) -> Usage:
        return usage_of(self._generation)


def usage_of(generation: Generation) -> Usage:
    """What a generation has taken so far."""
    return Usage(generation.prompt_tokens, generation.completion_tokens)


async def send_document(send: Send, status: int, body: bytes, *, headers: dict[str, str] | None = None) -> None:
    """A JSON document as a whole response."""
    length = {"content-type": "application/json", "content-length": str(len(body))}
    await send_start(send, status, length | (headers or {}))
    await send_body(send, body, more=False)


async def send_start(send: Send, status: int, headers: dict[str, str]) -> None:
    """The status line and the headers."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def send_body(send: Send, body: bytes, *, more: bool) -> None:
    """A piece of the body, the last one unless `more`."""
    await send({"type": "http.response.body", "body": body, "more_body": more})

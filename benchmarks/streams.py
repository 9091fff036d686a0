"""Streams as a client sees them, over plain sockets: a heavy client would slow down what it measures.

Each stream has a connection of its own that the server closes at the end, and ends in one of four ways; see `End`.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from served import NAME

Kind = Literal["whole", "error event", "refused", "broken"]
FIRST_PLAIN_TOKEN = 100  # below lie control tokens and single bytes
WHOLE_SECONDS = 600.0
_CODE = re.compile(rb'"code":\s*"(\w+)"')
_TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')
_FINISH = re.compile(rb'"finish_reason":\s*"(\w+)"')


@dataclass(slots=True)
class Stream:
    """One stream while it runs; `end` makes sense of it afterwards."""

    started_at: float = 0.0
    first_at: float | None = None
    last_at: float | None = None
    """When text came last."""
    ended_at: float = 0.0
    events: int = 0
    """Server-sent events so far."""
    status: int = 0
    tail: bytes = b""
    is_reset: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """How a stream ended.

    `whole`: with a finish reason and [DONE]. `error event`: it had begun, and was told why it ends. `refused`: an error
    in place of an answer. `broken`: cut without a word, which a client must never see.
    """

    kind: Kind
    status: int
    code: str | None
    tokens: int
    events: int
    first_seconds: float | None
    decode_seconds: float | None
    """From the first text to the last."""
    seconds: float


@dataclass
class Burst:
    """Streams that were asked for together."""

    seconds: float
    ends: list[End]
    streams: list[Stream] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(end.tokens for end in self.ends)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def first_seconds(self) -> list[float]:
        return [end.first_seconds for end in self.ends if end.first_seconds is not None]

    def count(self, kind: Kind) -> int:
        return sum(end.kind == kind for end in self.ends)


def prompts(seed: int, *, count: int, tokens: int, vocabulary: int = 20_000) -> list[list[int]]:
    """Random ids of common tokens: no two prompts share a beginning, so no cache helps."""
    source = random.Random(seed)
    return [source.choices(range(FIRST_PLAIN_TOKEN, vocabulary), k=tokens) for _ in range(count)]


def body_of(prompt: Sequence[int] | str, answer_tokens: int, **more: Any) -> dict[str, Any]:
    """A completion that is streamed, greedy, and exactly as long as asked."""
    return {
        "model": NAME, "prompt": prompt, "max_tokens": answer_tokens, "stream": True, "temperature": 0,
        "ignore_eos": True, "stream_options": {"include_usage": True}, **more,
    }  # fmt: skip


class _Reading(asyncio.Protocol):
    """Sends one request and takes what comes: no reader, no buffer, no timer a piece, which cost more than taking."""

    def __init__(self, stream: Stream, request: bytes, has_ended: asyncio.Future[None]) -> None:
        self._stream = stream
        self._request = request
        self._has_ended = has_ended

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        _take(self._stream, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.is_reset = exc is not None
        if not self._has_ended.done():
            self._has_ended.set_result(None)


async def follow(stream: Stream, port: int, body: dict[str, Any], *, key: str | None = None) -> End:
    """Asks and reads to the end. Never raises for what the server does: that is the finding."""
    loop = asyncio.get_running_loop()
    has_ended: asyncio.Future[None] = loop.create_future()
    reading = _Reading(stream, _request(body, key), has_ended)
    stream.started_at = time.perf_counter()
    try:
        transport, _ = await loop.create_connection(lambda: reading, "127.0.0.1", port)
        try:
            await asyncio.wait_for(has_ended, WHOLE_SECONDS)
        finally:
            transport.close()
    except (OSError, TimeoutError):
        stream.is_reset = True
    stream.ended_at = time.perf_counter()
    return end_of(stream)


async def burst(port: int, bodies: Sequence[dict[str, Any]], *, key: str | None = None) -> Burst:
    """All of them at once."""
    started = time.perf_counter()
    streams = [Stream() for _ in bodies]
    asked = zip(streams, bodies, strict=True)
    ends = await asyncio.gather(*(follow(stream, port, body, key=key) for stream, body in asked))
    return Burst(time.perf_counter() - started, list(ends), streams)


def end_of(stream: Stream) -> End:
    """What the last bytes say.

    >>> end_of(Stream(status=200, events=3, tail=b'data: {"error":{"code":"engine_died"}}')).kind
    'error event'
    >>> end_of(Stream(status=200, events=3, tail=b'data: {"choices":[]}')).kind
    'broken'
    """
    code, tokens = _CODE.search(stream.tail), _TOKENS.findall(stream.tail)
    kind: Kind = "broken"
    if stream.status == 200 and b"data: [DONE]" in stream.tail and _FINISH.search(stream.tail):
        kind = "whole"
    elif stream.status == 200 and b'"error":' in stream.tail:
        kind = "error event"
    elif stream.status >= 400:
        kind = "refused"
    first, last = stream.first_at, stream.last_at
    return End(
        kind,
        stream.status,
        code[1].decode() if code and kind != "whole" else None,
        int(tokens[-1]) if tokens else 0,
        stream.events,
        None if first is None else first - stream.started_at,
        None if first is None or last is None else last - first,
        stream.ended_at - stream.started_at,
    )


def _request(body: dict[str, Any], key: str | None) -> bytes:
    data = json.dumps(body).encode()
    lines = ["POST /v1/completions HTTP/1.1", "host: x", "connection: close", "content-type: application/json"]
    lines.append(f"content-length: {len(data)}")
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


def _take(stream: Stream, data: bytes) -> None:
    now = time.perf_counter()
    if not stream.status:
        stream.status = int(data[9:12])
    news = data.count(b"data: {")
    if news and stream.first_at is None:
        stream.first_at = now
    if news and b'"text":' in data:
        stream.last_at = now
    stream.events += news
    stream.tail = stream.tail[-1_200:] + data[-4_000:]

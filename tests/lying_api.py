"""A small HTTP server that streams chats as badly as it is told, for tests of what measures servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Streamed = Callable[[asyncio.StreamWriter, dict[str, Any], int], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@dataclass
class Lying:
    """What it did."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the streamed chats; probes are not kept."""


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def piece(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


def status(code: int, **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {code} No\r\n{lines}content-length: 2\r\nconnection: close\r\n\r\n{{}}".encode()


@contextlib.contextmanager
def lying_api(streamed: Streamed, *, usage: bool = True) -> Iterator[Lying]:
    """Answers probes well (without `usage`: without a count of tokens), and streamed chats by `streamed`."""
    lying, loop, ready = Lying(), asyncio.new_event_loop(), threading.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b" /v1/models" in head:
                writer.write(_json({"data": [{"id": "lying"}]}))
            else:
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                if body["stream"]:
                    lying.asked.append(body)
                    await streamed(writer, body, len(lying.asked) - 1)
                else:
                    count = {"prompt_tokens": len(body["messages"][0]["content"].split())}
                    writer.write(_json({"choices": [], **({"usage": count} if usage else {})}))
            await writer.drain()
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1000)
        lying.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()

    def work() -> None:
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield lying
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def _json(document: Any) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    return head.encode() + b"\r\n\r\n" + body

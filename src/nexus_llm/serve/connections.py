"""uvicorn with what it leaves to a proxy in front: time and size limits on heads, and an end for clients that stall.

uvicorn's own timeout is about idle connections between two requests only, and any byte resets it; its parser takes a
head of any size. Here a connection is closed that does not bring a whole head in time, or too much of one, that goes on
with a body nobody reads any more, or that leaves the network's buffers full. Bodies that are read are the edge's.

Sources: uvicorn 0.54, `protocols/http/httptools_impl.py`; Linux tcp(7), TCP_USER_TIMEOUT and keep-alive; read 2026-11.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nexus_llm.recipe import TimeoutsRecipe
from nexus_llm.serve import api_errors
from nexus_llm.serve.generator import Generator
from nexus_llm.serve.metrics import ServerMetrics

MAX_HEAD_BYTES = 65_536  # as h11's; a key and some tracing fields are 1 kB
LINGER_SECONDS = 5.0  # for the rest of a body that nobody wants: a client that still sends does not read the answer
KEEP_ALIVE_SECONDS = 75  # longer than an AWS load balancer's 60 s, which must be the first to hang up
PROBE_IDLE_SECONDS, PROBE_INTERVAL_SECONDS, PROBES = 30, 10, 3  # a client that vanished while it waits is gone in 60 s
SEND_BUFFER_BYTES = 262_144  # in the kernel, which would take 4 MB of each client that does not read
_REASONS = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}
WANTED_DESCRIPTORS = 65_536


class WebServer(uvicorn.Server):
    """uvicorn without its own idea of signals: what Ctrl-C means here is decided elsewhere."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def web_server(app: ASGIApp, generator: Generator) -> WebServer:
    """A server for `app`, with the generator's timeouts and metrics."""

    class Protocol(GuardedProtocol):
        timeouts = generator.timeouts
        metrics = generator.metrics

    return WebServer(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here asks for the client's address
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )


def raise_descriptor_limit() -> None:
    """Lets this process have as many connections as the system allows it: many shells start with 1,024 files."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with contextlib.suppress(OSError, ValueError):  # macOS allows less than it tells
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class GuardedProtocol(HttpToolsProtocol):
    """One connection. Made by uvicorn."""

    timeouts: ClassVar[TimeoutsRecipe]
    metrics: ClassVar[ServerMetrics]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        """Of a head, or since the last part of a body: httptools keeps trailers of any size, which nobody reads."""
        self._is_in_head = True
        self._is_in_message = False
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it
        self._set_up_socket()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_read_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        is_idle = self._is_in_head and self._read_timer is None
        if is_idle:  # line ends before a request begin no message, and yet end uvicorn's wait for one
            self._await_head()
        self._head_bytes += len(data)
        super().data_received(data)
        # What followed the end of a head, or a part of a body, in this piece is not counted.
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(api_errors.headers_too_large())

    def on_message_begin(self) -> None:
        self._is_in_message = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_head:  # trailers, which nobody reads
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head, self._head_bytes = False, 0
        self._stop_read_timer()
        head = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
        if head > MAX_HEAD_BYTES:
            self._refuse(api_errors.headers_too_large())
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if not self.transport.is_closing():  # a refused head has no cycle that could take it
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_message, self._is_in_head, self._head_bytes = False, True, 0
        if self.transport.is_closing():
            return
        super().on_message_complete()
        if self.cycle.response_complete:  # it was answered before it was read, and is out of the way now
            self._stop_read_timer()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE_SECONDS, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # With a request behind it, the message that is still read is that one's.
        if self._is_in_message and self.cycle.response_complete and not self.transport.is_closing():
            self._stop_read_timer()
            self._read_timer = self.loop.call_later(LINGER_SECONDS, self._close)
        self._guard_close()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._guard_close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def _await_head(self) -> None:
        self._stop_read_timer()
        self._read_timer = self.loop.call_later(self.timeouts.header_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_head()  # the answer to the request before it is worth more
        elif self._head_bytes:
            self.metrics.timed_out("header")
            self._refuse(api_errors.timed_out("header"))
        else:
            self._close()  # a browser opens connections in advance, and wants no answer on them

    def _refuse(self, error: api_errors.ApiError) -> None:
        """Answers in uvicorn's place, where there is no request yet, and closes."""
        body = error.body()
        head = b"HTTP/1.1 %d %s\r\n" % (error.status, _REASONS[error.status])
        fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        if self.cycle is None or self.cycle.response_complete:  # else it would cut into the answer before it
            self.transport.write(head + fields + body)
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._guard_close()

    def _guard_close(self) -> None:
        """Closing waits until the client has read what is left; not for ever."""
        if self.transport.is_closing():
            self._stop_read_timer()
            if self.transport.get_write_buffer_size() and self._write_timer is None:
                self._start_write_timer()

    def _start_write_timer(self) -> None:
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self.timeouts.write_seconds, self._cut_off)

    def _cut_off(self) -> None:
        self.metrics.timed_out("write")
        self.transport.abort()

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _set_up_socket(self) -> None:
        """Bounds what the kernel keeps, and has it look for clients that vanished without a word: nobody else could."""
        connection = self.transport.get_extra_info("socket")
        if connection is None:
            return
        with contextlib.suppress(OSError):  # a kind of socket that has no such thing, such as a Unix one
            self._set_options(connection)

    def _set_options(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if not hasattr(socket, "TCP_USER_TIMEOUT"):
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
        # A little later than our own timer, which also counts.
        milliseconds = round((self.timeouts.write_seconds + LINGER_SECONDS) * 1_000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

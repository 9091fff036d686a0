"""A real HTTP server on 127.0.0.1 that misbehaves on command: cuts, lies, stalls, and counts its connections."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Trick:
    """One misbehaviour, played for one GET. The default is honest."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    stall_after: int | None = None
    """Send nothing more after so many bytes, until the server closes."""
    announce: int | None = None
    """A Content-Length that is not the body's."""
    chunked: bool = False
    ignores_range: bool = False
    redirect: str | None = None


@dataclass
class Page:
    """One file of the server. `tricks` are played in order, one a GET; then it is honest."""

    content: bytes
    etag: str | None = None
    last_modified: str | None = None
    head_size: int | None = None
    """A Content-Length for HEAD that is not the file's."""
    head_status: int = 200
    tricks: list[Trick] = field(default_factory=list)
    changes_to: bytes | None = None
    """The content (and a new ETag) from the second GET on."""


class LyingServer:
    """`pages` by path; what was asked is in `requests` as (method, path, headers)."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.open_connections = self.most_connections = 0
        self.gate: threading.Event | None = None
        """While it is unset, GETs wait: so that a test can see all workers at once."""
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server = _Server(self)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, path: str, content: bytes, *, etag: str | None = "auto", **options: Any) -> str:
        """Adds a file; returns its URL."""
        tag = f'"{hashlib.md5(content).hexdigest()}"' if etag == "auto" else etag
        self.pages[path] = Page(content, tag, **options)
        return self.url + path

    def gets(self, path: str) -> list[dict[str, str]]:
        """Headers of the GETs for one path, in order."""
        return [headers for method, asked, headers in self.requests if method == "GET" and asked == path]

    def count(self, change: int) -> None:
        with self._lock:
            self.open_connections += change
            self.most_connections = max(self.most_connections, self.open_connections)

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self.closing.set()
        if self.gate:
            self.gate.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def lying_server() -> Iterator[LyingServer]:
    """A running server."""
    server = LyingServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, owner: LyingServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner.count(+1)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.owner.count(-1)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        page = self._page("HEAD")
        if page is None:
            return
        self.send_response(page.head_status)
        size = len(page.content) if page.head_size is None else page.head_size
        self._version(page)
        self.send_header("content-length", str(size))
        self.end_headers()

    def do_GET(self) -> None:
        page = self._page("GET")
        if page is None:
            return
        if self.server.owner.gate:
            self.server.owner.gate.wait(10)
        trick = page.tricks.pop(0) if page.tricks else Trick()
        if trick.redirect or trick.status:
            self.send_response(trick.status or 302)
            for name, value in [
                *({"location": trick.redirect} if trick.redirect else {}).items(),
                *trick.headers.items(),
            ]:
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        first = self._first_byte(page, trick)
        if first is not None and first >= len(page.content):
            self.send_response(416)
            self.send_header("content-length", "0")
            self.end_headers()
        else:
            self._send(page, trick, first or 0, is_rest=first is not None)
        if page.changes_to is not None:
            page.content, page.changes_to = page.changes_to, None
            page.etag = f'"{hashlib.md5(page.content).hexdigest()}"'

    def _page(self, method: str) -> Page | None:
        owner = self.server.owner
        owner.requests.append((method, self.path, {name.lower(): value for name, value in self.headers.items()}))
        page = owner.pages.get(self.path.split("?")[0])
        if page is None:
            self.send_response(404)
            self.send_header("content-length", "0")
            self.end_headers()
        return page

    def _first_byte(self, page: Page, trick: Trick) -> int | None:
        wanted = self.headers.get("range", "")
        if not wanted or trick.ignores_range:
            return None
        condition = self.headers.get("if-range")
        if condition is not None and condition not in (page.etag, page.last_modified):
            return None
        return int(wanted.removeprefix("bytes=").split("-")[0])

    def _version(self, page: Page) -> None:
        if page.etag:
            self.send_header("etag", page.etag)
        if page.last_modified:
            self.send_header("last-modified", page.last_modified)

    def _send(self, page: Page, trick: Trick, first: int, *, is_rest: bool) -> None:
        body = page.content[first:]
        self.send_response(206 if is_rest else 200)
        self._version(page)
        for name, value in trick.headers.items():
            self.send_header(name, value)
        if is_rest:
            self.send_header("content-range", f"bytes {first}-{len(page.content) - 1}/{len(page.content)}")
        if trick.chunked:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(len(body) if trick.announce is None else trick.announce))
        self.end_headers()
        stop_after = trick.cut_after if trick.cut_after is not None else trick.stall_after
        piece = body if stop_after is None else body[:stop_after]
        if trick.chunked:
            piece = b"%x\r\n%s\r\n0\r\n\r\n" % (len(piece), piece)
        self.wfile.write(piece)
        self.wfile.flush()
        if trick.stall_after is not None:
            self.server.owner.closing.wait(20)
        if stop_after is not None or trick.announce is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_WR)

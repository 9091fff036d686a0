"""A crowd of clients in one process, over plain non-blocking sockets: it must cost less than what it measures.

    python benchmarks/crowd.py '{"port": 8000, "body": {…}, "connections": 32, "count_from": 123.4, "count_to": 133.4}'

Each connection asks, reads the whole answer, and asks again on the same connection (a closed loop). Nothing is parsed
but the end of an answer, its status and its usage. Prints a tally as JSON, with the processor time that it took itself:
requests per second of *that* is what one such process could do, whatever the server can.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

PATHS = {"messages": "/v1/chat/completions", "prompt": "/v1/completions"}
END_OF_STREAM = b"0\r\n\r\n"  # the last chunk of a chunked body
_LENGTH = re.compile(rb"content-length: (\d+)")
_TOKENS = re.compile(rb'"completion_tokens":(\d+)')
SAMPLES = 2_000


@dataclass
class Tally:
    """What one process saw between start and end."""

    requests: int = 0
    tokens: int = 0
    events: int = 0
    """Server-sent events with text."""
    errors: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    first_seconds: list[float] = field(default_factory=list)
    """Until the first byte of an answer's text, of the first answers."""


class _Connection:
    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.request = request
        self.ask()

    def ask(self) -> None:
        self.asked_at = time.perf_counter()
        self.first_at = 0.0
        self.needed: int | None = None  # bytes of a whole answer; None: a stream, or not known yet
        self.data = b""
        self.is_stream = False
        self.socket.send(self.request)

    def read(self, tally: Tally) -> bool:
        """Reads what is there. True when the answer is whole."""
        news = self.socket.recv(262_144)
        if not news:
            raise ConnectionError("the server hung up")
        if not self.first_at:
            self.first_at = time.perf_counter()
            self.is_stream = b"transfer-encoding: chunked" in news[:600]
            if not news.startswith(b"HTTP/1.1 200"):
                tally.errors += 1
        if self.is_stream:
            tally.events += news.count(b"data: {")
            self.data = self.data[-400:] + news
            return self.data.endswith(END_OF_STREAM)
        self.data += news
        if self.needed is None and (end := self.data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self.data)
            self.needed = end + 4 + (int(length[1]) if length else 0)
        return self.needed is not None and len(self.data) >= self.needed


def run(spec: dict[str, Any]) -> Tally:
    """Asks at once and until `count_to`; counts what comes from `count_from` on (both are times of time.monotonic)."""
    request = request_bytes(spec["body"], key=spec.get("key"))
    tally, selector = Tally(), selectors.DefaultSelector()
    for _ in range(spec["connections"]):
        one = _Connection(spec["port"], request)
        selector.register(one.socket, selectors.EVENT_READ, one)
    is_counting = False
    started, busy = time.monotonic(), time.process_time()
    while (now := time.monotonic()) < spec["count_to"]:
        if not is_counting and now >= spec["count_from"]:
            is_counting, tally, started, busy = True, Tally(errors=tally.errors), now, time.process_time()
        for key, _ in selector.select(0.05):
            _read(key.data, tally)
    tally.seconds = time.monotonic() - started
    tally.core_seconds = time.process_time() - busy
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    return tally


def _read(one: _Connection, tally: Tally) -> None:
    if not one.read(tally):
        return
    tally.requests += 1
    found = _TOKENS.search(one.data)
    tally.tokens += int(found[1]) if found else 0
    if len(tally.first_seconds) < SAMPLES:
        tally.first_seconds.append(round(one.first_at - one.asked_at, 6))
    one.ask()


def request_bytes(body: dict[str, Any], *, key: str | None = None) -> bytes:
    """A whole HTTP request."""
    path = next(path for name, path in PATHS.items() if name in body)
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(data)}"]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


@dataclass(frozen=True)
class Crowd:
    """Several such processes as one."""

    tallies: list[Tally]

    def total(self, name: str) -> float:
        return float(sum(getattr(tally, name) for tally in self.tallies))

    @property
    def busiest_core_share(self) -> float:
        """Share of a core that the busiest client took: near 1, the client was measured and not the server."""
        return max(tally.core_seconds / tally.seconds for tally in self.tallies)

    def first_seconds(self) -> list[float]:
        return [value for tally in self.tallies for value in tally.first_seconds]


def start(spec: dict[str, Any], *, processes: int) -> list[subprocess.Popen[bytes]]:
    """Starts the processes; `connections` are shared out among them."""
    shares = [
        spec["connections"] // processes + (number < spec["connections"] % processes) for number in range(processes)
    ]
    return [
        subprocess.Popen([sys.executable, __file__, json.dumps(spec | {"connections": share})], stdout=subprocess.PIPE)
        for share in shares
    ]


def finish(processes: list[subprocess.Popen[bytes]]) -> Crowd:
    """Waits for them and reads their tallies."""
    told = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a client process failed: see above")
    return Crowd([Tally(**json.loads(text)) for text in told])


if __name__ == "__main__":
    print(json.dumps(asdict(run(json.loads(sys.argv[1])))))

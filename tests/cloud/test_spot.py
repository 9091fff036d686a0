"""The spot notice against a server on loopback that behaves like EC2's metadata service."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nexus_llm.cloud.spot import FAILURES_BEFORE_SILENCE, SpotNotice

NOTICE = '{"action": "terminate", "time": "2026-11-02T08:22:00Z"}'
ACTION = "/latest/meta-data/spot/instance-action"


class Metadata:
    """What the service knows, and what it was asked."""

    def __init__(self) -> None:
        self.tokens = {"token-1"}
        self.documents: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.codes: list[int] = []
        """Answers to give first, whatever is asked."""
        self.release = threading.Event()
        self.is_slow = False
        self.url = ""


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    known = Metadata()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            known.asked.append(("PUT", self.path))
            lifetime = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            if self.path != "/latest/api/token" or not lifetime or not 1 <= int(lifetime) <= 21_600:
                self._answer(400, "")
                return
            self._answer(200, max(known.tokens))

        def do_GET(self) -> None:
            known.asked.append(("GET", self.path))
            if known.is_slow:
                known.release.wait(10)
            if known.codes:
                self._answer(known.codes.pop(0), "")
            elif self.headers.get("X-aws-ec2-metadata-token") not in known.tokens:
                self._answer(401, "Unauthorized")
            elif self.path in known.documents:
                self._answer(200, known.documents[self.path])
            else:
                self._answer(404, "Not Found")

        def _answer(self, code: int, text: str) -> None:
            self.send_response(code)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    known.url = f"http://127.0.0.1:{server.server_address[1]}"
    # A machine behind a proxy must not ask the proxy about the machine.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    yield known
    known.release.set()
    server.shutdown()
    server.server_close()


def test_no_notice_is_no_reason_to_stop(metadata: Metadata) -> None:
    notice = SpotNotice(url=metadata.url)
    assert notice.poll()
    assert notice.poll()
    assert notice.requested() is None


def test_a_notice_is_told_with_its_time_and_ends_the_asking(metadata: Metadata) -> None:
    metadata.documents[ACTION] = NOTICE
    notice = SpotNotice(url=metadata.url)
    assert not notice.poll()
    assert notice.requested() == "spot notice (terminate at 2026-11-02T08:22:00Z)"


@pytest.mark.parametrize("text", ["", "terminate", "[]", '{"action": "stop"}'])
def test_a_notice_in_another_form_is_still_a_notice(metadata: Metadata, text: str) -> None:
    metadata.documents[ACTION] = text
    notice = SpotNotice(url=metadata.url)
    notice.poll()
    assert notice.requested() == "spot notice"


def test_a_token_that_ran_out_is_renewed(metadata: Metadata) -> None:
    notice = SpotNotice(url=metadata.url)
    notice.poll()
    metadata.tokens = {"token-2"}
    metadata.documents[ACTION] = NOTICE
    assert not notice.poll()
    assert notice.requested()


def test_a_service_that_stumbles_is_asked_again(metadata: Metadata) -> None:
    notice = SpotNotice(url=metadata.url)
    assert notice.poll()
    metadata.codes = [500, 503, 429, 500, 401]
    for _ in range(5):
        assert notice.poll()
    metadata.documents[ACTION] = NOTICE
    assert not notice.poll()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_machine_without_the_service_is_left_alone_after_three_tries() -> None:
    notice = SpotNotice(url=f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    assert [notice.poll() for _ in range(FAILURES_BEFORE_SILENCE)] == [True] * (FAILURES_BEFORE_SILENCE - 1) + [False]
    assert notice.requested() is None
    assert time.monotonic() - started < 1


def test_a_slow_service_never_holds_up_the_training(metadata: Metadata) -> None:
    metadata.is_slow = True
    notice = SpotNotice(url=metadata.url, request_seconds=0.05, poll_seconds=0.01).start()
    started = time.monotonic()
    for _ in range(10_000):
        assert notice.requested() is None
    assert time.monotonic() - started < 1
    metadata.release.set()
    notice.stop()


def test_the_thread_hears_a_notice_that_comes_later_and_then_ends(metadata: Metadata) -> None:
    notice = SpotNotice(url=metadata.url, poll_seconds=0.005).start()
    deadline = time.monotonic() + 20
    while ("GET", ACTION) not in metadata.asked and time.monotonic() < deadline:
        time.sleep(0.001)
    metadata.documents[ACTION] = NOTICE
    while notice.requested() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert "terminate" in (notice.requested() or "")
    assert notice._thread is not None
    notice._thread.join(5)
    assert not notice._thread.is_alive()


def test_nothing_is_asked_before_the_start(metadata: Metadata) -> None:
    assert SpotNotice(url=metadata.url).requested() is None
    assert metadata.asked == []

"""Clients that are slow, silent, greedy or gone: each phase of a request ends in time, and nobody else notices."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gzip
import json
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvloop
from pydantic import ValidationError
from starlette.types import Message, Receive, Scope, Send

import nexus_llm.serve
from nexus_llm.chat import ChatTokenizer
from nexus_llm.recipe import PrioritiesRecipe, ServeRecipe, TimeoutsRecipe
from nexus_llm.serve import connections
from nexus_llm.serve.connections import LINGER_SECONDS, MAX_HEAD_BYTES
from nexus_llm.serve.dialects.anthropic_body import MessagesRequest
from nexus_llm.serve.dialects.openai_responses_body import ResponsesRequest
from nexus_llm.serve.edge import MAX_BODY_BYTES, MAX_HELD_BYTES, BodyRefusedError, Edge
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.engines.supervisor import SupervisorLimits
from nexus_llm.serve.listening import bound_socket
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.request_parts import Body
from nexus_llm.serve.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from nexus_llm.serve.telemetry.telemetry import Telemetry
from running_server import RunningServer, StartServer, running_server

CHAT: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "Say all of this again, please."}]}
ENDLESS: dict[str, Any] = {"model": "echo", "prompt": "abc", "ignore_eos": True, "max_tokens": 1_900}
IMPATIENT = TimeoutsRecipe(header_seconds=0.4, body_seconds=0.6, write_seconds=0.7)
WAIT_SECONDS = 30.0
"""Until what is due within one second has to have happened, on a busy machine."""


@pytest.fixture(scope="module")
def impatient(echo_model: ServedModel) -> Iterator[RunningServer]:
    recipe = ServeRecipe(timeouts=IMPATIENT)
    with running_server(echo_model, EngineCommand("fake", {"end_token_id": 2}), recipe=recipe) as server:
        yield server


def connect(server: RunningServer, *, receive_bytes: int | None = None) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(WAIT_SECONDS)
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.connect((host, int(port)))
    return connection


def everything(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            received += piece
    return received


def whole_answer(connection: socket.socket) -> bytes:
    """One answer on a connection that stays open."""
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(65_536)
    return received


def metric(server: RunningServer, name: str, **labels: str) -> float:
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    for line in httpx.get(f"{server.url}/metrics", timeout=WAIT_SECONDS).text.splitlines():
        if line.startswith(f"{name}{{") and all(one in line for one in wanted):
            return float(line.split()[-1])
    return 0.0


def eventually(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not claim():
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.02)


def request_head(body_bytes: int, *fields: str) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", "content-type: application/json", *fields]
    return ("\r\n".join([*lines, f"content-length: {body_bytes}"]) + "\r\n\r\n").encode()


def test_a_head_that_comes_byte_by_byte_is_cut_off(impatient: RunningServer) -> None:
    """Slowloris: each byte resets uvicorn's own timeout."""
    before = metric(impatient, "nexus_timeouts_total", phase="header")
    with connect(impatient) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in b"GET /health HTTP/1.1\r\nx: " + b"y" * 1_000:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") or not answer  # a reset may overtake it
    eventually(lambda: metric(impatient, "nexus_timeouts_total", phase="header") == before + 1)


def test_a_408_on_a_head_has_the_shape_of_all_errors(impatient: RunningServer) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"GET /health HT")
        answer = everything(connection)
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "header_timeout"


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"], ids=["nothing", "line ends"])
def test_a_connection_without_a_request_is_closed(impatient: RunningServer, sent: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(sent)
        everything(connection)


def test_line_ends_between_requests_do_not_hold_a_connection(impatient: RunningServer) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert whole_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        everything(connection)


def test_a_connection_may_rest_between_two_requests(impatient: RunningServer) -> None:
    with httpx.Client() as web:
        assert web.get(f"{impatient.url}/health").status_code == 200
        time.sleep(3 * IMPATIENT.header_seconds)
        assert web.get(f"{impatient.url}/health").status_code == 200
    with connect(impatient) as connection:  # the same with a body that was not read before the answer
        connection.sendall(b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n")
        assert whole_answer(connection).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"abc")
        time.sleep(3 * IMPATIENT.header_seconds)
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert whole_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_does_not_come_is_a_408(impatient: RunningServer) -> None:
    with connect(impatient) as connection:
        connection.sendall(request_head(500) + b'{"model": ')
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "body_timeout"
    assert metric(impatient, "nexus_timeouts_total", phase="body") >= 1


def test_waiting_for_an_answer_is_not_waiting_for_a_body(start: StartServer) -> None:
    server = start(step_seconds=0.2, recipe=ServeRecipe(timeouts=IMPATIENT))
    answer = server.client().completions.create(model="echo", prompt="abc", max_tokens=8)
    assert answer.usage.completion_tokens == 8


@pytest.mark.parametrize(
    "bomb",
    [b"x: " + b"y" * (2 * MAX_HEAD_BYTES), b"".join(b"x%d: y\r\n" % n for n in range(20_000)) + b"\r\n"],
    ids=["one field", "many fields"],
)
def test_a_head_of_any_size_is_not_kept(impatient: RunningServer, bomb: bytes) -> None:
    with connect(impatient) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"GET /health HTTP/1.1\r\n" + bomb)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 431 ") or not answer
    large = httpx.get(f"{impatient.url}/health", headers={"x": "y" * (MAX_HEAD_BYTES // 2)})
    assert large.status_code == 200


def test_a_request_behind_another_has_its_own_time(start: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a body that nobody waits for has little time; that of the next request is none."""
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.2)
    body = json.dumps({"model": "echo", "prompt": "abc", "max_tokens": 3}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
    with connect(start()) as connection:
        connection.sendall(head % (len(body), b"") + body + head % (len(body), b"connection: close\r\n") + body[:10])
        first = connection.recv(65_536)
        time.sleep(1)
        connection.sendall(body[10:])
        answers = first + everything(connection)
    assert answers.count(b"HTTP/1.1 200 OK") == 2


def test_trailers_of_any_size_are_not_kept(start: StartServer) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx: "
    with connect(start()) as connection:
        connection.sendall(head)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100):  # a second, long before the body's time is over
                connection.sendall(b"y" * 65_536)
                time.sleep(0.01)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * 1_000_000 + b"[]]",
        b'{"model":"echo","messages":' + b"[" * 200_000,
        gzip.compress(b'{"model":"echo"}' * 100_000),
        b'{"model":"echo","prompt":"\xff\xfe"}',
        b'{"model":"echo","prompt":[' + b'"",' * 500_000 + b"[]]}",
    ],
    ids=["many values", "deep", "compressed", "not UTF-8", "many faults"],
)
def test_a_body_bomb_is_a_400(impatient: RunningServer, body: bytes) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = httpx.post(f"{impatient.url}/v1/completions", content=body, headers=headers, timeout=WAIT_SECONDS)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("form", "body"),
    [
        (ChatRequest, {"messages": [0] * 1_000}),
        (ChatRequest, {"messages": [{"role": "user", "content": [0] * 1_000}]}),
        (CompletionRequest, {"prompt": [""] * 1_000 + [[]]}),
        (EmbeddingRequest, {"input": [-1] * 1_000}),
        (MessagesRequest, {"messages": [0] * 1_000, "max_tokens": 1}),
        (ResponsesRequest, {"input": [0] * 1_000}),
    ],
)
def test_of_a_thousand_faults_the_first_is_told(form: type[Body], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as found:
        form.model_validate({"model": "echo"} | body)
    assert found.value.error_count() < 5


class _NeverAsked(ChatTokenizer):
    def encode_text(self, text: str) -> list[int]:
        raise AssertionError("ten megabytes take ten seconds")

    def encode_prompt(self, messages: Any, *, tools: Any = None) -> list[int]:
        raise AssertionError("ten megabytes take ten seconds")


def test_a_prompt_of_ten_megabytes_is_refused_before_it_is_encoded(start: StartServer, echo_model: ServedModel) -> None:
    tokenizer = _NeverAsked.__new__(_NeverAsked)
    vars(tokenizer).update(vars(echo_model.tokenizer))
    server = start(model=replace(echo_model, tokenizer=tokenizer))
    text = "x" * 10_000_000
    for path, body, param in (
        ("/v1/completions", {"model": "echo", "prompt": text}, "prompt"),
        ("/v1/embeddings", {"model": "echo", "input": [text]}, "input"),
        ("/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": text}]}, "messages"),
    ):
        answer = httpx.post(f"{server.url}{path}", json=body, timeout=WAIT_SECONDS)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
        assert "2000 tokens" in error["message"]
        assert "100000" in error["message"]


def test_bodies_of_all_open_requests_together_are_bounded() -> None:
    """17 clients that each send nearly all of the largest body, and then wait."""
    piece = b"x" * (MAX_BODY_BYTES - 1)
    refused: list[str | None] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
            await asyncio.sleep(0.1)
        except BodyRefusedError as error:
            refused.append(error.error.code)

    async def crowd() -> None:
        metrics = ServerMetrics("m", engine="fake")
        edge = Edge(app, metrics=metrics, telemetry=Telemetry.open(ServeRecipe(), model_name="m", metrics=metrics))
        scope = {"type": "http", "headers": [], "method": "POST", "path": "/v1/completions"}

        async def receive() -> Message:
            return {"type": "http.request", "body": piece, "more_body": True}

        async def send(_message: Message) -> None:
            return None

        await asyncio.gather(*(edge(dict(scope), receive, send) for _ in range(17)))
        assert edge.held_bytes == 0

    asyncio.run(crowd())
    assert MAX_HELD_BYTES // len(piece) == 16
    assert refused == ["memory_full"]


def _stalled(server: RunningServer, *, choices: int) -> socket.socket:
    """A client that asks for some megabytes and reads nothing."""
    body = json.dumps(
        {**CHAT, "stream": True, "n": choices, "max_tokens": 400, "ignore_eos": True, "logprobs": True,
         "top_logprobs": 20}
    ).encode()  # fmt: skip
    connection = connect(server, receive_bytes=4_096)
    connection.sendall(request_head(len(body)) + body)
    return connection


def test_a_client_that_does_not_read_is_cut_off(start: StartServer) -> None:
    server = start(recipe=ServeRecipe(timeouts=IMPATIENT))
    with _stalled(server, choices=4) as stalled:
        eventually(lambda: metric(server, "nexus_timeouts_total", phase="write") == 1)
        assert metric(server, "vllm:num_requests_running") == 0
        assert b"[DONE]" not in everything(stalled)


def test_a_client_that_does_not_read_holds_no_place_at_the_engine(start: StartServer) -> None:
    server = start(recipe=ServeRecipe(max_running=4, max_waiting=8))
    with _stalled(server, choices=4) as stalled:
        assert stalled.recv(1)  # it runs
        done = server.client().completions.create(model="echo", prompt="abc", max_tokens=5, n=4)
        assert len(done.choices) == 4
        assert metric(server, "nexus_client_disconnects_total") == 0, "it was not cut off meanwhile"


def peer_of(connection: socket.socket) -> socket.socket:
    """The server's end of a connection: the server is a thread of this process."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
            with contextlib.suppress(OSError):
                if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                    continue
                theirs = socket.socket(fileno=os.dup(fd))
                with contextlib.suppress(OSError):
                    if theirs.getpeername() == connection.getsockname():
                        return theirs
                theirs.close()
        time.sleep(0.02)
    raise AssertionError("the server never accepted")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux tells")
def test_a_client_that_vanishes_without_a_word_is_looked_for_by_the_kernel(impatient: RunningServer) -> None:
    with connect(impatient) as connection, peer_of(connection) as theirs:
        assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        milliseconds = theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert milliseconds == round((IMPATIENT.write_seconds + LINGER_SECONDS) * 1_000)


@pytest.mark.parametrize(
    ("settings", "timeouts", "code"),
    [
        ({"hang_at_step": 1}, {"first_token_seconds": 0.3}, "first_token_timeout"),
        ({"hang_at_step": 6}, {"between_tokens_seconds": 0.3}, "between_tokens_timeout"),
        ({"step_seconds": 0.02}, {"answer_seconds": 0.4}, "answer_timeout"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_each_phase_of_an_answer_has_its_end_and_its_code(
    start: StartServer, settings: dict[str, Any], timeouts: dict[str, float], code: str
) -> None:
    server = start(recipe=ServeRecipe(timeouts=TimeoutsRecipe(**timeouts)), **settings)
    with pytest.raises(openai.APIError) as caught:
        list(server.client().completions.create(model="echo", prompt="abc", max_tokens=1_900, stream=True))
    assert caught.value.code == code
    assert metric(server, "nexus_timeouts_total", phase=code.removesuffix("_timeout")) == 1
    assert metric(server, "vllm:num_requests_running") == 0
    if code == "first_token_timeout":
        assert isinstance(caught.value, openai.InternalServerError)
        assert caught.value.status_code == 504


def test_whoever_waits_for_too_long_is_told_and_others_go_on(start: StartServer) -> None:
    server = start(step_seconds=0.01, recipe=ServeRecipe(max_running=1, max_waiting_seconds=0.4))
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**ENDLESS, "stream": True}) as running:
        lines = running.iter_lines()
        next(lines)
        answer = httpx.post(f"{server.url}/v1/completions", json={**ENDLESS, "max_tokens": 1}, timeout=WAIT_SECONDS)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_timeout")
        assert int(answer.headers["retry-after"]) >= 1
        assert metric(server, "nexus_requests_refused_total", reason="queue_timeout") == 1
        assert metric(server, "vllm:num_requests_running") == 1
        next(lines)


@pytest.mark.parametrize(
    "header", [{"x-request-timeout-ms": "400"}, {"x-stainless-read-timeout": "0.4"}], ids=["ours", "the SDKs'"]
)
def test_a_clients_own_deadline_ends_its_wait(start: StartServer, header: dict[str, str]) -> None:
    server = start(step_seconds=0.01, recipe=ServeRecipe(max_running=1))
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**ENDLESS, "stream": True}) as running:
        lines = running.iter_lines()
        next(lines)
        url, body = f"{server.url}/v1/completions", {**ENDLESS, "max_tokens": 1}
        answer = httpx.post(url, json=body, headers=header, timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_timeout")


def test_a_deadline_is_about_the_beginning_of_an_answer(start: StartServer) -> None:
    server = start(step_seconds=0.02)
    headers = {"x-request-timeout-ms": "600"}
    whole = httpx.post(f"{server.url}/v1/completions", json=ENDLESS, headers=headers, timeout=WAIT_SECONDS)
    assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_timeout")
    body = {**ENDLESS, "max_tokens": 60, "stream": True}
    streamed = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=WAIT_SECONDS)
    assert streamed.text.endswith("data: [DONE]\n\n")


def test_a_deadline_holds_while_the_engine_restarts(start: StartServer) -> None:
    server = start(end_token_id=2, limits=SupervisorLimits(first_pause_seconds=20, max_deaths=3, stop_seconds=2))
    os.kill(server.engine_pid, 9)
    eventually(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", json=CHAT, headers={"x-request-timeout-ms": "300"}, timeout=15
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_timeout")


def test_urgency_is_only_for_those_who_may(start: StartServer) -> None:
    server = start(end_token_id=2)
    refused = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "priority": -1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "priority_not_allowed")
    assert httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "priority": 5}).status_code == 200
    wrong = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "priority": 101})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "priority")


def test_urgent_requests_overtake_those_that_wait(start: StartServer) -> None:
    recipe = ServeRecipe(max_running=1, priorities=PrioritiesRecipe(lowest=-10))
    server = start(step_seconds=0.01, recipe=recipe)
    order: list[str] = []

    def ask(name: str, priority: int) -> None:
        body = {**ENDLESS, "max_tokens": 30, "priority": priority}
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
        order.append(name)

    threads = []
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**ENDLESS, "stream": True}) as running:
        lines = running.iter_lines()
        next(lines)
        for count, (name, priority) in enumerate([("normal", 0), ("patient", 5), ("urgent", -5)], start=1):
            threads.append(threading.Thread(target=ask, args=(name, priority)))
            threads[-1].start()
            eventually(lambda count=count: metric(server, "vllm:num_requests_waiting") == count)  # type: ignore[misc]
        assert metric(server, "nexus_tokens_waiting") == 3 * 33
    for thread in threads:
        thread.join()
    assert order == ["urgent", "normal", "patient"]


def test_the_usage_so_far_is_in_every_chunk_where_it_is_asked_for(echo_server: RunningServer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {**CHAT, "stream": True, "stream_options": options}
    lines = httpx.post(f"{echo_server.url}/v1/chat/completions", json=body).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == counts[-2] > counts[0]
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {chunks[-1]["usage"]["prompt_tokens"]}
    assert all(one["usage"]["total_tokens"] == sum(list(one["usage"].values())[:2]) for one in chunks)


def test_no_wait_is_measured_by_a_clock_that_somebody_can_set() -> None:
    """Wall clocks are for dates: of answers, of keys, and of the minutes that replicas share."""
    folder = Path(nexus_llm.serve.__file__).parent
    uses = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if re.search(r"\btime\.time\(|\bdatetime\.now\(|\butcnow\(", ast.unparse(ast.parse(path.read_text())))
    }
    dated = {"answers.py", "gateway.py", "dialects/openai_responses_answer.py"}
    assert {one for one in uses if not one.startswith(("access/", "bench/", "page/"))} <= dated


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_small_writes_leave_at_once_on_either_loop(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    found = []

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def ask(listener: socket.socket) -> None:
        server = await asyncio.start_server(answer, sock=listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        await reader.read()
        writer.close()
        server.close()

    with bound_socket("127.0.0.1", 0) as listener, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ask(listener))
    assert found[0]

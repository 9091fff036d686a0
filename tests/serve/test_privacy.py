"""A canary is sent along every way that a prompt can take, and looked for in every place that a server writes to.

The fake engine answers with its prompt, so that the canary is in the answers, too. Each place is shown to be really
read by planting another text there on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from nexus_llm.recipe import SamplesRecipe, ServeRecipe
from nexus_llm.serve.access.database import open_database
from nexus_llm.serve.access.key_store import create_key
from nexus_llm.serve.access.limits import Limits
from nexus_llm.serve.answers import AnswerWriter
from nexus_llm.serve.dialects.anthropic_body import MessagesRequest
from nexus_llm.serve.dialects.openai_responses_body import ResponsesRequest
from nexus_llm.serve.edge import MAX_BODY_BYTES
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.listening import bound_socket
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.relay import Upstream
from nexus_llm.serve.relay_engine import relayed_model
from nexus_llm.serve.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from nexus_llm.serve.telemetry.record import current_record
from nexus_llm.serve.telemetry.samples import Samples, is_chosen
from privacy_sinks import Sinks, open_sinks
from running_server import RunningServer, StartServer, running_server

CANARY = "kumquat-7f3a-heliotrope"
WHO = [{"role": "user", "content": CANARY}]
CHAT: dict[str, Any] = {"model": "echo", "messages": WHO}
TEXT: dict[str, Any] = {"model": "echo", "prompt": CANARY}
ANSWERED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", TEXT),
    ("/v1/responses", {"model": "echo", "input": CANARY, "instructions": CANARY}),
    ("/v1/messages", {"model": "echo", "messages": WHO, "max_tokens": 60, "system": CANARY}),
    ("/generate", {"prompt": CANARY, "temperature": 0}),
]


@pytest.fixture
def sinks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Sinks]:
    folder = tmp_path / "written"
    folder.mkdir()
    with open_sinks(folder, capfd) as opened:
        yield opened


@pytest.fixture
def needles(echo_model: ServedModel) -> tuple[str, ...]:
    """The canary as text, and as the token ids that stand for it."""
    ids = echo_model.tokenizer.encode_text(CANARY)
    return CANARY, ", ".join(map(str, ids)), ",".join(map(str, ids))


def post(server: RunningServer, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(server.url + path, json=body, headers=headers, timeout=120)


def test_what_is_answered_is_written_nowhere(start: StartServer, sinks: Sinks, needles: tuple[str, ...]) -> None:
    server = start(end_token_id=2, recipe=sinks.recipe(), with_sagemaker=True)
    for path, body in ANSWERED:
        for is_stream in (False, True):
            answer = post(server, path, body | {"stream": is_stream}, **{"user-agent": CANARY, "tracestate": CANARY})
            assert answer.status_code == 200, answer.text
            assert is_stream or CANARY in answer.text
    assert post(server, "/v1/embeddings", {"model": "echo", "input": [CANARY]}).status_code == 200
    counted = {"model": "echo", "messages": WHO}
    assert post(server, "/v1/messages/count_tokens", counted).status_code == 200
    assert httpx.post(f"{server.background.sagemaker_url}/invocations", json=CHAT).status_code == 200
    sinks.wait_for_spans(13)
    sinks.look(server.url)
    server.request_stop()
    server.wait()
    sinks.look()
    assert sinks.holding(*needles) == set()
    assert {"emf.jsonl", "keys.db", "spans", "log", "metrics"} <= {name for name, held in sinks.all().items() if held}
    assert sinks.holding("request.slow") == {"log"}


NEVER_RETRIEVED = '"logger": "asyncio", "place": "base_events.py:'
WRONG = (CANARY, [CANARY], {CANARY: CANARY}, -1.5)


def test_no_refusal_writes_down_what_it_refuses(start: StartServer, sinks: Sinks, needles: tuple[str, ...]) -> None:
    """Each field of each body is wrong in several ways, and each body is broken as a whole."""
    server = start(end_token_id=2, recipe=sinks.recipe())
    kinds = (ChatRequest, CompletionRequest, ResponsesRequest, MessagesRequest, None, EmbeddingRequest)
    bodies = [*ANSWERED, ("/v1/embeddings", {"model": "echo", "input": CANARY})]
    statuses: set[int] = set()
    with httpx.Client(base_url=server.url, timeout=120) as client:
        for kind, (path, body) in zip(kinds, bodies, strict=True):
            fields = {field.alias or name for name, field in kind.model_fields.items()} if kind else set(body)
            for name in sorted({*fields, CANARY}):
                for wrong in WRONG:
                    statuses.add(client.post(path, json=body | {name: wrong}).status_code)
            for raw in (b'{"model": "' + CANARY.encode(), CANARY.encode() + b"\xff\xfe", f'"{CANARY}"'.encode()):
                statuses.add(client.post(path, content=raw, headers={"content-type": "application/json"}).status_code)
        assert client.post("/v1/chat/completions", json=CHAT | {"messages": [*WHO] * 200}).status_code == 400
        schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {CANARY: 1, "not": {"const": CANARY}}}}
        assert client.post("/v1/chat/completions", json=CHAT | {"response_format": schema}).status_code == 400
        huge = b'{"model": "' + CANARY.encode() * (MAX_BODY_BYTES // len(CANARY) + 1)
        assert client.post("/v1/completions", content=huge).status_code == 413
    assert 400 in statuses
    assert not any(status >= 500 for status in statuses)
    sinks.look(server.url)
    assert sinks.holding(*needles) == set()
    assert sinks.holding("request.answered") == {"log"}


def test_no_path_header_method_or_key_is_written_down(
    start: StartServer, sinks: Sinks, needles: tuple[str, ...]
) -> None:
    server = start(end_token_id=2, recipe=sinks.recipe(max_running=1, max_waiting=0))
    database = open_database(str(sinks.folder / "keys.db"))
    narrow = create_key(database, "narrow", models=("law",))[0]
    once = create_key(database, "once", limits=Limits(requests_per_minute=1))[0]
    database.close()
    address = server.url.removeprefix("http://")
    for method, path in (("GET", f"/{CANARY}"), ("DELETE", f"/v1/models?{CANARY}"), ("GET", f"/v1/models/{CANARY}")):
        plain = http.client.HTTPConnection(address, timeout=60)  # httpx would log the path by itself
        plain.request(method, path, headers={"x-api-key": "", "referer": CANARY, "cookie": CANARY})
        assert plain.getresponse().status in (404, 405)
        plain.close()
    assert post(server, "/v1/chat/completions", CHAT, authorization=f"Bearer {CANARY}").status_code == 401
    assert post(server, "/v1/chat/completions", CHAT, authorization=f"Bearer {narrow}").status_code == 403
    assert post(server, "/v1/chat/completions", CHAT | {"model": CANARY}).status_code == 404
    assert post(server, "/v1/completions", TEXT | {"n": 2}).status_code == 400
    statuses = [post(server, "/v1/completions", TEXT, authorization=f"Bearer {once}").status_code for _ in range(2)]
    assert statuses == [200, 429]
    host, port = address.split(":")
    for raw in (
        f"{CANARY} / HTTP/1.1\r\n\r\n",
        f"GET / HTTP/9\r\n{CANARY}\r\n\r\n",
        f"GET /\x00{CANARY} HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(raw.encode())
            connection.recv(1_000)
    sinks.look(server.url)
    time.sleep(0.3)  # usage is recorded behind the answer
    assert sinks.holding(*needles, narrow, once, narrow[-43:], once[-43:]) == set()
    assert sinks.holding("Invalid HTTP request received.") == {"log"}


def test_a_full_queue_writes_nothing_down(start: StartServer, sinks: Sinks, needles: tuple[str, ...]) -> None:
    server = start(recipe=sinks.recipe(max_running=1, max_waiting=0), step_seconds=0.02)
    with httpx.stream("POST", f"{server.url}/v1/completions", json=TEXT | {"stream": True, "max_tokens": 900}) as busy:
        pieces = busy.iter_raw()  # held: the connection would be closed with it
        next(pieces)
        assert post(server, "/v1/completions", TEXT).status_code == 429
    sinks.wait_for_spans(2)
    sinks.look(server.url)
    assert sinks.holding(*needles) == set()
    assert "spans" in sinks.holding("client_disconnected")


@pytest.mark.parametrize("part", ["whole", "chunks", "closing"])
def test_a_fault_of_our_own_is_written_down_without_what_it_quotes(
    start: StartServer, sinks: Sinks, needles: tuple[str, ...], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_writer: AnswerWriter, *values: Any) -> bytes:
        raise ValueError(f"cannot write {CANARY} of {values}")

    monkeypatch.setattr(AnswerWriter, part, fail)
    server = start(end_token_id=2, recipe=sinks.recipe())
    with contextlib.suppress(httpx.RemoteProtocolError):
        post(server, "/v1/chat/completions", CHAT | {"stream": part != "whole"})
    sinks.wait_for_spans(1)

    async def forget() -> None:
        asyncio.get_running_loop().create_task(_failing())

    assert server.background.loop is not None
    asyncio.run_coroutine_threadsafe(forget(), server.background.loop).result(30)
    deadline = time.monotonic() + 30
    while not sinks.holding(NEVER_RETRIEVED) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    sinks.look(server.url)
    assert sinks.holding(*needles) == set()
    assert sinks.holding(NEVER_RETRIEVED) == sinks.holding("ValueError at") == {"log"}
    assert "spans" in sinks.holding("internal_error")


async def _failing() -> None:
    raise ValueError(CANARY)


@pytest.mark.parametrize("settings", [{"raise_at_step": 3}, {"die_at_step": 3}, {"raise_at_step": 8}])
def test_an_engine_that_crashes_takes_the_prompt_with_it(
    start: StartServer, sinks: Sinks, needles: tuple[str, ...], settings: dict[str, Any]
) -> None:
    server = start(recipe=sinks.recipe(), **settings)
    answer = post(server, "/v1/completions", TEXT | {"stream": True})
    assert "engine_died" in answer.text
    sinks.wait_for_spans(1)
    sinks.look(server.url)
    assert sinks.holding(*needles) == set()
    assert "log" in sinks.holding("engine.died")
    if "raise_at_step" in settings:
        assert "log" in sinks.holding("RuntimeError at")


def test_an_engine_that_aborts_with_a_fault_handler_tells_frames_and_no_values(
    start: StartServer, sinks: Sinks, needles: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    server = start(recipe=sinks.recipe(), step_seconds=0.05)
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json=TEXT | {"stream": True, "max_tokens": 900}, timeout=60
    ) as stream:
        pieces = stream.iter_raw()
        next(pieces)
        os.kill(server.engine_pid, signal.SIGABRT)
        assert b"engine_died" in b"".join(pieces)
    sinks.look(server.url)
    assert sinks.holding(*needles) == set()
    assert sinks.holding("Fatal Python error: Aborted") == {"stderr"}


def test_neither_the_server_nor_its_engine_leaves_a_core_dump() -> None:
    program = (
        "import resource, subprocess, sys\n"
        "from nexus_llm.serve.core_dumps import forbid_core_dumps\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)\n"
        "forbid_core_dumps()\n"
        "child = 'import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0]);'\n"
        "child += 'print(int(open(\"/proc/self/coredump_filter\").read(), 16))' if sys.platform == 'linux' else ''\n"
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True).stdout)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"0"}


def test_an_engines_refusal_is_written_down_without_the_prompt(
    start: StartServer, sinks: Sinks, needles: tuple[str, ...], echo_model: ServedModel
) -> None:
    server = start(recipe=sinks.recipe())
    ids = echo_model.tokenizer.encode_text(CANARY)
    biased = TEXT | {"logit_bias": {str(token): -100 for token in ids}}
    assert post(server, "/v1/completions", biased).status_code == 400
    sinks.wait_for_spans(1)
    sinks.look(server.url)
    assert sinks.holding(*needles) == set()


@contextlib.contextmanager
def careless_upstream() -> Iterator[str]:
    """A server that quotes its prompts wherever it can."""
    app = FastAPI()
    error = {"message": f"no {CANARY}", "type": CANARY, "code": CANARY, "param": CANARY}
    chunk = {"model": CANARY, "id": CANARY, "choices": [{"index": 0, "delta": {}, "finish_reason": CANARY}]}

    @app.get("/v1/models")
    async def models() -> dict[str, list[str]]:
        return {"data": []}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        seed = body["seed"]
        headers = {"retry-after": CANARY, "x-request-id": CANARY}
        if seed >= 300:
            return JSONResponse({"error": error}, status_code=seed, headers=headers)
        if seed == 1:
            return Response(CANARY)
        events = [f"data: {json.dumps(chunk)}\n\n", f"data: {CANARY if seed == 2 else '[DONE]'}\n\n"]
        if body.get("stream"):
            return StreamingResponse(iter(events), media_type="text/event-stream", headers=headers)
        return JSONResponse(chunk, headers=headers)

    with bound_socket("127.0.0.1", 0) as listener:
        web = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        web.should_exit = True
        thread.join(30)


def test_what_an_upstream_says_is_not_written_down(sinks: Sinks, needles: tuple[str, ...]) -> None:
    with careless_upstream() as url:
        upstream = Upstream(url, model="there", key="sk-upstream-canary-5b1f")
        command = EngineCommand("openai", {})
        with running_server(relayed_model("echo"), command, upstream=upstream, recipe=sinks.recipe()) as server:
            told = {}
            for seed in (0, 1, 2, 300, 400, 401, 404, 413, 422, 429, 500, 503):
                for is_stream in (False, True):
                    answer = post(server, "/v1/chat/completions", CHAT | {"seed": seed, "stream": is_stream})
                    told[seed, is_stream] = answer.status_code
            assert told[0, False] == told[0, True] == 200
            assert told[400, False] == told[422, True] == 400
            sinks.wait_for_spans(24)
            sinks.look(server.url)
    assert sinks.holding(*needles, "sk-upstream-canary-5b1f") == set()
    assert {"log", "spans"} <= sinks.holding("upstream_refused")


def test_each_place_is_really_read(start: StartServer, sinks: Sinks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail: a leak planted in each of the places is found, and found there only."""

    def leaking(_writer: AnswerWriter, *_values: Any) -> bytes:
        record = current_record()
        record.error_code = "in-the-record"
        record.key_id = "overwritten"
        print("on-stdout", flush=True)
        os.write(2, b"on-stderr\n")
        metrics[0].refused("in-a-label")
        (sinks.folder / "dump").write_text("in-a-file")
        raise ValueError("in-an-exception")

    metrics: list[ServerMetrics] = []
    track = ServerMetrics.track

    def noted(self: ServerMetrics, *sources: Any) -> None:
        metrics.append(self)
        track(self, *sources)

    monkeypatch.setattr(ServerMetrics, "track", noted)
    monkeypatch.setattr(AnswerWriter, "whole", leaking)
    server = start(end_token_id=2, recipe=sinks.recipe())
    database = open_database(str(sinks.folder / "keys.db"))
    create_key(database, "in-the-database")
    database.close()
    post(server, "/v1/chat/completions", CHAT, **{"x-request-id": "in-the-line"})
    sinks.wait_for_spans(1)
    sinks.look(server.url)
    assert sinks.holding("in-the-line") == {"log", "spans", "emf.jsonl"}
    assert sinks.holding("on-stdout") == {"stdout"}
    assert sinks.holding("on-stderr") == {"stderr"}
    assert sinks.holding("in-a-label") == {"metrics"}
    assert sinks.holding("in-a-file") == {"dump"}
    assert sinks.holding("in-an-exception") == set()
    assert any(place.startswith("keys.db") for place in sinks.holding("in-the-database"))


def eventually(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not claim():
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.05)


PERSONAL = "Write to jane.doe@corp.org, please."


@pytest.mark.parametrize("redact", [True, False])
def test_samples_hold_prompt_and_answer_without_personal_data_for_their_owner_only(
    start: StartServer, tmp_path: Path, redact: bool
) -> None:
    folder = tmp_path / "samples"
    samples = SamplesRecipe(share=1.0, folder=str(folder), redact=redact)
    server = start(end_token_id=2, recipe=ServeRecipe(samples=samples))
    post(server, "/v1/completions", {"model": "echo", "prompt": ""})  # refused: no model got it
    headers = {"x-request-id": "r-1", "authorization": "Bearer none"}
    for is_stream in (False, True):
        asked = {"model": "echo", "prompt": PERSONAL, "n": 2, "stream": is_stream, "max_tokens": 200}
        assert post(server, "/v1/completions", asked, **headers).status_code == 200
    eventually(lambda: folder.exists() and sum(len(path.read_text().splitlines()) for path in folder.iterdir()) == 2)
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = PERSONAL.replace("jane.doe@corp.org", "<EMAIL_ADDRESS>") if redact else PERSONAL
    for text in path.read_text().splitlines():
        line = json.loads(text)
        assert line.pop("time")
        assert line == {
            "request_id": "r-1",
            "model": "echo",
            "receipt": None,
            "is_redacted": redact,
            "prompts": [kept],
            "answers": [kept, kept],
            "finish_reasons": ["stop", "stop"],
        }


def test_without_a_share_nothing_is_sampled_and_the_choice_is_the_request_ids_own(tmp_path: Path) -> None:
    ids = [f"request-{number}" for number in range(2_000)]
    chosen = [one for one in ids if is_chosen(one, 0.2)]
    assert 310 < len(chosen) < 490  # 400 ± 18: five sigma
    assert chosen == [one for one in ids if is_chosen(one, 0.2)]
    assert set(chosen) < {one for one in ids if is_chosen(one, 0.5)}  # a larger share keeps what the smaller one kept
    assert not any(is_chosen(one, 0.0) for one in ids)
    assert ServeRecipe().samples.share == 0


def test_samples_are_removed_when_their_days_are_over_and_nothing_else_is(tmp_path: Path) -> None:
    now = [1_700_000_000.0]  # 2023-11-14 22:13:20 UTC
    names = ["samples-2023-11-06.jsonl", "samples-2023-11-07.jsonl", "samples-2023-11-14.jsonl", "notes.txt"]
    for name in names:
        (tmp_path / name).touch()
    recipe = SamplesRecipe(share=1.0, folder=str(tmp_path), days=7, redact=False)
    samples = Samples(recipe, dropped=lambda _count: None, clock=lambda: now[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    now[0] += 86_400
    samples.remove_old()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])
    samples.close()

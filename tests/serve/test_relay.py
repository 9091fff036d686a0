"""The relay to another server: an honest one (our own, with the fake engine) and one that misbehaves on request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from nexus_llm.errors import ServingError
from nexus_llm.recipe import KeysRecipe, ServeRecipe, TimeoutsRecipe
from nexus_llm.serve.access.database import open_database
from nexus_llm.serve.access.key_store import create_key
from nexus_llm.serve.access.usage_report import usage_rows
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.listening import bound_socket
from nexus_llm.serve.relay import Upstream
from nexus_llm.serve.relay_engine import relayed_model
from nexus_llm.serve.upstream_answers import said_bytes
from running_server import RunningServer, running_server

KEY = "sk-upstream-canary-5b1f"
CHUNK = 'data: {"model": "there", "choices": [{"index": 0, "delta": {"content": "hi "}, "finish_reason": null}]}\n\n'
RELAY_COMMAND = EngineCommand("openai", {})


def bad_upstream() -> FastAPI:
    """Does what the last message says."""
    app = FastAPI()
    app.state.seen = []
    app.state.left = 0

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        is_known = request.headers.get("authorization") == f"Bearer {KEY}"
        return JSONResponse({"data": []}, status_code=200 if is_known else 401)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        app.state.seen.append(body)
        wish = body["messages"][-1]["content"]
        if wish.isdigit():
            error = {"message": f"told {KEY}" if wish == "500" else "too hot", "param": "temperature", "code": "hot"}
            return JSONResponse({"error": error}, status_code=int(wish), headers={"retry-after": "7"})
        if wish == "slow":
            await asyncio.sleep(5)
        if wish == "html":
            return Response("<html>", media_type="text/html")
        if wish == "lie":
            return JSONResponse({"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": "many"}})
        return StreamingResponse(events(wish), media_type="text/event-stream")

    async def events(wish: str) -> AsyncIterator[str]:
        try:
            yield CHUNK
            if wish == "die":
                raise RuntimeError
            if wish == "garbage":
                yield "data: {not json\n\n"
            while wish == "endless":
                await asyncio.sleep(0.02)
                yield CHUNK
        finally:
            app.state.left += 1

    return app


@pytest.fixture(scope="module")
def bad() -> Iterator[tuple[FastAPI, str]]:
    app = bad_upstream()
    with bound_socket("127.0.0.1", 0) as listener:
        web = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield app, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        web.should_exit = web.force_exit = True
        thread.join(10)


def relay_to(url: str, *, recipe: ServeRecipe | None = None, **changes: Any) -> Any:
    values = {"url": url, "model": "there", "key": KEY, "timeout_seconds": 1.0, **changes}
    return running_server(relayed_model("here"), RELAY_COMMAND, upstream=Upstream(**values), recipe=recipe)


@pytest.fixture(scope="module")
def to_bad(bad: tuple[FastAPI, str]) -> Iterator[RunningServer]:
    with relay_to(bad[1]) as server:
        yield server


@pytest.fixture(scope="module")
def to_good(echo_server: RunningServer) -> Iterator[RunningServer]:
    with relay_to(f"{echo_server.url}/v1", model="echo", timeout_seconds=20.0) as server:
        yield server


def say(server: RunningServer, text: str, **options: Any) -> Any:
    asked = {"model": "here", "messages": [{"role": "user", "content": text}], **options}
    return server.client().chat.completions.create(**asked)


def test_a_whole_answer_and_a_stream_come_through_under_our_own_name(to_good: RunningServer) -> None:
    whole = say(to_good, "hello there", max_tokens=30)
    chunks = list(say(to_good, "hello there", max_tokens=30, stream=True, stream_options={"include_usage": True}))
    assert whole.model == "here"
    assert {chunk.model for chunk in chunks} == {"here"}
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert told == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_usage_is_counted_even_where_the_client_did_not_ask_for_it(to_good: RunningServer) -> None:
    def counted() -> float:
        page = httpx.get(f"{to_good.url}/metrics").text
        return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("vllm:generation_tokens_t"))

    before = counted()
    chunks = list(say(to_good, "hello", max_tokens=9, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert counted() == before + 9


def test_a_wrong_request_never_reaches_the_upstream(to_bad: RunningServer, bad: tuple[FastAPI, str]) -> None:
    before = len(bad[0].state.seen)
    with pytest.raises(openai.BadRequestError):
        say(to_bad, "x", temperature=9)
    with pytest.raises(openai.NotFoundError, match="other"):
        say(to_bad, "x", model="other")
    assert len(bad[0].state.seen) == before


@pytest.mark.parametrize("field", [b'"user": "\\ud800"', b'"metadata": {"a": 1e999}'])
def test_a_field_that_cannot_be_sent_on_is_refused(to_bad: RunningServer, field: bytes) -> None:
    body = b'{"model": "here", "messages": [{"role": "user", "content": "x"}], %s}' % field
    answer = httpx.post(f"{to_bad.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body")
    assert 'num_requests_running{model_name="here"} 0.0' in httpx.get(f"{to_bad.url}/metrics").text


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ("400", 400, "hot"), ("401", 502, "upstream_key"), ("429", 429, "upstream_rate_limited"),
        ("500", 502, "upstream_failed"), ("302", 502, "upstream_failed"), ("html", 502, "upstream_failed"),
        ("slow", 504, "upstream_timeout"),
    ],
)  # fmt: skip
def test_upstream_errors_come_out_as_ours(to_bad: RunningServer, wish: str, status: int, code: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        say(to_bad, wish)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert KEY not in caught.value.response.text
    if wish == "429":
        assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("wish", ["die", "garbage", "ends early"])
def test_a_stream_that_breaks_ends_with_an_error_event_and_no_done(to_bad: RunningServer, wish: str) -> None:
    body = {"model": "here", "messages": [{"role": "user", "content": wish}], "stream": True}
    text = httpx.post(f"{to_bad.url}/v1/chat/completions", json=body).text
    last = text.strip().rsplit("\n\n", 1)[-1]
    assert "hi " in text
    assert '"code": "upstream_failed"' in last
    assert "[DONE]" not in text


def test_a_lie_about_usage_is_not_counted(to_bad: RunningServer) -> None:
    assert say(to_bad, "lie").choices == []
    assert to_bad.background.server is not None
    assert "-5" not in httpx.get(f"{to_bad.url}/metrics").text


def test_a_client_that_leaves_stops_the_upstream(to_bad: RunningServer, bad: tuple[FastAPI, str]) -> None:
    before = bad[0].state.left
    stream = say(to_bad, "endless", stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 5
    while bad[0].state.left == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert bad[0].state.left == before + 1


def test_a_client_that_leaves_pays_for_what_had_come(bad: tuple[FastAPI, str], tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    recipe = ServeRecipe(keys=KeysRecipe(database=f"sqlite:///{path}"))
    with contextlib.closing(open_database(str(path))) as database:
        key = create_key(database, "app")[0]
        with relay_to(bad[1], recipe=recipe) as server:
            asked = {"model": "here", "messages": [{"role": "user", "content": "endless"}], "max_tokens": 500}
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
            stream = client.chat.completions.create(**asked, stream=True)
            for _, _ in zip(range(10), stream, strict=False):
                pass
            stream.close()
        (row,) = usage_rows(database, by="key")
    assert row.unfinished == 1
    # Ten pieces of three bytes, at two bytes a token; a few more may have come meanwhile.
    assert 15 <= row.completion_tokens < 60


@pytest.mark.parametrize(
    ("document", "size"),
    [
        ({"choices": [{"delta": {"role": "assistant", "content": "hé"}}, {"delta": {"reasoning_content": "x"}}]}, 4),
        ({"choices": [{"text": "four"}]}, 4),
        ({"choices": [{"delta": {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}}]}, 2),
        ({"choices": [{"delta": {"content": "\ud800"}}]}, 3),
        ({"choices": [{"delta": {"content": None, "tool_calls": ["x", {}]}}, {"delta": 5}, {}, 7]}, 0),
        ({"choices": {"delta": "x"}}, 0),
    ],
)
def test_what_a_piece_says_is_measured_whatever_the_upstream_sends(document: dict[str, Any], size: int) -> None:
    assert said_bytes(document) == size


@pytest.mark.parametrize(
    ("wish", "timeouts", "headers", "code"),
    [
        ("slow", {"first_token_seconds": 0.3}, {}, "first_token_timeout"),
        ("endless", {"answer_seconds": 0.5}, {}, "answer_timeout"),
        ("slow", {}, {"x-request-timeout-ms": "300"}, "deadline_timeout"),
    ],
)
def test_each_phase_of_a_relayed_answer_has_its_end_too(
    bad: tuple[FastAPI, str], wish: str, timeouts: dict[str, float], headers: dict[str, str], code: str
) -> None:
    recipe = ServeRecipe(timeouts=TimeoutsRecipe(**timeouts))
    body = {"model": "here", "messages": [{"role": "user", "content": wish}], "stream": True}
    with relay_to(bad[1], timeout_seconds=20.0, recipe=recipe) as server:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
        page = httpx.get(f"{server.url}/metrics").text
    assert answer.status_code == (200 if wish == "endless" else 504)
    assert f'"{code}"' in answer.text
    assert f'phase="{code.removesuffix("_timeout")}"}} 1.0' in page


def test_an_upstream_that_refuses_the_key_or_is_not_there_stops_the_start(bad: tuple[FastAPI, str]) -> None:
    for changes in ({"key": "wrong"}, {"url": "http://127.0.0.1:9/v1"}):
        with pytest.raises(ServingError, match="upstream"), relay_to(**{"url": bad[1], **changes}):
            pass


def test_the_key_is_in_no_log(to_bad: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for wish in ("500", "die"):
        with pytest.raises(openai.APIError):
            list(say(to_bad, wish, stream=True))
    assert caplog.records
    assert KEY not in caplog.text

"""`/generate`, and SageMaker's two routes on their port."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from nexus_llm.serve.dialects import sagemaker as sagemaker_dialect
from running_server import RunningServer, StartServer

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


def events_of(answer: httpx.Response) -> list[Any]:
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"]


def test_generate_answers_with_the_two_fields_of_the_brief(echo_server: RunningServer) -> None:
    asked = {"prompt": "abc", "max_tokens": 3, "temperature": 0.0, "top_p": 1.0}
    answer = httpx.post(f"{echo_server.url}/generate", json=asked)
    assert (answer.status_code, answer.json()) == (200, {"response": "abc", "tokens_generated": 3})
    only_prompt = httpx.post(f"{echo_server.url}/generate", json={"prompt": "abc"}).json()
    assert only_prompt["tokens_generated"] <= 512
    events = events_of(httpx.post(f"{echo_server.url}/generate", json={**asked, "stream": True}))
    assert "".join(event["response"] for event in events) == "abc"
    assert events[-1]["tokens_generated"] == 3


@pytest.mark.parametrize(
    ("change", "param"),
    [({"prompt": None}, "prompt"), ({"max_tokens": 0}, "max_tokens"), ({"top_p": 2}, "top_p"), ({"n": 2}, "n"),
     ({"prompt": ""}, "prompt"), ({"max_tokens": 5_000}, "max_tokens"), ({"prompt": 3}, "prompt")],
)  # fmt: skip
def test_generate_names_a_wrong_field(echo_server: RunningServer, change: dict[str, Any], param: str) -> None:
    asked = {name: value for name, value in {"prompt": "abc", **change}.items() if value is not None}
    answer = httpx.post(f"{echo_server.url}/generate", json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.fixture
def sagemaker(start: StartServer) -> tuple[RunningServer, str]:
    server = start(end_token_id=2, with_sagemaker=True)
    return server, server.background.sagemaker_url


def test_a_ping_is_quick_and_only_on_its_own_port(sagemaker: tuple[RunningServer, str]) -> None:
    server, url = sagemaker
    began = time.monotonic()
    answer = httpx.get(f"{url}/ping")
    assert (answer.status_code, answer.content) == (200, b"")
    assert time.monotonic() - began < 2
    assert httpx.get(f"{server.url}/ping").status_code == 404
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 404


def test_a_ping_says_503_while_the_model_loads(start: StartServer) -> None:
    server = start(load_seconds=2.0, wait_until_ready=False, with_sagemaker=True)
    assert httpx.get(f"{server.background.sagemaker_url}/ping").status_code == 503


def test_invocations_take_each_kind_of_body_and_answer_likewise(sagemaker: tuple[RunningServer, str]) -> None:
    _, url = sagemaker
    chat = httpx.post(f"{url}/invocations", json=CHAT).json()
    assert chat["choices"][0]["message"]["content"] == "user\nHello"
    completion = httpx.post(f"{url}/invocations", json={"model": "echo", "prompt": "abc", "max_tokens": 3}).json()
    assert (completion["object"], completion["choices"][0]["text"]) == ("text_completion", "abc")
    plain = httpx.post(f"{url}/invocations", json={"prompt": "abc", "max_tokens": 3, "temperature": 0.0}).json()
    assert plain == {"response": "abc", "tokens_generated": 3}


def test_invocations_stream_and_need_no_content_type(sagemaker: tuple[RunningServer, str]) -> None:
    _, url = sagemaker
    streamed = httpx.post(f"{url}/invocations", json={**CHAT, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    pieces = [event["choices"][0]["delta"].get("content", "") for event in events_of(streamed)]
    assert "".join(pieces) == "user\nHello"
    assert httpx.post(f"{url}/invocations", content=json.dumps(CHAT).encode()).status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [({"messages": []}, "messages"), ({**CHAT, "temperature": 9}, "temperature"), ({"prompt": 3}, "prompt"),
     ({"model": "echo", "prompt": "x", "best_of": 3}, "best_of"), ({}, "prompt"), ([], None)],
)  # fmt: skip
def test_a_wrong_invocation_names_its_field(sagemaker: tuple[RunningServer, str], body: Any, param: Any) -> None:
    answer = httpx.post(f"{sagemaker[1]}/invocations", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_an_invocation_over_time_is_an_error_and_a_stream_may_go_on(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sagemaker_dialect, "INVOCATION_SECONDS", 0.4)
    server = start(step_seconds=0.05, with_sagemaker=True)
    url = server.background.sagemaker_url
    asked = {**CHAT, "max_tokens": 30, "ignore_eos": True}
    late = httpx.post(f"{url}/invocations", json=asked)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "invocation_timeout")
    streamed = httpx.post(f"{url}/invocations", json={**asked, "stream": True})
    assert events_of(streamed)[-1]["choices"][0]["finish_reason"] == "length"

"""Whatever is wrong with a request, the answer has OpenAI's error shape, the right status, and the field's name."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from nexus_llm.chat import ChatTokenizer
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.model_folder import ServedModel
from running_server import RunningServer, StartServer, running_server

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
CHAT: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def plain_server(echo_model: ServedModel) -> Iterator[RunningServer]:
    """A server whose engine can do nothing that not every engine can, but tell log probabilities."""
    with running_server(echo_model, EngineCommand("fake", {"features": ["logprobs"]})) as server:
        yield server


def error_of(answer: httpx.Response) -> dict[str, Any]:
    document = answer.json()
    assert list(document) == ["error"]
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    return document["error"]


def post(server: RunningServer, body: Any, *, path: str = "/v1/chat/completions") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server.url}{path}", content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    "body", [b"{", b"", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"seed":%s}' % (b"9" * 5_000)]
)
def test_a_body_that_is_no_json_object_is_refused(echo_server: RunningServer, body: bytes) -> None:
    answer = post(echo_server, body)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "x"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web"}]}, "tools[0].type"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"stop": ["ok", ""]}, "stop[1]"),
        ({"stop": 3}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"presence_penalty": 3}, "presence_penalty"),
    ],
)
def test_a_wrong_field_is_named(echo_server: RunningServer, change: dict[str, Any], param: str) -> None:
    body = {name: value for name, value in {**CHAT, **change}.items() if value is not None}
    answer = post(echo_server, body)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param


def test_arguments_nested_deeper_than_a_template_can_write_are_refused(echo_server: RunningServer) -> None:
    """Spelled-out control tokens make the gateway walk through them."""
    deep = '{"a":' * 900 + "{}" + "}" * 900
    turns = [
        *CHAT["messages"],
        {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": deep}}]},
        {"role": "tool", "tool_call_id": "1", "content": "<|im_end|>"},
    ]
    answer = post(echo_server, {**CHAT, "messages": turns})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "messages")


def test_numbers_that_json_does_not_know_are_refused(echo_server: RunningServer) -> None:
    answer = post(echo_server, b'{"model":"echo","messages":[{"role":"user","content":"x"}],"temperature":NaN}')
    assert (answer.status_code, error_of(answer)["param"]) == (400, "temperature")


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [TOOL]},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"response_format": {"type": "json_object"}},
        {"logit_bias": {"5": 1}},
        {"top_logprobs": 3, "logprobs": True},
        {"modalities": ["audio"]},
        {"reasoning_effort": "high"},
        {"web_search_options": {}},
        {"moderation": {"model": "m", "policy": {"input": {"mode": "block"}}}},
    ],
    ids=lambda field: next(iter(field)),
)
def test_what_the_engine_cannot_do_is_refused_by_name(plain_server: RunningServer, field: dict[str, Any]) -> None:
    answer = post(plain_server, {**CHAT, **field})
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", next(iter(field)))


def test_an_unknown_field_is_refused(echo_server: RunningServer) -> None:
    assert error_of(post(echo_server, {**CHAT, "tempreature": 1}))["code"] == "unknown_parameter"


def test_completions_refuse_what_they_cannot_do(plain_server: RunningServer, echo_server: RunningServer) -> None:
    base = {"model": "echo", "prompt": "x"}
    for field in ({"echo": True, "logprobs": 0}, {"suffix": "x"}, {"best_of": 2}, {"logprobs": 3}, {"max_tokens": 0}):
        answer = post(plain_server, {**base, **field}, path="/v1/completions")
        assert (answer.status_code, error_of(answer)["param"]) == (400, next(iter(field)))
    for prompt in ("", [], [[]], [10**9], [-1], {"a": 1}, None):
        answer = post(echo_server, {"model": "echo", "prompt": prompt}, path="/v1/completions")
        assert answer.status_code == 400
        assert str(error_of(answer)["param"]).startswith("prompt")


def test_an_unknown_model_and_an_unknown_path_are_404_and_a_wrong_method_405(echo_server: RunningServer) -> None:
    answer = post(echo_server, {**CHAT, "model": "gpt-7"})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
    assert error_of(httpx.get(f"{echo_server.url}/v1/nothing"))["code"] == "not_found"
    wrong = httpx.get(f"{echo_server.url}/v1/chat/completions")
    assert (wrong.status_code, error_of(wrong)["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")


def test_a_prompt_longer_than_the_context_names_both_numbers(echo_server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        echo_server.client().chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "x" * 3000}], max_tokens=7
        )
    assert caught.value.code == "context_length_exceeded"
    assert "2000" in caught.value.message
    assert "30" in caught.value.message
    assert caught.value.param == "messages"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_longer_than_the_context_is_named_as_what_is_too_long(echo_server: RunningServer, name: str) -> None:
    error = error_of(post(echo_server, {**CHAT, name: 10_000_000}))
    assert (error["code"], error["param"]) == ("context_length_exceeded", name)


def test_an_answer_without_a_limit_ends_at_the_context(start: StartServer) -> None:
    server = start()  # without an end token the engine goes on for ever
    answer = server.client().completions.create(model="echo", prompt="x" * 1900)
    assert (answer.choices[0].finish_reason, answer.usage.total_tokens) == ("length", 2000)


def test_a_prompt_that_the_cache_cannot_hold_is_refused_before_the_engine_sees_it(start: StartServer) -> None:
    server = start(capacity_tokens=64)
    answer = post(server, {"model": "echo", "prompt": "x" * 100, "max_tokens": 5}, path="/v1/completions")
    assert error_of(answer)["code"] == "context_length_exceeded"
    assert "64" in error_of(answer)["message"]


def test_a_body_that_is_too_large_is_refused(echo_server: RunningServer) -> None:
    answer = post(echo_server, b'{"model": "' + b"x" * (17 << 20))
    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")


def test_more_choices_than_the_server_runs_are_refused(start: StartServer) -> None:
    server = start(recipe=ServeRecipe(max_running=2))
    assert error_of(post(server, {**CHAT, "n": 3}))["param"] == "n"


def test_a_request_id_is_kept_where_it_is_safe_and_made_where_not(echo_server: RunningServer) -> None:
    def returned(given: str) -> str:
        return httpx.get(f"{echo_server.url}/health", headers={"x-request-id": given}).headers["x-request-id"]

    assert returned("abc-123") == "abc-123"
    assert returned("x" * 500) != "x" * 500
    assert returned("two words") != "two words"


def test_no_answer_carries_the_text_of_an_exception_or_of_a_prompt(echo_server: RunningServer) -> None:
    canary = "canary-7f3a"
    for body in ({**CHAT, "messages": [{"role": canary, "content": canary}]}, {**CHAT, "seed": canary}):
        assert canary not in post(echo_server, body).text


class _FailingTokenizer(ChatTokenizer):
    def encode_text(self, text: str) -> list[int]:
        raise RuntimeError(f"cannot read {text}")


def test_a_fault_of_our_own_is_a_500_without_its_text(
    start: StartServer, echo_model: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    failing = _FailingTokenizer.__new__(_FailingTokenizer)
    vars(failing).update(vars(echo_model.tokenizer))
    server = start(model=replace(echo_model, tokenizer=failing))
    answer = post(server, {"model": "echo", "prompt": "canary-9d"}, path="/v1/completions")
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")
    assert "canary-9d" not in answer.text
    deadline = time.monotonic() + 10  # it is logged behind the answer
    while "request.failed" not in caplog.messages and time.monotonic() < deadline:
        time.sleep(0.01)
    (failed,) = [record for record in caplog.records if record.getMessage() == "request.failed"]
    assert "RuntimeError at" in vars(failed)["error"]
    assert "canary-9d" not in str(vars(failed))
    assert httpx.get(f"{server.url}/metrics").text.count('vllm:num_requests_running{model_name="echo"} 0.0') == 1


def test_a_cross_site_form_cannot_make_the_model_talk(echo_server: RunningServer) -> None:
    """A browser sends text/plain to another site without asking; such a body must not be read as JSON."""
    answer = httpx.post(
        f"{echo_server.url}/v1/chat/completions",
        content=b'{"model":"echo","messages":[{"role":"user","content":"x"}]}',
        headers={"content-type": "text/plain"},
    )
    assert answer.status_code == 400

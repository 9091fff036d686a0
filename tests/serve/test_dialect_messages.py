"""The official Anthropic client talks to the gateway as to its own API."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anthropic
import httpx
import pytest

from nexus_llm.chat import ChatTokenizer
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.dialects.anthropic_body import MessagesRequest
from nexus_llm.serve.model_folder import ServedModel
from running_server import RunningServer, StartServer

QUESTION: list[Any] = [{"role": "user", "content": "Was kostet ein Brötchen? 🥐"}]
ECHO = "user\nWas kostet ein Brötchen? 🥐"
TOOL = {"name": "price", "description": "Price of a thing", "input_schema": {"type": "object", "properties": {}}}


def client_of(server: RunningServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60)


def post(server: RunningServer, body: Any, *, path: str = "/v1/messages") -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body)


def test_a_message_is_answered_with_usage_and_a_stop_reason(echo_server: RunningServer) -> None:
    message = client_of(echo_server).messages.create(model="echo", max_tokens=200, messages=QUESTION)
    assert [block.text for block in message.content] == [ECHO]
    assert (message.stop_reason, message.stop_sequence, message.role) == ("end_turn", None, "assistant")
    assert message.usage.input_tokens > message.usage.output_tokens > 30
    assert message.id.startswith("msg_")


def test_a_stream_has_all_events_in_order_and_says_the_same(echo_server: RunningServer) -> None:
    client = client_of(echo_server)
    with client.messages.stream(model="echo", max_tokens=200, messages=QUESTION) as stream:
        assert "".join(stream.text_stream) == ECHO
        final = stream.get_final_message()
    whole = client.messages.create(model="echo", max_tokens=200, messages=QUESTION)
    assert final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert final.stop_reason == "end_turn"
    asked = {"model": "echo", "max_tokens": 9, "messages": QUESTION, "stream": True}
    names = [line[7:] for line in post(echo_server, asked).text.splitlines() if line.startswith("event: ")]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[3:-3]) == {"content_block_delta"}


def test_a_stop_sequence_is_named_and_a_length_limit_told(echo_server: RunningServer) -> None:
    client = client_of(echo_server)
    stopped = client.messages.create(model="echo", max_tokens=200, messages=QUESTION, stop_sequences=["x", " ein"])
    assert stopped.content[0].text == "user\nWas kostet"
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " ein")
    with client.messages.stream(
        model="echo", max_tokens=200, messages=QUESTION, stop_sequences=["x", " ein"]
    ) as stream:
        assert stream.get_final_message().stop_sequence == " ein"
    cut = client.messages.create(model="echo", max_tokens=3, messages=QUESTION)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)


def test_system_blocks_and_sampling_are_handed_on(echo_server: RunningServer) -> None:
    message = client_of(echo_server).messages.create(
        model="echo", max_tokens=200, messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        system=[
            {"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "brief"},
        ],
        metadata={"user_id": "u"}, extra_body={"temperature": 0.0, "top_p": 1.0, "top_k": 0},
    )  # fmt: skip
    assert message.content[0].text == "system\nBe\n\nbrief"


def test_tokens_are_counted_as_the_answer_counts_them(echo_server: RunningServer) -> None:
    client = client_of(echo_server)
    counted = client.messages.count_tokens(model="echo", messages=QUESTION, system="Be brief")
    used = client.messages.create(model="echo", max_tokens=1, messages=QUESTION, system="Be brief")
    assert counted.input_tokens == used.usage.input_tokens


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"max_tokens": None}, "Missing required parameter: max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5_000}, "context"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0].type"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "It"}]}, "messages[1].role"),
        ({"system": [{"type": "text", "text": "x", "citations": {"enabled": True}}]}, "system[0].citations"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"temperature": 1.5}, "temperature"),
        ({"output_config": {"effort": "high"}}, "output_config.effort"),
        ({"n": 2}, "Unrecognized request argument: n"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name_in_anthropics_shape(
    echo_server: RunningServer, change: dict[str, Any], word: str
) -> None:
    asked = {"model": "echo", "max_tokens": 9, "messages": QUESTION, **change}
    answer = post(echo_server, {name: value for name, value in asked.items() if value is not None})
    assert answer.status_code == 400
    document = answer.json()
    assert document["type"] == "error"
    assert document["error"]["type"] == "invalid_request_error"
    assert word in document["error"]["message"]


def test_the_client_raises_its_own_errors(echo_server: RunningServer) -> None:
    client = client_of(echo_server)
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="gpt-7", max_tokens=9, messages=QUESTION)
    assert missing.value.body["error"]["type"] == "not_found_error"
    assert post(echo_server, {}, path="/v1/messages/batches").json()["type"] == "error"


def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error_event(start: StartServer) -> None:
    client = client_of(start(die_at_step=6))
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(model="echo", max_tokens=200, messages=QUESTION) as stream,
    ):
        list(stream)
    assert caught.value.body["error"]["type"] == "api_error"


class _FailingTokenizer(ChatTokenizer):
    def encode_prompt(self, messages: Any, *, tools: Any = None) -> list[int]:
        raise OSError


def test_a_fault_of_our_own_has_anthropics_shape_too(start: StartServer, echo_model: ServedModel) -> None:
    failing = _FailingTokenizer.__new__(_FailingTokenizer)
    vars(failing).update(vars(echo_model.tokenizer))
    answer = post(
        start(model=replace(echo_model, tokenizer=failing)), {"model": "echo", "max_tokens": 9, "messages": QUESTION}
    )
    assert (answer.status_code, answer.json()["type"], answer.json()["error"]["type"]) == (500, "error", "api_error")


def chat_messages(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    body = MessagesRequest.model_validate({"model": "echo", "max_tokens": 9, "messages": list(turns)})
    return body._chat_fields()["messages"]


def test_calls_of_tools_and_their_results_become_chat_messages() -> None:
    turns = chat_messages(
        {"role": "user", "content": "How much?"},
        {"role": "assistant", "content": [
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "toolu_1", "name": "price", "input": {"of": "Brötchen"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "0.45"}]},
            {"type": "text", "text": "So?"},
        ]},
    )  # fmt: skip
    function = {"name": "price", "arguments": '{"of": "Brötchen"}'}
    call = {"id": "toolu_1", "type": "function", "function": function}
    assert turns == [
        {"role": "user", "content": "How much?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "0.45"},
        {"role": "user", "content": "So?"},
    ]


def test_turns_of_one_role_in_a_row_become_one_and_failed_tools_say_so() -> None:
    result = {"type": "tool_result", "tool_use_id": "1", "content": "no such thing", "is_error": True}
    assert chat_messages(
        {"role": "user", "content": [result]}, {"role": "user", "content": "a"}, {"role": "user", "content": "b"}
    ) == [
        {"role": "tool", "tool_call_id": "1", "content": "Error: no such thing"},
        {"role": "user", "content": "a\n\nb"},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "price"}, {"type": "function", "function": {"name": "price"}}),
    ],
)
def test_tools_and_shapes_are_handed_on_as_the_chat_request_names_them(choice: Any, expected: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = MessagesRequest.model_validate(
        {"model": "echo", "max_tokens": 9, "messages": QUESTION, "tools": [TOOL], "tool_choice": choice,
         "output_config": {"format": {"type": "json_schema", "schema": schema}}}
    )  # fmt: skip
    fields = body._chat_fields()
    function = {"name": "price", "description": "Price of a thing", "parameters": TOOL["input_schema"]}
    assert fields["tools"] == [{"type": "function", "function": function}]
    assert fields["tool_choice"] == expected
    assert fields["response_format"]["json_schema"]["schema"] == schema


def test_a_tool_that_runs_at_anthropics_is_refused_by_its_place() -> None:
    body = MessagesRequest.model_validate(
        {
            "model": "echo",
            "max_tokens": 9,
            "messages": QUESTION,
            "tools": [TOOL, {"type": "bash_20250124", "name": "b"}],
        }
    )
    with pytest.raises(ApiError) as caught:
        body.chat_request()
    assert caught.value.param == "tools[1].type"

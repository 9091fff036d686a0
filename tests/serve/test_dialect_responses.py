"""The official OpenAI client's `responses` work against the gateway."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from nexus_llm.serve.dialects.openai_responses_body import ResponsesRequest
from running_server import RunningServer, StartServer

QUESTION = "Was kostet ein Brötchen? 🥐"
ECHO = f"user\n{QUESTION}"
TOOL = {"type": "function", "name": "price", "parameters": {"type": "object", "properties": {}}, "strict": False}


def test_a_response_has_its_text_usage_and_what_was_asked_for(echo_server: RunningServer) -> None:
    response = echo_server.client().responses.create(
        model="echo", input=QUESTION, temperature=0.0, metadata={"team": "blue"}
    )
    assert response.output_text == ECHO
    assert (response.status, response.object, response.model) == ("completed", "response", "echo")
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert (response.temperature, response.metadata, response.store) == (0.0, {"team": "blue"}, False)
    assert response.id.startswith("resp_")


def test_a_stream_has_all_events_in_order_and_says_the_same(echo_server: RunningServer) -> None:
    events = list(echo_server.client().responses.create(model="echo", input=QUESTION, stream=True))
    names = [event.type for event in events]
    assert names[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert names[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert set(names[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events[4:-4]) == ECHO == events[-4].text
    assert events[-1].response.output_text == ECHO
    assert events[-1].response.usage.output_tokens > 30
    assert len({event.response.id for event in (events[0], events[1], events[-1])}) == 1
    with echo_server.client().responses.stream(model="echo", input=QUESTION) as stream:
        assert stream.until_done().get_final_response().output_text == ECHO


def test_a_length_limit_makes_a_response_incomplete(echo_server: RunningServer) -> None:
    client = echo_server.client()
    whole = client.responses.create(model="echo", input=QUESTION, max_output_tokens=3)
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert whole.usage.output_tokens == 3
    events = list(client.responses.create(model="echo", input=QUESTION, max_output_tokens=3, stream=True))
    assert events[-1].type == "response.incomplete"


def test_instructions_come_first_and_items_are_turns(echo_server: RunningServer) -> None:
    client = echo_server.client()
    assert client.responses.create(model="echo", input="Hi", instructions="Be brief").output_text == "system\nBe brief"
    first = client.responses.create(model="echo", input=QUESTION)
    turns = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}, *first.output]
    again = client.responses.create(model="echo", input=[*turns, {"role": "user", "content": "And two?"}])
    assert again.output_text == ECHO
    assert again.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


def test_fields_without_effect_are_accepted(echo_server: RunningServer) -> None:
    echo_server.client().responses.create(
        model="echo", input="Hi", max_output_tokens=1, store=False, user="u", truncation="disabled", tools=[],
        include=["reasoning.encrypted_content"], text={"format": {"type": "text"}}, service_tier="auto",
        background=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stop": "x"}, "stop"),
        ({"metadata": {"a": "\ud800"}}, "metadata"),
        ({"max_output_tokens": 9_999}, "max_output_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(echo_server: RunningServer, change: Any, param: str) -> None:
    asked = {name: value for name, value in {"model": "echo", "input": "Hi", **change}.items() if value is not None}
    content, headers = json.dumps(asked), {"content-type": "application/json"}
    answer = httpx.post(f"{echo_server.url}/v1/responses", content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_the_client_raises_its_own_errors(echo_server: RunningServer) -> None:
    with pytest.raises(openai.NotFoundError):
        echo_server.client().responses.create(model="gpt-7", input="Hi")


def test_an_engine_that_dies_in_a_stream_makes_the_response_fail(start: StartServer) -> None:
    events = list(start(die_at_step=6).client().responses.create(model="echo", input=QUESTION, stream=True))
    assert events[-1].type == "response.failed"
    assert (events[-1].response.status, events[-1].response.error.code) == ("failed", "server_error")
    assert events[-1].response.output_text == "".join(one.delta for one in events if "delta" in one.type)


def test_function_calls_and_their_outputs_become_chat_messages() -> None:
    body = ResponsesRequest.model_validate(
        {"model": "echo", "instructions": "Be brief", "input": [
            {"role": "user", "content": "How much?"},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "price", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "price", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "0.45"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "0.50"}]},
        ]}
    )  # fmt: skip
    calls = [
        {"id": name, "type": "function", "function": {"name": "price", "arguments": "{}"}} for name in ("c1", "c2")
    ]
    assert body._messages() == [
        {"role": "user", "content": "How much?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "0.45"},
        {"role": "tool", "tool_call_id": "c2", "content": "0.50"},
    ]

"""Calls of tools in an answer, whole and streamed, as each dialect's client reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nexus_llm.chat import ChatTokenizer
from nexus_llm.serve.answers import WholeChoice, Writer
from nexus_llm.serve.dialects.anthropic_answer import MessageWriter
from nexus_llm.serve.dialects.openai_responses_answer import ResponseWriter
from nexus_llm.serve.dialects.openai_responses_body import ResponsesRequest
from nexus_llm.serve.generation import ChoiceDelta, Usage
from nexus_llm.serve.model_folder import SamplingDefaults, ServedModel
from nexus_llm.serve.text import AnsweredCall, TextDelta

CALLS = (AnsweredCall(0, "a1b2c3d4e", "price", '{"of": "Brötchen"}'), AnsweredCall(1, "f5a6b7c8d", "stock", "{}"))
USAGE = Usage(5, 9)


def streamed(writer: Writer) -> list[dict[str, Any]]:
    pieces = [TextDelta("Let me look."), TextDelta("", calls=CALLS), TextDelta("", finish_reason="tool_calls")]
    news = [ChoiceDelta(0, piece) for piece in pieces]
    text = (writer.opening(1) + writer.chunks(news) + writer.closing(USAGE)).decode()
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def whole(writer: Writer) -> dict[str, Any]:
    return json.loads(writer.whole([WholeChoice("Let me look.", [], "tool_calls", CALLS)], USAGE))


def message_writer() -> MessageWriter:
    return MessageWriter(model="echo", prompt_tokens=5)


def response_writer(tokenizer: ChatTokenizer) -> ResponseWriter:
    model = ServedModel("echo", Path("none"), tokenizer, 100, (), SamplingDefaults(), None)
    return ResponseWriter(ResponsesRequest.model_validate({"model": "echo", "input": "Hi"}), model=model)


def test_a_message_has_its_calls_as_blocks_with_objects() -> None:
    answer = whole(message_writer())
    assert answer["stop_reason"] == "tool_use"
    assert [(block["type"], block.get("name"), block.get("input")) for block in answer["content"]] == [
        ("text", None, None), ("tool_use", "price", {"of": "Brötchen"}), ("tool_use", "stock", {}),
    ]  # fmt: skip


def test_a_streamed_message_opens_and_closes_a_block_for_each_call() -> None:
    events = streamed(message_writer())
    assert [(event["type"], event.get("index")) for event in events[1:-2]] == [
        ("content_block_start", 0), ("ping", None), ("content_block_delta", 0), ("content_block_stop", 0),
        ("content_block_start", 1), ("content_block_delta", 1), ("content_block_stop", 1),
        ("content_block_start", 2), ("content_block_delta", 2), ("content_block_stop", 2),
    ]  # fmt: skip
    assert events[6]["delta"] == {"type": "input_json_delta", "partial_json": CALLS[0].arguments}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_response_has_its_calls_as_items(tokenizer: ChatTokenizer) -> None:
    answer = whole(response_writer(tokenizer))
    assert answer["status"] == "completed"
    assert [item["type"] for item in answer["output"]] == ["message", "function_call", "function_call"]
    assert answer["output"][1]["arguments"] == CALLS[0].arguments


def test_a_streamed_response_finishes_each_item_before_the_next(tokenizer: ChatTokenizer) -> None:
    events = streamed(response_writer(tokenizer))
    added_and_done = [(event["type"][9:], event["output_index"]) for event in events if "output_item" in event["type"]]
    assert added_and_done == [(f"output_item.{what}", index) for index in range(3) for what in ("added", "done")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    arguments = [event["arguments"] for event in events if event["type"].endswith("arguments.done")]
    assert arguments == [call.arguments for call in CALLS]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call", "function_call"]

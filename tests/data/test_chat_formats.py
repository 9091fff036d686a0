from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.reading.blocks import ReadSettings, UnusableError
from nexus_llm.data.reading.chat_conversion import TARGETS, converted
from nexus_llm.data.reading.chat_formats import FORMATS, detect, read_conversation, to_messages
from nexus_llm.data.reading.readers import blocks_of, records_of
from nexus_llm.records import Document

HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
BYE: dict[str, Any] = {"role": "assistant", "content": "Bye"}
SYSTEM: dict[str, Any] = {"role": "system", "content": "Be kind."}
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And\nnow?\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "format", "messages"),
    [
        ({"messages": HI, "text": "x"}, "messages", HI),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, HI[1]]}, "messages", HI),
        ({"prompt": "Hi", "completion": "Hello"}, "prompt-completion", HI),
        ({"prompt": HI[:1], "completion": HI[1:]}, "prompt-completion", HI),
        ({"prompt": "Hi", "response": "Hello"}, "prompt-completion", HI),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, "alpaca", HI),
        ({"instruction": "Hi", "context": None, "response": "Hello"}, "alpaca", HI),
        ({"instruction": "Hi", "instances": [{"input": "", "output": "Hello"}]}, "alpaca", HI),
        (
            {"instruction": "Say", "input": "it", "output": "It", "system": "Be kind.", "history": [["Hi", "Hello"]]},
            "alpaca",
            [SYSTEM, *HI, {"role": "user", "content": "Say\nit"}, {"role": "assistant", "content": "It"}],
        ),
        ({"conversations": SHAREGPT}, "sharegpt", HI),
        ({"conversations": SHAREGPT, "system": "Be kind.", "tools": "[]"}, "sharegpt", [SYSTEM, *HI]),
        ({"conversations": HI}, "sharegpt", HI),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "Bye"}, "preference", HI),
        ({"prompt": HI[:1], "chosen": HI[1:], "rejected": [BYE]}, "preference", HI),
        ({"prompt": "Hi", "chosen": HI, "rejected": [HI[0], BYE]}, "preference", HI),
        ({"chosen": HI, "rejected": [HI[0], BYE]}, "preference", HI),
        ({"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": SHAREGPT[1]}, "preference", HI),
        ({"instruction": "Hi", "input": "", "chosen": "Hello", "rejected": "Bye"}, "preference", HI),
        (
            {"chosen": TRANSCRIPT + " Yes", "rejected": TRANSCRIPT + " No"},
            "preference",
            [*HI, {"role": "user", "content": "And\nnow?"}, {"role": "assistant", "content": "Yes"}],
        ),
        ({"prompt": TRANSCRIPT, "chosen": " Yes", "rejected": " No"}, "preference",
         [*HI, {"role": "user", "content": "And\nnow?"}, {"role": "assistant", "content": " Yes"}]),
        ({"messages": HI, "label": True}, "kto", HI),
        ({"prompt": "Hi", "completion": "Hello", "label": True}, "kto", HI),
        ({"text": "running"}, "text", []),
        ({"text": "running", "label": True}, "text", []),
        ({"messages": None, "text": "running"}, "text", []),
        ({"prompt": "Hi", "text": "running"}, "text", []),
    ],
)  # fmt: skip
def test_each_layout_is_told_apart_and_read(row: dict[str, Any], format: str, messages: list[Any]) -> None:
    found = detect(row)
    assert found == format
    assert list(to_messages(row, found)[0]) == messages


@pytest.mark.parametrize("row", [{}, {"question": "a", "answer": "b"}, {"text": 3}, {"turns": ["a"]}, {"chosen": "x"}])
def test_a_row_of_no_known_layout_is_not_guessed(row: dict[str, Any]) -> None:
    assert detect(row) is None


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"messages": []}, "empty one"),
        ({"messages": "Hi"}, "no list of turns"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "turn 1 has no role"),
        ({"messages": [*HI, {"role": "user"}]}, "turn 3 has no text"),
        ({"messages": ["Hi"]}, "turn 1 is no object"),
        ({"messages": [HI[0], {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "turn 2 calls a tool w"),
        ({"messages": [HI[0], {"role": "assistant", "content": 3, "tool_calls": [{}]}]}, "turn 2 has no text"),
        ({"messages": HI, "tools": "hammer"}, "no list of declarations"),
        ({"messages": HI, "tools": [{"description": "x"}]}, "tool 1 is declared without"),
        ({"conversations": [{"from": "function_call", "value": "f()"}]}, "turn 1 is a function call without the name"),
        ({"conversations": [{"from": {}, "value": "f()"}]}, "turn 1 has no role"),
        ({"messages": HI, "label": False}, "labelled as undesired"),
        ({"chosen": "Hello", "rejected": "Bye"}, "reply to"),
        ({"instruction": "Hi", "output": 3}, "the output is no text"),
        ({"instruction": "Hi", "output": "x", "history": ["a", "b"]}, "pair 1 of the history"),
        ({"instruction": "Hi", "instances": [{"output": "a"}, {"output": "b"}]}, "several instances"),
    ],
)
def test_a_row_that_cannot_be_learned_says_why(row: dict[str, Any], complaint: str) -> None:
    found = detect(row)
    assert found is not None
    with pytest.raises(UnusableError, match=complaint):
        to_messages(row, found)


def test_a_preference_keeps_both_answers_and_what_came_before() -> None:
    found = read_conversation({"chosen": HI, "rejected": [HI[0], BYE]}, "preference")
    assert (list(found.turns), list(found.chosen), list(found.rejected)) == (HI[:1], HI[1:], [BYE])


def test_two_equal_answers_are_still_answers() -> None:
    assert list(to_messages({"chosen": HI, "rejected": HI}, "preference")[0]) == HI


CALL = [
    HI[0],
    {"role": "assistant", "content": None,
     "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": '{"what": "é"}'}}]},
    {"role": "tool", "content": "[1]"},
    HI[1],
]  # fmt: skip
TOOLS = [{"name": "find", "parameters": {}}]


def test_tool_calls_survive_the_way_to_sharegpt_and_back() -> None:
    there = converted({"messages": CALL, "tools": TOOLS, "id": 7}, found="messages", target="sharegpt")
    assert [turn["from"] for turn in there["conversations"]] == ["human", "function_call", "observation", "gpt"]
    assert json.loads(there["tools"]) == TOOLS
    assert converted(there, found="sharegpt", target="messages") == {"messages": CALL, "tools": TOOLS, "id": 7}
    pair = converted({"messages": CALL, "tools": TOOLS}, found="messages", target="prompt-completion")
    assert (pair["prompt"], pair["completion"], pair["tools"]) == (CALL[:3], CALL[3:], TOOLS)


TURNS = st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=4)


@given(pairs=TURNS, system=st.text(), target=st.sampled_from(["prompt-completion", "alpaca", "sharegpt"]))
def test_a_conversation_comes_back_the_same_from_every_layout(
    pairs: list[tuple[str, str]], system: str, target: Any
) -> None:
    turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for question, answer in pairs:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    there = converted({"messages": turns}, found="messages", target=target)
    assert detect(there) == target
    assert converted(there, found=target, target="messages") == {"messages": turns}


@pytest.mark.parametrize(
    ("row", "target", "complaint"),
    [
        ({"messages": HI}, "preference", "needs a rejected answer"),
        ({"text": "x"}, "messages", "running text has no turns"),
        ({"messages": CALL}, "alpaca", "for which alpaca has no place"),
        ({"messages": CALL}, "text", "calls a tool, which is no text"),
        ({"messages": HI[:1]}, "prompt-completion", "does not end with an answer"),
        ({"messages": [HI[0], HI[0], HI[1]]}, "alpaca", "do not take turns"),
        ({"messages": HI, "tools": TOOLS}, "alpaca", "no place for tools"),
        ({"messages": HI, "label": False}, "messages", "labelled as undesired"),
    ],
)
def test_what_a_layout_cannot_say_is_refused(row: dict[str, Any], target: Any, complaint: str) -> None:
    found = detect(row)
    assert found is not None
    with pytest.raises(UnusableError, match=complaint):
        converted(row, found=found, target=target)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "user", "gpt", "function_call", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "name", "tool_calls"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
FIELDS = ["messages", "prompt", "completion", "instruction", "output", "history", "conversations", "chosen", "rejected",
          "label", "tools", "system", "instances", "text"]  # fmt: skip


@given(row=st.dictionaries(st.sampled_from(FIELDS), json_values), format=st.sampled_from(FORMATS))
def test_no_row_breaks_the_reading_or_the_conversion(row: dict[str, Any], format: Any) -> None:
    for read in (
        lambda: to_messages(row, format),
        *(lambda target=target: converted(row, found=format, target=target) for target in TARGETS),
    ):
        with contextlib.suppress(UnusableError):
            read()


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "llamafactory-demos").exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("name", "expected", "documents"),
    [
        ("llamafactory-demos/alpaca_en_demo.json", {"alpaca": 999}, 999),
        ("llamafactory-demos/glaive_toolcall_en_demo.json", {"sharegpt": 300}, 300),
        ("llamafactory-demos/dpo_en_demo.json", {"preference": 299}, 299),
        ("llamafactory-demos/kto_en_demo.json", {"kto": 150}, 150),
        ("fastchat-sharegpt-and-mtbench/dummy_conversation.json", {"sharegpt": 500}, 500),
        ("dolly-hhrlhf-small/dolly_hhrlhf_train_small.jsonl", {"prompt-completion": 1_000}, 1_000),
        ("self-instruct/seed_tasks.jsonl", {"alpaca": 175}, 175),
        ("gsm8k/test.jsonl", {"text": 1_319}, 1_319),
    ],
)
def test_real_sets_are_read_in_their_layout(name: str, expected: dict[str, int], documents: int) -> None:
    seen: Counter[str] = Counter()
    settings = ReadSettings(text_field="question")
    found = [
        record
        for block in blocks_of(SHARED / name, origin=name, source="s")
        for _, record in records_of(block, settings, formats_seen=seen)
    ]
    assert seen == expected
    assert sum(isinstance(one, Document) for one in found) == documents


@given(
    st.dictionaries(
        st.sampled_from(
            ["completion", "response", "rejected", "output", "instances", "label", "text", "system", "body"]
        ),
        st.sampled_from(["x", True, None, [], 1]),
    ),
    st.sampled_from(["text", "body", "output"]),
)
def test_answers_without_a_question_are_no_conversation(row: dict[str, Any], text_field: str) -> None:
    assert detect(row, text_field=text_field) == ("text" if isinstance(row.get(text_field), str) else None)

"""Conversations that call tools, from the rows of their data sets to the loss mask beside a shard."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from encoded_blocks import conversation, rows
from nexus_llm.chat import ChatTokenizer
from nexus_llm.data.intake import take
from nexus_llm.data.judging import rules
from nexus_llm.data.looking import inspect
from nexus_llm.data.reading.blocks import BrokenRecord, ReadSettings
from nexus_llm.data.reading.chat_conversion import converted
from nexus_llm.data.reading.chat_formats import detect, read_conversation
from nexus_llm.data.reading.readers import blocks_of, records_of
from nexus_llm.data.rows import conversation_json, conversation_text, stored_conversation
from nexus_llm.data.stage import STAGE
from nexus_llm.data.taken import Taken, Tools
from nexus_llm.data.tokens.encode import encode_block
from nexus_llm.data.tokens.fast_tokenizers import reference
from nexus_llm.recipe import DataRecipe, Recipe
from nexus_llm.records import Document, Message
from read_records import read_records
from running_stages import folder_as_artifact, run_stage
from tiny_model import write_tiny_model
from tool_templates import HERMES, tokenizer_of

SHARED = Path(__file__).parents[3] / "shared" / "data"
PROSE = "The harbour was quiet in the morning, and the boats lay still on the water. "

WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather of a city. Questions go to weather.desk@corp.org.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "A city, such as Rome"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
    },
}
FRAMED = {"type": "function", "function": WEATHER}
ARGUMENTS = {"city": "Oslo", "unit": "celsius"}
RESULT = '{"temperature": -4, "sky": "snow"}'
OPENAI = {
    "messages": [
        {"role": "system", "content": "You answer in one sentence."},
        {"role": "user", "content": "Do I need a coat in Oslo?"},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_8f3a",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": json.dumps(ARGUMENTS)},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_8f3a", "content": RESULT},
        {"role": "assistant", "content": "Yes: it snows at -4 degrees."},
    ],
    "tools": [FRAMED],
    "parallel_tool_calls": False,
}
SHAREGPT = {
    "system": "You answer in one sentence.",
    "conversations": [
        {"from": "human", "value": "Do I need a coat in Oslo?"},
        {"from": "function_call", "value": json.dumps({"name": "get_weather", "arguments": ARGUMENTS})},
        {"from": "observation", "value": RESULT},
        {"from": "gpt", "value": "Yes: it snows at -4 degrees."},
    ],
    "tools": json.dumps([WEATHER]),
}
SWIFT = {
    "messages": [
        {"role": "system", "content": "You answer in one sentence."},
        {"role": "user", "content": "Do I need a coat in Oslo?"},
        {"role": "tool_call", "content": json.dumps({"name": "get_weather", "arguments": ARGUMENTS})},
        {"role": "tool_response", "content": RESULT},
        {"role": "assistant", "content": "Yes: it snows at -4 degrees."},
    ],
    "tools": json.dumps([FRAMED]),
}
HERMES_ROW = {
    "conversations": [
        {
            "from": "system",
            "value": f"You may call functions. Here are the signatures: <tools> [{json.dumps(FRAMED)}] </tools> Answer "
            "with a JSON object within <tool_call></tool_call> tags.",
        },
        {"from": "human", "value": "Do I need a coat in Oslo?"},
        {
            "from": "gpt",
            "value": '<tool_call>\n{"arguments": {"city": "Oslo"}, "name": "get_weather"}\n</tool_call>',
        },
        {"from": "tool", "value": f"<tool_response>\n{RESULT}\n</tool_response>"},
        {"from": "gpt", "value": "Yes: it snows at -4 degrees."},
    ],
    "tools": json.dumps([FRAMED]),
}


def read(tmp_path: Path, *content: Any) -> list[Any]:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return read_records(path, source="own")


def test_the_same_conversation_is_read_from_every_way_to_write_it(tmp_path: Path) -> None:
    documents = read(tmp_path, OPENAI, SHAREGPT, SWIFT)
    for document in documents:
        assert document.tools == (FRAMED,)
        assert [turn["role"] for turn in document.messages] == ["system", "user", "assistant", "tool", "assistant"]
        (call,) = document.messages[2]["tool_calls"]
        assert document.messages[2]["content"] == ""
        assert call["function"] == {"name": "get_weather", "arguments": ARGUMENTS}
        assert document.messages[3]["content"] == RESULT
        assert document.messages[3]["name"] == "get_weather"
        assert document.text == (
            "You answer in one sentence.\nDo I need a coat in Oslo?\nget_weather Oslo celsius\n"
            f"{RESULT}\nYes: it snows at -4 degrees."
        )
    assert documents[0].messages[2]["tool_calls"][0]["id"] == documents[0].messages[3]["tool_call_id"] == "call_8f3a"


def test_hermes_rows_stay_words_and_declare_their_tools_once(tmp_path: Path) -> None:
    (document,) = read(tmp_path, HERMES_ROW)
    assert document.tools == ()
    assert "<tools>" in document.messages[0]["content"]
    assert document.messages[2]["content"].startswith("<tool_call>")
    assert document.messages[3]["role"] == "tool"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"arguments": "{broken"}, "turn 1 calls f with arguments that are no JSON object"),
        ({"arguments": "[1]"}, "turn 1 calls f with arguments that are no JSON object"),
        ({"arguments": '{"a": "\\ud83d"}'}, "surrogate"),
        ({"arguments": '{"a": ' * 300 + "1" + "}" * 300}, "nested in more than 100 levels"),
        ({"name": None}, "turn 1 calls a tool without the name"),
    ],
)
def test_a_call_that_is_none_is_set_aside(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}", **change}}
    broken, fine = read(tmp_path, {"messages": [{"role": "assistant", "tool_calls": [call]}]}, OPENAI)
    assert isinstance(broken, BrokenRecord)
    assert complaint in broken.error
    assert isinstance(fine, Document)


def test_only_the_assistant_calls(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    (broken,) = read(tmp_path, {"messages": [{"role": "user", "content": "x", "tool_calls": [call]}]})
    assert "which only the assistant can" in broken.error


def test_what_the_assistant_says_before_a_call_in_sharegpt_is_the_same_turn() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Both?"},
            {"from": "gpt", "value": "I look."},
            {"from": "function_call", "value": '[{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]'},
            {"from": "observation", "value": "1"},
        ]
    }
    turns = read_conversation(row, "sharegpt").turns
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool"]
    assert turns[1]["content"] == "I look."
    assert [call["function"]["name"] for call in turns[1]["tool_calls"]] == ["a", "b"]


def test_results_get_the_name_of_what_they_answer(tmp_path: Path) -> None:
    def call(name: str, identity: str | None) -> dict[str, Any]:
        function = {"type": "function", "function": {"name": name, "arguments": "{}"}}
        return {"id": identity, **function} if identity else function

    def names(calls: list[Any], *results: dict[str, Any]) -> list[Any]:
        turns = [
            {"role": "assistant", "tool_calls": calls},
            *({"role": "tool", "content": "", **one} for one in results),
        ]
        (document,) = read(tmp_path, {"messages": turns})
        return [turn.get("name") for turn in document.messages[1:]]

    two = [call("a", "1"), call("b", "2")]
    assert names(two, {"tool_call_id": "2"}, {"tool_call_id": "1"}) == ["b", "a"]
    assert names(two, {"tool_call_id": "2", "name": "own"}, {"tool_call_id": "9"}) == ["own", None]
    assert names([call("a", None), call("b", None)], {}, {}, {}) == ["a", "b", None]


def test_plain_conversations_keep_their_bytes() -> None:
    talk: list[Message] = [{"role": "user", "content": "é"}, {"role": "assistant", "content": "b"}]
    assert conversation_json(talk) == json.dumps(talk, ensure_ascii=False, separators=(",", ":"))
    assert stored_conversation(conversation_json(talk)) == (talk, [], [])
    assert stored_conversation(conversation_json(talk, talk[:1], [FRAMED])) == (talk, talk[:1], [FRAMED])
    assert stored_conversation(conversation_json(talk, tools=[FRAMED])) == (talk, [], [FRAMED])
    assert conversation_text(talk) == "é\nb"


def test_convert_loses_nothing_of_calls_on_the_way_to_sharegpt_and_back() -> None:
    row = {**OPENAI, "messages": [*OPENAI["messages"][:3]]}
    row["messages"][2] = {**row["messages"][2], "content": "I look.", "reasoning_content": "Oslo is cold."}
    row["messages"] += OPENAI["messages"][3:]
    there = converted(row, found="messages", target="sharegpt")
    assert detect(there) == "sharegpt"
    back = converted(json.loads(json.dumps(there)), found="sharegpt", target="messages")
    first, second = read_conversation(row, "messages"), read_conversation(back, "messages")
    assert second.tools == first.tools
    for before, after in zip(first.turns, second.turns, strict=True):
        calls = [one.pop("tool_calls", []) for one in (before, after)]
        assert after == before
        meant = [
            [(one["id"], one["function"]["name"], json.loads(one["function"]["arguments"])) for one in of_turn]
            for of_turn in calls
        ]
        assert meant[0] == meant[1]


def talk_of(*, arguments: dict[str, Any], result: str = RESULT, thought: str = "") -> tuple[Message, ...]:
    calling: Message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": arguments}}],
    }
    if thought:
        calling["reasoning_content"] = thought
    return (
        {"role": "user", "content": PROSE * 3},
        calling,
        {"role": "tool", "content": result},
        {"role": "assistant", "content": "Fine."},
    )


def taken(*talks: tuple[Message, ...], tools: tuple[Any, ...] = (FRAMED,), **changes: Any) -> Taken:
    records = [
        (number, Document(f"id{number}", "own", "a", conversation_text(talk), talk, tools=tools))
        for number, talk in enumerate(talks, start=1)
    ]
    return take(records, Tools(DataRecipe.model_validate(changes), rules.load_spec()))


def test_personal_data_are_redacted_wherever_a_conversation_with_tools_says_them() -> None:
    address = "jane.doe@corp.org"
    talk = talk_of(
        arguments={"city": "Oslo", "mail": {"to": [f"for {address}"], address: 1}},
        result=f'{{"owner": "{address}"}}',
        thought=f"She is {address}.\r\n",
    )
    found = taken(talk)
    (messages,) = found.kept["messages"]
    assert address not in messages
    assert address not in found.kept["text"][0]
    content = stored_conversation(messages)
    (call,) = content.messages[1]["tool_calls"]
    assert call["function"] == {
        "name": "get_weather",
        "arguments": {"city": "Oslo", "mail": {"to": ["for <EMAIL_ADDRESS>"], "<EMAIL_ADDRESS>": 1}},
    }
    assert content.messages[1]["reasoning_content"] == "She is <EMAIL_ADDRESS>."
    assert content.messages[2]["content"] == '{"owner": "<EMAIL_ADDRESS>"}'
    assert content.tools[0]["function"]["description"].endswith("go to <EMAIL_ADDRESS>.")
    assert content.tools[0]["function"]["parameters"] == WEATHER["parameters"]
    assert found.personal["EMAIL_ADDRESS"] == 5
    assert taken(talk, pii={"action": "drop"}).rejected["rule"].to_list() == ["pii"]


def test_names_by_which_calls_and_results_find_each_other_are_never_redacted() -> None:
    declared = {"type": "function", "function": {"name": "mail.jane.doe@corp.org", "parameters": {}}}
    talk = talk_of(arguments={})
    calling = {**talk[1], "tool_calls": [{"id": "4556737586899855", **talk[1]["tool_calls"][0]}]}
    result = {**talk[2], "tool_call_id": "4556737586899855", "name": "get_weather"}
    found = taken((talk[0], calling, result, talk[3]), tools=(declared,))
    content = stored_conversation(found.kept["messages"][0])
    assert content.tools == [declared]
    assert content.messages[1]["tool_calls"][0]["id"] == content.messages[2]["tool_call_id"] == "4556737586899855"


def test_arguments_are_not_cleaned_because_every_blank_of_code_counts() -> None:
    code = "def f():\n    return 1  \n\n\n\n\n\nf()\n"
    found = taken(talk_of(arguments={"code": code}, result="done  \r\n"))
    content = stored_conversation(found.kept["messages"][0])
    assert content.messages[1]["tool_calls"][0]["function"]["arguments"] == {"code": code}
    assert content.messages[2]["content"] == "done"


def test_calls_and_tools_tell_conversations_apart() -> None:
    talk, other = talk_of(arguments=ARGUMENTS), talk_of(arguments={**ARGUMENTS, "city": "Rome"})
    hashes = taken(talk, other, talk).kept["content_hash"]
    assert hashes[0] == hashes[2] != hashes[1]
    assert taken(talk, tools=()).kept["content_hash"][0] != hashes[0]


def encoded(tokenizer: ChatTokenizer, *talks: str) -> Any:
    frame = rows(["x"] * len(talks)).with_columns(messages=pl.Series(talks, dtype=pl.String))
    return encode_block(frame, reference(tokenizer), tokenizer)


@pytest.mark.parametrize("family", ["Llama", "Qwen 2", "Qwen 3", "Hermes"])
def test_calls_and_answers_are_learned_and_results_are_not(family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(family)
    (document,) = read(tmp_path, {**OPENAI, "messages": OPENAI["messages"][1:]})
    stored = conversation_json(document.messages, tools=document.tools)
    block = encoded(tokenizer, stored)
    expected = tokenizer.encode_conversation(document.messages, tools=[FRAMED])
    assert block.tokens.tolist() == expected.token_ids
    assert block.loss_mask.tolist() == expected.is_assistant
    pieces = [
        (tokenizer.decode(block.tokens[begin:end].tolist(), keep_control_tokens=True), is_learned)
        for begin, end, is_learned in inspect.spans(block.loss_mask)
    ]
    learned = [text for text, is_learned in pieces if is_learned]
    given = "".join(text for text, is_learned in pieces if not is_learned)
    assert len(learned) == 2
    assert '{"city": "Oslo", "unit": "celsius"}' in learned[0]
    assert "Yes: it snows" in learned[1]
    assert "temperature" in given
    assert "fahrenheit" in given
    assert not any("temperature" in text for text in learned)


def test_a_template_without_a_place_for_tools_refuses_those_conversations_alone(tmp_path: Path) -> None:
    (document,) = read(tmp_path, OPENAI)
    stored = conversation_json(document.messages, tools=document.tools)
    block = encoded(tokenizer_of("SmolLM"), stored, conversation("a", "b"))
    assert [(one.ordinal, one.rule) for one in block.refused] == [(1, "chat_template")]
    assert "has no place for tools" in block.refused[0].error
    assert len(block.documents) == 1


def test_both_answers_of_a_preference_are_encoded_with_the_tools(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("Hermes")
    better, worse = OPENAI["messages"][1:3], [OPENAI["messages"][1], {"role": "assistant", "content": "No idea."}]
    (document,) = read(tmp_path, {"chosen": better, "rejected": worse, "tools": [WEATHER]})
    block = encoded(tokenizer, conversation_json(document.messages, document.rejected, document.tools))
    for arrays, messages in ((block, document.messages), (block.rejected, document.rejected)):
        expected = tokenizer.encode_conversation(messages, tools=[FRAMED])
        assert arrays.tokens.tolist() == expected.token_ids
        assert arrays.loss_mask.tolist() == expected.is_assistant


@pytest.mark.skipif(not (SHARED / "llamafactory-demos").exists(), reason="needs ../shared/data")
def test_real_conversations_with_tools_are_learned(tmp_path: Path) -> None:
    path = SHARED / "llamafactory-demos" / "glaive_toolcall_en_demo.json"
    tokenizer = tokenizer_of("Qwen 2")
    talks = [
        conversation_json(record.messages, record.rejected, record.tools)
        for block in blocks_of(path, origin=path.name, source="own")
        for _, record in records_of(block, ReadSettings(text_field="text"))
        if isinstance(record, Document)
    ]
    block = encoded(tokenizer, *talks[:60])
    assert sum('"tool_calls"' in talk for talk in talks) > 100
    assert not block.refused
    assert len(block.documents) == 60


def recipe_for(path: Path, **changes: Any) -> Recipe:
    source = {"type": "files", "path": str(path), "name": "own", **changes.pop("source", {})}
    return Recipe.model_validate({"name": "t", "data": {"sources": [source], **changes}})


def write_lines(path: Path, content: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content))
    return path


def test_the_stage_makes_masked_tokens_of_conversations_with_tools(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(HERMES)
    words = [" ".join(f"{word}{number * 7 % 31}" for word in PROSE.split()) for number in range(20)]
    content = [
        {**OPENAI, "messages": [{"role": "user", "content": f"{one}. {PROSE * 2}"}, *OPENAI["messages"][2:]]}
        for one in words
    ]
    path = write_lines(tmp_path / "a.jsonl", content)
    recipe = recipe_for(path, near_duplicates={"keep": "all"}, quality={"families": []})
    made = run_stage(STAGE, recipe, {"model": folder_as_artifact("model", folder)}, tmp_path / "made")
    assert made.manifest.facts["kept"] == 20
    tokenizer = ChatTokenizer.load(folder)
    (first, *_) = inspect.first_kept(made.folder, "train", 1)
    assert first.place is not None
    document = inspect.encoded(made.folder, first.place)
    counts: Counter[bool] = Counter()
    for begin, end, is_learned in inspect.spans(document.loss_mask):
        text = tokenizer.decode(document.token_ids[begin:end].tolist(), keep_control_tokens=True)
        counts[is_learned] += 1
        assert ("temperature" in text) <= (not is_learned)
    assert counts[True] == 2

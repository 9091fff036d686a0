"""Calls of tools come out of an answer the same however it was cut into pieces, and no half mark leaks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.serve.tools.calls import Call
from nexus_llm.serve.tools.choice import forced_call_schema
from nexus_llm.serve.tools.formats import (
    CALLS_ALONE,
    CallFormat,
    HermesFormat,
    LlamaFormat,
    MistralFormat,
    format_of_template,
)
from nexus_llm.serve.tools.parser import CallParser

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(alphabet='ab"\\{}[]<>/ \n;é', max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(alphabet="xy{", max_size=2), inner, max_size=2),
    max_leaves=4,
)
CALLS = st.builds(
    lambda name, arguments: Call(name, json.dumps(arguments, ensure_ascii=False)),
    st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
    st.dictionaries(st.text(alphabet='ab"}', max_size=3), VALUES, max_size=3),
)
WORDS = st.text(alphabet="ab <[{}]>/|\n;", max_size=8)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=6)
FORMATS: list[CallFormat] = [HermesFormat(), LlamaFormat(), MistralFormat()]


def spelled(call_format: CallFormat, calls: list[Call]) -> str:
    """The calls as a model of this family writes them."""
    key = "parameters" if isinstance(call_format, LlamaFormat) else "arguments"
    ones = [f'{{"name": "{call.name}", "{key}": {call.arguments}}}' for call in calls]
    if isinstance(call_format, HermesFormat):
        return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in ones)
    if isinstance(call_format, MistralFormat):
        return f"[TOOL_CALLS] [{', '.join(ones)}]" if ones else ""
    return "; ".join(ones)


def parsed(call_format: CallFormat, text: str, cuts: list[int]) -> tuple[str, list[Call], list[str]]:
    parser, said, calls, at, turn = CallParser(call_format), [], [], 0, 0
    while at < len(text):
        size = cuts[turn % len(cuts)]
        news = parser.push(text[at : at + size])
        said.append(news.text)
        calls += news.calls
        at, turn = at + size, turn + 1
    last = parser.flush()
    return "".join([*said, last.text]), [*calls, *last.calls], said


@pytest.mark.parametrize("call_format", FORMATS, ids=lambda one: type(one).__name__)
@given(calls=st.lists(CALLS, min_size=1, max_size=3), cuts=CUTS)
def test_calls_are_read_as_they_were_written(call_format: CallFormat, calls: list[Call], cuts: list[int]) -> None:
    text, found, _ = parsed(call_format, spelled(call_format, calls), cuts)
    assert (text, [(one.name, json.loads(one.arguments)) for one in found]) == (
        "",
        [(one.name, json.loads(one.arguments)) for one in calls],
    )


@pytest.mark.parametrize("call_format", FORMATS, ids=lambda one: type(one).__name__)
@given(
    pieces=st.lists(
        st.sampled_from(
            ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", '{"name": "f"}', "{", "}", '"',
             ' {"name": "g", "arguments": {"a": "}"}}', "look", "[", "]", ";", " ", "\n", "a", "\\", "<", "{}"]
        ),
        max_size=9,
    ),
    cuts=CUTS,
)  # fmt: skip
def test_any_text_is_parsed_alike_however_it_is_cut(
    call_format: CallFormat, pieces: list[str], cuts: list[int]
) -> None:
    whole = "".join(pieces)
    assert parsed(call_format, whole, cuts)[:2] == parsed(call_format, whole, [len(whole) or 1])[:2]


@pytest.mark.parametrize("call_format", FORMATS, ids=lambda one: type(one).__name__)
@given(words=WORDS, cuts=CUTS)
def test_text_without_a_call_is_left_as_it_is(call_format: CallFormat, words: str, cuts: list[int]) -> None:
    assert parsed(call_format, words, cuts)[:2] == (words, [])


@pytest.mark.parametrize("call_format", [HermesFormat(), MistralFormat()], ids=lambda one: type(one).__name__)
@given(call=CALLS, cuts=CUTS)
def test_text_before_a_call_goes_out_at_once_and_nothing_of_the_mark(
    call_format: CallFormat, call: Call, cuts: list[int]
) -> None:
    text, found, said = parsed(call_format, "I look it up. " + spelled(call_format, [call]), cuts)
    assert (text, len(found)) == ("I look it up.", 1)
    first = CallParser(call_format).push("I look it up. ")
    assert first.text == "I look it up."
    assert "".join(said) == text


@pytest.mark.parametrize(
    ("call_format", "text", "expected"),
    [
        (MistralFormat(), '[TOOL_CALLS]look[ARGS]{"at": 1}', [("look", {"at": 1})]),
        (MistralFormat(), '[TOOL_CALLS]look[CALL_ID]abc123xyz[ARGS]{}[TOOL_CALLS]go{}', [("look", {}), ("go", {})]),
        (LlamaFormat(), '<|python_tag|>{"name": "look", "parameters": {"at": 1}}', [("look", {"at": 1})]),
        (HermesFormat(), '<tool_call>{"name": "look", "arguments": "{\\"at\\": 1}"}', [("look", {"at": 1})]),
        (CALLS_ALONE, '{"name":"look","arguments":{"at":1}}', [("look", {"at": 1})]),
    ],
)  # fmt: skip
def test_other_spellings(call_format: CallFormat, text: str, expected: list[tuple[str, dict[str, object]]]) -> None:
    said, calls, _ = parsed(call_format, text, [3])
    assert (said, [(one.name, json.loads(one.arguments)) for one in calls]) == ("", expected)


@pytest.mark.parametrize("text", ['<tool_call>{"name": "look", "argum', "<tool_call>look</tool_call>", "<tool_call>[]"])
def test_a_call_that_is_cut_off_or_no_json_stays_text(text: str) -> None:
    assert parsed(HermesFormat(), text, [4])[:2] == (text, [])


def test_formats_are_told_by_the_template() -> None:
    assert isinstance(format_of_template("… <tool_call>\n{'name'} …"), HermesFormat)
    assert isinstance(format_of_template("… [TOOL_CALLS] …"), MistralFormat)
    assert isinstance(format_of_template("… <|python_tag|> …"), LlamaFormat)
    assert format_of_template("{{ messages }}") is None
    assert format_of_template("<tool_call>\n<function=name>") is None
    assert format_of_template(None) is None


def test_a_forced_call_keeps_the_references_of_its_parameters() -> None:
    parameters = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/place"}},
        "$defs": {"place": {"type": "string"}},
    }
    schema = forced_call_schema([{"name": "go"}, {"name": "look", "parameters": parameters}])
    assert schema["$defs"]["tool_1"]["properties"]["at"] == {"$ref": "#/$defs/tool_1/$defs/place"}
    assert [one["properties"]["name"]["const"] for one in schema["anyOf"]] == ["go", "look"]

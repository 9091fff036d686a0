"""A row in one layout becomes the row that says the same in another, or a reason why none can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from nexus_llm.data.reading.blocks import Block, BrokenRecord, TextRecord, UnusableError
from nexus_llm.data.reading.chat_formats import (
    ChatFormat,
    Conversation,
    Row,
    Turn,
    detect,
    read_conversation,
)
from nexus_llm.data.reading.chat_tools import json_text, text_of_calls
from nexus_llm.data.reading.readers import blocks_of, content_of

TARGETS: tuple[ChatFormat, ...] = ("messages", "prompt-completion", "alpaca", "sharegpt", "preference", "text")
_LAYOUT_FIELDS = {
    *("messages", "conversations", "tools", "text", "label"),
    *("prompt", "completion", "response", "chosen", "rejected"),
    *("instruction", "input", "context", "output", "system", "history", "instances"),
}


def converted(row: Row, *, found: ChatFormat, target: ChatFormat, text_field: str = "text") -> dict[str, Any]:
    """The row in the layout `target`. Fields that belong to no layout (id, category) stay.

    Prompts and completions come out as lists of turns, whatever they were: strings here and lists there could not be
    one column. A preference becomes the conversation with its chosen answer unless `target` is preference.

    Raises:
        UnusableError: the row is not what `found` says, or cannot be said in that layout.
    """
    rest = {name: value for name, value in row.items() if name not in _LAYOUT_FIELDS and name != text_field}
    if found == "text":
        if target != "text":
            raise UnusableError("running text has no turns, so it can only become text")
        return {"text": row.get(text_field), **rest}
    conversation = read_conversation(row, found)
    if target == "preference":
        return {**_preference(conversation), **rest}
    turns = (*conversation.turns, *conversation.chosen)
    written = _WRITERS[target](turns)
    if conversation.tools and target != "text":
        if target == "alpaca":
            raise UnusableError("alpaca has no place for tools")
        written["tools"] = json_text(conversation.tools) if target == "sharegpt" else conversation.tools
    return {**written, **rest}


def _messages(turns: Sequence[Turn]) -> dict[str, Any]:
    return {"messages": [dict(turn) for turn in turns]}


def _prompt_completion(turns: Sequence[Turn]) -> dict[str, Any]:
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise UnusableError("the conversation does not end with an answer of the assistant")
    return {"prompt": [dict(turn) for turn in turns[:-1]], "completion": [dict(turns[-1])]}


def _alpaca(turns: Sequence[Turn]) -> dict[str, Any]:
    for number, turn in enumerate(turns, start=1):
        if turn["role"] == "tool" or turn.get("tool_calls"):
            raise UnusableError(f"turn {number} calls a tool or answers such a call, for which alpaca has no place")
    start = 1 if turns and turns[0]["role"] == "system" else 0
    talk = turns[start:]
    if not talk or [turn["role"] for turn in talk] != ["user", "assistant"] * (len(talk) // 2):
        raise UnusableError("user and assistant do not take turns, which alpaca needs")
    said = [turn["content"] for turn in talk]
    written: dict[str, Any] = {"instruction": said[-2], "input": "", "output": said[-1]}
    if start:
        written["system"] = turns[0]["content"]
    if len(said) > 2:
        written["history"] = [list(pair) for pair in zip(said[:-2:2], said[1:-2:2], strict=True)]
    return written


def _sharegpt(turns: Sequence[Turn]) -> dict[str, Any]:
    """LLaMA-Factory's dialect: a call is a turn of its own that holds JSON, its answer an observation.

    What a turn says besides (the call that it answers, thoughts) stays beside its value, where that dialect's readers
    pass over it.
    """
    speakers = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}
    conversation: list[dict[str, Any]] = []
    for turn in turns:
        beside = {name: value for name, value in turn.items() if name not in ("role", "content", "tool_calls")}
        if turn["content"] or not turn.get("tool_calls"):
            conversation.append({"from": speakers[turn["role"]], "value": turn["content"], **beside})
            beside = {}
        if turn.get("tool_calls"):
            conversation.append({"from": "function_call", "value": text_of_calls(turn["tool_calls"]), **beside})
    if conversation and conversation[0]["from"] == "system":
        return {"system": conversation[0]["value"], "conversations": conversation[1:]}
    return {"conversations": conversation}


def _preference(conversation: Conversation) -> dict[str, Any]:
    if not conversation.chosen:
        raise UnusableError("a preference needs a rejected answer, and this row has one answer only")
    written: dict[str, Any] = {
        "prompt": [dict(turn) for turn in conversation.turns],
        "chosen": [dict(turn) for turn in conversation.chosen],
        "rejected": [dict(turn) for turn in conversation.rejected],
    }
    return {**written, "tools": conversation.tools} if conversation.tools else written


def _text(turns: Sequence[Turn]) -> dict[str, Any]:
    for number, turn in enumerate(turns, start=1):
        if turn.get("tool_calls"):
            raise UnusableError(f"turn {number} calls a tool, which is no text")
    return {"text": "\n".join(turn["content"] for turn in turns)}


_WRITERS: Mapping[str, Callable[[Sequence[Turn]], dict[str, Any]]] = {
    "messages": _messages,
    "prompt-completion": _prompt_completion,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "text": _text,
}


@dataclass(frozen=True, slots=True)
class ConvertedRow:
    """One record of a file in its new layout."""

    number: int
    """As in `records_of`: line, row or position in the file."""
    found: str
    """The layout that it had, or the kind of file for text that came in no row."""
    row: Mapping[str, Any]
    line: bytes
    """The new row as one line of JSON, with its line end."""
    loses_answer: bool
    """It was a preference, and its rejected answer is not in the new row."""


def converted_records(
    path: Path, *, origin: str, target: ChatFormat, text_field: str = "text", format: str | None = None
) -> Iterator[ConvertedRow | BrokenRecord]:
    """Every record of a file in the layout `target`, or why it cannot be said in it, in order.

    `format` is that of the file where its ending does not tell. Raises as `readers.blocks_of`.
    """
    for block in blocks_of(path, origin=origin, source="", format=format):
        for number, content in content_of(block):
            try:
                yield _converted_record(number, content, block, target, text_field)
            except UnusableError as error:
                yield BrokenRecord(origin, number, str(error))


def _converted_record(number: int, content: Any, block: Block, target: ChatFormat, text_field: str) -> ConvertedRow:
    if isinstance(content, UnusableError):
        raise content
    if isinstance(content, TextRecord):
        row: dict[str, Any] = {"text": content.text, **content.metadata}
        found: str = block.format
        new = converted(row, found="text", target=target)
    else:
        if not isinstance(content, Mapping):
            raise UnusableError(f"the record is no object but {type(content).__name__}")
        layout = detect(content, text_field=text_field)
        if layout is None:
            known = ", ".join(map(str, content)) or "nothing"
            raise UnusableError(f"no text in {text_field!r} and no conversation of a known layout, only: {known}")
        found, new = layout, converted(content, found=layout, target=target, text_field=text_field)
    try:
        line = orjson.dumps(new, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        raise UnusableError(f"it cannot be written as JSON ({error})") from error
    return ConvertedRow(number, found, new, line, loses_answer=found == "preference" and target != "preference")

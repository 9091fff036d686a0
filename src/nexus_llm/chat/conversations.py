"""Conversations in the shape that chat templates take, and the strings in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from nexus_llm.errors import ModelError
from nexus_llm.records import Message


def as_templates_take_it(messages: Sequence[Message]) -> list[Message]:
    """The messages without fields that say nothing, each with a content, and tool calls' arguments as values.

    OpenAI's API sends `arguments` as JSON text, and nulls; templates (those of transformers) write the arguments as
    JSON themselves, and ask only whether `tool_calls` is there.

    Raises:
        ModelError: a tool call names no function, or its arguments are no JSON object.
    """
    return [_turn(message, number) for number, message in enumerate(messages, start=1)]


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included, in order."""
    left = [value]  # not recursive: every request is read so three times
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            for key, item in reversed(one.items()):
                left += (item, key)
        elif isinstance(one, list | tuple):
            left += reversed(one)


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with `change` applied to every string in it, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {map_strings(key, change): map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(item, change) for item in value]
    return value


def _turn(message: Message, number: int) -> Message:
    said: dict[str, Any] = {name: value for name, value in message.items() if value is not None}
    calls = said.pop("tool_calls", None)
    if calls:
        said["tool_calls"] = [_call(call, number) for call in calls]
    return cast(Message, {"content": "", **said})


def _call(call: Any, number: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ModelError(
            f"turn {number} calls a tool without the name of a function",
            fix='a call is {"type": "function", "function": {"name": …, "arguments": {…}}}',
        )
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    elif not arguments:
        arguments = {}  # a call without arguments: null, an empty text, nothing at all
    if not isinstance(arguments, Mapping):
        raise ModelError(
            f"turn {number} calls {function['name']} with arguments that are no JSON object",
            fix='write "arguments" as an object, or as its JSON text',
        )
    return {"type": "function", **call, "function": {**function, "arguments": dict(arguments)}}

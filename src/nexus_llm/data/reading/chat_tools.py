"""Declarations and calls of tools, from the shapes in which data sets write them to that of OpenAI's chat API.

Sources, read 2026-11: OpenAI's API reference ("Chat completions": tools, tool_calls), LLaMA-Factory's data/README.md
(function_call and observation; declarations without a frame, as JSON text).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_llm.data.reading.blocks import UnusableError
from nexus_llm.records import Message, ToolCall

CALLERS = ("function_call", "tool_call")
"""Speakers of turns that hold nothing but calls, as JSON text."""

_MOST_LEVELS = 100  # of objects and lists in one another: far beyond any API, and far from Python's own end


def declarations(value: object) -> tuple[dict[str, Any], ...]:
    """The tools of a row, each as `{"type": "function", "function": {…}}`; empty where it has none.

    `value` is a list of declarations, bare or in that frame, or its JSON text.

    Raises:
        UnusableError: it is something else.
    """
    tools = from_json(value)
    if tools is None or tools in ("", [], {}):
        return ()
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, list | tuple):
        raise UnusableError("the tools are no list of declarations")
    _refuse_odd(tools, "the tools are")
    return tuple(_declaration(from_json(tool), number) for number, tool in enumerate(tools, start=1))


def calls_to_learn(calls: object, number: int) -> list[ToolCall]:
    """The calls of turn `number` with their arguments as values: JSON text that says the same is the same call.

    Raises:
        UnusableError: a call names no function, or its arguments are no JSON object.
    """
    if not isinstance(calls, list | tuple):
        raise UnusableError(f"turn {number} has tool_calls that are no list")
    return [_call(call, number) for call in calls]


def name_results(messages: Sequence[Message]) -> None:
    """Writes into results without a name the function that they answer for: some templates write nothing without it.

    A result names its call by the call's id; where nobody has ids, results answer the last calls in their order.
    """
    calls: list[ToolCall] = []
    for message in messages:
        if message["role"] == "assistant":
            calls = list(message.get("tool_calls", ()))
        elif message["role"] == "tool" and calls:
            answered = message.get("tool_call_id")
            place = (
                0 if answered is None else next((n for n, one in enumerate(calls) if one.get("id") == answered), None)
            )
            if place is not None:
                message.setdefault("name", calls.pop(place)["function"]["name"])


def calls_of_text(value: object, number: int) -> list[dict[str, Any]]:
    """OpenAI's `tool_calls` from ShareGPT's JSON text of one call or a list of calls.

    Raises:
        UnusableError: it is something else.
    """
    calls = from_json(value)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise UnusableError(f"turn {number} is a function call without the name of a function")
    return [
        {
            **({"id": call["id"]} if isinstance(call.get("id"), str) else {}),
            "type": "function",
            "function": {"name": call["name"], "arguments": json_text(call.get("arguments", {}))},
        }
        for call in calls
    ]


def text_of_calls(tool_calls: object) -> str:
    """The JSON text that `calls_of_text` reads.

    Raises:
        UnusableError: a call has no function with a name.
    """
    calls: list[dict[str, Any]] = []
    found: Sequence[Any] = tool_calls if isinstance(tool_calls, list | tuple) else [None]
    for call in found:
        function = _function(call)
        if function is None:
            raise UnusableError("a tool call has no function with a name")
        written = {"name": function["name"], "arguments": from_json(function.get("arguments", "{}"))}
        # Not in LLaMA-Factory's dialect, which passes over it: results name the call that they answer.
        calls.append({**written, "id": call["id"]} if isinstance(call.get("id"), str) else written)
    return json_text(calls[0] if len(calls) == 1 else calls)


def json_text(value: object) -> str:
    """A value as JSON; a string is taken for JSON already."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def from_json(value: object) -> Any:
    """What a JSON text says; anything else, and text that is no JSON, as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _declaration(tool: object, number: int) -> dict[str, Any]:
    if isinstance(tool, Mapping):
        function = tool.get("function")
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            return {"type": "function", **tool}
        if isinstance(tool.get("name"), str):
            # OpenAI's newer API ("Responses") leaves out the frame and keeps its type.
            bare = {name: one for name, one in tool.items() if name != "type"}
            return {"type": "function", "function": bare}
    raise UnusableError(f"tool {number} is declared without the name of a function")


def _call(call: Any, number: int) -> ToolCall:
    function = _function(call)
    if function is None:
        raise UnusableError(f"turn {number} calls a tool without the name of a function")
    arguments = from_json(function.get("arguments"))
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise UnusableError(f"turn {number} calls {function['name']} with arguments that are no JSON object")
    _refuse_odd(arguments, f"turn {number} has arguments that are")
    read: ToolCall = {"type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}
    if isinstance(call.get("id"), str):
        return {"id": call["id"], **read}
    return read


def _function(call: Any) -> Mapping[str, Any] | None:
    """What a call names, if it names anything."""
    function = call.get("function") if isinstance(call, Mapping) else None
    return function if isinstance(function, Mapping) and isinstance(function.get("name"), str) else None


def _refuse_odd(value: object, what: str, levels: int = _MOST_LEVELS) -> None:
    """Raises for what cannot be written as JSON again; columns of parquet hold timestamps."""
    if isinstance(value, Mapping | list | tuple):
        if not levels:
            raise UnusableError(f"{what} nested in more than {_MOST_LEVELS} levels")
        for item in value.values() if isinstance(value, Mapping) else value:
            _refuse_odd(item, what, levels - 1)
    elif value is not None and not isinstance(value, str | int | float):
        raise UnusableError(f"{what} no JSON: there is a {type(value).__name__} in it")

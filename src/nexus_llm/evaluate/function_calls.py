"""Whether a model called the functions that were wanted, with values that were allowed.

The rule is the AST match of the Berkeley Function-Calling Leaderboard for Python (`ast_checker.py` of
ShishirPatil/gorilla, read 2026-11): what is wanted is a list of `{name: {parameter: [allowed value, …]}}`, where `""`
among the allowed values means that the parameter may be left out. Calls of one answer may come in any order, texts are
compared without case, spaces and `,./-_*^`, and an integer is good where a float is wanted. One difference: items of
arrays are compared by value at any depth, so that 1 is 1.0 there too.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_llm.records import ToolCall

_IGNORED = re.compile(r"[ ,./\-_*^]")
_OPENING = re.compile(r"[{\[]")
_FENCE = re.compile(r"\A\s*(?:```\w*\s*)?(.*?)(?:\s*```)?\s*\Z", re.DOTALL)
_LONGEST_PYTHON = 10_000  # characters: `ast` needs much memory for more
_MAY_BE_ABSENT = ""
_JSON_SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
"""The leaderboard's own words for types, and JSON Schema's."""
_PYTHON_TYPES: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool, "object": dict}

Wanted = Mapping[str, Mapping[str, Sequence[Any]]]
"""One call: name → parameter → allowed values."""


def as_tools(functions: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Functions as chat templates take them (`{"type": "function", "function": …}`), in JSON Schema's words for types.

    >>> as_tools([{"name": "f", "parameters": {"type": "dict", "properties": {"x": {"type": "float"}}}}])[0]["function"]
    {'name': 'f', 'parameters': {'type': 'object', 'properties': {'x': {'type': 'number'}}}}
    """
    bare = [one.get("function", one) for one in functions]
    return tuple({"type": "function", "function": _in_json_schema(one)} for one in bare)


def calls_in(text: str) -> tuple[ToolCall, ...]:
    """The calls that an answer spells out, where no server has taken them out of it: objects with a `name` and
    `arguments` or `parameters`, alone or in a list, whatever marks a model's template puts around them; else a Python
    list of calls, `[f(x=1), g(y="a")]`, as the leaderboard asks of models without tools.

    >>> [call["function"] for call in calls_in('<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>')]
    [{'name': 'f', 'arguments': {'x': 1}}]
    >>> [call["function"] for call in calls_in("[math.sum(numbers=[1, -2])]")]
    [{'name': 'math.sum', 'arguments': {'numbers': [1, -2]}}]
    """
    found: list[ToolCall] = []
    place, decoder = 0, json.JSONDecoder()
    while (start := _OPENING.search(text, place)) is not None:
        try:
            value, place = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            place = start.end()
            continue
        for one in value if isinstance(value, list) else [value]:
            arguments = one.get("arguments", one.get("parameters")) if isinstance(one, dict) else None
            if isinstance(arguments, dict) and isinstance(one.get("name"), str):
                found.append(_call(one["name"], arguments))
    return tuple(found) or _python_calls(text)


def mismatch(calls: Sequence[ToolCall], wanted: Sequence[Wanted], tools: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the calls are not those wanted; None where they are. With nothing wanted, no call may be made.

    `tools` are as `as_tools` gives them; their types decide what an argument may be.
    """
    if len(calls) != len(wanted):
        return f"{len(calls)} calls instead of {len(wanted)}"
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    left = list(calls)
    for one in wanted:
        reasons = [_call_mismatch(call, one, schemas) for call in left]
        if None not in reasons:
            return reasons[0]
        del left[reasons.index(None)]
    return None


def _call(name: str, arguments: dict[str, Any]) -> ToolCall:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _python_calls(text: str) -> tuple[ToolCall, ...]:
    """Calls written as Python, with keywords and literal values only; none where the text is anything else."""
    bare = _FENCE.match(text)
    if bare is None or len(bare[1]) > _LONGEST_PYTHON:
        return ()
    try:
        tree = ast.parse(bare[1], mode="eval").body
        listed = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        return tuple(
            _call(ast.unparse(one.func), {str(word.arg): ast.literal_eval(word.value) for word in one.keywords})
            for one in listed
            if isinstance(one, ast.Call)
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()


def _call_mismatch(  # noqa: PLR0911 - one return a reason
    call: ToolCall, wanted: Wanted, schemas: Mapping[str, Mapping[str, Any]]
) -> str | None:
    name, allowed = next(iter(wanted.items()))
    called, arguments = call["function"]["name"], call["function"]["arguments"]
    # OpenAI's API refuses dots in names, so that servers are given underscores.
    if called not in (name, name.replace(".", "_")):
        return f"{called} was called instead of {name}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return f"the arguments of {name} are no JSON"
    if not isinstance(arguments, dict):
        return f"the arguments of {name} are no object"
    schema = schemas.get(name, {})
    for parameter in [*schema.get("required", ()), *(one for one in allowed if _MAY_BE_ABSENT not in allowed[one])]:
        if parameter not in arguments:
            return f"{name} lacks {parameter}"
    for parameter, value in arguments.items():
        if parameter not in allowed:
            return f"{name} has {parameter}, which is not wanted"
        kind = schema.get("properties", {}).get(parameter, {}).get("type")
        if not any(_is_same(value, one, kind) for one in allowed[parameter]):
            return f"{name} has another value of {parameter}"
    return None


def _is_same(value: Any, wanted: Any, kind: str | None) -> bool:
    """Whether an argument is the wanted one. `kind` is the parameter's type as the schema names it."""
    expected = _PYTHON_TYPES.get(kind or "")
    # A wanted value of another type than the schema's is the name of a variable, and compared as it stands.
    is_number = kind == "number" and isinstance(value, int) and not isinstance(value, bool)
    if expected and isinstance(wanted, expected) and not (is_number or type(value) is expected):
        return False
    if isinstance(value, bool) != isinstance(wanted, bool):
        return False
    if isinstance(value, str) and isinstance(wanted, str):
        return _plain(value) == _plain(wanted)
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(_is_same_item, value, wanted))
    if isinstance(value, dict) and isinstance(wanted, dict):
        return _is_same_object(value, wanted)
    return bool(value == wanted)


def _is_same_item(value: Any, wanted: Any) -> bool:
    return _is_same(value, wanted, None)


def _is_same_object(value: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Each of a wanted object's keys holds a list of allowed values, as parameters do."""
    if any(key not in value and _MAY_BE_ABSENT not in allowed for key, allowed in wanted.items()):
        return False
    return all(key in wanted and any(_is_same_item(one, good) for good in wanted[key]) for key, one in value.items())


def _plain(text: str) -> str:
    return _IGNORED.sub("", text).lower().replace("'", '"')


def _in_json_schema(value: Any) -> Any:
    if isinstance(value, Mapping):
        named = {key: _in_json_schema(inner) for key, inner in value.items()}
        kind = named.get("type")
        return {**named, "type": _JSON_SCHEMA_TYPES.get(kind, kind)} if isinstance(kind, str) else named
    return [_in_json_schema(one) for one in value] if isinstance(value, list) else value

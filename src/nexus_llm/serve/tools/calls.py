"""A call as a model wrote it, and where a JSON value in a growing text ends."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

# Strings are stepped over as a whole, because they may hold brackets; one that is still open runs to the end.
_JSON_PARTS = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: str
    """A JSON object as text."""


def json_end(text: str, start: int) -> int | None:
    """The place behind the JSON object or array that begins at `start`; None while it is not complete.

    >>> json_end('{"a": "}"} and so on', 0), json_end('{"a": "}', 0)
    (10, None)
    """
    depth = 0
    for part in _JSON_PARTS.finditer(text, start):
        if part[0] in "{[":
            depth += 1
        elif part[0] in "}]":
            depth -= 1
            if depth == 0:
                return part.end()
    return None


def read_call(text: str, *, names_of_arguments: tuple[str, ...] = ("arguments", "parameters")) -> Call | None:
    """The call in a JSON object with a name and arguments; None where it is not one.

    >>> read_call('{"name": "look", "parameters": {"at": 3}}')
    Call(name='look', arguments='{"at": 3}')
    """
    try:
        return call_of(json.loads(text), names_of_arguments=names_of_arguments)
    except (ValueError, RecursionError):
        return None


def call_of(value: Any, *, names_of_arguments: tuple[str, ...] = ("arguments", "parameters")) -> Call | None:
    """The call in a value that was read from JSON; None where it is not one. Arguments may be left out."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments: Any = next((value[name] for name in names_of_arguments if name in value), {})
    if isinstance(arguments, str):  # some models write the arguments as JSON in a string
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    return Call(value["name"], json.dumps(arguments, ensure_ascii=False))

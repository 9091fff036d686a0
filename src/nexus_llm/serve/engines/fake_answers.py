"""What the fake engine says of tokens: made up, but the same each time, and of the right form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

EMBEDDING_SIZE = 8


def logprob(token: int) -> float:
    """The log probability of a token, between -1 and -1/7."""
    return -1.0 / (1 + token % 7)


def likeliest(token: int, count: int, *, is_chosen: bool = False) -> list[tuple[int, float]]:
    """The `count` likeliest tokens where `token` stands: one that was chosen or is even comes first, an odd second."""
    value = logprob(token)
    first = [(token, value)] if is_chosen or token % 2 == 0 else [(token + 1, value / 2), (token, value)]
    rest = [(token + 1 + more, value - more) for more in range(1, count + 1)]
    return [*first, *rest][:count]


def embedding(token_ids: Sequence[int]) -> list[float]:
    """How often the tokens with each remainder occur."""
    return [
        sum(token % EMBEDDING_SIZE == place for token in token_ids) / len(token_ids) for place in range(EMBEDDING_SIZE)
    ]


def example(schema_json: str) -> str:
    """The smallest document that a JSON Schema allows, as JSON; ValueError where this cannot compile it."""
    schema = json.loads(schema_json)
    try:
        return json.dumps(_value(schema, schema))
    except (KeyError, AttributeError, TypeError, IndexError, RecursionError) as error:
        raise ValueError("this schema cannot be compiled") from error


def _value(schema: Any, root: Any) -> Any:
    if schema is True or not schema:
        return {}
    if "$ref" in schema:
        place = root
        for part in schema["$ref"].removeprefix("#").split("/")[1:]:
            place = place[part]
        return _value(place, root)
    for name in ("anyOf", "allOf"):
        if name in schema:
            return _value(schema[name][0], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    return _plain(kind[0] if isinstance(kind, list) else kind, schema, root)


def _plain(kind: str, schema: Any, root: Any) -> Any:
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _value(properties.get(name, {}), root) for name in schema.get("required", properties)}
    if kind == "array":
        return [_value(schema.get("items", {}), root)] * int(schema.get("minItems", 0))
    if kind == "string" and "pattern" in schema:
        raise KeyError("pattern")  # stands for all that a real grammar cannot compile
    simple = {"string": "x" * int(schema.get("minLength", 1)), "boolean": True, "null": None}
    return simple[kind] if kind in simple else int(schema.get("minimum", 1))

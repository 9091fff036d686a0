"""`tool_choice` that forces a call: the answer is one call as a bare JSON object, which a schema enforces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def forced_call_schema(functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON Schema of `{"name": …, "arguments": {…}}` for one of these functions.

    Parameters move below `$defs`, and so do the references in them: grammars resolve a reference from the root, and
    through objects only.

    >>> forced_call_schema([{"name": "look"}])["anyOf"][0]["properties"]["name"]
    {'const': 'look'}
    """
    definitions = {}
    calls = []
    for number, function in enumerate(functions):
        place = f"#/$defs/tool_{number}"
        parameters = function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
        definitions[f"tool_{number}"] = _moved(parameters, place)
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": {"$ref": place}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls, "$defs": definitions}


def _moved(schema: Any, place: str) -> Any:
    """The schema with references from its own root made references from `place`."""
    if isinstance(schema, Mapping):
        return {
            name: place + value[1:] if name == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, place)
            for name, value in schema.items()
        }  # fmt: skip
    return [_moved(item, place) for item in schema] if isinstance(schema, list) else schema

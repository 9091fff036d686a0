"""Which JSON Schemas an engine's grammar enforces to the letter. A keyword that would be passed over is refused.

Tried with OpenVINO GenAI 2026.4.1, whose grammars are xgrammar's: `not`, `multipleOf`, `uniqueItems`, `contains`, `if`
and an `allOf` of several schemas are read without a word and then not kept. OpenAI's strict mode refuses them as well.
A grammar takes time and memory, and is kept for good: what takes much of it, or never ends, is refused too. Bounds of a
pattern that multiply out to 27 million never ended; 1,000 optional properties took 4 s and 2,000 took 19 s, 300 less
than half a second; twenty strings of other lengths each took 36 s, an enum of 100,000 texts 6 s and 770 MB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 64
MAX_PARTS = 10_000
MAX_OPTIONAL_PROPERTIES = 300
"""Of one object; the time to compile them grows with their square."""
MAX_PATTERN_PLACES = 10_000
"""Of all patterns together."""
MAX_LENGTHS = 8_000
"""Of all bounds of strings together: each other pair counts once, and no more than this:"""
COSTLY_LENGTH = 400
"""Longer strings took no longer."""

_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_NOTES = frozenset(
    {
        "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator",
        "$schema", "$id", "$comment",
    }
)  # fmt: skip
"""Keywords that allow and forbid nothing."""
_ENFORCED = frozenset(
    {
        "type", "enum", "const", "anyOf", "allOf", "$ref", "$defs", "definitions", "properties", "required",
        "additionalProperties", "items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern",
        "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    }
)  # fmt: skip
_FORMATS = frozenset({"date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"})
_PATTERN_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(?P<least>\d+)(?:,(?P<most>\d*))?\}|.", re.DOTALL)
_BY_NAME = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")


class SchemaError(Exception):
    """A schema cannot be enforced. `place` is where in it, as a path of names; the text says why."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(why)
        self.place = place


@dataclass(slots=True)
class _Sizes:
    """Of what was looked at so far, and what is too large."""

    parts: int = 0
    """Schemas, and values of enums."""
    pattern_places: int = 0
    lengths: float = 0
    _bounds: set[tuple[float, float]] = field(default_factory=set)
    """(shortest, longest) of strings, known already."""

    def add_parts(self, count: int, place: str) -> None:
        self.parts += count
        if self.parts > MAX_PARTS:
            raise SchemaError(place, f"the schema has more than {MAX_PARTS:,} parts, values of enums among them")

    def add_strings(self, schema: Mapping[str, Any], place: str) -> None:
        self.pattern_places += pattern_places(schema.get("pattern", ""))
        if self.pattern_places > MAX_PATTERN_PLACES:
            why = f"bounds of patterns multiply out to more than {MAX_PATTERN_PLACES:,} characters"
            raise SchemaError(f"{place}.pattern", why)
        bounds = schema.get("minLength", 0), schema.get("maxLength", 0)
        if bounds not in self._bounds:
            self._bounds.add(bounds)
            self.lengths += min(max(0, *bounds), COSTLY_LENGTH)
            if self.lengths > MAX_LENGTHS:
                name = "maxLength" if "maxLength" in schema else "minLength"
                raise SchemaError(
                    f"{place}.{name}", f"different lengths add up to more than {MAX_LENGTHS:,} characters"
                )


def check_schema(schema: Any) -> None:
    """Looks whether every word of a schema is kept by a grammar, and whether that can be made in time.

    Raises:
        SchemaError: one is not, or is no JSON Schema.
    """
    _check(schema, "", 0, _Sizes())


def _check(schema: Any, place: str, depth: int, sizes: _Sizes) -> None:
    sizes.add_parts(1, place)
    if depth > MAX_DEPTH:
        raise SchemaError(place, f"the schema is nested deeper than {MAX_DEPTH}")
    if schema is True or (schema is False and place.endswith(".additionalProperties")):
        return
    if not isinstance(schema, Mapping):
        raise SchemaError(place, "a schema is a JSON object")
    for name, value in schema.items():
        if name in _NOTES:
            continue
        if name not in _ENFORCED:
            raise SchemaError(f"{place}.{name[:100]}", "this keyword cannot be enforced")
        _check_value(name, value, f"{place}.{name}")
    _check_optional(schema, place)
    sizes.add_parts(len(schema.get("enum", ())), f"{place}.enum")
    sizes.add_strings(schema, place)
    for name in _BY_NAME:
        for key, inner in schema.get(name, {}).items():
            _check(inner, f"{place}.{name}.{key[:100]}", depth + 1, sizes)
    for name in _LISTS:
        for index, inner in enumerate(schema.get(name, [])):
            _check(inner, f"{place}.{name}[{index}]", depth + 1, sizes)
    for name in _SINGLE:
        if name in schema:
            _check(schema[name], f"{place}.{name}", depth + 1, sizes)


def _check_optional(schema: Mapping[str, Any], place: str) -> None:
    if len(schema.get("properties", {}).keys() - set(map(str, schema.get("required", [])))) > MAX_OPTIONAL_PROPERTIES:
        raise SchemaError(f"{place}.properties", f"more than {MAX_OPTIONAL_PROPERTIES} of them are not required")


def _check_value(name: str, value: Any, place: str) -> None:
    types = value if isinstance(value, list) else [value]
    if name == "type" and not (types and all(isinstance(one, str) and one in _TYPES for one in types)):
        raise SchemaError(place, f"a type is one of {', '.join(sorted(_TYPES))}")
    if name == "format" and value not in _FORMATS:
        raise SchemaError(place, f"of the formats, {', '.join(sorted(_FORMATS))} can be enforced")
    if name in _BY_NAME and not isinstance(value, Mapping):
        raise SchemaError(place, "this is an object of schemas")
    if name in (*_LISTS, "enum", "required") and not isinstance(value, list):
        raise SchemaError(place, "this is a list")
    if name in ("anyOf", "enum") and not value:
        raise SchemaError(place, "an empty list allows nothing")
    if name == "allOf" and len(value) != 1:
        raise SchemaError(place, "only an allOf of a single schema can be enforced")
    if name == "$ref" and not (isinstance(value, str) and value.startswith("#")):
        raise SchemaError(place, "a reference stays inside the schema: #/$defs/…")
    if name.startswith(("min", "max")) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise SchemaError(place, "this is a number")
    if name == "pattern" and not isinstance(value, str):
        raise SchemaError(place, "a pattern is a text")


def pattern_places(pattern: str) -> int:
    """Characters and classes of a regular expression once its bounds are written out; * and + count as they stand.

    >>> pattern_places("^[a-z]{2,8}@(x|yy){3}$")
    18
    """
    groups = [[0]]  # the sizes of what stands in each open parenthesis, outermost first
    for part in _PATTERN_PART.finditer(pattern):
        bound = part["most"] or part["least"]
        if part[0] == "(":
            groups.append([0])
        elif part[0] == ")" and len(groups) > 1:
            closed = sum(groups.pop())
            groups[-1].append(closed)
        elif bound is not None:
            groups[-1][-1] *= int(bound[:9])
        elif part[0] not in "*+?|^$":
            groups[-1].append(1)
    return sum(map(sum, groups))

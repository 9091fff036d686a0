"""Requests against botocore's service models, beyond what botocore itself checks."""

from __future__ import annotations

import re
from typing import Any


def assert_accepted(value: Any, shape: Any, place: str = "") -> None:
    """Bounds, patterns and enumerations of the service's model, which botocore itself leaves to the service."""
    if shape.type_name == "structure":
        for name, one in value.items():
            assert_accepted(one, shape.members[name], f"{place}.{name}")
    elif shape.type_name == "list":
        assert shape.metadata.get("min", 0) <= len(value) <= shape.metadata.get("max", 10**9), place
        for one in value:
            assert_accepted(one, shape.member, f"{place}[]")
    elif shape.type_name == "map":
        assert len(value) <= shape.metadata.get("max", 10**9), place
        for name, one in value.items():
            assert_accepted(name, shape.key, place)
            assert_accepted(one, shape.value, f"{place}.{name}")
    elif shape.type_name == "string":
        assert shape.metadata.get("min", 0) <= len(value) <= shape.metadata.get("max", 10**9), (place, value)
        assert value in (shape.enum or [value]), (place, value)
        if (pattern := shape.metadata.get("pattern")) and r"\p" not in pattern:
            assert re.fullmatch(pattern, value), (place, value, pattern)
    elif shape.type_name in ("integer", "long"):
        assert shape.metadata.get("min", value) <= value <= shape.metadata.get("max", value), (place, value)

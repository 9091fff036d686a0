"""Lines and items of JSON become values; what is no JSON comes out with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from nexus_llm.data.blocks import Block, UnusableError


def line_rows(block: Block) -> Iterator[tuple[int, Any]]:
    """(line number, parsed value or an UnusableError) of every line that is not empty."""
    too_long = frozenset(block.too_long)
    for number, line in enumerate(block.payload.split(b"\n"), start=block.first):
        if not line or line.isspace():
            if number in too_long:
                yield number, UnusableError.too_long("line")
        else:
            yield number, parsed(line, encoding=block.encoding)


def parsed(raw: bytes, *, encoding: str = "utf-8") -> Any:
    """The value that one JSON text holds, or an UnusableError that says why it holds none.

    NaN and infinite numbers, which RFC 8259 has not, are taken as Python's json does.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        place = f" at byte {error.start + 1} of the line" if encoding == "utf-8" else ""
        return UnusableError(f"not {encoding.upper()}{place}")
    except (ValueError, RecursionError) as error:
        return UnusableError(f"not JSON: {error}")

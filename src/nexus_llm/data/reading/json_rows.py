"""Lines and items of JSON become values; what is no JSON comes out with the reason.

A .jsonl file holds one value a line. A .json file holds a list of values, or values behind one another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from nexus_llm.data.reading import blocks
from nexus_llm.data.reading.blocks import Block, UnusableError, items_of
from nexus_llm.data.reading.streams import ByteStream
from nexus_llm.errors import DataError

# A string, whole or cut off by the end of the data, or a bracket. Possessive: no input makes it try twice.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_END_OF_LIST = ord("]")
_BETWEEN = b", \t\r\n"


def line_rows(block: Block) -> Iterator[tuple[int, Any]]:
    """(line number, parsed value or an UnusableError) of every line that is not empty."""
    too_long = frozenset(block.too_long)
    for number, line in enumerate(block.payload.split(b"\n"), start=block.first):
        if not line or line.isspace():
            if number in too_long:
                yield number, UnusableError.too_long("line")
        else:
            yield number, parsed(line, encoding=block.encoding)


def items(stream: ByteStream) -> Iterator[tuple[int, bytes]]:
    """(position from 1, raw JSON) of every value in the list, or of every value where there is no list around them.

    Raises:
        DataError: the list ends early or is followed by something, or an item is so long that a bracket or quote of it
            must be missing: nobody knows how many records that hides.
    """
    number, buffer, state = 0, b"", "start"
    while chunk := stream.read(blocks.BLOCK_BYTES):
        buffer = buffer + chunk if state != "start" else chunk.lstrip()
        if state == "start" and buffer:
            state = "list" if buffer.startswith(b"[") else "values"
            buffer = buffer[1:] if state == "list" else buffer
        done = 0
        for end, value in _values(buffer) if state != "closed" else ():
            done = end
            if value is None and state == "list":
                state = "closed"
                break
            if value:
                number += 1
                yield number, value
        buffer = buffer[done:].lstrip()
        if len(buffer) > blocks.MAX_RECORD_BYTES or (state == "closed" and buffer):
            raise _misshapen(stream, number + 1, "the list ends here, and something follows" if state == "closed"
                             else f"the item is longer than {blocks.MAX_RECORD_BYTES} bytes")  # fmt: skip
    if state == "list":
        raise _misshapen(stream, number + 1, "the list of records is not closed")
    if state == "values" and buffer:
        yield number + 1, buffer


def item_rows(block: Block) -> Iterator[tuple[int, Any]]:
    """(position, parsed value or an UnusableError) of every item in a block."""
    for number, raw in items_of(block, "item"):
        yield number, raw if isinstance(raw, UnusableError) else parsed(raw, encoding=block.encoding)


def _values(buffer: bytes) -> Iterator[tuple[int, bytes | None]]:
    """(end, raw value) of every whole object or list, or whatever stands before it; None where a `]` has no `[`."""
    depth = start = behind = 0
    for token in _TOKEN.finditer(buffer):
        place = token.start()
        byte = buffer[place]
        if byte in b"[{":
            if depth == 0:
                if stray := buffer[behind:place].strip(_BETWEEN):
                    yield place, stray
                start = place
            depth += 1
        elif byte in b"]}":
            if depth == 1:
                behind = place + 1
                yield behind, buffer[start:behind]
            elif depth == 0 and byte == _END_OF_LIST:
                yield place, buffer[behind:place].strip(_BETWEEN)
                behind = place + 1
                yield behind, None
            depth = max(0, depth - 1)


def _misshapen(stream: ByteStream, number: int, what: str) -> DataError:
    return DataError(
        f"{stream.origin}:{number}: {what}",
        fix="check that the file is one list of records; write one record a line (.jsonl) for longer ones",
    )


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

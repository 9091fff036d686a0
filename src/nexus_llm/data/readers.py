"""Files become documents: one process cuts a file into blocks (`blocks_of`), any other reads a block (`records_of`).

A record that cannot be used comes out as a BrokenRecord with its place, so that a caller can count it; damage that
hides an unknown number of records (a truncated archive) is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from nexus_llm.data import json_rows, tables
from nexus_llm.data.blocks import (
    MAX_RECORD_BYTES,
    Block,
    BrokenRecord,
    ReadSettings,
    UnusableError,
    line_blocks,
    whole_file_block,
)
from nexus_llm.data.chat_formats import ChatFormat, detect, to_messages
from nexus_llm.data.rows import document_id
from nexus_llm.data.streams import ByteStream
from nexus_llm.records import Document

__all__ = ["MAX_RECORD_BYTES", "Block", "BrokenRecord", "ReadSettings", "blocks_of", "format_of", "read_file",
           "records_of"]  # fmt: skip

_FORMATS = ("jsonl", "parquet", "txt", "md")
_COMPRESSIONS = ("gz", "zst")


def format_of(name: str) -> tuple[str, str] | None:
    """(format, compression or "") by the file's ending, or None for one that nobody here reads.

    >>> format_of("a/b.jsonl.gz"), format_of("notes.md"), format_of("photo.png")
    (('jsonl', 'gz'), ('md', ''), None)
    """
    parts = Path(name).name.lower().split(".")[1:]
    compression = parts.pop() if parts and parts[-1] in _COMPRESSIONS else ""
    if not parts or parts[-1] not in _FORMATS or (compression and parts[-1] == "parquet"):
        return None
    return parts[-1], compression


def blocks_of(path: Path, *, origin: str, source: str) -> Iterator[Block]:
    """The blocks of one local file, in order, in bounded memory and without parsing its records.

    `origin` is the file's name in ids and errors, and its ending names the format (txt where it is unknown).

    Raises:
        DataError: the archive or parquet file is damaged, so nobody knows how much is missing.
    """
    format, compression = format_of(origin) or ("txt", "")
    if format == "parquet":
        yield from tables.parquet_blocks(path, origin=origin, source=source)
        return
    with ByteStream.open(path, origin=origin, compression=compression, is_text=True) as stream:
        if format in ("txt", "md"):
            yield whole_file_block(stream, source=source, format=format)
        else:
            yield from line_blocks(stream, source=source, format=format)


def records_of(
    block: Block, settings: ReadSettings, *, formats_seen: Counter[str] | None = None
) -> Iterator[tuple[int, Document | BrokenRecord]]:
    """(record number in its file, record) for every record of a block, numbers ascending.

    A row with `messages`, or with `prompt` and `completion`, becomes a conversation, else its `text_field` is running
    text. `formats_seen` counts the layouts of the rows: an argument, since the generator may be left half-way.
    """
    for number, content in _contents(block):
        try:
            if isinstance(content, UnusableError):
                raise content
            if isinstance(content, str):
                yield number, Document(document_id(block.source, block.origin), block.source, block.origin, content)
                continue
            format, text, messages = _row_content(content, settings)
        except UnusableError as error:
            yield number, BrokenRecord(block.origin, number, str(error))
            continue
        if formats_seen is not None:
            formats_seen[format] += 1
        place = f"{block.origin}:{number}"
        yield number, Document(document_id(block.source, place), block.source, place, text, messages)


def read_file(path: Path, *, origin: str, source: str, text_field: str) -> Iterator[Document | BrokenRecord]:
    """Every record of one local file, in order: `records_of` all `blocks_of`.

    Raises:
        DataError: the archive or parquet file is damaged, so nobody knows how much is missing.
    """
    settings = ReadSettings(text_field=text_field)
    for block in blocks_of(path, origin=origin, source=source):
        for _, record in records_of(block, settings):
            yield record


def _contents(block: Block) -> Iterator[tuple[int, Any]]:
    """(record number, a row, the whole file's text, or an UnusableError)."""
    if block.format == "parquet":
        return tables.parquet_rows(block)
    if block.format in ("txt", "md"):
        return _whole_text(block)
    return json_rows.line_rows(block)


def _whole_text(block: Block) -> Iterator[tuple[int, str | UnusableError]]:
    if block.too_long:
        yield 1, UnusableError(f"the file is longer than {MAX_RECORD_BYTES} bytes: split it")
        return
    try:
        text = block.payload.decode()
    except UnicodeDecodeError as error:
        line = block.payload[: error.start].count(b"\n") + 1
        yield line, UnusableError(f"not {block.encoding.upper()} at byte {error.start + 1}")
        return
    yield 1, text


def _row_content(row: object, settings: ReadSettings) -> tuple[str, str, tuple[Any, ...]]:
    """(layout, text, messages) of one row."""
    if not isinstance(row, Mapping):
        raise UnusableError(f"the record is no object but {type(row).__name__}")
    field = settings.text_field
    format = cast("ChatFormat | None", settings.chat_format) or detect(row, text_field=field)
    if format is None:
        known = ", ".join(map(str, row)) or "nothing"
        raise UnusableError(f"no text in {field!r}, no messages, no prompt and completion, only: {known}")
    messages = to_messages(row, format)
    text = "\n".join(message["content"] for message in messages) if messages else row[field]
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnusableError("the text holds half of a surrogate pair, which is no character") from error
    return format, text, messages

"""Files become documents: one process cuts a file into blocks (`blocks_of`), any other reads a block (`records_of`).

A record that cannot be used comes out as a BrokenRecord with its place, so that a caller can count it; damage that
hides an unknown number of records (a truncated archive) is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from nexus_llm.data.reading import json_rows, mails, pages, papers, tables, warc
from nexus_llm.data.reading.blocks import (
    MAX_RECORD_BYTES,
    Block,
    BrokenRecord,
    ReadSettings,
    TextRecord,
    UnusableError,
    item_blocks,
    items_of,
    line_blocks,
    whole_file_block,
)
from nexus_llm.data.reading.chat_formats import ChatFormat, Row, detect, to_messages
from nexus_llm.data.reading.streams import ByteStream
from nexus_llm.data.rows import conversation_json, conversation_text, document_id
from nexus_llm.records import Document, Message

FORMATS = ("jsonl", "json", "csv", "parquet", "txt", "md", "html", "pdf", "eml", "mbox", "warc")
_FORMAT_BY_ENDING = {
    **{name: name for name in FORMATS},
    **{"ndjson": "jsonl", "tsv": "csv", "htm": "html", "xhtml": "html", "wet": "warc"},
}
_UNCOMPRESSED = ("parquet", "pdf")
_COMPRESSIONS = ("gz", "zst")
ENDINGS = f"{', '.join(_FORMAT_BY_ENDING)} (all but {' and '.join(_UNCOMPRESSED)} also as .gz or .zst)"
"""The endings of files that are read here, for a message."""
_WHOLE_FILE_FORMATS = ("txt", "md", "html", "pdf", "eml")
_TEXT_FORMATS = ("jsonl", "json", "csv", "txt", "md")
_METADATA_FIELDS = {"url": ("url",), "license": ("license", "licence"), "date": ("date", "timestamp", "created")}
"""Name in Document.metadata → fields of a row, or of its `meta` or `metadata`, that say it: the first text counts."""
_METADATA_PLACES = ("metadata", "meta")
_TELLING_FIELDS = frozenset(field for fields in _METADATA_FIELDS.values() for field in fields)
_TELLING_ROW_FIELDS = _TELLING_FIELDS.union(_METADATA_PLACES)


def format_of(name: str) -> tuple[str, str] | None:
    """(format, compression or "") by the file's ending, or None for one that nobody here reads.

    >>> format_of("a/b.jsonl.gz"), format_of("notes.md"), format_of("page.HTM"), format_of("photo.png")
    (('jsonl', 'gz'), ('md', ''), ('html', ''), None)
    """
    parts = Path(name).name.lower().split(".")[1:]
    compression = parts.pop() if parts and parts[-1] in _COMPRESSIONS else ""
    format = _FORMAT_BY_ENDING.get(parts[-1]) if parts else None
    if format is None or (compression and format in _UNCOMPRESSED):
        return None
    return format, compression


def blocks_of(path: Path, *, origin: str, source: str, format: str | None = None) -> Iterator[Block]:
    """The blocks of one local file, in order, in bounded memory and without parsing its records.

    `origin` is the file's name in ids and errors. Its ending names the format, unless `format` (one of FORMATS) does;
    txt where both do not. The compression is always by the ending.

    Raises:
        DataError: the file is damaged so that nobody knows how many records are missing: an archive cut short, a
            parquet file without end, a list or quote that is not closed.
    """
    known, compression = format_of(origin) or ("txt", Path(origin).suffix.lower().lstrip("."))
    format = format or known
    if format == "parquet":
        yield from tables.parquet_blocks(path, origin=origin, source=source)
        return
    compression = compression if compression in _COMPRESSIONS else ""
    with ByteStream.open(path, origin=origin, compression=compression, is_text=format in _TEXT_FORMATS) as stream:
        if format in _WHOLE_FILE_FORMATS:
            yield whole_file_block(stream, source=source, format=format)
        elif format == "csv":
            yield from tables.csv_blocks(stream, source=source)
        elif format == "jsonl":
            yield from line_blocks(stream, source=source, format=format)
        else:
            skipped: Counter[str] = Counter()
            found = _ITEMS[format](stream, skipped)
            yield from item_blocks(found, stream, source=source, format=format, skipped=skipped)


def records_of(
    block: Block,
    settings: ReadSettings,
    *,
    formats_seen: Counter[str] | None = None,
    skipped: Counter[str] | None = None,
) -> Iterator[tuple[int, Document | BrokenRecord]]:
    """(record number in its file, record) for every record of a block, numbers ascending.

    A row of a known chat layout (`chat_formats`) becomes a conversation, else its `text_field` is running text. Two
    counters are filled while reading: `formats_seen` by layout of rows and kind of file, `skipped` by kind of what is
    passed over because it is no text (other WARC records, attachments of mails).

    Raises:
        MissingExtraError: the format needs an optional dependency that is not installed.
    """
    if skipped is not None:
        skipped.update(block.skipped)
    is_whole_file = block.format in _WHOLE_FILE_FORMATS
    for number, content in content_of(block, skipped=skipped):
        try:
            format, text, messages, rejected, metadata, declared = _parts(content, block, settings)
            if not text.isascii():
                text.encode()
        except UnusableError as error:
            yield number, BrokenRecord(block.origin, number, str(error))
            continue
        except UnicodeEncodeError:
            reason = "the text holds half of a surrogate pair, which is no character"
            yield number, BrokenRecord(block.origin, number, reason)
            continue
        if formats_seen is not None:
            formats_seen[format] += 1
        place = block.origin if is_whole_file else f"{block.origin}:{number}"
        identity = document_id(block.source, place)
        yield number, Document(identity, block.source, place, text, messages, metadata, rejected, declared)


def content_of(block: Block, *, skipped: Counter[str] | None = None) -> Iterator[tuple[int, Any]]:
    """(record number, a TextRecord, or a row as it was parsed, or an UnusableError) of every record of a block."""
    if block.format in _ROWS:
        return _ROWS[block.format](block)
    return _texts(block, skipped)


def _texts(block: Block, skipped: Counter[str] | None) -> Iterator[tuple[int, TextRecord | UnusableError]]:
    if block.format in ("txt", "md") and not block.too_long:
        yield _whole_text(block)
        return
    if block.format in _WHOLE_FILE_FORMATS:
        too_long = UnusableError(f"the file is longer than {MAX_RECORD_BYTES} bytes: split it")
        items: Iterator[tuple[int, bytes | UnusableError]] = iter([(1, too_long if block.too_long else block.payload)])
    else:
        items = items_of(block, "record")
    for number, item in items:
        try:
            if isinstance(item, UnusableError):
                raise item
            if block.format in ("eml", "mbox"):
                yield number, mails.mail_text(item, skipped=skipped)
            else:
                yield number, _TEXT_OF[block.format](item)
        except UnusableError as error:
            yield number, error


def _whole_text(block: Block) -> tuple[int, TextRecord | UnusableError]:
    """(1, the text), or the line where the text is damaged."""
    try:
        return 1, TextRecord(block.payload.decode())
    except UnicodeDecodeError as error:
        line = block.payload[: error.start].count(b"\n") + 1
        return line, UnusableError(f"not {block.encoding.upper()} at byte {error.start + 1}")


def _parts(
    content: Any, block: Block, settings: ReadSettings
) -> tuple[str, str, tuple[Message, ...], tuple[Message, ...], Mapping[str, str], tuple[dict[str, Any], ...]]:
    """(layout or kind of file, text, messages, rejected messages, metadata, tools) of what `content_of` gave."""
    if isinstance(content, UnusableError):
        raise content
    if isinstance(content, TextRecord):
        return block.format, content.text, (), (), content.metadata, ()
    row = content
    if not isinstance(row, Mapping):
        raise UnusableError(f"the record is no object but {type(row).__name__}")
    field = settings.text_field
    format = cast("ChatFormat | None", settings.chat_format) or detect(row, text_field=field)
    if format is None or (format == "text" and not isinstance(row.get(field), str)):
        known = ", ".join(map(str, row)) or "nothing"
        raise UnusableError(f"no text in {field!r} and no conversation of a known layout, only: {known}")
    messages, rejected, tools = to_messages(row, format)
    text = conversation_text(messages) if messages else row[field]
    # Half of a surrogate pair is looked for in the text, where not everything is.
    if tools or any(len(message) > 2 for message in messages):
        conversation_json(messages, rejected, tools).encode()
    elif rejected:
        conversation_text(rejected).encode()
    return format, text, messages, rejected, _metadata(row), tools


def _metadata(row: Row) -> dict[str, str]:
    """What the row, or its `metadata` or `meta`, says about the document."""
    found: dict[str, str] = {}
    if _TELLING_ROW_FIELDS.isdisjoint(row):
        return found
    for place in (row, *map(row.get, _METADATA_PLACES)):
        if isinstance(place, Mapping) and not _TELLING_FIELDS.isdisjoint(place):
            for name, fields in _METADATA_FIELDS.items():
                for field in fields:
                    value = place.get(field)
                    if value and isinstance(value, str):
                        found.setdefault(name, value)
    return found


_ROWS: Mapping[str, Callable[[Block], Iterator[tuple[int, Any]]]] = {
    "jsonl": json_rows.line_rows,
    "json": json_rows.item_rows,
    "csv": tables.csv_rows,
    "parquet": tables.parquet_rows,
}
ROW_FORMATS = frozenset(_ROWS)
"""Formats whose records have fields, so that they can hold conversations."""
_ITEMS: Mapping[str, Callable[[ByteStream, Counter[str]], Iterator[tuple[int, bytes | None]]]] = {
    "json": lambda stream, _: json_rows.items(stream),
    "mbox": lambda stream, _: mails.mbox_items(stream),
    "warc": warc.warc_items,
}
_TEXT_OF: Mapping[str, Callable[[bytes], TextRecord]] = {
    "html": lambda raw: TextRecord(pages.page_text(raw)),
    "pdf": papers.pdf_text,
    "warc": warc.warc_text,
}

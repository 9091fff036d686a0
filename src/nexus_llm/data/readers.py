"""Files become documents: jsonl, parquet, txt and md, the text formats also as .gz and .zst.

One record is held in memory at a time. A record that cannot be used comes out as a BrokenRecord with its place, so
that a caller can count it; damage that hides an unknown number of records (a truncated archive) is an error.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast, get_args

import polars as pl

from nexus_llm.data.rows import document_id
from nexus_llm.errors import DataError
from nexus_llm.records import Document, Message, Role

# A longer record is set aside: it is almost always a file in another format, and would fill the memory.
MAX_RECORD_BYTES = 64 * 2**20
_PARQUET_BATCH_ROWS = 1_000
_ROLES = get_args(Role)
_FORMATS = ("jsonl", "parquet", "txt", "md")
_COMPRESSIONS = ("gz", "zst")

_WIDE_MARKS = (
    # The mark of UTF-32-LE begins with that of UTF-16-LE, so it is tried first.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A record that cannot be used, where it stands, and why."""

    file: str
    line: int
    """Line (jsonl, txt, md) or row (parquet), from 1."""
    error: str


class _UnusableError(Exception):
    """Why one record cannot be used."""


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


def read_file(path: Path, *, origin: str, source: str, text_field: str) -> Iterator[Document | BrokenRecord]:
    """Every record of one local file, in order. `origin` is the name that ids and errors use.

    A line of jsonl or a row of parquet is a record; a txt or md file is one. A row with `messages`, or with `prompt`
    and `completion`, becomes a conversation, else its `text_field` is running text.

    Raises:
        DataError: the archive or parquet file is damaged, so nobody knows how much is missing.
    """
    kind, compression = format_of(origin) or ("txt", "")
    if kind == "parquet":
        rows = _parquet_rows(path, origin)
    else:
        with path.open("rb") as raw:
            stream = _decompressed(raw, compression)
            if kind in ("txt", "md"):
                yield _whole_file(stream, origin, source)
                return
            yield from _records(_json_rows(stream, origin), origin, source, text_field)
            return
    yield from _records(rows, origin, source, text_field)


def _records(
    rows: Iterator[tuple[int, Any]], origin: str, source: str, text_field: str
) -> Iterator[Document | BrokenRecord]:
    for number, row in rows:
        if isinstance(row, _UnusableError):
            yield BrokenRecord(origin, number, str(row))
            continue
        try:
            text, messages = _content(row, text_field)
        except _UnusableError as error:
            yield BrokenRecord(origin, number, str(error))
            continue
        place = f"{origin}:{number}"
        yield Document(document_id(source, place), source, place, text, messages)


def _content(row: object, text_field: str) -> tuple[str, tuple[Message, ...]]:
    """(text, messages) of one row."""
    if not isinstance(row, Mapping):
        raise _UnusableError(f"the record is no object but {type(row).__name__}")
    messages: tuple[Message, ...] = ()
    if row.get("messages") is not None:
        messages = _messages(row["messages"], default_role=None)
    elif row.get("prompt") is not None and row.get("completion") is not None:
        prompt = _messages(row["prompt"], default_role="user")
        messages = (*prompt, *_messages(row["completion"], default_role="assistant"))
    elif not isinstance(row.get(text_field), str):
        known = ", ".join(map(str, row)) or "nothing"
        raise _UnusableError(f"no text in {text_field!r}, no messages, no prompt and completion, only: {known}")
    text = "\n".join(message["content"] for message in messages) if messages else cast(str, row[text_field])
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise _UnusableError("the text holds half of a surrogate pair, which is no character")
    return text, messages


def _messages(value: object, *, default_role: Role | None) -> tuple[Message, ...]:
    """A conversation, or a bare string where `default_role` says who speaks."""
    if isinstance(value, str) and default_role:
        return ({"role": default_role, "content": value},)
    if not isinstance(value, list) or not value:
        raise _UnusableError("the messages are no list of turns, or an empty one")
    return tuple(_message(turn, number) for number, turn in enumerate(value, start=1))


def _message(turn: object, number: int) -> Message:
    if not isinstance(turn, Mapping) or turn.get("role") not in _ROLES:
        raise _UnusableError(f"turn {number} has no role out of {', '.join(_ROLES)}")
    if turn.get("tool_calls"):
        raise _UnusableError(f"turn {number} calls tools, which this version does not learn")
    content = turn.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str):
        raise _UnusableError(f"turn {number} has no text as content")
    return {"role": cast(Role, turn["role"]), "content": content}


def _json_rows(stream: IO[bytes], origin: str) -> Iterator[tuple[int, Any]]:
    """(line number, parsed value or why not) of every line that is not empty."""
    for number, line in _lines(stream, origin):
        if isinstance(line, _UnusableError):
            yield number, line
        elif line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, _UnusableError(f"not JSON: {error}")


def _lines(stream: IO[bytes], origin: str) -> Iterator[tuple[int, str | _UnusableError]]:
    """Numbered lines as text. An undecodable or endless line comes out as the reason."""
    buffered = io.BufferedReader(cast(Any, stream))
    encoding = _wide_encoding(_guarded(lambda: buffered.peek(4), origin, 1))
    if encoding:
        # Bytes that do not decode become U+FFFD; a line with one is taken for damaged.
        wide = io.TextIOWrapper(buffered, encoding=encoding, errors="replace", newline="\n")
        for number, text in enumerate(wide, start=1):
            yield number, _UnusableError(f"not {encoding.upper()}") if "�" in text else text
        return
    number = 0
    while raw := _guarded(lambda: buffered.readline(MAX_RECORD_BYTES), origin, number + 1):
        number += 1
        if len(raw) == MAX_RECORD_BYTES and not raw.endswith(b"\n"):
            while (rest := buffered.readline(MAX_RECORD_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, _UnusableError(f"the line is longer than {MAX_RECORD_BYTES} bytes")
            continue
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield number, _UnusableError(f"not UTF-8 at byte {error.start + 1} of the line")


def _whole_file(stream: IO[bytes], origin: str, source: str) -> Document | BrokenRecord:
    raw = _guarded(lambda: stream.read(MAX_RECORD_BYTES + 1), origin, 1)
    if len(raw) > MAX_RECORD_BYTES:
        return BrokenRecord(origin, 1, f"the file is longer than {MAX_RECORD_BYTES} bytes: split it")
    encoding = _wide_encoding(raw[:4]) or "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return BrokenRecord(origin, line, f"not {encoding.removesuffix('-sig').upper()} at byte {error.start + 1}")
    return Document(document_id(source, origin), source, origin, text)


def _parquet_rows(path: Path, origin: str) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        for batch in pl.scan_parquet(path, glob=False).collect_batches(
            chunk_size=_PARQUET_BATCH_ROWS, maintain_order=True
        ):
            for row in batch.iter_rows(named=True):
                number += 1
                yield number, row
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{origin}:{number + 1}: the parquet file is damaged ({_first_line(error)})",
            fix="fetch the file again, or take it out of the source's folder",
        ) from error


def _decompressed(raw: IO[bytes], compression: str) -> IO[bytes]:
    if compression == "gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    return cast("IO[bytes]", _ZstandardReader(raw)) if compression == "zst" else raw


class _ZstandardReader(io.RawIOBase):
    """Decompressed bytes of a .zst file; unlike the library's own reader, a file cut short is an error."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._new_frame()
        self._frame_is_open = False
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            chunk = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._frame_is_open = self._new_frame(), False
            chunk = chunk or self._raw.read(2**17)
            if not chunk:
                if self._frame_is_open:
                    raise EOFError("the last frame is incomplete")
                return 0
            self._frame_is_open = True
            self._pending = self._frame.decompress(chunk)
        size = min(len(buffer), len(self._pending))
        buffer[:size], self._pending = self._pending[:size], self._pending[size:]
        return size


def _guarded(read: Any, origin: str, line: int) -> bytes:
    """What `read` gives; damage in compressed data becomes an error that names the place."""
    import zstandard

    try:
        return cast(bytes, read())
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(
            f"{origin}:{line}: the compressed data is damaged or ends early ({_first_line(error)})",
            fix="fetch the file again, or take it out of the source's folder",
        ) from error


def _wide_encoding(start: bytes) -> str | None:
    return next((encoding for mark, encoding in _WIDE_MARKS if start.startswith(mark)), None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""A file as blocks: bounded runs of records that can be sent to a worker process, cut without parsing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nexus_llm.data.reading.streams import ByteStream

# A longer record is set aside: it is almost always a file in another format, and would fill the memory.
MAX_RECORD_BYTES = 64 * 2**20
BLOCK_BYTES = 4 * 2**20
"""A block's payload: small enough that a few in flight stay below 100 MB, large enough that sending one costs nothing
beside reading it."""

Span = tuple[int, int, int]
"""(record number, start, end): `payload[start:end]` is that record."""


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A record that cannot be used, where it stands, and why."""

    file: str
    line: int
    """Line (jsonl, csv, txt, md), row (parquet) or item (json, mbox, warc), from 1."""
    error: str


class UnusableError(Exception):
    """Why one record cannot be used; becomes a BrokenRecord where its place is known."""

    @classmethod
    def too_long(cls, thing: str) -> UnusableError:
        """For a `thing` above MAX_RECORD_BYTES."""
        return cls(f"the {thing} is longer than {MAX_RECORD_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class TextRecord:
    """The text of one record, and what is known about it."""

    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    """As `records.Document.metadata`."""


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How the rows of one source become documents."""

    text_field: str = "text"
    """The field that holds running text in rows that are no conversation."""
    chat_format: str | None = None
    """One of `chat_formats.FORMATS` that all rows have; None: each row decides."""


@dataclass(frozen=True, slots=True)
class Block:
    """A run of records of one file. Its borders depend on the file's bytes alone. Can be pickled."""

    origin: str
    """The file's name in ids and errors."""
    source: str
    """Name of the recipe's source."""
    format: str
    number: int
    """Index of the block in its file, from 0."""
    first: int
    """Number of the first record, from 1: its line (jsonl, csv), row (parquet) or position (json, mbox, warc)."""
    payload: bytes = field(repr=False)
    """Whole records, behind one another; text is UTF-8 without byte order mark."""
    encoding: str = "utf-8"
    """What the file was in before it became UTF-8; bytes 0xFF in the payload stand for what could not be decoded."""
    too_long: tuple[int, ...] = ()
    """Numbers of records above MAX_RECORD_BYTES; in the payload nothing or an empty line stands for each."""
    spans: tuple[Span, ...] = field(default=(), repr=False)
    """Where each record lies, for formats whose records are no lines."""
    columns: tuple[str, ...] = ()
    """The header of a csv file."""
    delimiter: str = ","
    """What separates the fields of a csv file."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Kind → number of records that are no text by their declared type (images in a WARC file): counted, not read."""


def line_blocks(stream: ByteStream, *, source: str, format: str) -> Iterator[Block]:
    """Blocks of whole lines, numbered from 1. A line above MAX_RECORD_BYTES becomes an empty one, listed in `too_long`.

    At most MAX_RECORD_BYTES + 2 × BLOCK_BYTES are held.
    """
    number, first = 0, 1
    for payload, too_long in _cut_at_lines(stream):
        long_lines = tuple(first + index for index in too_long)
        yield Block(stream.origin, source, format, number, first, payload, stream.encoding, long_lines)
        number, first = number + 1, first + payload.count(b"\n")


def item_blocks(
    items: Iterable[tuple[int, bytes | None]], stream: ByteStream, *, source: str, format: str, skipped: Counter[str]
) -> Iterator[Block]:
    """Blocks of (number, bytes) items, whose bytes are None where they are above MAX_RECORD_BYTES.

    What `items` has counted in `skipped` goes with the block that is made next; it is cleared.
    """
    number = size = 0
    batch: list[tuple[int, bytes | None]] = []
    for item in items:
        batch.append(item)
        size += len(item[1] or b"")
        if size >= BLOCK_BYTES:
            yield _item_block(batch, stream, source, format, number, skipped)
            number, size, batch = number + 1, 0, []
    if batch or skipped:
        yield _item_block(batch, stream, source, format, number, skipped)


def _item_block(
    items: Sequence[tuple[int, bytes | None]],
    stream: ByteStream,
    source: str,
    format: str,
    number: int,
    skipped: Counter[str],
) -> Block:
    spans: list[Span] = []
    end = 0
    for item_number, raw in items:
        if raw is not None:
            spans.append((item_number, end, end + len(raw)))
            end += len(raw)
    counted = dict(skipped)
    skipped.clear()
    return Block(
        origin=stream.origin,
        source=source,
        format=format,
        number=number,
        encoding=stream.encoding,
        first=items[0][0] if items else 1,
        payload=b"".join(raw for _, raw in items if raw is not None),
        too_long=tuple(item_number for item_number, raw in items if raw is None),
        spans=tuple(spans),
        skipped=counted,
    )


def items_of(block: Block, thing: str) -> Iterator[tuple[int, bytes | UnusableError]]:
    """(number, bytes or why not) of the items that `item_blocks` put into a block, numbers ascending."""
    view = block.payload
    found: list[tuple[int, bytes | UnusableError]] = [(number, view[start:end]) for number, start, end in block.spans]
    if block.too_long:
        found += [(number, UnusableError.too_long(thing)) for number in block.too_long]
        found.sort(key=lambda item: item[0])
    return iter(found)


def whole_file_block(stream: ByteStream, *, source: str, format: str) -> Block:
    """The one block of a file that is one record."""
    payload = stream.read(MAX_RECORD_BYTES + 1)
    is_too_long = len(payload) > MAX_RECORD_BYTES
    return Block(
        origin=stream.origin,
        source=source,
        format=format,
        number=0,
        first=1,
        payload=b"" if is_too_long else payload,
        encoding=stream.encoding,
        too_long=(1,) if is_too_long else (),
    )


def _cut_at_lines(stream: ByteStream) -> Iterator[tuple[bytes, list[int]]]:
    """(whole lines, indices of those that were too long and are empty now)."""
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        is_last = len(chunk) < BLOCK_BYTES
        cut = len(chunk) if is_last else chunk.rfind(b"\n") + 1
        if not cut:
            if len(rest) + len(chunk) <= MAX_RECORD_BYTES:
                rest += chunk
                continue
            yield b"\n", [0]
            whole, rest = _after_newline(stream)
            if whole:
                yield whole, []
            continue
        whole = rest + chunk[:cut] if rest else chunk[:cut]
        rest = chunk[cut:]
        yield _without_long_lines(whole)
    if rest:
        yield _without_long_lines(rest)


def _after_newline(stream: ByteStream) -> tuple[bytes, bytes]:
    """(whole lines, start of another) that follow the end of the present line in the chunk where it ends."""
    while chunk := stream.read(BLOCK_BYTES):
        start, end = chunk.find(b"\n") + 1, chunk.rfind(b"\n") + 1
        if start:
            return chunk[start:end], chunk[end:]
    return b"", b""


def _without_long_lines(lines: bytes) -> tuple[bytes, list[int]]:
    if len(lines) <= MAX_RECORD_BYTES:
        return lines, []
    parts = lines.split(b"\n")
    too_long = [index for index, line in enumerate(parts) if len(line) > MAX_RECORD_BYTES]
    return b"\n".join(line if len(line) <= MAX_RECORD_BYTES else b"" for line in parts), too_long

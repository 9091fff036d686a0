"""Web pages out of WARC files, and texts out of WET files.

Format: ISO 28500:2017, WARC 1.1 (https://iipc.github.io/warc-specifications, read 2026-11).
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping

from nexus_llm.data.reading import blocks
from nexus_llm.data.reading.blocks import TextRecord, UnusableError
from nexus_llm.data.reading.pages import MAX_PAGE_BYTES, page_text
from nexus_llm.data.reading.streams import ByteStream
from nexus_llm.errors import DataError

_READ_BYTES = 2**18
_MOST_HEADER_BYTES = 2**16
_MOST_KINDS = 50
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}")
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_PAGE_START = re.compile(rb"\s*(<!doctype html|<html|<head|<body)", re.IGNORECASE)


def warc_items(stream: ByteStream, skipped: Counter[str]) -> Iterator[tuple[int, bytes | None]]:
    """(record number from 1, record with its headers) of every page and every converted text.

    All other records (requests, images, pages with an HTTP error) are passed over and counted by kind in `skipped`;
    they have numbers too. A page above MAX_RECORD_BYTES comes out as None.

    Raises:
        DataError: something that is no WARC record, or the last one is cut short.
    """
    window, number = _Window(stream), 0
    while window.skip_line_ends():
        number += 1
        head = window.head()
        fields = _fields(head) if head.startswith(b"WARC/") else {}
        length = fields.get("content-length", "")
        if not length.isascii() or not length.isdecimal() or len(length) > 15:
            raise _damaged(stream, number, "there is no WARC header with a Content-Length here")
        start = window.peek(min(int(length), _MOST_HEADER_BYTES))
        kind = _skipped_kind(fields, start)
        if kind:
            skipped[kind if kind in skipped or len(skipped) < _MOST_KINDS else "other records"] += 1
        is_wanted = not kind and int(length) <= blocks.MAX_RECORD_BYTES
        content = window.take(int(length), is_wanted=is_wanted)
        if content is None:
            raise _damaged(stream, number, "the file ends within a record")
        if not kind:
            yield number, head + content if is_wanted else None


def warc_text(record: bytes) -> TextRecord:
    """The main text of one record that `warc_items` gave, with its URL and date.

    Raises:
        UnusableError: it has no text, or is packed in a way that is not read here.
    """
    head, content = _split_head(record)
    fields = _fields(head)
    metadata = {
        name: fields[field] for name, field in (("url", "warc-target-uri"), ("date", "warc-date")) if fields.get(field)
    }
    if "url" in metadata:
        metadata["url"] = metadata["url"].strip("<>")  # WARC 1.0 has them in angle brackets
    if fields.get("warc-type") == "conversion":
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise UnusableError(f"not UTF-8 at byte {error.start + 1} of the text") from error
        return TextRecord(text, metadata)
    http: Mapping[str, str] = fields
    if fields.get("warc-type") == "response":
        head, content = _split_head(content)
        http = _fields(head)
        content = _unpacked(content, http)
    _, _, parameters = http.get("content-type", "").partition("charset=")
    charset = parameters.split(";")[0].strip("\"' ") or None
    return TextRecord(page_text(content, declared_charset=charset), metadata)


def _skipped_kind(fields: Mapping[str, str], start: bytes) -> str:
    """What kind of record is passed over, "" for one that is read."""
    warc_type = fields.get("warc-type", "")
    content_type = _media_type(fields)
    if warc_type == "conversion":
        return "" if content_type == "text/plain" else f"conversion {content_type}"
    if warc_type == "resource":
        return "" if content_type in _PAGE_TYPES else f"resource {content_type}"
    if warc_type != "response" or content_type != "application/http":
        known = ("warcinfo", "request", "metadata", "revisit", "response", "continuation")
        return warc_type if warc_type in known else "unknown record"
    head, body = _split_head(start)
    status = head.split(b" ", 2)[1:2]
    if status and not status[0].startswith(b"2"):
        return f"response with HTTP status {status[0][:3].decode('latin-1')}"
    media_type = _media_type(_fields(head))
    if media_type in _PAGE_TYPES or (media_type == "no type" and _PAGE_START.match(body)):
        return ""
    return f"response {media_type}"


def _media_type(fields: Mapping[str, str]) -> str:
    declared = fields.get("content-type", "").split(";")[0].strip().lower()
    return declared if _MEDIA_TYPE.fullmatch(declared) else "no type"


def _unpacked(body: bytes, http: Mapping[str, str]) -> bytes:
    """The body without chunks and compression; as it is where a crawler has undone them and kept the header."""
    if "chunked" in http.get("transfer-encoding", "").lower():
        body = _without_chunks(body)
    packing = http.get("content-encoding", "").strip().lower()
    if packing in ("gzip", "x-gzip", "deflate"):
        return _inflated(body)
    if packing == "br" and not _PAGE_START.match(body):
        raise UnusableError("the page is packed with brotli, which is not read")
    return body


def _without_chunks(body: bytes) -> bytes:
    parts: list[bytes] = []
    place = 0
    while line := re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]{0,200}\r\n").match(body, place):
        size = int(line[1], 16)
        parts.append(body[line.end() : line.end() + size])
        place = line.end() + size + 2
        if size == 0:
            return b"".join(parts)
    return body


def _inflated(body: bytes) -> bytes:
    if _PAGE_START.match(body):
        return body
    for window_bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):  # gzip or zlib by its header; deflate without one
        try:
            return zlib.decompressobj(window_bits).decompress(body, MAX_PAGE_BYTES + 1)
        except zlib.error:
            continue
    return body


def _split_head(record: bytes) -> tuple[bytes, bytes]:
    """(head, content) at the first empty line."""
    ends = [(place, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (place := record.find(mark)) >= 0]
    place, size = min(ends, default=(len(record), 0))
    return record[: place + size], record[place + size :]


def _fields(head: bytes) -> dict[str, str]:
    """Header fields by their name in small letters; the first of each counts."""
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", errors="replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def _damaged(stream: ByteStream, number: int, what: str) -> DataError:
    return DataError(
        f"{stream.origin}:{number}: {what}", fix="fetch the file again, or take it out of the source's folder"
    )


class _Window:
    """What has been read of a stream and not yet been used."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream, self._data, self._place = stream, b"", 0

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, which stay; fewer at the end."""
        missing = size - (len(self._data) - self._place)
        if missing > 0:
            self._data = self._data[self._place :] + self._stream.read(max(missing, _READ_BYTES))
            self._place = 0
        return self._data[self._place : self._place + size]

    def skip_line_ends(self) -> bool:
        """Moves behind line ends; False at the end of the file."""
        while start := self.peek(1):
            if start not in b"\r\n":
                return True
            self._place += 1
        return False

    def head(self) -> bytes:
        """The next header with the empty line that ends it."""
        head, _ = _split_head(self.peek(_MOST_HEADER_BYTES))
        self._place += len(head)
        return head

    def take(self, size: int, *, is_wanted: bool) -> bytes | None:
        """The next `size` bytes, or empty where they are not wanted; None where the file ends before."""
        if is_wanted:
            content = self.peek(size)
            self._place += len(content)
            return content if len(content) == size else None
        while size > 0:
            step = min(size, _READ_BYTES)
            if len(self.peek(step)) < step:
                return None
            self._place += step
            size -= step
        return b""

"""Whatever the bytes, a reader gives documents, broken records or one DataError, in order, and ends."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import polars as pl
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nexus_llm.data.reading import blocks
from nexus_llm.data.reading.blocks import BrokenRecord, ReadSettings
from nexus_llm.data.reading.readers import FORMATS, blocks_of, records_of
from nexus_llm.errors import DataError
from nexus_llm.records import Document

# What the formats are made of: random bytes alone would seldom pass a reader's first check.
PIECES = [
    *(bytes([byte]) for byte in b"[]{}\",:;\\\n\r\t '|<>-=0%()/\x00\xff\xfe"),
    *(b'{"text": "a"}', b'{"messages": [', b'"role": "user", "content": "x"', b"null", b"1e999", b"NaN"),
    *(b'"\\ud800"', b"text,id\n", b'"a ""b""\n",', b"x" * 500, b"PAR1", b"\xef\xbb\xbf"),
    *(b"WARC/1.0\r\n", b"WARC-Type: response\r\n", b"Content-Length: 20\r\n", b"\r\n\r\n"),
    *(b"HTTP/1.1 200 OK\r\n", b"Content-Type: application/http\r\n", b"Content-Type: text/html\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"<html><body><p>", b"</p>"),
    *(b"<meta charset=utf-16>", b"&#xD800;", b"<!--", b"From a 10:00\n", b"\n\n", b"Subject: =?utf-8?b?x?=\n"),
    *(b"Content-Type: multipart/mixed; boundary=b\n", b"--b\n", b"%PDF-1.7\n", b"1 0 obj\n<<", b">>\nendobj\n"),
    *(b"/Type /Catalog /Pages 1 0 R", b"xref\n0 1\n", b"trailer\n<<", b"/Root 1 0 R>>\n", b"startxref\n9\n%%EOF"),
    *(b"stream\n", b"endstream"),
]
CONTENT = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=40).map(b"".join)
NEEDS_EXTRA = ("html", "warc", "pdf", "eml", "mbox")


def read(path: Path, content: bytes, format: str) -> int:
    """The number of records; fails where they are out of order or something else than a reader may give."""
    path.write_bytes(content)
    last = count = 0
    try:
        for index, block in enumerate(blocks_of(path, origin=path.name, source="s", format=format)):
            assert block.number == index
            for number, record in records_of(block, ReadSettings()):
                assert number > last
                last, count = number, count + 1
                assert isinstance(record, Document | BrokenRecord)
                if isinstance(record, Document):
                    assert record.text.encode() is not None
                    assert all(isinstance(value, str) for value in record.metadata.values())
    except DataError as error:
        if not str(error).startswith(path.name) or not error.fix:
            raise
    return count


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BLOCK_BYTES", 64), ("MAX_RECORD_BYTES", 400)):
        monkeypatch.setattr(blocks, name, value)
    monkeypatch.setattr("nexus_llm.data.reading.tables.BLOCK_BYTES", 64)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=60)
@given(content=CONTENT)
@example(content=b'"' * 300)
@example(content=b"[" * 3_000)
@example(content=b'{"a":' * 3_000)
@example(content=b"\\" * 300)
@example(content=b"\r" * 300)
@example(content=b"\xff\xfe" + b"\xd8\xd8" * 100)
def test_no_bytes_break_a_reader_of_small_blocks(
    tmp_path_factory: pytest.TempPathFactory, format: str, content: bytes
) -> None:
    if format in NEEDS_EXTRA:
        pytest.importorskip("trafilatura")
        pytest.importorskip("pypdf")
    read(tmp_path_factory.mktemp("fuzz") / f"a.{format}", content, format)


@pytest.mark.parametrize("compression", ["gz", "zst"])
@settings(max_examples=60)
@given(content=CONTENT, place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_no_damage_breaks_a_compressed_reader(
    tmp_path_factory: pytest.TempPathFactory, compression: str, content: bytes, place: int, byte: int
) -> None:
    packed = bytearray(gzip.compress(content) if compression == "gz" else zstandard.compress(content))
    packed[place % len(packed)] = byte
    read(tmp_path_factory.mktemp("fuzz") / f"a.jsonl.{compression}", bytes(packed[: place or None]), "jsonl")


def test_no_damage_breaks_the_parquet_reader(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    rows = {"text": ["a", None, "é" * 50], "messages": [None, turns, turns], "n": [1, 2, 3]}
    pl.DataFrame(rows).write_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    assert read(tmp_path / "a.parquet", whole, "parquet") == 3
    chance = random.Random(7)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        cut = len(damaged) if chance.random() < 0.8 else chance.randrange(len(damaged))
        read(tmp_path / "a.parquet", bytes(damaged[:cut]), "parquet")


def test_one_reading_gives_what_another_gives(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\nbroken\n{"text": "b"}')

    def once() -> list[object]:
        return [pair for block in blocks_of(path, origin="a", source="s", format="jsonl")
                for pair in records_of(block, ReadSettings())]  # fmt: skip

    assert once() == once()

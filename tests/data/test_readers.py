from __future__ import annotations

import codecs
import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.reading import blocks
from nexus_llm.data.reading.blocks import BrokenRecord
from nexus_llm.errors import DataError
from nexus_llm.records import Document
from read_records import read_records


def read(path: Path, *, text_field: str = "text") -> list[Document | BrokenRecord]:
    return read_records(path, text_field=text_field)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def texts(records: list[Document | BrokenRecord]) -> list[str]:
    return [one.text for one in records if isinstance(one, Document)]


LINES = b'{"text": "one"}\n{"text": "two \xc3\xa9"}\n'


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", lambda raw: raw),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", lambda raw: zstandard.compress(raw[:9]) + zstandard.compress(raw[9:])),
        ("bom.jsonl", lambda raw: codecs.BOM_UTF8 + raw),
        ("wide.jsonl", lambda raw: raw.decode().encode("utf-16")),
        ("windows.jsonl", lambda raw: raw.replace(b"\n", b"\r\n")),
        ("no_last_newline.jsonl", lambda raw: raw.rstrip()),
    ],
)
def test_lines_come_out_the_same_from_every_wrapping(tmp_path: Path, name: str, pack: Any) -> None:
    assert texts(read(write(tmp_path / name, pack(LINES)))) == ["one", "two é"]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz", "a.md.zst"])
def test_a_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(Path(name).suffix, bytes)
    (document,) = read(write(tmp_path / name, pack(b"# Title\n\nText\n")))
    assert isinstance(document, Document)
    assert (document.text, document.origin) == ("# Title\n\nText\n", name)


def test_rows_with_messages_or_prompt_and_completion_are_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [
        {"messages": turns},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": turns[:1], "completion": turns[1:]},
    ]
    found = read(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode()))
    assert [one.messages for one in found if isinstance(one, Document)] == [tuple(turns)] * 3
    assert texts(found) == ["Hi\nHello"] * 3


def test_parquet_rows_are_read_with_their_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    pl.DataFrame({"body": ["one", None], "messages": [None, turns]}).write_parquet(tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", text_field="body")
    assert texts(found) == ["one", "Hi\nHello"]
    assert [one.origin for one in found if isinstance(one, Document)] == ["a.parquet:1", "a.parquet:2"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"text": "half', "not JSON"),
        (b'{"text": 3}', "no text in 'text'"),
        (b'{"body": "x"}', "only: body"),
        (b'["text"]', "no object"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 11"),
        (rb'{"text": "\ud800"}', "surrogate"),
        (b'{"messages": []}', "empty one"),
        (b'{"messages": [{"role": "narrator", "content": "x"}]}', "turn 1 has no role"),
        (b'{"messages": [{"role": "user", "content": null}]}', "no text as content"),
        (b'{"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}', "calls a tool without the name"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_line_is_set_aside_with_its_number_and_the_next_is_read(
    tmp_path: Path, line: bytes, complaint: str
) -> None:
    first, broken, last = read(write(tmp_path / "a.jsonl", b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n'))
    assert texts([first, last]) == ["a", "b"]
    assert isinstance(broken, BrokenRecord)
    assert (broken.file, broken.line) == ("a.jsonl", 2)
    assert complaint in broken.error


def test_a_line_without_end_is_set_aside_without_filling_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MAX_RECORD_BYTES", 100)
    found = read(write(tmp_path / "a.jsonl", b'{"text": "' + b"x" * 1_000 + b'"}\n{"text": "b"}\n'))
    assert isinstance(found[0], BrokenRecord)
    assert texts(found) == ["b"]


def test_a_text_file_in_another_encoding_names_the_line(tmp_path: Path) -> None:
    (broken,) = read(write(tmp_path / "a.txt", b"fine\ncaf\xe9\n"))
    assert isinstance(broken, BrokenRecord)
    assert (broken.line, broken.error) == (2, "not UTF-8 at byte 9")


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_an_archive_cut_short_is_refused_because_nobody_knows_what_is_missing(tmp_path: Path, ending: str) -> None:
    raw = b"".join(json.dumps({"text": f"line {number} {hash(number)}"}).encode() + b"\n" for number in range(5_000))
    packed = gzip.compress(raw) if ending == "gz" else zstandard.compress(raw)
    path = write(tmp_path / f"a.jsonl.{ending}", packed[: len(packed) // 2])
    with pytest.raises(DataError, match=rf"a\.jsonl\.{ending}:\d+: the compressed data is damaged or ends early"):
        read(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_that_is_not_what_its_ending_says_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"a\.\w+"):
        read(write(tmp_path / name, b"hello, I am plain text"))


@given(rows=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_any_text_survives_the_way_through_json_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    write(path, "".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows).encode())
    assert texts(read(path)) == rows


@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["a.jsonl", "a.txt", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"]),
)
def test_no_bytes_break_a_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = write(tmp_path_factory.mktemp("noise") / name, content)
    with contextlib.suppress(DataError):  # refused with two lines, which is fine
        assert all(isinstance(one, Document | BrokenRecord) for one in read(path))

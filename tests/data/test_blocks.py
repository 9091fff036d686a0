from __future__ import annotations

import gzip
import json
import pickle
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.reading import blocks
from nexus_llm.data.reading.blocks import Block, BrokenRecord, ReadSettings
from nexus_llm.data.reading.readers import blocks_of, format_of, records_of
from nexus_llm.errors import DataError
from nexus_llm.records import Document


def cut(path: Path, content: bytes) -> list[Block]:
    path.write_bytes(content)
    return list(blocks_of(path, origin=path.name, source="s"))


def numbers(found: list[Block]) -> list[int]:
    return [number for block in found for number, _ in records_of(block, ReadSettings())]


def texts(found: list[Block]) -> list[str]:
    records = [record for block in found for _, record in records_of(block, ReadSettings())]
    return [one.text for one in records if isinstance(one, Document)]


def json_lines(count: int, size: int = 100) -> bytes:
    return b"".join(json.dumps({"text": f"{number} " + "x" * size}).encode() + b"\n" for number in range(count))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BLOCK_BYTES", 1_000), ("MAX_RECORD_BYTES", 3_000)):
        monkeypatch.setattr(blocks, name, value)
    monkeypatch.setattr("nexus_llm.data.reading.tables.BLOCK_BYTES", 1_000)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "mbox"])
def test_a_file_in_many_blocks_gives_the_records_of_one_block(tmp_path: Path, ending: str) -> None:
    contents = {
        "jsonl": json_lines(50),
        "json": b"[\n" + b",\n".join(json_lines(50).splitlines()) + b"]\n",
        "csv": b"id,text\n" + b"".join(b'%d,"%d ""\n\n%s,"\n' % (n, n, b"x" * 100) for n in range(50)),
        "mbox": b"".join(b"From a@b 10:00\nSubject: s\n\n%d %s\n\n" % (n, b"x" * 100) for n in range(50)),
    }
    found = cut(tmp_path / f"a.{ending}", contents[ending])
    assert len(found) > 3
    assert [block.number for block in found] == list(range(len(found)))
    assert len(texts(found)) == 50
    assert [int(text.removeprefix("s\n\n").split()[0]) for text in texts(found)] == list(range(50))
    assert all(pickle.loads(pickle.dumps(block)) == block for block in found)
    if ending == "csv":
        assert numbers(found) == list(range(2, 152, 3))  # each record spans three lines behind the header
    else:
        assert numbers(found) == list(range(1, 51))
    assert [block.first for block in found] == [numbers([block])[0] for block in found]


@pytest.mark.usefixtures("small_blocks")
def test_borders_depend_on_the_bytes_alone_not_on_how_they_are_packed(tmp_path: Path) -> None:
    plain = cut(tmp_path / "a.jsonl", json_lines(80))
    packed = cut(
        tmp_path / "b.jsonl.gz", gzip.compress(json_lines(30)) + gzip.compress(json_lines(80)[len(json_lines(30)) :])
    )
    assert [block.payload for block in plain] == [block.payload for block in packed]


@pytest.mark.usefixtures("small_blocks")
def test_lines_too_long_keep_their_numbers_and_their_neighbours(tmp_path: Path) -> None:
    long = json.dumps({"text": "y" * 20_000}).encode()
    lines = [
        b'{"text": "a"}',
        long,
        b"",
        b'{"text": "b"}',
        long,
        long,
        b'{"text": "c"}',
        b'{"text": "%s"}' % (b"d" * 2_900),
        long,
    ]
    found = [
        pair for block in cut(tmp_path / "a.jsonl", b"\n".join(lines)) for pair in records_of(block, ReadSettings())
    ]
    assert [number for number, _ in found] == [1, 2, 4, 5, 6, 7, 8, 9]
    broken = [
        number for number, one in found if isinstance(one, BrokenRecord) and "longer than 3000 bytes" in one.error
    ]
    assert broken == [2, 5, 6, 9]


@pytest.mark.usefixtures("small_blocks")
@given(lines=st.lists(st.integers(0, 5_000), max_size=12), ends_with_newline=st.booleans())
def test_every_line_comes_out_once_under_its_number(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], ends_with_newline: bool
) -> None:
    raw = b"\n".join(b'"%s"' % (b"x" * size) if size else b"" for size in lines) + b"\n" * ends_with_newline
    found = cut(tmp_path_factory.mktemp("lines") / "a.jsonl", raw)
    assert numbers(found) == [number for number, size in enumerate(lines, start=1) if size]
    broken = [one for block in found for _, one in records_of(block, ReadSettings())]
    assert [isinstance(one, BrokenRecord) and "longer" in one.error for one in broken] == [
        size + 2 > 3_000 for size in lines if size
    ]


def test_a_line_of_a_gigabyte_is_set_aside_in_bounded_memory(tmp_path: Path) -> None:
    # Zeros pack well, so the file is small; unpacked it is one line of 1 GB between two good ones.
    path = tmp_path / "a.jsonl.zst"
    with zstandard.open(path, "wb") as stream:
        stream.write(b'{"text": "a"}\n')
        for _ in range(64):
            stream.write(b"\0" * 2**24)
        stream.write(b'\n{"text": "b"}\n')
    tracemalloc.start()
    records = [
        pair
        for block in blocks_of(path, origin="a.jsonl.zst", source="s")
        for pair in records_of(block, ReadSettings())
    ]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(number, isinstance(one, Document)) for number, one in records] == [(1, True), (2, False), (3, True)]
    assert peak < 250 * 2**20


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.json", b'[{"text": "a"}, {"text": "b"', r"a\.json:2: the list of records is not closed"),
        ("a.json", b'[{"text": "a"}] {"text": "b"}', r"a\.json:2: the list ends here, and something follows"),
        ("a.json", b'[{"text": "a"}, {"text": "' + b"x" * 9_000 + b'"}]', r"a\.json:2: the item is longer"),
        ("a.csv", b'text\na\n"b' + b"x\n" * 9_000, r"a\.csv:3: a quote opens a field and is not closed"),
        ("a.csv", b"text,text\na,b\n", r"a\.csv:1: the column 'text' is there twice"),
        ("a.csv", b"text,\na,b\n", r"a\.csv:1: a column has no name"),
        ("a.parquet", b"", r"a\.parquet:1: the parquet file is damaged"),
        ("a.warc", b"WARC/1.0\r\nContent-Length: 9\r\n\r\nabc", r"a\.warc:1: the file ends within a record"),
        ("a.warc", b"<html>", r"a\.warc:1: there is no WARC header"),
    ],
)
def test_damage_that_hides_records_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        for block in cut(tmp_path / name, content):
            list(records_of(block, ReadSettings()))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b" \n ", []),
        (b"[]", []),
        (b'[{"text": "a ]}\\" [{"}, {"text": "b"}]', ['a ]}" [{', "b"]),
        (b'{"text": "a"}\n{"text": "b"}', ["a", "b"]),
        (b'{\n "text": "a",\n "deep": [[{"b": [1]}]]\n}\n', ["a"]),
        (b'\xef\xbb\xbf[{"text": "a"}]\n', ["a"]),
        ('[{"text": "é"}]'.encode("utf-16"), ["é"]),
        (b'[{"text": NaN, "x": 1}, {"text": "b", "x": NaN}]', ["b"]),
        (b'[1, "two", {"text": "c"}, null]', ["c"]),
    ],
)
def test_a_list_of_records_or_records_in_a_row_are_read(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    assert texts(cut(tmp_path / "a.json", content)) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"text\nplain\n", ["plain"]),
        (b"\n\nid;text\n1;a, b\n\n2;c\n", ["a, b", "c"]),
        (b'\xef\xbb\xbf"text",id\r\n"a\r\nb",1\r\n5" disk,2\r\n', ["a\r\nb", '5" disk']),
        (b"id\ttext\n1\ttab\n", ["tab"]),
        (b'"te\nxt",text\n1,a', ["a"]),
        (b"text\n" + b"y" * 200_000 + b"\n", ["y" * 200_000]),  # Python's csv stops at 131,072 by default
        ("text\né\n".encode("utf-16"), ["é"]),
    ],
)
def test_csv_is_read_with_its_header(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    assert texts(cut(tmp_path / "a.csv", content)) == expected


def test_a_broken_csv_record_has_the_number_of_its_line_and_the_next_is_read(tmp_path: Path) -> None:
    content = b'id,text\n1,"a\nb"\n2\n3,c,d\n4,"x"y\n5,\xff\n6,good\n'
    found = [pair for block in cut(tmp_path / "a.csv", content) for pair in records_of(block, ReadSettings())]
    reasons = {number: one.error if isinstance(one, BrokenRecord) else one.text for number, one in found}
    assert reasons.pop(6).startswith("not CSV")
    assert reasons == {
        2: "a\nb",
        4: "1 fields, and the header has 2",
        5: "3 fields, and the header has 2",
        7: "not UTF-8",
        8: "good",
    }


def test_a_file_of_another_ending_is_read_as_the_format_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dump.data.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n'))
    assert format_of(path.name) is None
    assert texts(list(blocks_of(path, origin=path.name, source="s", format="jsonl"))) == ["a"]


def test_what_a_row_says_about_itself_goes_to_the_metadata(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "url": "https://a", "meta": {"license": "MIT", "url": "https://other"}},
        {"text": "b", "metadata": {"timestamp": "2020-01-01", "url": 3}, "licence": "CC0"},
    ]
    content = "\n".join(map(json.dumps, rows)).encode()
    (block,) = cut(tmp_path / "a.jsonl", content)
    found = [one.metadata for _, one in records_of(block, ReadSettings()) if isinstance(one, Document)]
    assert found == [{"url": "https://a", "license": "MIT"}, {"license": "CC0", "date": "2020-01-01"}]


@pytest.mark.usefixtures("small_blocks")
def test_a_quote_behind_another_separator_opens_no_field(tmp_path: Path) -> None:
    content = b'text,id\na;"b,0\n' + b"".join(b"c,%d\n" % number for number in range(1_000))
    assert texts(cut(tmp_path / "a.csv", content)) == ['a;"b', *["c"] * 1_000]


def test_a_stray_bracket_in_a_list_costs_its_place_and_no_neighbour(tmp_path: Path) -> None:
    found = cut(tmp_path / "a.json", b'[{"text": "a"}, } {"text": "b"}, {"text": "c"}]')
    assert texts(found) == ["a", "b", "c"]
    assert numbers(found) == [1, 2, 3, 4]


def test_a_line_that_is_no_utf16_is_set_aside_alone(tmp_path: Path) -> None:
    good = '{"text": "a"}\n'.encode("utf-16-le")
    bad = '{"text": "'.encode("utf-16-le") + b"\x00\xd8" + '"}\n'.encode("utf-16-le")
    found = [
        one.error if isinstance(one, BrokenRecord) else one.text
        for block in cut(tmp_path / "a.jsonl", b"\xff\xfe" + good + bad + good)
        for _, one in records_of(block, ReadSettings())
    ]
    assert found == ["a", "not UTF-16", "a"]


@pytest.mark.usefixtures("small_blocks")
def test_items_too_long_stand_between_their_neighbours(tmp_path: Path) -> None:
    mails = [b"From a 10:00\nSubject: s\n\n%s\n\n" % (b"x" * size) for size in (10, 4_000, 20, 9_000, 30)]
    found = [pair for block in cut(tmp_path / "a.mbox", b"".join(mails)) for pair in records_of(block, ReadSettings())]
    assert [(number, isinstance(one, Document)) for number, one in found] == [
        (number, number % 2 == 1) for number in range(1, 6)
    ]

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

from nexus_llm.data.reading.blocks import BrokenRecord, ReadSettings
from nexus_llm.data.reading.readers import blocks_of, records_of
from nexus_llm.errors import DataError
from nexus_llm.records import Document


def read(path: Path) -> list[tuple[int, str]]:
    """(row number, text or reason) of every row."""
    return [
        (number, one.text if isinstance(one, Document) else one.error)
        for block in blocks_of(path, origin=path.name, source="s")
        for number, one in records_of(block, ReadSettings())
    ]


def test_row_groups_and_blocks_number_rows_through(tmp_path: Path) -> None:
    texts = [f"{number} " + "x" * 5_000 for number in range(6_000)]
    pl.DataFrame({"text": texts}).write_parquet(tmp_path / "a.parquet", row_group_size=700)
    found = list(blocks_of(tmp_path / "a.parquet", origin="a", source="s", format="parquet"))
    assert len(found) > 3
    assert max(len(block.payload) for block in found) < 12 * 2**20
    assert read(tmp_path / "a.parquet") == [(number + 1, text) for number, text in enumerate(texts)]


def test_a_row_that_is_no_utf8_is_set_aside_alone(tmp_path: Path) -> None:
    raw = b"a\xff\xfec"
    column = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 3, 4], np.int32)), pa.py_buffer(raw)]
    )
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [(1, "a"), (2, "not UTF-8 at byte 1 of a field"), (3, "c")]


def test_embeddings_are_not_sent_along(tmp_path: Path) -> None:
    rows = {"text": ["a"] * 50, "embedding": [[0.5] * 1_024] * 50, "ids": [[1, 2]] * 50}
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    (block,) = blocks_of(tmp_path / "a.parquet", origin="a", source="s", format="parquet")
    assert len(block.payload) < 3_000


def test_columns_of_every_kind_do_not_disturb_the_text(tmp_path: Path) -> None:
    kinds = {
        "when": pa.array([1], pa.timestamp("ns", "Europe/Berlin")),
        "far": pa.array([2**60], pa.timestamp("us")),  # beyond the year 9999, which Python cannot say
        "price": pa.array(["1.5"]).cast(pa.decimal128(5, 2)),
        "raw": pa.array([b"\xff"]),
        "pairs": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "kind": pa.array(["x"]).dictionary_encode(),
    }
    parquet.write_table(
        pa.table({"text": ["a"], **{k: v for k, v in kinds.items() if k != "far"}}), tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet") == [(1, "a")]
    parquet.write_table(pa.table({"text": ["a"], "far": kinds["far"]}), tmp_path / "b.parquet")
    ((number, reason),) = read(tmp_path / "b.parquet")
    assert (number, reason[:20]) == (1, "the row has a value ")


def test_rows_of_wrong_types_are_broken_with_their_number(tmp_path: Path) -> None:
    pl.DataFrame({"text": [1, 2]}).write_parquet(tmp_path / "a.parquet")
    assert [number for number, _ in read(tmp_path / "a.parquet")] == [1, 2]
    assert "no text in 'text'" in read(tmp_path / "a.parquet")[0][1]


@pytest.mark.parametrize("kept", [0, 3, 4, 100, -1])
def test_a_parquet_file_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    pl.DataFrame({"text": ["a" * 500, "b" * 500]}).write_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:kept])
    with pytest.raises(DataError, match=r"a\.parquet:1: the parquet file is damaged") as error:
        read(tmp_path / "a.parquet")
    assert "fetch the file again" in error.value.fix


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    pl.DataFrame({"text": []}, schema={"text": pl.String}).write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == []
    assert not any(isinstance(one, BrokenRecord) for one in read(tmp_path / "a.parquet"))

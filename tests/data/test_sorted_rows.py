from __future__ import annotations

import resource
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.duplicates.sorted_rows import Lookup, Rows, SortedRows, append, read_numbers

# Few values, so that whole runs tie, and the largest, whose sign a careless cast would lose.
ROWS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2**64 - 1])), max_size=300)


def as_rows(rows: list[tuple[int, int]]) -> Rows:
    return np.array(rows, np.uint64).reshape(-1, 2)


@given(rows=ROWS, buffer_bytes=st.sampled_from([1, 600, 10_000]), cut=st.integers(1, 50))
def test_rows_come_out_sorted_whatever_the_memory(
    rows: list[tuple[int, int]], buffer_bytes: int, cut: int, shared_folder: Path
) -> None:
    with SortedRows(shared_folder, columns=2, sorted_by=2, buffer_bytes=buffer_bytes) as sorter:
        for start in range(0, len(rows), cut):
            sorter.add(as_rows(rows[start : start + cut]))
        for _ in range(2):
            pieces = list(sorter.pieces())
            assert all(len(piece) for piece in pieces)
            assert [tuple(row) for piece in pieces for row in piece.tolist()] == sorted(rows)
        distinct = [tuple(row) for piece in sorter.first_of_each(2) for row in piece.tolist()]
        assert distinct == sorted(set(rows))
        smallest = [tuple(row) for piece in sorter.first_of_each(1) for row in piece.tolist()]
        assert smallest == [min(group) for _, group in groupby(sorted(rows), key=lambda row: row[0])]


def test_more_rows_than_memory_are_sorted_in_little_memory(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    with SortedRows(tmp_path, columns=2, sorted_by=1, buffer_bytes=16_000) as sorter:
        for _ in range(100):
            sorter.add(draw.integers(0, 2**64, (1_000, 2), dtype=np.uint64))
        assert not list(tmp_path.iterdir()), "a spill file has a name"
        last, count = -1, 0
        for piece in sorter.pieces():
            assert piece.nbytes < 80_000
            assert last < int(piece[0, 0])
            assert (piece[1:, 0] > piece[:-1, 0]).all()
            last, count = int(piece[-1, 0]), count + len(piece)
    assert count == 100_000


@given(table=st.sets(st.integers(0, 60)), keys=st.lists(st.integers(0, 60)), cut=st.integers(1, 9))
def test_a_lookup_finds_what_is_there(table: set[int], keys: list[int], cut: int) -> None:
    rows = as_rows([(key, key * 10) for key in sorted(table)])
    lookup = Lookup((rows[start : start + cut] for start in range(0, len(rows), cut)), columns=2)
    wanted = np.array(sorted(keys), np.uint64)
    for start in range(0, len(wanted), cut):
        part = wanted[start : start + cut]
        found, is_there = lookup.find(part)
        assert is_there.tolist() == [key in table for key in part.tolist()]
        assert (found[is_there, 1] == part[is_there] * 10).all()


def test_a_disk_that_takes_no_more_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # Python ignores the signal that comes with it, so writing beyond is an error as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with (
            pytest.raises(OSError, match="File too large"),
            SortedRows(tmp_path, columns=2, sorted_by=1, buffer_bytes=16_000) as sorter,
        ):
            for _ in range(3):
                sorter.add(np.zeros((1_000, 2), np.uint64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_spill_file_cut_short_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "numbers").open("w+b", buffering=0) as file:
        append(file, np.arange(10, dtype=np.uint64))
        assert read_numbers(file, 3, 6).tolist() == [3, 4, 5]
        with pytest.raises(OSError, match="ends at byte 80"):
            read_numbers(file, 3, 11)

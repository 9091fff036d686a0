"""Rows of 64-bit numbers that come out sorted, however many: what memory cannot hold waits in a file without a name.

An external merge sort (Knuth, "The Art of Computer Programming", volume 3, section 5.4): rows gather in a buffer, a
full buffer is sorted and written as a *run*, and reading merges all runs piece by piece. The same rows come out in the
same order whatever the buffer's size.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint64]
"""Shape (rows, columns)."""
Column = npt.NDArray[np.uint64]

# Below this many rows of each run at a time, merging is all overhead.
_LEAST_ROWS_AT_ONCE = 16


class SortedRows:
    """Rows of `columns` numbers; they ascend by the first `sorted_by` columns, compared from left to right.

    Rows equal in those columns must be equal altogether: their order is not defined. Holds about three times
    `buffer_bytes` at its peak. The file has no name: it is gone with the process, even a killed one. OSError: the disk
    of `folder` is full or forbidden.
    """

    def __init__(self, folder: Path, *, columns: int, sorted_by: int, buffer_bytes: int) -> None:
        self.columns = columns
        self._folder = folder
        self._sorted_by = sorted_by
        self._buffer_rows = max(_LEAST_ROWS_AT_ONCE, buffer_bytes // (8 * columns))
        self._buffer: list[Rows] = []
        self._buffered = 0
        self._bounds = [0]
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._buffer = []
        if self._file is not None:
            self._file.close()

    def add(self, rows: Rows) -> None:
        """Takes rows, shape (any, columns)."""
        while len(rows):
            # A copy: a slice would keep the caller's whole array alive.
            taken = rows[: self._buffer_rows - self._buffered].copy()
            rows = rows[len(taken) :]
            self._buffer.append(taken)
            self._buffered += len(taken)
            if self._buffered >= self._buffer_rows:
                self._write_run()

    def pieces(self) -> Iterator[Rows]:
        """All rows in order, piece by piece, none of them empty; can be read again and again, once rows are no
        longer added."""
        if self._file is None:
            if self._buffered:
                self._buffer = [_sorted(np.concatenate(self._buffer), self._sorted_by)]
                # Small pieces keep what is made of them small.
                step = max(_LEAST_ROWS_AT_ONCE, self._buffer_rows // 4)
                for start in range(0, self._buffered, step):
                    yield self._buffer[0][start : start + step]
            return
        if self._buffered:
            self._write_run()
        yield from self._merged(self._file)

    def first_of_each(self, columns: int) -> Iterator[Rows]:
        """As `pieces`, without the rows whose first `columns` numbers equal those of the row before."""
        before: Rows | None = None
        for piece in self.pieces():
            keys = piece[:, :columns]
            is_new = np.ones(len(piece), np.bool_)
            is_new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
            is_new[0] = before is None or bool((keys[0] != before).any())
            before = keys[-1].copy()
            if is_new.any():
                yield piece[is_new]

    def _write_run(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - closed in __exit__
        rows = _sorted(np.concatenate(self._buffer), self._sorted_by)
        self._buffer, self._buffered = [], 0
        append(self._file, rows)
        self._bounds.append(self._bounds[-1] + len(rows))

    def _merged(self, file: IO[bytes]) -> Iterator[Rows]:
        places, ends = self._bounds[:-1], self._bounds[1:]
        at_once = max(_LEAST_ROWS_AT_ONCE, self._buffer_rows // len(ends))
        loaded = [np.empty((0, self.columns), np.uint64) for _ in ends]
        while True:
            for run, end in enumerate(ends):
                # Refilled before they are empty, or else the emptiest run would allow for a few rows a step only.
                if len(loaded[run]) <= at_once // 2 and places[run] < end:
                    stop = min(places[run] + at_once - len(loaded[run]), end)
                    more = read_rows(file, places[run], stop, columns=self.columns)
                    loaded[run], places[run] = np.concatenate([loaded[run], more]), stop
            # What is not loaded of a run stands behind the last row loaded of it.
            unread = [run for run, end in enumerate(ends) if places[run] < end]
            if not unread:
                break
            bound = min(self._key(loaded[run][-1]) for run in unread)
            parts = []
            for run, rows in enumerate(loaded):
                # Most often all runs overlap; where they follow one another, only one has anything to give.
                if len(rows) and self._key(rows[0]) <= bound:
                    stop = _behind(rows, bound)
                    parts.append(rows[:stop])
                    # A copy, so that the part given away can be freed.
                    loaded[run] = rows[stop:].copy()
            yield _sorted(np.concatenate(parts), self._sorted_by)
        rest = [rows for rows in loaded if len(rows)]
        if rest:
            yield _sorted(np.concatenate(rest), self._sorted_by)

    def _key(self, row: Column) -> tuple[int, ...]:
        return tuple(row[: self._sorted_by].tolist())


class Lookup:
    """Finds rows by their first column, which ascends and has no value twice, for keys that ascend too."""

    def __init__(self, pieces: Iterator[Rows], *, columns: int) -> None:
        self._pieces = pieces
        self._piece: Rows | None = np.empty((0, columns), np.uint64)
        self._columns = columns

    def find(self, keys: Column) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """(the row of each key, whether there is one); `keys` are at least as large as those of earlier calls."""
        rows = np.zeros((len(keys), self._columns), np.uint64)
        found = np.zeros(len(keys), np.bool_)
        done = 0
        while done < len(keys) and self._piece is not None:
            if len(self._piece):
                column = np.ascontiguousarray(self._piece[:, 0])
                stop = int(np.searchsorted(keys, column[-1], side="right"))
                if stop > done:
                    near = self._piece[np.searchsorted(column, keys[done:stop])]
                    rows[done:stop] = near
                    found[done:stop] = near[:, 0] == keys[done:stop]
                    done = stop
            if done < len(keys):
                self._piece = next(self._pieces, None)
        return rows, found


def append(file: IO[bytes], rows: npt.NDArray[np.uint64]) -> None:
    """Writes all of an array to an unbuffered file, which may take it in parts."""
    left = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
    while left:
        left = left[file.write(left) :]


def read_rows(file: IO[bytes], start: int, stop: int, *, columns: int) -> Rows:
    """Rows `start` to `stop` of a file of rows; not through a memory map, whose pages would count as resident."""
    return read_numbers(file, start * columns, stop * columns).reshape(-1, columns)


def read_numbers(file: IO[bytes], start: int, stop: int) -> Column:
    """Numbers `start` to `stop` of a file of 64-bit numbers. OSError: the file ends before."""
    numbers = np.empty(stop - start, np.uint64)
    left, place = numbers.view(np.uint8).data, start * 8
    while left:
        part = os.pread(file.fileno(), min(len(left), 1 << 30), place)
        if not part:
            raise OSError(f"a spill file ends at byte {place}, before number {stop}")
        left[: len(part)] = part
        left, place = left[len(part) :], place + len(part)
    return numbers


def _behind(rows: Rows, bound: tuple[int, ...]) -> int:
    """Count of sorted `rows` that are at most `bound`."""
    low, high = 0, len(rows)
    for column, value in enumerate(bound):
        numbers = np.ascontiguousarray(rows[low:high, column])
        wanted = np.uint64(value)
        low, high = (
            low + int(np.searchsorted(numbers, wanted)),
            low + int(np.searchsorted(numbers, wanted, side="right")),
        )
        if low == high:
            break
    return high


def _sorted(rows: Rows, by: int) -> Rows:
    order = np.argsort(rows[:, 0])
    first = rows[order, 0]
    equal = first[1:] == first[:-1]
    if by > 1 and equal.any():
        # Few rows tie in their first column, so only those pay for comparing the others.
        tied = np.zeros(len(rows), np.bool_)
        tied[1:] |= equal
        tied[:-1] |= equal
        places = order[tied]
        order[tied] = places[np.lexsort([rows[places, column] for column in range(by - 1, -1, -1)])]
    return np.asarray(rows[order], np.uint64)

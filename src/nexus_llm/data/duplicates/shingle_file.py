"""Shingle sets on disk, in the order of their documents, and the similarity of pairs of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from nexus_llm.data.duplicates.minhash import jaccards
from nexus_llm.data.duplicates.sorted_rows import Column, Rows, append, read_numbers, read_rows
from nexus_llm.data.duplicates.word_hashes import Hashes

# Sets gathered before they are written, in hashes of 8 bytes: a system call for each would cost more than its bytes.
_WRITTEN_AT_ONCE = 1 << 17
_INDEX_ROWS_AT_ONCE = 1 << 15


class ShingleFile:
    """The sets of documents, numbered from 0 as they were added: these numbers are what pairs consist of.

    In memory are the sets of one batch of pairs, at most `buffer_bytes` and one pair more. The files have no names:
    they are gone with the process.
    """

    def __init__(self, folder: Path, *, buffer_bytes: int) -> None:
        self._hashes = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed in __exit__
        # Rows (ordinal, first hash); the set of number n ends where that of n + 1 begins.
        self._index = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed in __exit__
        self._buffer_hashes = buffer_bytes // 8
        self._end = 0
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hashes.close()
        self._index.close()

    def add(self, ordinals: Column, sets: Iterable[tuple[int, Hashes]]) -> None:
        """Takes the sets of documents, given as (ordinal, sorted distinct hashes) for each of `ordinals` in turn.

        ValueError: a document is missing, or another one came.
        """
        waiting: list[Hashes] = []
        index: list[tuple[int, int]] = []
        waiting_hashes = 0
        for expected, (ordinal, hashes) in zip(ordinals.tolist(), sets, strict=True):
            if ordinal != expected:
                raise ValueError(f"shingles of document {ordinal} came where those of {expected} were asked for")
            index.append((ordinal, self._end))
            waiting.append(hashes)
            self._end += len(hashes)
            waiting_hashes += len(hashes)
            if waiting_hashes >= _WRITTEN_AT_ONCE or len(index) >= _INDEX_ROWS_AT_ONCE:
                self._write(waiting, index)
                waiting, index, waiting_hashes = [], [], 0
        self._write(waiting, index)

    def finish(self) -> None:
        """Ends the writing; to be called once, before anything is read."""
        append(self._index, np.array([[0, self._end]], np.uint64))

    def numbers(self) -> Iterator[Rows]:
        """Rows (ordinal, number) of all documents, in order."""
        for start in range(0, self.count, _INDEX_ROWS_AT_ONCE):
            rows = read_rows(self._index, start, min(start + _INDEX_ROWS_AT_ONCE, self.count), columns=2)
            rows[:, 1] = np.arange(start, start + len(rows), dtype=np.uint64)
            yield rows

    def jaccards(self, left: Column, right: Column) -> npt.NDArray[np.float64]:
        """Similarity in 0–1 of each pair of numbers. Fast where equal left numbers stand together."""
        found = np.empty(len(left), np.float64)
        both, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        extents = self._extents(both)
        lengths = extents[:, 1] - extents[:, 0]
        left_places, right_places = places[: len(left)], places[len(left) :]
        is_new = np.ones(len(left), np.bool_)
        is_new[1:] = left[1:] != left[:-1]
        costs = np.where(is_new, lengths[left_places], 0) + lengths[right_places]
        batches = (np.cumsum(costs) - costs) // max(1, self._buffer_hashes)
        for start, stop in _stretches(batches[1:] != batches[:-1], count=len(left)):
            wanted, local = np.unique(
                np.concatenate([left_places[start:stop], right_places[start:stop]]), return_inverse=True
            )
            hashes = self._sets(both[wanted], extents[wanted])
            ends = np.concatenate([[0], np.cumsum(lengths[wanted])])
            found[start:stop] = jaccards(hashes, ends, local[: stop - start], local[stop - start :])
        return found

    def _write(self, waiting: list[Hashes], index: list[tuple[int, int]]) -> None:
        if index:
            append(self._hashes, np.concatenate(waiting))
            append(self._index, np.array(index, np.uint64))
            self.count += len(index)

    def _extents(self, numbers: Column) -> npt.NDArray[np.int64]:
        """(first hash, behind the last) of each of the ascending `numbers`."""
        extents = np.empty((len(numbers), 2), np.int64)
        for start, stop in _runs(numbers):
            first = int(numbers[start])
            rows = read_rows(self._index, first, first + stop - start + 1, columns=2)
            extents[start:stop, 0] = rows[:-1, 1]
            extents[start:stop, 1] = rows[1:, 1]
        return extents

    def _sets(self, numbers: Column, extents: npt.NDArray[np.int64]) -> Hashes:
        """The sets of ascending `numbers` behind one another."""
        parts = [
            read_numbers(self._hashes, int(extents[start, 0]), int(extents[stop - 1, 1]))
            for start, stop in _runs(numbers)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _runs(numbers: Column) -> list[tuple[int, int]]:
    """(start, stop) of the places of consecutive numbers: neighbours on disk are read at once."""
    return _stretches(numbers[1:] != numbers[:-1] + np.uint64(1), count=len(numbers))


def _stretches(is_border: npt.NDArray[np.bool_], *, count: int) -> list[tuple[int, int]]:
    """(start, stop) of the stretches of `count` places, where `is_border[i]` parts place i from the next."""
    bounds = np.flatnonzero(np.concatenate([[True], is_border, [True]])).tolist()
    return list(pairwise(bounds)) if count else []

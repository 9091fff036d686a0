"""Clusters of exact and near-duplicate documents, each with one representative, in memory that does not grow with them.

    arrived ──► first of equal hashes ──► share a band key ──► similar enough ──► connected ──► name, representative
                └─ copies                                                                       └─ similarity

Each step is a statement about sets: neither the order of blocks nor the memory decides anything. What is between two
steps lies sorted on disk (`sorted_rows`), and a step joins two sorted streams. What does grow in memory is 5 bytes for
each document that is a candidate for a near-duplicate, in `components`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from nexus_llm.data.duplicates.bands import BANDS
from nexus_llm.data.duplicates.buckets import candidate_pairs, key_rows
from nexus_llm.data.duplicates.components import Components
from nexus_llm.data.duplicates.shingle_file import ShingleFile
from nexus_llm.data.duplicates.sorted_rows import Column, Lookup, Rows, SortedRows
from nexus_llm.data.duplicates.word_hashes import Hashes

SCHEMA = {
    "ordinal": pl.UInt64,
    "cluster": pl.String,
    "representative": pl.UInt64,
    "copy_of": pl.UInt64,
    "jaccard": pl.Float64,
}
"""`cluster`: smallest content hash in it. `representative`, `copy_of`: ordinals. `jaccard`: with the representative."""

ShinglesOf = Callable[[Column], Iterable[tuple[int, Hashes]]]
"""(ordinal, its sorted distinct shingle hashes) for each of some ascending ordinals, in that order."""

# Up to seven spills are read or written at a time, each with a buffer that it holds about three times.
_BUFFERS = 20
_ONE = np.float64(1).view(np.uint64)


@dataclass(frozen=True)
class Signed:
    """What the comparison needs of the documents of one block."""

    ordinals: Column
    content_hashes: Rows
    """Shape (documents, 2): the leading and the other 64 bits of the 128."""
    characters: npt.NDArray[np.integer]
    band_keys: Rows
    """Shape (documents, BANDS), from `minhash.band_keys`."""

    @classmethod
    def of(cls, rows: pl.DataFrame) -> Self:
        """From columns `ordinal`, `content_hash` (32 hex digits), `characters`, `band_keys` (an array each)."""
        digests = bytes.fromhex("".join(rows["content_hash"]))
        return cls(
            rows["ordinal"].cast(pl.UInt64).to_numpy(),
            np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2),
            rows["characters"].to_numpy(),
            np.asarray(rows["band_keys"].to_numpy(), np.uint64).reshape(-1, BANDS),
        )


def find_duplicates(
    blocks: Iterable[Signed],
    shingles_of: ShinglesOf,
    *,
    work: Path,
    jaccard: float,
    memory_bytes: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[pl.DataFrame]:
    """Documents that are not alone, by ordinal, in frames of bounded size; columns of SCHEMA.

    Exact duplicates have equal content hashes; each is a copy of the one with the smallest ordinal. Among those firsts,
    near-duplicates share a band key and at least `jaccard` (above 0, up to 1) of their shingles, directly or through
    others. A cluster's representative has the most characters, then the smallest content hash, then the smallest
    ordinal. `jaccard` is the similarity with it, and 1 for its copies.

    `blocks` are read once; no ordinal comes twice. `advance` is told how many pairs were just compared, 0 at times in
    between. Spilled to files without names in the folder `work`; OSError where its disk is full.
    """
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as open_files:
        yield from _Search(work, memory_bytes // _BUFFERS, advance, open_files).run(blocks, shingles_of, jaccard)


class _Search:
    """The steps, each a method that reads what earlier ones wrote and closes what nobody needs again."""

    def __init__(self, work: Path, buffer_bytes: int, advance: Callable[[int], None], open_files: ExitStack) -> None:
        self.work = work
        self.buffer_bytes = buffer_bytes
        self.advance = advance
        self.open_files = open_files
        self.documents = self._spill(4, sorted_by=1)
        """Firsts: ordinal, content hash (2), characters."""
        self.copies = self._spill(4, sorted_by=2)
        """Others with the same content: ordinal of the first, ordinal, content hash (2)."""

    def run(self, blocks: Iterable[Signed], shingles_of: ShinglesOf, jaccard: float) -> Iterator[pl.DataFrame]:
        with self._spill(2, sorted_by=2) as keys:
            self._part_copies(blocks, keys)
            pairs = self._spill(2, sorted_by=2)
            for some in candidate_pairs(keys.pieces()):
                pairs.add(some)
                self.advance(0)
        with (
            pairs,
            self.open_files.enter_context(ShingleFile(self.work, buffer_bytes=2 * self.buffer_bytes)) as shingles,
        ):
            self._fetch_shingles(pairs, shingles, shingles_of)
            parts = self._compare(pairs, shingles, jaccard)
            near = self._describe(parts, shingles)
        yield from self._with_copies(near)

    def _part_copies(self, blocks: Iterable[Signed], keys: SortedRows) -> None:
        """Fills `keys` with (key, ordinal) of firsts, and `documents` and `copies`."""
        # Content hash (2), ordinal, characters, keys.
        with SortedRows(self.work, columns=4 + BANDS, sorted_by=3, buffer_bytes=self.buffer_bytes) as arrived:
            for block in blocks:
                facts = [block.content_hashes, block.ordinals[:, None], block.characters[:, None].astype(np.uint64)]
                arrived.add(np.concatenate([*facts, block.band_keys], axis=1))
                self.advance(0)
            before = np.empty((0, 3), np.uint64)
            for piece in arrived.pieces():
                # The row before decides whether the first one here is a copy; only its hash and its first count.
                hashes = np.concatenate([before[:, :2], piece[:, :2]])
                ordinals = np.concatenate([before[:, 2], piece[:, 2]])
                is_first = np.concatenate([[True], (hashes[1:] != hashes[:-1]).any(axis=1)])
                first = ordinals[np.maximum.accumulate(np.where(is_first, np.arange(len(hashes)), 0))]
                before = np.concatenate([hashes[-1:], first[-1:, None]], axis=1)
                is_first, first = is_first[-len(piece) :], first[-len(piece) :]
                firsts, copies = piece[is_first], piece[~is_first]
                keys.add(key_rows(firsts[:, 2], firsts[:, 4:]))
                self.documents.add(firsts[:, [2, 0, 1, 3]])
                self.copies.add(np.concatenate([first[~is_first, None], copies[:, [2, 0, 1]]], axis=1))

    def _fetch_shingles(self, pairs: SortedRows, shingles: ShingleFile, shingles_of: ShinglesOf) -> None:
        with self._spill(1, sorted_by=1) as wanted:
            for piece in pairs.first_of_each(2):
                wanted.add(np.unique(piece)[:, None])
            for piece in wanted.first_of_each(1):
                shingles.add(piece[:, 0], shingles_of(piece[:, 0]))
                self.advance(0)
        shingles.finish()

    def _compare(self, pairs: SortedRows, shingles: ShingleFile, jaccard: float) -> Components:
        """What the verified pairs connect, by the numbers that `shingles` gives to documents."""
        parts = Components(shingles.count)
        with self._spill(2, sorted_by=2) as half, self._spill(2, sorted_by=2) as numbered:
            _renumber(pairs.first_of_each(2), shingles, into=half)
            _renumber(half.pieces(), shingles, into=numbered)
            for piece in numbered.pieces():
                is_similar = shingles.jaccards(piece[:, 0], piece[:, 1]) >= jaccard
                parts.join(piece[is_similar, 0], piece[is_similar, 1])
                self.advance(len(piece))
        return parts

    def _describe(self, parts: Components, shingles: ShingleFile) -> SortedRows:
        """Rows (ordinal, name (2), ordinal of the representative, bits of the similarity) of near-duplicates."""
        # Root, characters from many to few, content hash (2), ordinal, number: the first row of a root represents it.
        with self._spill(6, sorted_by=5) as members, self._spill(3, sorted_by=3) as names:
            documents = Lookup(self.documents.pieces(), columns=4)
            for piece in shingles.numbers():
                start = int(piece[0, 1])
                numbers, roots = parts.joined(start, start + len(piece))
                ordinals = piece[numbers - start, 0]
                facts, _ = documents.find(ordinals)
                columns = [roots, ~facts[:, 3], facts[:, 1], facts[:, 2], ordinals, numbers.astype(np.uint64)]
                rows = np.stack(columns, axis=1)
                members.add(rows)
                names.add(rows[:, [0, 2, 3]])
            # Number of the representative, number, ordinal, ordinal of the representative, name (2).
            with self._spill(6, sorted_by=2) as described:
                best = Lookup(members.first_of_each(1), columns=6)
                smallest = Lookup(names.first_of_each(1), columns=3)
                for piece in members.pieces():
                    roots = piece[:, 0]
                    representative, name = best.find(roots)[0], smallest.find(roots)[0]
                    described.add(
                        np.concatenate(
                            [representative[:, 5:], piece[:, [5, 4]], representative[:, 4:5], name[:, 1:]], axis=1
                        )
                    )
                near = self._spill(5, sorted_by=1)
                for piece in described.pieces():
                    values = shingles.jaccards(piece[:, 0], piece[:, 1]).view(np.uint64)
                    near.add(np.concatenate([piece[:, [2, 4, 5, 3]], values[:, None]], axis=1))
                    self.advance(len(piece))
        return near

    def _with_copies(self, near: SortedRows) -> Iterator[pl.DataFrame]:
        # Ordinal, name (2), representative, bits of the similarity, copy of.
        with self._spill(6, sorted_by=1) as everyone:
            for piece in near.pieces():
                everyone.add(piece[:, [0, 1, 2, 3, 4, 0]])
            lookup = Lookup(near.pieces(), columns=5)
            before: int | None = None
            for piece in self.copies.pieces():
                first = piece[:, 0]
                rows, found = lookup.find(first)
                alone = np.stack([first, piece[:, 2], piece[:, 3], first, np.full(len(first), _ONE)], axis=1)
                rows = np.concatenate([np.where(found[:, None], rows, alone), first[:, None]], axis=1)
                # A first that is nobody's near-duplicate comes in with the first of its copies.
                is_new = np.concatenate([[int(first[0]) != before], first[1:] != first[:-1]])
                before = int(first[-1])
                everyone.add(rows[is_new & ~found])
                rows[:, 0] = piece[:, 1]
                everyone.add(rows)
            yield from (_frame(piece) for piece in everyone.pieces())

    def _spill(self, columns: int, *, sorted_by: int) -> SortedRows:
        rows = SortedRows(self.work, columns=columns, sorted_by=sorted_by, buffer_bytes=self.buffer_bytes)
        return self.open_files.enter_context(rows)


def _renumber(pieces: Iterator[Rows], shingles: ShingleFile, *, into: SortedRows) -> None:
    """Turns rows (ordinal, other) into (other, number); done twice, both ends of a pair are numbers in their places."""
    numbers = Lookup(shingles.numbers(), columns=2)
    for piece in pieces:
        rows, _ = numbers.find(piece[:, 0])
        into.add(np.stack([piece[:, 1], rows[:, 1]], axis=1))


def _frame(rows: Rows) -> pl.DataFrame:
    columns = [
        rows[:, 0],
        _hex(rows[:, 1:3]),
        rows[:, 3],
        rows[:, 5],
        np.ascontiguousarray(rows[:, 4]).view(np.float64),
    ]
    return pl.DataFrame(dict(zip(SCHEMA, columns, strict=True)), schema=SCHEMA)


def _hex(halves: Rows) -> pl.Series:
    """32 hex digits for each row of two numbers."""
    digests = pa.py_buffer(halves.astype(">u8").tobytes())
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(halves), [None, digests])
    return pl.Series(column.cast(pa.binary())).bin.encode("hex")

"""Token shards become rows of equal length, and rows become batches: pure numpy, no state.

Documents are cut into pieces that fit a row, and pieces are packed into rows by best-fit decreasing. A batch depends
on (seed, step) alone, so a run that stopped at any step goes on with the same data in the same order.

Shapes: N pieces, R rows, B rows in a batch, T tokens in a row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nexus_llm.errors import DataError
from nexus_llm.records import Split

Objective = Literal["continued-pretraining", "sft", "dpo"]
Integers = npt.NDArray[np.int64]

NOT_LEARNED = -100  # the label that torch's cross-entropy ignores


@dataclass(frozen=True)
class Shard:
    """One token shard: documents one after another. `offsets` has one entry more than there are documents."""

    tokens: npt.NDArray[Any]
    offsets: Integers
    loss_mask: npt.NDArray[np.bool_]
    is_conversation: npt.NDArray[np.bool_]
    repeats: npt.NDArray[np.uint16] | None = None
    """How often an epoch sees each document; None: once."""


@dataclass(frozen=True)
class Batch:
    """Packed rows; every array has shape (B, T)."""

    token_ids: Integers
    labels: Integers
    """The token itself where it is learned, else -100. The loss compares a label with the prediction one place
    before it; the first token of a piece is never learned, so no piece predicts the next one."""
    positions: Integers
    """Counted from 0 in each piece."""
    documents: Integers
    """Number of the piece within its row, -1 for padding: tokens attend to their own number only."""

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.documents >= 0).sum())

    @property
    def learned_tokens(self) -> int:
        return int((self.labels != NOT_LEARNED).sum())

    def part(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop`."""
        rows = slice(start, stop)
        return Batch(self.token_ids[rows], self.labels[rows], self.positions[rows], self.documents[rows])

    def parts(self, rows_at_once: int) -> list[Batch]:
        """All rows, `rows_at_once` at a time."""
        return [self.part(start, start + rows_at_once) for start in range(0, len(self.token_ids), rows_at_once)]

    def learned(self) -> tuple[Integers, Integers]:
        """(places in the rows laid end to end whose next token is learned, those tokens), both (M,).

        A prediction at one place is compared with the token at the next; a row's last prediction has no token.
        """
        following = np.full_like(self.labels, NOT_LEARNED)
        following[:, :-1] = self.labels[:, 1:]
        places = np.flatnonzero(following != NOT_LEARNED)
        return places, following.ravel()[places]


@dataclass(frozen=True)
class PackedRows:
    """All rows of a split: which pieces lie in which row, and how many documents could not be used."""

    shards: Sequence[Shard]
    objective: Objective
    max_length: int
    pieces: Integers
    """Shape (N, 3): shard, first token in the shard, length; ordered by row."""
    row_starts: Integers
    """Shape (R + 1,): the pieces of row r are `row_starts[r]` to `row_starts[r + 1]`."""
    dropped: dict[str, int]
    """Reason → documents."""

    @property
    def rows(self) -> int:
        return len(self.row_starts) - 1

    def take(self, rows: Integers) -> Batch:
        """The batch that consists of these rows, in this order."""
        shape = (len(rows), self.max_length)
        token_ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        labels, documents = np.full(shape, NOT_LEARNED, np.int64), np.full(shape, -1, np.int64)
        for place, row in enumerate(rows):
            column = 0
            pieces = self.pieces[self.row_starts[row] : self.row_starts[row + 1]]
            for number, (shard_index, start, length) in enumerate(pieces):
                shard, here = self.shards[shard_index], slice(column, column + length)
                tokens = shard.tokens[start : start + length].astype(np.int64)
                learned = _learned(shard, start, length, self.objective)
                token_ids[place, here], positions[place, here] = tokens, np.arange(length)
                labels[place, here] = np.where(learned, tokens, NOT_LEARNED)
                documents[place, here] = number
                column += length
        return Batch(token_ids, labels, positions, documents)

    def batch(self, seed: int, step: int, *, size: int) -> Batch:
        """The `size` rows of a step: every row once in an order drawn from (seed, epoch), then again in another."""
        positions = np.arange(step * size, (step + 1) * size)
        rows = [epoch_order(seed, int(place) // self.rows, self.rows)[int(place) % self.rows] for place in positions]
        return self.take(np.array(rows, np.int64))


def read_shards(folder: Path, split: Split, *, vocabulary: int) -> list[Shard]:
    """The memory-mapped token shards of a split, in order.

    Raises:
        DataError: there are none, or they hold a token id that a vocabulary of this size does not have.
    """
    shards = []
    for path in sorted(folder.glob(f"{split}-*.tokens.npy")):
        base = path.name.removesuffix(".tokens.npy")
        paths = {name: folder / f"{base}.{name}.npy" for name in _FIELDS}
        if not paths["repeats"].exists():  # made before there was a mix
            del paths["repeats"]
        shards.append(Shard(**{name: np.load(file, mmap_mode="r") for name, file in paths.items()}))
        if shards[-1].tokens.size and (highest := int(shards[-1].tokens.max())) >= vocabulary:
            raise DataError(
                f"{path} holds token id {highest}, and the model's vocabulary ends at {vocabulary - 1}",
                fix="make the data with the tokenizer of the model that is trained",
            )
    if not shards:
        raise DataError(f"{folder} has no token shards for {split}", fix="run the data stage again")
    return shards


_FIELDS = ("tokens", "offsets", "loss_mask", "is_conversation", "repeats")


def pack(shards: Sequence[Shard], *, max_length: int, objective: Objective) -> PackedRows:
    """Every usable document, cut into pieces and packed into rows of `max_length` tokens.

    A document with repeats has its pieces as often, one with 0 repeats has none. An epoch is once through all rows.
    """
    dropped = {"conversation longer than max_length": 0, "nothing to learn": 0, "not in the mix": 0}
    # Repeat number → pieces: all first times, then all second times, so that equal pieces are packed far apart.
    passes: list[list[tuple[int, int, int]]] = [[]]
    for shard_index, shard in enumerate(shards):
        for document, (start, stop) in enumerate(zip(shard.offsets[:-1], shard.offsets[1:], strict=True)):
            times = 1 if shard.repeats is None else int(shard.repeats[document])
            if not times:
                dropped["not in the mix"] += 1
                continue
            if shard.is_conversation[document] and stop - start > max_length:
                dropped["conversation longer than max_length"] += 1
                continue
            found = [
                (shard_index, first, length)
                for first, length in cut(int(start), int(stop), max_length=max_length)
                if objective == "continued-pretraining"
                or (shard.is_conversation[document] and _learned(shard, first, length, objective).any())
            ]
            dropped["nothing to learn"] += not found
            passes += [[] for _ in range(times - len(passes))]
            for repeat in passes[:times]:
                repeat.extend(found)
    pieces = [piece for one in passes for piece in one]
    rows = best_fit_decreasing([length for _, _, length in pieces], capacity=max_length)
    ordered = [pieces[index] for row in rows for index in row]
    row_starts = np.cumsum([0, *(len(row) for row in rows)])
    return PackedRows(
        shards, objective, max_length, np.array(ordered, np.int64).reshape(-1, 3), row_starts, _nonzero(dropped)
    )


def cut(start: int, stop: int, *, max_length: int) -> list[tuple[int, int]]:
    """(first token, length) of the pieces of a document.

    A piece begins with the last token of the one before: as context, since a piece's first token is never learned.
    So every token but a document's first is learned exactly once.

    >>> cut(0, 10, max_length=4)
    [(0, 4), (3, 4), (6, 4)]
    """
    return [(first, min(max_length, stop - first)) for first in range(start, stop - 1, max_length - 1)]


def best_fit_decreasing(lengths: Sequence[int], *, capacity: int) -> list[list[int]]:
    """Rows of indices into `lengths`: the longest first, each into the fullest row that still has room.

    Needs at most 11/9 of the best possible number of rows, plus one (Johnson 1973).

    >>> best_fit_decreasing([3, 6, 7, 4], capacity=10)
    [[2, 0], [1, 3]]
    """
    rows: list[list[int]] = []
    rows_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of rows_by_room, sorted
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = bisect_left(rooms, lengths[index])
        if place == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[place]
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                del rows_by_room[room], rooms[place]
        rows[row].append(index)
        if left := room - lengths[index]:
            if left not in rows_by_room:
                insort(rooms, left)
            rows_by_room.setdefault(left, []).append(row)
    return rows


def _learned(shard: Shard, start: int, length: int, objective: Objective) -> npt.NDArray[np.bool_]:
    learned = np.ones(length, bool) if objective != "sft" else np.array(shard.loss_mask[start : start + length])
    learned[0] = False
    return learned


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, rows: int) -> Integers:
    """The order in which an epoch goes through all rows."""
    # Sorting raw bits: numpy keeps the streams of its bit generators stable, but not its permutation algorithm.
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(rows)
    return np.argsort(bits, kind="stable")


def _nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}

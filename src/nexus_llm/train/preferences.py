"""Pairs of a better and a worse answer become rows of equal length, and rows become batches: pure numpy, no state.

Both conversations of a pair lie in one row, the chosen one first, so a row is as long and costs as much memory as in
any other training, and no pair is ever divided between processes or forward passes.

Shapes: B rows in a batch, T tokens in a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nexus_llm.errors import DataError
from nexus_llm.records import Split
from nexus_llm.train.packing import (
    NOT_LEARNED,
    Batch,
    Integers,
    PackedRows,
    Shard,
    best_fit_decreasing,
    epoch_order,
    read_shards,
)

_REJECTED_FIELDS = ("tokens", "offsets", "loss_mask")


@dataclass(frozen=True)
class PairShard:
    """One shard whose document i has the rejected answer i, of length 0 where there is none."""

    chosen: Shard
    rejected: Shard


@dataclass(frozen=True)
class PairBatch(Batch):
    """Packed rows of pairs: documents 2k and 2k + 1 of a row are the chosen and the rejected conversation of its
    pair k.

    Labels are learned from the first token in which the two differ: what both say before it has the same probability
    in both and cancels in the loss.
    """

    @property
    def learned_tokens(self) -> int:
        """Pairs: what the sum of their losses is divided by."""
        return int(pairs_of_rows(self).sum())


@dataclass(frozen=True)
class PackedPairs(PackedRows):
    """All rows of a split; `pieces` are the pairs' conversations, chosen and rejected in turn."""

    def take(self, rows: Integers) -> PairBatch:
        """The batch that consists of these rows, in this order."""
        batch = super().take(rows)
        for row, pairs in enumerate(pairs_of_rows(batch)):
            _forget_what_both_say(batch, row, pairs=int(pairs))
        return PairBatch(batch.token_ids, batch.labels, batch.positions, batch.documents)

    def rows_of_steps(self, seed: int, steps: int, *, size: int) -> Integers:
        """The rows that the first `steps` batches have, (steps, size), in the order of `batch`."""
        rows, count = self.rows, steps * size
        orders = [epoch_order(seed, epoch, rows) for epoch in range(-(-count // max(1, rows)))]
        return np.concatenate([*orders, np.empty(0, np.int64)])[:count].reshape(steps, size)


def pairs_of_rows(batch: Batch) -> Integers:
    """How many pairs each row has, (B,), where its documents are chosen and rejected in turn."""
    pairs: Integers = (batch.documents.max(1, initial=-1) + 1) // 2
    return pairs


def pair_keys(batch: Batch) -> npt.NDArray[np.uint64]:
    """A number for every pair, in the order of rows: 64 bits of BLAKE2b of its tokens and labels."""
    keys = []
    for row, pairs in enumerate(pairs_of_rows(batch)):
        for pair in range(pairs):
            hashed = hashlib.blake2b(digest_size=8)
            for document in (2 * pair, 2 * pair + 1):
                here = batch.documents[row] == document
                # Lengths first: the border between the two is a part of what is hashed.
                hashed.update(int(here.sum()).to_bytes(8, "little"))
                hashed.update(batch.token_ids[row, here].tobytes())
                hashed.update(batch.labels[row, here].tobytes())
            keys.append(int.from_bytes(hashed.digest(), "little"))
    return np.array(keys, np.uint64)


def read_pair_shards(folder: Path, split: Split, *, vocabulary: int) -> list[PairShard]:
    """The memory-mapped shards of a split that hold pairs, in order.

    Raises:
        DataError: there are no shards, none has pairs, or they hold a token id that a vocabulary of this size does
            not have.
    """
    found = []
    names = sorted(path.name.removesuffix(".tokens.npy") for path in folder.glob(f"{split}-*.tokens.npy"))
    for name, chosen in zip(names, read_shards(folder, split, vocabulary=vocabulary), strict=True):
        paths = {field: folder / f"{name}.rejected_{field}.npy" for field in _REJECTED_FIELDS}
        if not paths["tokens"].exists():
            continue
        arrays = {field: np.load(path, mmap_mode="r") for field, path in paths.items()}
        if arrays["tokens"].size and (highest := int(arrays["tokens"].max())) >= vocabulary:
            raise DataError(
                f"{paths['tokens']} holds token id {highest}, and the model's vocabulary ends at {vocabulary - 1}",
                fix="make the data with the tokenizer of the model that is trained",
            )
        found.append(PairShard(chosen, Shard(**arrays, is_conversation=chosen.is_conversation)))
    if not found and split == "train":
        raise DataError(
            f"{folder} has no pairs of a chosen and a rejected answer, which the objective dpo learns from",
            fix="add a source with the fields prompt, chosen and rejected, or set train.objective to sft",
        )
    return found


def pack_pairs(shards: Sequence[PairShard], *, max_length: int) -> PackedPairs:
    """Every usable pair, packed into rows of `max_length` tokens; a pair takes what both conversations take together.

    A document with repeats has its pair as often. Pairs of which nothing can be learned are counted in `dropped`.
    """
    dropped = dict.fromkeys(_REASONS, 0)
    # Repeat number → pairs: all first times, then all second times, so that equal pairs are packed far apart.
    passes: list[list[tuple[int, int, int, int, int]]] = [[]]
    for index, shard in enumerate(shards):
        repeats = shard.chosen.repeats
        for document in range(len(shard.chosen.offsets) - 1):
            times = 1 if repeats is None else int(repeats[document])
            reason = _NOT_IN_THE_MIX if not times else _unusable(shard, document, max_length=max_length)
            if reason:
                dropped[reason] += 1
                continue
            passes += [[] for _ in range(times - len(passes))]
            pair = (index, *_place(shard.chosen, document), *_place(shard.rejected, document))
            for repeat in passes[:times]:
                repeat.append(pair)
    pairs = [pair for one in passes for pair in one]
    rows = best_fit_decreasing([pair[2] + pair[4] for pair in pairs], capacity=max_length)
    pieces = [
        piece
        for row in rows
        for shard_index, start, length, other_start, other_length in (pairs[place] for place in row)
        for piece in ((2 * shard_index, start, length), (2 * shard_index + 1, other_start, other_length))
    ]
    return PackedPairs(
        shards=[half for shard in shards for half in (shard.chosen, shard.rejected)],
        objective="sft",  # both learn what the assistant says
        max_length=max_length,
        pieces=np.array(pieces, np.int64).reshape(-1, 3),
        row_starts=np.cumsum([0, *(2 * len(row) for row in rows)]),
        dropped={reason: count for reason, count in dropped.items() if count},
    )


_NOT_IN_THE_MIX = "not in the mix"
_NO_REJECTED = "no rejected answer"
_TOO_LONG = "pair longer than max_length"
_EQUAL = "chosen and rejected are equal"
_NOTHING = "nothing to learn"
_REASONS = (_NOT_IN_THE_MIX, _NO_REJECTED, _TOO_LONG, _EQUAL, _NOTHING)


def _place(shard: Shard, document: int) -> tuple[int, int]:
    """(first token, length)."""
    start, stop = int(shard.offsets[document]), int(shard.offsets[document + 1])
    return start, stop - start


def _unusable(shard: PairShard, document: int, *, max_length: int) -> str | None:
    """Why nothing can be learned from the pair of this document, or None."""
    (start, length), (other_start, other_length) = (_place(one, document) for one in (shard.chosen, shard.rejected))
    if not other_length:
        return _NO_REJECTED
    if length + other_length > max_length:
        return _TOO_LONG
    chosen = shard.chosen.tokens[start : start + length]
    rejected = shard.rejected.tokens[other_start : other_start + other_length]
    if np.array_equal(chosen, rejected):
        return _EQUAL
    # A piece's first token is never learned, and neither is what both say.
    shared = max(1, _shared_tokens(chosen, rejected))
    masks = shard.chosen.loss_mask[start:], shard.rejected.loss_mask[other_start:]
    learned = [mask[shared:size].any() for mask, size in zip(masks, (length, other_length), strict=True)]
    return None if any(learned) else _NOTHING


def _shared_tokens(one: Integers, other: Integers) -> int:
    """Tokens at the start that are equal.

    >>> _shared_tokens(np.array([4, 5, 6]), np.array([4, 5, 7, 8]))
    2
    """
    shortest = min(len(one), len(other))
    differences = np.flatnonzero(one[:shortest] != other[:shortest])
    return int(differences[0]) if len(differences) else shortest


def _forget_what_both_say(batch: Batch, row: int, *, pairs: int) -> None:
    for pair in range(pairs):
        chosen, rejected = (np.flatnonzero(batch.documents[row] == 2 * pair + side) for side in (0, 1))
        shared = _shared_tokens(batch.token_ids[row, chosen], batch.token_ids[row, rejected])
        batch.labels[row, chosen[:shared]] = NOT_LEARNED
        batch.labels[row, rejected[:shared]] = NOT_LEARNED

"""Candidate pairs: the documents that share a band key, from rows of keys in order.

A *bucket* is all documents with one key. Up to 32 of them are all compared with one another. In a larger one, made by
boilerplate, all pairs would be too many: ordered by ordinal, each is compared with the next two. That is a statement
about sets alone, so every engine finds the same pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from nexus_llm.data.duplicates.minhash import NO_KEY
from nexus_llm.data.duplicates.sorted_rows import Column, Rows

MAX_ALL_PAIRS = 32
"""Members of a bucket that are all compared with one another."""
NEXT_IN_LARGE = 2
"""Following members that each is compared with in a larger one."""


def key_rows(ordinals: Column, band_keys: Rows) -> Rows:
    """Rows (key, ordinal) of all keys of documents, shape (documents, bands); without those of texts without words.

    Nobody meets in two bands by chance: the band's number is part of a key.
    """
    keys = band_keys.ravel()
    rows = np.stack([keys, np.repeat(ordinals, band_keys.shape[1])], axis=1)
    return np.asarray(rows[keys != NO_KEY], np.uint64)


def pairs_within(ordinals: Column) -> Rows:
    """Pairs to compare in one bucket, shape (pairs, 2), the smaller ordinal first. `ordinals` ascend, all different.

    >>> pairs_within(np.array([3, 5, 9], np.uint64)).tolist()
    [[3, 5], [5, 9], [3, 9]]
    """
    is_large = np.full(len(ordinals), len(ordinals) > MAX_ALL_PAIRS)
    return _pairs(np.zeros(len(ordinals), np.uint64), ordinals, is_large)


def candidate_pairs(pieces: Iterable[Rows]) -> Iterator[Rows]:
    """Pairs to compare of all buckets, shape (pairs, 2), the smaller ordinal first; a pair can come several times.

    `pieces` hold rows (key, ordinal) that ascend over all pieces; a bucket may go on from one piece into the next.
    """
    carried, carried_is_large = np.empty((0, 2), np.uint64), False
    for piece in pieces:
        rows = np.concatenate([carried, piece])
        is_large = _bucket_sizes(rows[:, 0]) > MAX_ALL_PAIRS
        if carried_is_large:
            is_large |= rows[:, 0] == carried[0, 0]
        carried_is_large = bool(is_large[-1])
        last = rows[rows[:, 0] == rows[-1, 0]]
        # A bucket of millions must not wait in memory for its end: once it is large, its size no longer matters.
        ready = len(rows) if carried_is_large else len(rows) - len(last)
        carried = last[-NEXT_IN_LARGE:].copy() if carried_is_large else last
        yield _pairs(rows[:ready, 0], rows[:ready, 1], is_large[:ready])
    if not carried_is_large:
        yield pairs_within(carried[:, 1])


def _bucket_sizes(keys: Column) -> npt.NDArray[np.int64]:
    """Members of the bucket that each row is in, as far as they stand here."""
    bounds = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1], [True]]))
    sizes = np.diff(bounds)
    return np.repeat(sizes, sizes)


def _pairs(keys: Column, ordinals: Column, is_large: npt.NDArray[np.bool_]) -> Rows:
    found = [np.empty((0, 2), np.uint64)]
    for distance in range(1, min(MAX_ALL_PAIRS, len(keys))):
        meets = keys[distance:] == keys[:-distance]
        if distance > NEXT_IN_LARGE:
            meets &= ~is_large[:-distance]
        if not meets.any():
            break
        found.append(np.stack([ordinals[:-distance][meets], ordinals[distance:][meets]], axis=1))
    return np.concatenate(found)

"""MinHash signatures and the pairs of documents that may be near-duplicates.

A document is the set of its runs of k words. The share of equal places in two signatures estimates the Jaccard
similarity of the two sets (Broder 1997, "On the resemblance and containment of documents"); cut into bands, a pair of
similarity s meets in at least one with probability 1 − (1 − s^ROWS)^BANDS ("Mining of Massive Datasets", chapter 3).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

# 14 × 8: s = 0.7 is found with probability 0.56, 0.8 with 0.92, 0.9 with 0.9997, and 0.5 with 0.05.
BANDS = 14
ROWS = 8
PERMUTATIONS = BANDS * ROWS

# In a band that many documents share, all pairs would be too many: each is then paired with its two neighbours.
_MAX_ALL_PAIRS = 32
# Word hashes kept between documents; text has few distinct words until it has many rare ones.
_MAX_KNOWN_WORDS = 1_000_000

# 512 × 112 values of 8 bytes stay inside a core's second-level cache.
_BLOCK = 512

_WORDS = re.compile(r"\w+")

Hashes = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]


class _WordHashes(dict[str, int]):
    """64-bit hash of a word, the same on every machine; remembered because texts repeat their words."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MAX_KNOWN_WORDS:
            self.clear()
        value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = value
        return value


_WORD_HASHES = _WordHashes()


def shingles(text: str, *, words: int) -> Hashes:
    """Sorted distinct 64-bit hashes of all runs of `words` words, in small letters and without punctuation.

    A text with fewer words is one run; one without words has none.
    """
    found = _WORDS.findall(text.lower())
    if not found:
        return np.empty(0, np.uint64)
    hashes = np.fromiter(map(_WORD_HASHES.__getitem__, found), np.uint64, count=len(found))
    width = min(words, len(hashes))
    runs = np.zeros(len(hashes) - width + 1, np.uint64)
    for place in range(width):
        # Horner's rule with an odd factor: each order of the same words gives another value.
        runs *= np.uint64(0x9E3779B97F4A7C15)
        runs += hashes[place : place + len(runs)]
    return np.unique(_mixed(runs))


def signatures(shingle_sets: Iterable[Hashes]) -> Signatures:
    """The MinHash signature of each set, shape (sets, PERMUTATIONS). An empty set's signature is all ones."""
    rows = [_signature(one) for one in shingle_sets]
    return np.stack(rows) if rows else np.empty((0, PERMUTATIONS), np.uint32)


def candidate_pairs(signed: Signatures) -> list[tuple[int, int]]:
    """Pairs (a, b), a < b, of rows that agree in at least one whole band; sorted."""
    pairs: set[tuple[int, int]] = set()
    for band in range(BANDS):
        rows = np.ascontiguousarray(signed[:, band * ROWS : (band + 1) * ROWS])
        keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * ROWS))).ravel()
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
        for group in np.split(order, borders):
            if len(group) > 1:
                pairs.update(_pairs_within(sorted(group.tolist())))
    return sorted(pairs)


def jaccard(a: Hashes, b: Hashes) -> float:
    """Similarity of two sets in 0–1: shared among all. Two empty sets are not alike."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    union = len(a) + len(b) - shared
    return shared / union if union else 0.0


def _signature(hashes: Hashes) -> Signatures:
    smallest = np.full(PERMUTATIONS, 0xFFFFFFFF, np.uint32)
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        # Multiply-add-shift is strongly universal on 64 → 32 bits (Dietzfelbinger 1996).
        values = (block[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)
        smallest = np.minimum(smallest, values.min(axis=0).astype(np.uint32))
    return smallest


def _pairs_within(group: list[int]) -> Iterable[tuple[int, int]]:
    reach = len(group) if len(group) <= _MAX_ALL_PAIRS else 3
    return ((a, b) for place, a in enumerate(group) for b in group[place + 1 : place + reach])


def _mixed(values: Hashes) -> Hashes:
    """Every input bit reaches every output bit (the finaliser of Steele et al. 2014, "SplitMix")."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_PLACES = np.arange(1, 2 * PERMUTATIONS + 1, dtype=np.uint64)
_DRAWN = _mixed(_PLACES * np.uint64(0x9E3779B97F4A7C15))
_FACTORS = _DRAWN[:PERMUTATIONS] | np.uint64(1)
_OFFSETS = _DRAWN[PERMUTATIONS:]

"""MinHash band keys and shingle sets of a column of texts, compiled.

A document is the set of its runs of k words. The share of equal minima of two sets under random permutations estimates
their Jaccard similarity (Broder 1997, "On the resemblance and containment of documents"); cut into bands, a pair of
similarity s agrees in at least one whole band with probability 1 − (1 − s^ROWS)^BANDS ("Mining of Massive Datasets",
chapter 3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from nexus_llm.characters import Offsets, mix
from nexus_llm.data.duplicates.bands import BANDS, ROWS
from nexus_llm.data.duplicates.word_hashes import FACTOR, fill_words, tables, text_buffers

Hashes = npt.NDArray[np.uint64]

PERMUTATIONS = BANDS * ROWS

NO_KEY = np.uint64(0)
"""Stands in place of a band key where a text has no words: it meets nobody."""

# Words hashed at a time: their hashes, runs and the minima stay inside a core's first-level cache.
_PIECE = 1024
_LARGEST = np.uint64(0xFFFFFFFFFFFFFFFF)

_PLACES = np.arange(1, 2 * PERMUTATIONS + 1, dtype=np.uint64)


def band_keys(texts: pl.Series, *, words: int) -> Hashes:
    """Keys of shape (texts, BANDS): two texts with an equal key are candidates for near-duplicates.

    A key is a 64-bit hash of the band's number and the band's ROWS minima over the hashes of all runs of `words` words
    (1–256). A text with fewer words is one run; one without words has NO_KEY everywhere.
    """
    data, offsets = text_buffers(texts)
    keys = np.empty((len(texts), BANDS), np.uint64)
    _fill_band_keys(data, offsets, _checked(words), *tables(), _FACTORS, _SUMMANDS, keys)
    return keys


def shingle_sets(texts: pl.Series, *, words: int) -> tuple[Hashes, Offsets]:
    """(hashes, texts + 1 bounds): sorted distinct hashes of the runs of `words` words of each text, behind one another.

    Those of text i are `hashes[bounds[i]:bounds[i + 1]]`; a text without words has none.
    """
    data, offsets = text_buffers(texts)
    bounds = np.zeros(len(texts) + 1, np.int64)
    # A word and what separates it take two bytes at least, so this many runs can there be.
    room = int(((offsets[1:] - offsets[:-1] + 1) // 2).sum())
    hashes = np.empty(room, np.uint64)
    _fill_shingle_sets(data, offsets, _checked(words), *tables(), hashes, bounds)
    return hashes[: bounds[-1]].copy(), bounds


def jaccards(
    hashes: Hashes, bounds: Offsets, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Similarity in 0–1 of each pair (left[i], right[i]) of sets as `shingle_sets` gives them: shared among all.

    Two empty sets are not alike: 0.
    """
    found = np.empty(len(left), np.float64)
    _fill_jaccards(hashes, bounds, left, right, found)
    return found


def _checked(words: int) -> int:
    if not 1 <= words <= 256:
        raise ValueError(f"words is {words}; a shingle has 1 to 256 words")
    return words


@njit(cache=True, nogil=True, inline="always")
def _fill_runs(hashes: Any, count: int, width: int, runs: Any) -> int:
    """Count of runs: `runs[i]` becomes the hash of words i … i + width − 1."""
    found = count - width + 1
    runs[:found] = 0
    for place in range(width):
        # Horner's rule with an odd factor: each order of the same words gives another value.
        for run in range(found):
            runs[run] = runs[run] * FACTOR + hashes[run + place]
    for run in range(found):
        runs[run] = mix(runs[run])
    return found


@njit(cache=True, nogil=True)
def _next_runs(
    data: Any,
    place: int,
    end: int,
    width: int,
    small: Any,
    flags: Any,
    lowered: Any,
    hashes: Any,
    starts: Any,
    carried: int,
    runs: Any,
) -> tuple[int, int, int]:
    """(runs found in the next piece of a text, words to carry into the next one, byte behind what was read).

    `carried` is −1 at a text's start: a whole text of fewer words than `width` is one run.
    """
    count, place = fill_words(data, place, end, small, flags, lowered, hashes, starts, max(carried, 0))
    if carried < 0 and place >= end and 0 < count < width:
        return _fill_runs(hashes, count, count, runs), 0, place
    found = _fill_runs(hashes, count, width, runs) if count >= width else 0
    # The last words begin runs that reach into the next piece.
    kept = min(count, width - 1)
    for one in range(kept):
        hashes[one] = hashes[count - kept + one]
    return found, kept, place


@njit(cache=True, nogil=True)
def _fill_band_keys(
    data: Any, offsets: Any, width: int, small: Any, flags: Any, lowered: Any, factors: Any, summands: Any, keys: Any
) -> None:
    hashes, starts, runs = np.empty(_PIECE, np.uint64), np.empty(_PIECE, np.int64), np.empty(_PIECE + 4, np.uint64)
    minima = np.empty(PERMUTATIONS, np.uint64)
    for text in range(len(offsets) - 1):
        minima[:] = _LARGEST
        place, end, carried, total = offsets[text], offsets[text + 1], -1, 0
        while place < end:
            found, carried, place = _next_runs(
                data, place, end, width, small, flags, lowered, hashes, starts, carried, runs
            )
            total += found
            _lower_minima(runs, found, factors, summands, minima)
        for band in range(BANDS):
            key = mix(np.uint64(band + 1) * FACTOR)
            for row in range(ROWS):
                key = mix(key ^ minima[band * ROWS + row]) + FACTOR
            keys[text, band] = max(key, np.uint64(1)) if total else NO_KEY


@njit(cache=True, nogil=True)
def _lower_minima(runs: Any, found: int, factors: Any, summands: Any, minima: Any) -> None:
    """Four runs at a time, so that a permutation's numbers are loaded once for the four."""
    for extra in range(found, found + 3):
        runs[extra] = runs[found - 1] if found else _LARGEST
    for run in range(0, found, 4):
        a, b, c, d = runs[run], runs[run + 1], runs[run + 2], runs[run + 3]
        for one in range(PERMUTATIONS):
            factor, summand = factors[one], summands[one]
            first = min(a * factor + summand, b * factor + summand)
            second = min(c * factor + summand, d * factor + summand)
            minima[one] = min(minima[one], first, second)


@njit(cache=True, nogil=True)
def _fill_shingle_sets(
    data: Any, offsets: Any, width: int, small: Any, flags: Any, lowered: Any, found_hashes: Any, bounds: Any
) -> None:
    hashes, starts, runs = np.empty(_PIECE, np.uint64), np.empty(_PIECE, np.int64), np.empty(_PIECE, np.uint64)
    for text in range(len(offsets) - 1):
        first = bounds[text]
        behind = first
        place, end, carried = offsets[text], offsets[text + 1], -1
        while place < end:
            found, carried, place = _next_runs(
                data, place, end, width, small, flags, lowered, hashes, starts, carried, runs
            )
            found_hashes[behind : behind + found] = runs[:found]
            behind += found
        bounds[text + 1] = first + _sort_distinct(found_hashes[first:behind])


@njit(cache=True, nogil=True)
def _sort_distinct(hashes: Any) -> int:
    """Count of distinct values, which now stand sorted in front.

    The values are hashes, spread evenly: each goes to the slot that its leading bits name, or behind it, so that the
    table is in order at all times and a repeated value is met at once ("ordered hash table", Amble and Knuth 1974).
    """
    count = len(hashes)
    bits = 2
    while 1 << bits < 2 * count:
        bits += 1
    shift = np.uint64(64 - bits)
    # Behind the last slot there is room for all, so nothing wraps around to the front. 0 marks a free slot.
    table = np.zeros((1 << bits) + count + 1, np.uint64)
    for one in range(count):
        value = max(hashes[one], np.uint64(1))
        slot = np.int64(value >> shift)
        while table[slot] != 0 and table[slot] < value:
            slot += 1
        if table[slot] == value:
            continue
        while value != 0:
            table[slot], value = value, table[slot]
            slot += 1
    distinct = 0
    for value in table:
        if value != 0:
            hashes[distinct] = value
            distinct += 1
    return distinct


@njit(cache=True, nogil=True)
def _fill_jaccards(hashes: Any, bounds: Any, left: Any, right: Any, found: Any) -> None:
    for pair in range(len(left)):
        a, a_end = bounds[left[pair]], bounds[left[pair] + 1]
        b, b_end = bounds[right[pair]], bounds[right[pair] + 1]
        union, shared = (a_end - a) + (b_end - b), 0
        while a < a_end and b < b_end:
            one, other = hashes[a], hashes[b]
            shared += one == other
            a += one <= other
            b += other <= one
        union -= shared
        found[pair] = shared / union if union else 0.0


def _drawn() -> Hashes:
    """Numbers for the permutations x → x · factor + summand modulo 2^64, compared whole.

    The leading bits decide, as in multiply-add-shift hashing (Dietzfelbinger 1996); whole values tie less often.
    """
    values = _PLACES * FACTOR
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)), np.uint64)


_FACTORS = _drawn()[:PERMUTATIONS] | np.uint64(1)
_SUMMANDS = _drawn()[PERMUTATIONS:]

"""Words of a text as 64-bit hashes: what near-duplicates and contamination are compared by.

A word is a run of letters, numbers and underscores (`\\w`) with the marks that follow them, in small letters; all else
separates. The hash depends on nothing but the word: it is the same on every machine and in every engine.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from nexus_llm.characters import CODE_POINTS, MARK, WORD, Bytes, Offsets, buffers, classes, decode, lower, mix

Hashes = npt.NDArray[np.uint64]

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying loses nothing; 2^64 divided by the golden ratio

_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)  # FNV-1a's offset and prime (Fowler, Noll, Vo; draft-eastlake-fnv)
_NOT_ASCII = np.uint8(1)

Tables = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint32]]


@functools.cache
def tables() -> Tables:
    """(small letter of an ASCII byte or 0, flags of a code point, small letter of a code point) for `fill_words`."""
    small = np.full(256, _NOT_ASCII, np.uint8)
    small[:128] = np.where(classes()[:128] & WORD, lower()[:128], 0)
    return small, classes(), lower()


def text_buffers(texts: pl.Series) -> tuple[Bytes, Offsets]:
    """`characters.buffers`, always read-only: writable arrays are another type, for which a kernel compiles again."""
    data, offsets = buffers(texts)
    data, offsets = data.view(), offsets.view()
    data.flags.writeable = offsets.flags.writeable = False
    return data, offsets


@njit(cache=True, nogil=True)
def fill_words(
    data: Any, place: int, end: int, small: Any, flags: Any, lowered: Any, hashes: Any, starts: Any, count: int
) -> tuple[int, int]:
    """(words in `hashes`, byte behind what was read): the hashes of the words in `data[place:end]`.

    They are appended behind the first `count`, with the byte each starts at, until `hashes` is full.
    """
    value, start, inside = _SEED, place, False
    while place < end and count < len(hashes):
        letter = small[data[place]]
        behind = place + 1
        point = np.int64(letter)
        if letter == _NOT_ASCII:
            point, behind = decode(data, place)
            known = flags[point] if point < CODE_POINTS else np.uint8(0)
            belongs = known & WORD or (inside and known & MARK)
            point = np.int64(lowered[point]) if belongs else np.int64(0)
        if point:
            if not inside:
                start, inside = place, True
            value = (value ^ np.uint64(point)) * _PRIME
        elif inside:
            hashes[count], starts[count] = mix(value), start
            count += 1
            value, inside = _SEED, False
        place = behind
    if inside:
        hashes[count], starts[count] = mix(value), start
        count += 1
    return count, place

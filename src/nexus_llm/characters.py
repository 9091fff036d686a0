"""Text as compiled kernels see it: the bytes of a column of strings, and what Unicode says about each character."""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from numba import njit

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

# Planes 0 to 3 hold every letter; what lies beyond is private use or unassigned and has no class.
CODE_POINTS = 0x40000

LETTER = np.uint8(1)
"""Unicode category L*: `str.isalpha`."""
MARK = np.uint8(2)
"""M*: belongs to the letter before it."""
NUMBER = np.uint8(4)
"""N*: digits of all scripts, fractions, Roman numerals."""
SPACE = np.uint8(8)
"""`str.isspace`: white space as Python splits at it."""
PUNCTUATION = np.uint8(16)
"""P*."""
SYMBOL = np.uint8(32)
"""S*: currency, mathematics, emoji."""
UPPER = np.uint8(64)
"""Lu and Lt."""
WORD = np.uint8(128)
r"""What `\w` matches: letters, numbers and the underscore."""


def buffers(texts: pl.Series) -> tuple[Bytes, Offsets]:
    """(UTF-8 bytes of all texts behind one another, texts + 1 bounds) without a copy; null counts as empty.

    Text i is `bytes[offsets[i]:offsets[i + 1]]`.
    """
    column = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    if len(column) == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = column.cast(pa.large_string()).buffers()
    bounds = np.frombuffer(offsets, np.int64, count=len(column) + 1, offset=column.offset * 8)
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8), bounds


def series_of(data: Bytes, offsets: Offsets) -> pl.Series:
    """The column of strings whose buffers these are."""
    column = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
    return pl.Series("", column, dtype=pl.String)


@functools.cache
def classes() -> npt.NDArray[np.uint8]:
    """The flags above for each code point, shape (CODE_POINTS,)."""
    categories = map(unicodedata.category, map(chr, range(CODE_POINTS)))
    table = np.fromiter(map(_flags_of, categories), np.uint8, count=CODE_POINTS)
    for point in range(0x3001):  # no white space lies beyond U+3000
        if chr(point).isspace():
            table[point] |= SPACE
    table[ord("_")] |= WORD
    return table


@functools.cache
def _flags_of(category: str) -> np.uint8:
    flags = {"L": LETTER | WORD, "M": MARK, "N": NUMBER | WORD, "P": PUNCTUATION, "S": SYMBOL}.get(category[0])
    return (flags or np.uint8(0)) | (UPPER if category in ("Lu", "Lt") else np.uint8(0))


@functools.cache
def lower() -> npt.NDArray[np.uint32]:
    """The small letter of each code point, shape (CODE_POINTS,); itself where it has none or more than one."""
    table = np.arange(CODE_POINTS, dtype=np.uint32)
    for point in range(0x20000):  # letters with case end at U+1E943
        small = chr(point).lower()
        if len(small) == 1:
            table[point] = ord(small)
    return table


@njit(cache=True, nogil=True, inline="always")
def decode(data: Any, place: int) -> tuple[Any, Any]:  # pragma: no cover - compiled
    """(code point, place behind it) of the character that starts at `place` of valid UTF-8."""
    first = np.int64(data[place])
    if first < 0x80:
        return first, place + 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (np.int64(data[place + 1]) & 0x3F), place + 2
    if first < 0xF0:
        middle = (np.int64(data[place + 1]) & 0x3F) << 6
        return (first & 0x0F) << 12 | middle | (np.int64(data[place + 2]) & 0x3F), place + 3
    high = (first & 0x07) << 18 | (np.int64(data[place + 1]) & 0x3F) << 12
    return high | (np.int64(data[place + 2]) & 0x3F) << 6 | (np.int64(data[place + 3]) & 0x3F), place + 4


@njit(cache=True, nogil=True, inline="always")
def mix(value: Any) -> Any:  # pragma: no cover - compiled
    """Every bit of the 64-bit result depends on every bit of `value` (Steele et al. 2014, SplitMix's finaliser)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))

"""Characters and words as kernels hand them on: one chunk decoded, the words of one text as hashes and flags."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nexus_llm.characters import CODE_POINTS, decode, mix
from nexus_llm.data.judging.compiled import inlined, kernel
from nexus_llm.data.judging.word_tables import (
    HASH_MULTIPLIER,
    HASH_START,
    IS_LETTER,
    IS_PUNCTUATION,
    IS_SPACE,
    IS_SYMBOL,
    IS_TERMINAL,
    Tables,
)

CHUNK_CHARACTERS = 4096
"""A longer run of characters without white space is looked at in pieces of this length."""

# What a word is; bits of `Words.flags`. The upper byte says which stop word it is.
HAS_LETTER = np.uint16(1)
IS_WORD = np.uint16(2)  # not of symbols alone
ENDS_SENTENCE = np.uint16(4)
ALL_PUNCTUATION = np.uint16(8)

_EIGHT = np.uint64(8)
_HALF = np.uint64(32)


class Chunk(NamedTuple):
    """One run of characters without white space, decoded; reused for the next."""

    points: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    """Byte at which each character starts, and one more: the end."""
    kinds: npt.NDArray[np.uint16]
    suffixes: npt.NDArray[np.int64]
    """Characters at which suffixes start, the last one first."""
    ends: npt.NDArray[np.int64]
    """Characters behind the words that it was split into."""


class Words(NamedTuple):
    """The words of one document, reused for the next."""

    hashes: npt.NDArray[np.uint64]
    characters: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint16]


def empty_chunk() -> Chunk:
    """Room for one chunk."""
    size = CHUNK_CHARACTERS + 1
    places = np.empty((4, size), np.int64)
    return Chunk(places[0], places[1], np.empty(size, np.uint16), places[2], places[3])


def empty_words(count: int) -> Words:
    """Room for `count` words; pages that no word reaches cost no memory."""
    return Words(np.empty(count, np.uint64), np.empty(count, np.int32), np.empty(count, np.uint16))


@inlined
def pack(data: Any, start: int, stop: int) -> Any:
    """At most eight bytes as one number, the first byte lowest."""
    packed = np.uint64(0)
    for place in range(stop - 1, start - 1, -1):
        packed = packed << _EIGHT | np.uint64(data[place])
    return packed


@kernel
def hash_bytes(data: Any, start: int, stop: int) -> Any:
    """A 64-bit hash of the bytes, never 0: two texts of one document share it by accident once in 10^13 pairs."""
    value = np.uint64(stop - start)
    while stop - start >= 8:
        packed = np.uint64(0)
        for place in range(8):
            packed |= np.uint64(data[start + place]) << np.uint64(8 * place)
        value = (value ^ packed) * HASH_MULTIPLIER
        value ^= value >> _HALF
        start += 8
    if start < stop:
        value = (value ^ pack(data, start, stop)) * HASH_MULTIPLIER
    return mix(value) | np.uint64(1)


@inlined
def add_word(value: Any, characters: int, flags: Any, tables: Tables, words: Words, count: int) -> int:
    """Adds one word with the hash of its characters; the number of words then."""
    if characters <= 4:
        for index in range(8):
            if tables.stop_words[index] == value:
                flags |= np.uint16(256 << index)
    words.hashes[count] = value ^ value >> _HALF
    words.characters[count] = characters
    words.flags[count] = flags
    return count + 1


@inlined
def add_chunk(chunk: Chunk, parts: int, tables: Tables, words: Words, count: int) -> int:
    """Adds the words that `split_chunk` found; the number of words then."""
    first = 0
    for part in range(parts):
        last = chunk.ends[part]
        some, every = np.uint16(0), np.uint16(0xFFFF)
        value = HASH_START
        for index in range(first, last):
            some |= chunk.kinds[index]
            every &= chunk.kinds[index]
            value = (value ^ np.uint64(chunk.points[index])) * HASH_MULTIPLIER
        flags = np.uint16(0)
        if some & IS_LETTER:
            flags |= HAS_LETTER
        if not every & IS_SYMBOL:
            flags |= IS_WORD
        if every & IS_PUNCTUATION:
            flags |= ALL_PUNCTUATION
        if last - first == 1 and every & IS_TERMINAL:
            flags |= ENDS_SENTENCE
        count = add_word(value, last - first, flags, tables, words, count)
        first = last
    return count


@inlined
def read_chunk(data: Any, place: int, end: int, kinds: Any, chunk: Chunk) -> int:
    """Decodes the characters from `place` up to white space, the end or CHUNK_CHARACTERS; how many they are."""
    length = 0
    while place < end and length < CHUNK_CHARACTERS:
        point, behind = decode(data, place)
        kind = kinds[point] if point < CODE_POINTS else np.uint16(0)
        if kind & IS_SPACE:
            break
        chunk.points[length], chunk.places[length], chunk.kinds[length] = point, place, kind
        length += 1
        place = behind
    chunk.places[length] = place
    return length

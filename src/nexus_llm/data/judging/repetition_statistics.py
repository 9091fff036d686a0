"""How much of a text repeats itself: lines, paragraphs and runs of n words, as counts of characters.

Definitions: Rae et al. 2021 (arXiv:2112.11446), appendix A.1.1, "Repetition removal", in datatrove's reading: a text's
first copy does not count as a duplicate, and an n-gram that lies behind a counted duplicate starts after it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nexus_llm.characters import decode
from nexus_llm.data.judging.compiled import inlined, kernel
from nexus_llm.data.judging.word_tables import IS_SPACE, IS_TERMINAL
from nexus_llm.data.judging.words import Words, hash_bytes

# Places of the counts that these kernels write; the rest are in text_statistics.
NONBLANK_LINES, TERMINAL_LINES, SHORT_LINES, DUPLICATE_NONBLANK_CHARACTERS, NEWLINES = 0, 1, 2, 3, 4
RUN_LINES, DUPLICATE_LINES, DUPLICATE_LINE_CHARACTERS = 5, 6, 7
PARAGRAPHS, DUPLICATE_PARAGRAPHS, DUPLICATE_PARAGRAPH_CHARACTERS = 8, 9, 10
TOP_2_GRAM = 11  # then 3 and 4
DUPLICATE_5_GRAM = 14  # then 6 to 10
REPETITION_COUNTS = 20

SHORT_LINE_CHARACTERS = 30  # Penedo et al. 2024 (arXiv:2406.17557), section 3.6

_BASE = np.uint64(0xD6E8FEB86659FD93)  # of the polynomial that hashes runs of words; any large odd number does
_COUNT_SHIFT = np.uint64(32)
_FIRST_MASK = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)


class RepetitionScratch(NamedTuple):
    """Memory that documents share."""

    table: npt.NDArray[np.uint64]
    """Open addressing, rows of (hash, count << 32 | first place)."""
    prefixes: npt.NDArray[np.uint64]
    """Polynomial hash of the first i words."""
    levels: npt.NDArray[np.uint8]
    """Length of the longest repeated run of words, up to 5, that starts at a word."""


def empty_scratch(*, words: int, lines: int) -> RepetitionScratch:
    """Room for documents of at most so many words and lines; untouched pages cost no memory."""
    entries = max(words, lines)
    rows = 1 << max(6, int(2 * entries).bit_length())
    return RepetitionScratch(np.zeros((rows, 2), np.uint64), np.empty(words + 1, np.uint64), np.empty(words, np.uint8))


@kernel
def cleared(table: Any, entries: int) -> int:
    """The mask of a table that is empty and at most half full with `entries`."""
    rows = 64
    while rows < 2 * entries:
        rows *= 2
    table[:rows] = np.uint64(0)
    return rows - 1


@inlined
def find(table: Any, mask: int, key: Any) -> Any:
    """The row of `key`, or the empty row where it belongs."""
    place = np.int64(key >> np.uint64(20)) & mask
    while table[place, 0] != 0 and table[place, 0] != key:
        place = (place + 1) & mask
    return place


@inlined
def is_repeated(table: Any, mask: int, key: Any) -> bool:
    """Whether `key` was asked for before."""
    place = find(table, mask, key)
    if table[place, 0] == key:
        return True
    table[place, 0] = key
    return False


@kernel
def count_characters(data: Any, start: int, stop: int) -> int:
    """Characters in these bytes: all that do not continue one."""
    count = 0
    for place in range(start, stop):
        count += (data[place] & 0xC0) != 0x80
    return count


@kernel
def count_lines(data: Any, start: int, end: int, kinds: Any, table: Any, counts: Any) -> None:
    """Lines between line feeds: blank, short, ended by a sentence, repeated."""
    newlines = 0
    for place in range(start, end):
        newlines += data[place] == 10
    counts[NEWLINES] = newlines
    mask = cleared(table, min(newlines, (end - start) // 2) + 1)  # each of them has a character and its end
    # Lines are split at runs of line feeds, so a run at either end of the text leaves one empty line there.
    empty_ends = np.int64(data[start] == 10) + np.int64(data[end - 1] == 10)
    counts[RUN_LINES], counts[DUPLICATE_LINES] = empty_ends, empty_ends // 2
    place = start
    while place < end:
        stop = place
        while stop < end and data[stop] != 10:
            stop += 1
        if stop > place:
            _count_line(data, place, stop, kinds, table, mask, counts)
        place = stop + 1


@inlined
def _count_line(data: Any, start: int, stop: int, kinds: Any, table: Any, mask: int, counts: Any) -> None:
    characters = count_characters(data, start, stop)
    repeated = is_repeated(table, mask, hash_bytes(data, start, stop))
    counts[RUN_LINES] += 1
    if repeated:
        counts[DUPLICATE_LINES] += 1
        counts[DUPLICATE_LINE_CHARACTERS] += characters
    if first_visible(data, start, stop, kinds) == stop:
        return
    counts[NONBLANK_LINES] += 1
    if repeated:
        counts[DUPLICATE_NONBLANK_CHARACTERS] += characters
    if data[stop - 1] == 13:  # a file from Windows; see the spec's deviation
        stop -= 1
        characters -= 1
    counts[SHORT_LINES] += characters <= SHORT_LINE_CHARACTERS
    counts[TERMINAL_LINES] += (kinds[last_point(data, start, stop)] & IS_TERMINAL) != 0


@kernel
def count_paragraphs(data: Any, start: int, end: int, kinds: Any, table: Any, counts: Any) -> None:
    """Paragraphs: what stands between two or more line feeds, white space at the ends of the text left out."""
    start = first_visible(data, start, end, kinds)
    end = last_visible(data, start, end, kinds)
    mask = cleared(table, counts[NEWLINES] // 2 + 2)
    place = start
    while place < end or place == start:
        stop = place
        while stop < end and not (data[stop] == 10 and stop + 1 < end and data[stop + 1] == 10):
            stop += 1
        counts[PARAGRAPHS] += 1
        if is_repeated(table, mask, hash_bytes(data, place, stop)):
            counts[DUPLICATE_PARAGRAPHS] += 1
            counts[DUPLICATE_PARAGRAPH_CHARACTERS] += count_characters(data, place, stop)
        while stop < end and data[stop] == 10:
            stop += 1
        if stop == place:
            break
        place = stop


@kernel
def first_visible(data: Any, start: int, stop: int, kinds: Any) -> int:
    """The first byte that is not white space, or `stop`."""
    while start < stop:
        point, behind = decode(data, start)
        if point >= kinds.size or not kinds[point] & IS_SPACE:
            break
        start = behind
    return start


@kernel
def last_visible(data: Any, start: int, stop: int, kinds: Any) -> int:
    """The byte behind the last character that is not white space, or `start`."""
    while start < stop and kinds[last_point(data, start, stop)] & IS_SPACE:
        stop -= 1
        while (data[stop] & 0xC0) == 0x80:
            stop -= 1
    return stop


@kernel
def last_point(data: Any, start: int, stop: int) -> int:
    """The last character's code point; 0 for none and for those beyond the tables."""
    if start == stop:
        return 0
    place = stop - 1
    while (data[place] & 0xC0) == 0x80:
        place -= 1
    point = decode(data, place)[0]
    return point if point < 0x40000 else 0


@kernel
def count_n_grams(words: Words, size: int, scratch: RepetitionScratch, counts: Any) -> None:
    """Characters of the most frequent 2-, 3- and 4-gram, and of repeated 5- to 10-grams, of the first `size` words.

    A run of n words can only repeat where its runs of n - 1 do, so each length looks at what the last one left: two
    look-ups a word on prose instead of nine.
    """
    prefixes, levels = scratch.prefixes, scratch.levels
    prefixes[0] = 0
    for place in range(size):
        prefixes[place + 1] = prefixes[place] * _BASE + words.hashes[place]
        levels[place] = 1
    power = _BASE
    candidates = size
    for n in range(2, 11):
        power *= _BASE
        if n <= 5 and size >= n:
            candidates, top = _repeat(words, size, n, power, candidates, scratch)
            if n < 5:
                counts[TOP_2_GRAM + n - 2] = top
        if n >= 5 and size >= n:
            counts[DUPLICATE_5_GRAM + n - 5] = _duplicates(words, size, n, power, candidates, scratch)


@inlined
def _run_hash(prefixes: Any, place: int, n: int, power: Any) -> Any:
    value = prefixes[place + n] - prefixes[place] * power
    return (value ^ (value >> np.uint64(29))) * _BASE | _ONE


@kernel
def _repeat(words: Words, size: int, n: int, power: Any, candidates: int, scratch: RepetitionScratch) -> Any:
    """(places where a repeated n-gram starts, characters of all copies of the most frequent one); sets the levels."""
    table, prefixes, levels = scratch.table, scratch.prefixes, scratch.levels
    mask = cleared(table, candidates)
    best_count, best_first, repeated = np.int64(1), np.int64(0), 0
    for place in range(size - n + 1):
        if levels[place] < n - 1 or levels[place + 1] < n - 1:
            continue
        key = _run_hash(prefixes, place, n, power)
        row = find(table, mask, key)
        if table[row, 0] == 0:
            table[row, 0] = key
            table[row, 1] = _ONE << _COUNT_SHIFT | np.uint64(place)
            continue
        table[row, 1] += _ONE << _COUNT_SHIFT
        count, first = np.int64(table[row, 1] >> _COUNT_SHIFT), np.int64(table[row, 1] & _FIRST_MASK)
        repeated += 2 if count == 2 else 1
        levels[first] = n
        levels[place] = n
        if count > best_count or (count == best_count and first < best_first):
            best_count, best_first = count, first
    characters = n - 1
    for place in range(best_first, best_first + n):
        characters += words.characters[place]
    return repeated, characters * best_count


@kernel
def _duplicates(words: Words, size: int, n: int, power: Any, candidates: int, scratch: RepetitionScratch) -> int:
    """Characters of n-grams that were seen before, each counted once: the next one starts behind it."""
    mask = cleared(scratch.table, candidates)
    characters = 0
    place: Any = np.int64(0)
    while place < size - n + 1:
        may_repeat = scratch.levels[place] == 5 and scratch.levels[place + n - 5] == 5
        if may_repeat and is_repeated(scratch.table, mask, _run_hash(scratch.prefixes, place, n, power)):
            for index in range(place, place + n):
                characters += words.characters[index]
            place += n
        else:
            place += 1
    return characters

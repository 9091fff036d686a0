"""What the rules look at, counted by compiled kernels: one pass over the words of a text and two over its lines."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from nexus_llm.characters import CODE_POINTS, Bytes, Offsets, buffers, decode
from nexus_llm.data.judging import repetition_statistics as repetition
from nexus_llm.data.judging.c4_lines import (
    HAS_CURLY_BRACKET,
    HAS_LOREM_IPSUM,
    KEPT,
    judge_line,
    read_only,
    without_citations,
)
from nexus_llm.data.judging.compiled import inlined, kernel
from nexus_llm.data.judging.repetition_statistics import (
    RepetitionScratch,
    cleared,
    count_characters,
    count_lines,
    count_n_grams,
    count_paragraphs,
    is_repeated,
)
from nexus_llm.data.judging.word_splitting import split_chunk, split_range
from nexus_llm.data.judging.word_tables import (
    HASH_MULTIPLIER,
    HASH_START,
    IS_LETTER,
    IS_LINE_BREAK,
    IS_MARK,
    IS_SPACE,
    Tables,
    tables,
)
from nexus_llm.data.judging.words import (
    ALL_PUNCTUATION,
    CHUNK_CHARACTERS,
    ENDS_SENTENCE,
    HAS_LETTER,
    IS_WORD,
    Chunk,
    Words,
    add_chunk,
    add_word,
    empty_chunk,
    empty_words,
    hash_bytes,
    read_chunk,
)

MEASURED_BYTES = 1 << 24
"""Of a longer text only so much is looked at, so that no text takes more than 0.5 GB; `characters` counts all."""
MEASURED_WORDS = 1 << 21
"""Runs of words are looked for among the first so many of a text."""

# Places of the counts, behind those of repetition_statistics.
_CHARACTERS, _VISIBLE, _LETTERS, _CHUNKS, _STRIPPED, _REPEATED = 20, 21, 22, 23, 24, 25
_TOKENS, _WORDS, _WORD_CHARACTERS, _LETTER_WORDS, _HASHES, _ELLIPSES, _STOP_WORDS = 26, 27, 28, 29, 30, 31, 32
_LINES, _BULLET_LINES, _ELLIPSIS_LINES = 33, 34, 35
_C4_SENTENCES, _C4_LOREM_IPSUM, _C4_CURLY_BRACKETS = 36, 37, 38
_COUNTS = 39

# What the line being read has so far.
_FIRST, _LAST, _LINE_CHUNKS, _LONGEST, _SENTENCES, _ENDED, _OPEN, _RUN = 0, 1, 2, 3, 4, 5, 6, 7

STATISTICS = (
    "characters",
    "alphabetic_share",
    "repeated_line_share",
    "mean_word_characters",
    "words",
    "mean_split_word_characters",
    "hashes_per_token",
    "ellipses_per_token",
    "bullet_line_share",
    "ellipsis_line_share",
    "alphabetic_word_share",
    "alphabetic_token_share",
    "stop_words",
    "duplicate_line_share",
    "duplicate_paragraph_share",
    "duplicate_line_character_share",
    "duplicate_paragraph_character_share",
    "top_2_gram_character_share",
    "top_3_gram_character_share",
    "top_4_gram_character_share",
    "duplicate_5_gram_character_share",
    "duplicate_6_gram_character_share",
    "duplicate_7_gram_character_share",
    "duplicate_8_gram_character_share",
    "duplicate_9_gram_character_share",
    "duplicate_10_gram_character_share",
    "c4_sentences",
    "c4_lorem_ipsum_lines",
    "c4_curly_bracket_lines",
    "terminal_punctuation_line_share",
    "short_line_share",
    "duplicate_visible_line_character_share",
    "line_feeds_per_token",
)
PLAIN_STATISTICS = frozenset(STATISTICS[:4])
"""Those that need neither split words nor repeated runs: measured several times as fast."""


class _Scratch(NamedTuple):
    tables: Tables
    chunk: Chunk
    words: Words
    repetition: RepetitionScratch
    lines: npt.NDArray[np.uint64]
    """Hash table of the lines so far."""
    line: npt.NDArray[np.int64]
    clean: npt.NDArray[np.uint8]
    """The line being read without citations."""
    clean_text: npt.NDArray[np.uint8]
    """The same memory, read-only as all texts are."""


def measure(texts: pl.Series, *, with_words: bool = True) -> pl.DataFrame:
    """One row a text, one f64 column for each of STATISTICS; null counts as empty, and x / 0 as 0.

    Without words, only those of PLAIN_STATISTICS.
    """
    data, offsets = buffers(texts)
    data, offsets = read_only(data), read_only(offsets)
    largest, lines = _largest(data, offsets)
    words = min(largest, MEASURED_WORDS) if with_words else 0
    clean = np.empty(largest, np.uint8)
    scratch = _Scratch(
        tables(),
        empty_chunk(),
        empty_words(words + 2 * CHUNK_CHARACTERS),
        repetition.empty_scratch(words=words + 2 * CHUNK_CHARACTERS, lines=lines),
        repetition.empty_scratch(words=0, lines=lines).table,
        np.zeros(8, np.int64),
        clean,
        read_only(clean),
    )
    counts = np.zeros((len(texts), _COUNTS), np.int64)
    _count(data, offsets, scratch, counts, with_words)
    shares = _shares(counts.T.astype(np.float64))
    return pl.DataFrame({name: shares[name] for name in STATISTICS if with_words or name in PLAIN_STATISTICS})


def _shares(count: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """The statistics, from rows of counts."""
    characters, tokens, lines = count[_CHARACTERS], count[_TOKENS], count[_LINES]
    visible_lines = count[repetition.NONBLANK_LINES]
    looked_at = np.minimum(characters, count[_CHARACTERS])
    shares = {
        "characters": characters,
        "alphabetic_share": _share(count[_LETTERS], count[_VISIBLE]),
        "repeated_line_share": _share(count[_REPEATED], count[_STRIPPED]),
        "mean_word_characters": _share(count[_VISIBLE], count[_CHUNKS]),
        "words": count[_WORDS],
        "mean_split_word_characters": _share(count[_WORD_CHARACTERS], count[_WORDS]),
        "hashes_per_token": _share(count[_HASHES], tokens),
        "ellipses_per_token": _share(count[_ELLIPSES], tokens),
        "bullet_line_share": _share(count[_BULLET_LINES], lines),
        "ellipsis_line_share": _share(count[_ELLIPSIS_LINES], lines),
        "alphabetic_word_share": _share(count[_LETTER_WORDS], count[_WORDS]),
        "alphabetic_token_share": _share(count[_LETTER_WORDS], tokens),
        "stop_words": count[_STOP_WORDS],
        "c4_sentences": count[_C4_SENTENCES],
        "c4_lorem_ipsum_lines": count[_C4_LOREM_IPSUM],
        "c4_curly_bracket_lines": count[_C4_CURLY_BRACKETS],
        "terminal_punctuation_line_share": _share(count[repetition.TERMINAL_LINES], visible_lines),
        "short_line_share": _share(count[repetition.SHORT_LINES], visible_lines),
        "duplicate_visible_line_character_share": _share(
            count[repetition.DUPLICATE_NONBLANK_CHARACTERS], looked_at - count[repetition.NEWLINES]
        ),
        "line_feeds_per_token": _share(count[repetition.NEWLINES], tokens),
        "duplicate_line_share": _share(count[repetition.DUPLICATE_LINES], count[repetition.RUN_LINES]),
        "duplicate_line_character_share": _share(count[repetition.DUPLICATE_LINE_CHARACTERS], looked_at),
        "duplicate_paragraph_share": _share(count[repetition.DUPLICATE_PARAGRAPHS], count[repetition.PARAGRAPHS]),
        "duplicate_paragraph_character_share": _share(count[repetition.DUPLICATE_PARAGRAPH_CHARACTERS], looked_at),
    }
    for n in (2, 3, 4):
        shares[f"top_{n}_gram_character_share"] = _share(count[repetition.TOP_2_GRAM + n - 2], looked_at)
    for n in range(5, 11):
        shares[f"duplicate_{n}_gram_character_share"] = _share(count[repetition.DUPLICATE_5_GRAM + n - 5], looked_at)
    return shares


def _share(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


@kernel
def _largest(data: Any, offsets: Any) -> Any:
    """(bytes of the largest text, lines of the one with most, or a few more), as far as texts are looked at."""
    most_bytes = most_lines = 0
    for text in range(offsets.size - 1):
        start = offsets[text]
        end = min(offsets[text + 1], start + MEASURED_BYTES)
        lines = 1
        for place in range(start, end):
            byte = data[place]  # the last bytes of U+0085, U+2028 and U+2029 stand for them
            lines += (byte < 0x20) | (byte == 0x85) | (byte == 0xA8) | (byte == 0xA9)
        most_lines = max(most_lines, min(lines, (end - start) // 2 + 2))
        most_bytes = max(most_bytes, end - start)
    return most_bytes, most_lines


@kernel
def _count(data: Bytes, offsets: Offsets, scratch: _Scratch, counts: Any, with_words: bool) -> None:
    for text in range(offsets.size - 1):
        start, stop = offsets[text], offsets[text + 1]
        end = min(stop, start + MEASURED_BYTES)
        while end < stop and (data[end] & 0xC0) == 0x80:
            end -= 1
        if start < end:
            size = _count_words(data, start, end, scratch, counts[text], with_words)
            if with_words:
                count_n_grams(scratch.words, size, scratch.repetition, counts[text])
                count_lines(data, start, end, scratch.tables.kinds, scratch.repetition.table, counts[text])
                count_paragraphs(data, start, end, scratch.tables.kinds, scratch.repetition.table, counts[text])
            counts[text, _CHARACTERS] += count_characters(data, end, stop)


@kernel
def _count_words(data: Any, start: int, end: int, scratch: _Scratch, counts: Any, with_words: bool) -> Any:
    """Everything but repetition, from one pass over the text; how many words were kept for `count_n_grams`."""
    kinds, line = scratch.tables.kinds, scratch.line
    mask = cleared(scratch.lines, min(_count_breaks(data, start, end), (end - start) // 2) + 1)
    line[:] = 0
    size: Any = np.int64(0)  # a literal would be a type of its own, and compile everything below once more
    stop_words = np.uint16(0)
    place = start
    while place < end:
        point, behind = decode(data, place)
        kind = kinds[point] if point < CODE_POINTS else np.uint16(0)
        if kind & IS_SPACE:
            counts[_CHARACTERS] += 1
            line[_OPEN] = 1
            if kind & IS_LINE_BREAK:
                if point == 13 and behind < end and data[behind] == 10:
                    counts[_CHARACTERS] += 1
                    behind += 1
                _end_line(data, scratch, mask, counts, size, with_words)
            place = behind
            continue
        before = size
        place, size = _take_chunk(data, place, end, scratch, counts, size, with_words)
        for index in range(before, size):
            stop_words |= _take_word(scratch.words, index, counts, line)
        size = min(size, scratch.words.hashes.size - 2 * CHUNK_CHARACTERS)
    if line[_OPEN]:
        _end_line(data, scratch, mask, counts, size, with_words)
    for bit in range(8, 16):
        counts[_STOP_WORDS] += (stop_words >> np.uint16(bit)) & np.uint16(1)
    return size


@kernel
def _count_breaks(data: Any, start: int, end: int) -> int:
    lines = 0
    for place in range(start, end):
        byte = data[place]
        lines += (byte < 0x20) | (byte == 0x85) | (byte == 0xA8) | (byte == 0xA9)
    return lines


@inlined
def _take_chunk(data: Any, place: int, end: int, scratch: _Scratch, counts: Any, size: int, with_words: bool) -> Any:
    """Counts the characters up to the next white space and adds its words; (byte behind it, words then)."""
    line = scratch.line
    behind = place
    value = HASH_START
    while behind < end and ord("a") <= (data[behind] | 0x20) <= ord("z"):
        value = (value ^ np.uint64(data[behind])) * HASH_MULTIPLIER
        behind += 1
    length = behind - place
    if behind == end or data[behind] == ord(" ") or data[behind] == 10:
        counts[_LETTERS] += length
        if with_words:
            size = add_word(value, length, HAS_LETTER | IS_WORD, scratch.tables, scratch.words, size)
    else:
        length = read_chunk(data, place, end, scratch.tables.kinds, scratch.chunk)
        behind = scratch.chunk.places[length]
        _count_symbols(scratch.chunk, length, counts)
        if with_words:
            parts = split_chunk(data, length, scratch.tables, scratch.chunk)
            size = add_chunk(scratch.chunk, parts, scratch.tables, scratch.words, size)
    counts[_CHARACTERS] += length
    counts[_VISIBLE] += length
    if not line[_LINE_CHUNKS]:
        line[_FIRST] = place
    if line[_LAST] == place and line[_LINE_CHUNKS]:
        line[_RUN] += length  # the next piece of a run that is longer than a chunk
    else:
        line[_LINE_CHUNKS] += 1
        line[_RUN] = length
    line[_LAST] = behind
    line[_LONGEST] = max(line[_LONGEST], line[_RUN])
    line[_OPEN] = 1
    return behind, size


@inlined
def _count_symbols(chunk: Chunk, length: int, counts: Any) -> None:
    dots = 0
    for index in range(length):
        point = chunk.points[index]
        counts[_LETTERS] += (chunk.kinds[index] & (IS_LETTER | IS_MARK)) != 0
        counts[_HASHES] += point == ord("#")
        counts[_ELLIPSES] += point == 0x2026
        dots = dots + 1 if point == ord(".") else 0
        if dots == 3:
            counts[_ELLIPSES] += 1
            dots = 0


@inlined
def _take_word(words: Words, index: int, counts: Any, line: Any) -> Any:
    """Counts one word, and the sentence that it starts in its line; its flags."""
    flags = words.flags[index]
    counts[_TOKENS] += 1
    if flags & IS_WORD:
        counts[_WORDS] += 1
        counts[_WORD_CHARACTERS] += words.characters[index]
    counts[_LETTER_WORDS] += (flags & HAS_LETTER) != 0
    if flags & ENDS_SENTENCE:
        line[_ENDED] = 1
    elif line[_ENDED] and not flags & ALL_PUNCTUATION:
        line[_ENDED] = 0
        line[_SENTENCES] += 1
    return flags


@kernel
def _end_line(data: Any, scratch: _Scratch, mask: int, counts: Any, size: int, with_words: bool) -> None:
    """Counts the line that ends here, and forgets it."""
    line = scratch.line
    counts[_LINES] += 1
    if line[_LINE_CHUNKS]:
        counts[_CHUNKS] += line[_LINE_CHUNKS]
        _count_visible_line(data, line[_FIRST], line[_LAST], scratch, mask, counts)
        if with_words:
            _count_c4_line(data, line[_FIRST], line[_LAST], scratch, counts, size)
    line[:] = 0


@kernel
def _count_visible_line(data: Any, first: int, last: int, scratch: _Scratch, mask: int, counts: Any) -> None:
    characters = count_characters(data, first, last)
    counts[_STRIPPED] += characters
    if is_repeated(scratch.lines, mask, hash_bytes(data, first, last)):
        counts[_REPEATED] += characters
    is_wide = last - first >= 3
    has_dot = is_wide and data[first] == 0xE2 and data[first + 1] == 0x80 and data[first + 2] == 0xA2
    counts[_BULLET_LINES] += has_dot or data[first] == ord("-")
    one, two, three = (data[last - 3], data[last - 2], data[last - 1]) if is_wide else (0, 0, 0)
    is_character = one == 0xE2 and two == 0x80 and three == 0xA6
    counts[_ELLIPSIS_LINES] += is_character or (one == ord(".") and two == ord(".") and three == ord("."))


@kernel
def _count_c4_line(data: Any, first: int, last: int, scratch: _Scratch, counts: Any, size: int) -> None:
    line = scratch.line
    length = without_citations(data, first, last, scratch.clean)
    flags = judge_line(scratch.clean_text, np.int64(0), length, line[_LINE_CHUNKS], line[_LONGEST])
    counts[_C4_LOREM_IPSUM] += (flags & HAS_LOREM_IPSUM) != 0
    counts[_C4_CURLY_BRACKETS] += (flags & HAS_CURLY_BRACKET) != 0
    if not flags & KEPT:
        return
    sentences = 1 + line[_SENTENCES]
    if length != last - first:
        sentences = _sentences(scratch.clean_text, np.int64(0), length, scratch, size)
    counts[_C4_SENTENCES] += sentences


@kernel
def _sentences(data: Any, start: Any, stop: int, scratch: _Scratch, size: int) -> int:
    """Sentences in a line whose citations were taken out; uses the room behind the document's words."""
    end = min(stop, start + CHUNK_CHARACTERS)
    behind = split_range(data, start, end, scratch.tables, scratch.chunk, scratch.words, size)
    sentences, ended = 1, False
    for index in range(size, behind):
        flags = scratch.words.flags[index]
        if flags & ENDS_SENTENCE:
            ended = True
        elif ended and not flags & ALL_PUNCTUATION:
            ended = False
            sentences += 1
    return sentences

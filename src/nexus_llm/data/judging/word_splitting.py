"""Words as web-text filters count them: runs between white space, punctuation split off as words of its own.

The published thresholds of Gopher, C4 and FineWeb are used with such words, so rules that are to agree with them must
see the same. The steps (specials, prefixes, suffixes, URLs, infixes) and the groups of characters follow spaCy's
English tokenizer (https://spacy.io/usage/linguistic-features#how-tokenizer-works, version 3.8, read 2026-11), written
anew for compiled kernels. On real text 99.9 % of the bounds are the same; known to differ: contractions without an
apostrophe ("dont", "cannot") stay one word, only common abbreviations keep their full stop, and few smileys are known.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nexus_llm.characters import decode, mix
from nexus_llm.data.judging.compiled import inlined, kernel
from nexus_llm.data.judging.word_tables import (
    ENDS_BEFORE_STOP,
    IS_ICON,
    IS_INFIX,
    IS_LETTER,
    IS_LOWER,
    IS_PREFIX,
    IS_QUOTE,
    IS_SUFFIX,
    IS_UPPER,
    Tables,
)
from nexus_llm.data.judging.words import (
    Chunk,
    Words,
    add_chunk,
    pack,
    read_chunk,
)


@kernel
def split_range(data: Any, start: int, end: int, tables: Tables, chunk: Chunk, words: Words, count: int) -> int:
    """Adds the words of the bytes start to end; the number of words then."""
    place = start
    while place < end:
        length = read_chunk(data, place, end, tables.kinds, chunk)
        if length:
            count = add_chunk(chunk, split_chunk(data, length, tables, chunk), tables, words, count)
            place = chunk.places[length]
        else:
            place = decode(data, place)[1]
    return count


@inlined
def _holds(slots: Any, packed: Any) -> bool:
    place = np.int64(mix(packed) & np.uint64(255))
    while slots[place] != 0:
        if slots[place] == packed:
            return True
        place = (place + 1) & 255
    return False


@kernel
def split_chunk(data: Any, length: int, tables: Tables, chunk: Chunk) -> int:
    """How many words the chunk's first `length` characters are; their bounds are in `chunk.ends`."""
    last, suffixes, parts = length, 0, 0
    first: Any = np.int64(0)
    while first < last and not _is_special(data, chunk, first, last, tables):
        prefix = _prefix_length(chunk, first, last)
        suffix = _suffix_length(data, chunk, first + prefix, last, tables)
        if not prefix and not suffix:
            break
        is_rest_special = prefix > 0 and _is_special(data, chunk, first + prefix, last, tables)
        if prefix and not is_rest_special and suffix and _is_special(data, chunk, first, last - suffix, tables):
            prefix = 0
        if is_rest_special:
            suffix = 0
        if prefix:
            first += prefix
            chunk.ends[parts] = first
            parts += 1
        if suffix:
            last -= suffix
            chunk.suffixes[suffixes] = last
            suffixes += 1
    if first < last:
        parts = _split_core(data, chunk, first, last, tables, parts)
    for index in range(suffixes - 1, -1, -1):
        chunk.ends[parts] = chunk.suffixes[index - 1] if index else length
        parts += 1
    return parts


@inlined
def _is_special(data: Any, chunk: Chunk, first: int, last: int, tables: Tables) -> bool:
    start, stop = chunk.places[first], chunk.places[last]
    return 2 <= stop - start <= 8 and _holds(tables.specials, pack(data, start, stop))


@inlined
def _prefix_length(chunk: Chunk, first: int, last: int) -> int:
    """How many characters of first to last are split off at the front, 0 for none."""
    if chunk.kinds[first] & IS_PREFIX:
        return 1
    point = chunk.points[first]
    if point == ord("."):
        dots = _dots(chunk, first, last)
        return dots if dots > 1 else 0
    if point == ord("+"):
        return 0 if first + 1 < last and _is_digit(chunk.points[first + 1]) else 1
    if first + 2 < last and point == ord("U") and chunk.points[first + 1] == ord("S"):
        return 3 if chunk.points[first + 2] == ord("$") else 0
    if first + 1 < last and (point == ord("C") or point == ord("A")):
        return 2 if chunk.points[first + 1] == ord("$") else 0
    return 0


@inlined
def _suffix_length(data: Any, chunk: Chunk, first: int, last: int, tables: Tables) -> int:  # noqa: PLR0911
    """How many characters of first to last are split off at the end, 0 for none."""
    if first >= last:
        return 0
    point, before = chunk.points[last - 1], chunk.points[last - 2] if last - first > 1 else np.int64(0)
    if point == ord("."):
        dots = 1
        while last - dots > first and chunk.points[last - dots - 1] == ord("."):
            dots += 1
        if dots > 1 or before == 0:
            return dots if dots > 1 else 0
        if chunk.kinds[last - 2] & ENDS_BEFORE_STOP:
            return 1
        is_capitals = last - first > 2 and chunk.kinds[last - 2] & IS_UPPER and chunk.kinds[last - 3] & IS_UPPER
        return 1 if is_capitals else 0
    if chunk.kinds[last - 1] & IS_SUFFIX:
        return 2 if point == 0x2026 and before == 0x2026 else 1
    if (point == ord("s") or point == ord("S")) and (before == ord("'") or before == 0x2019):
        return 2
    if point == ord("+") or (chunk.kinds[last - 1] & IS_PREFIX and point != ord("%") and point != ord("=")):
        return 1 if _is_digit(before) and point != 0xA7 else 0
    for size in range(1, min(5, last - first)):
        if _is_digit(chunk.points[last - size - 1]):
            packed = pack(data, chunk.places[last - size], chunk.places[last])
            return size if chunk.places[last] - chunk.places[last - size] <= 8 and _holds(tables.units, packed) else 0
    return 0


@inlined
def _split_core(data: Any, chunk: Chunk, first: int, last: int, tables: Tables, parts: int) -> int:
    """Ends what is left between prefixes and suffixes: one word, a contraction's two, or parts between infixes."""
    if not _is_special(data, chunk, first, last, tables):
        start = place = first
        while place < last:
            length = _infix_length(chunk, place, first, last) if chunk.kinds[place] & IS_INFIX else 0
            if length and place > first:
                if start == first and _is_url(chunk, first, last):
                    break
                if start < place:
                    chunk.ends[parts] = place
                    parts += 1
                start = place + length
                chunk.ends[parts] = start
                parts += 1
            place += max(length, 1)
        if start == last:
            return parts
        tail = _contraction_length(chunk, first, last) if start == first and place == last else 0
        if tail:
            chunk.ends[parts] = last - tail
            parts += 1
    chunk.ends[parts] = last
    return parts + 1


@inlined
def _infix_length(chunk: Chunk, place: int, first: int, last: int) -> int:  # noqa: PLR0911
    """How many characters from `place` split the word in two, 0 for none."""
    point = chunk.points[place]
    if point == 0x2026 or chunk.kinds[place] & IS_ICON:
        return 1
    if point == ord(".") and _dots(chunk, place, last) > 1:
        return _dots(chunk, place, last)
    if place == first or place + 1 >= last:
        return 0
    before, behind = chunk.kinds[place - 1], chunk.kinds[place + 1]
    alpha = IS_LOWER | IS_UPPER
    if point == ord("."):
        return 1 if before & (IS_LOWER | IS_QUOTE) and behind & (IS_UPPER | IS_QUOTE) else 0
    if point == ord(","):
        return 1 if before & alpha and behind & alpha else 0
    is_behind_number = _is_digit(chunk.points[place - 1])
    next_point = chunk.points[place + 1]
    if is_behind_number and (_is_digit(next_point) or next_point == ord("-")) and _is_sign(point):
        return 1
    if not (before & alpha or is_behind_number) or point == ord("+") or point == ord("*") or point == ord("^"):
        return 0
    length = 1
    while (
        point in (ord("-"), 0x2014) and length < 3 and place + length < last and chunk.points[place + length] == point
    ):
        length += 1
    return length if place + length < last and chunk.kinds[place + length] & alpha else 0


@inlined
def _contraction_length(chunk: Chunk, first: int, last: int) -> int:
    """Characters of n't, 'll, 've, 're, 'd or 'm at the end of letters, 0 for none."""
    for size in range(2, 4):
        place = last - size
        if place <= first or not (chunk.points[place] == ord("'") or chunk.points[place] == 0x2019):
            continue
        one, two = chunk.points[place + 1], chunk.points[place + 2] if size == 3 else np.int64(0)
        if size == 2 and one == ord("t"):
            return 3 if place - 1 > first and chunk.points[place - 1] == ord("n") else 0
        if size == 2:
            return 2 if one == ord("d") or one == ord("m") else 0
        is_double_l = one == ord("l") and two == ord("l")
        return 3 if is_double_l or (two == ord("e") and (one == ord("v") or one == ord("r"))) else 0
    return 0


@kernel
def _is_url(chunk: Chunk, first: int, last: int) -> bool:
    """Whether the characters are an address: scheme and user may be left out, the host has a dot."""
    start = place = first
    while place < last and (_is_host(chunk, place) or chunk.points[place] in (ord("+"), ord("."))):
        place += 1
    points = chunk.points
    if place - first > 1 and place + 2 < last and points[place] == ord(":") and points[place + 1] == ord("/"):
        start = place + 3 if points[place + 2] == ord("/") else start
    if _is_host_and_path(chunk, start, last):
        return True
    for at in range(start + 1, last - 1):  # noqa: SIM110 - kernels have no generators
        if points[at] == ord("@") and _is_host_and_path(chunk, at + 1, last):
            return True
    return False


@kernel
def _is_host_and_path(chunk: Chunk, place: int, last: int) -> bool:
    labels = 0
    while place < last:
        start = place
        are_small_letters = True
        while place < last and _is_host(chunk, place):
            are_small_letters = are_small_letters and chunk.kinds[place] & IS_LOWER != 0
            place += 1
        if place == start or chunk.points[start] == ord("-") or chunk.points[place - 1] == ord("-"):
            return False
        if place == last or chunk.points[place] != ord("."):
            if not labels or not are_small_letters or not 2 <= place - start <= 63:
                return False
            if place < last and chunk.points[place] == ord(":"):
                place += 1
                while place < last and _is_digit(chunk.points[place]):
                    place += 1
            return place == last or chunk.points[place] in (ord("/"), ord("?"), ord("#"))
        labels += 1
        place += 1
    return False


@inlined
def _is_host(chunk: Chunk, place: int) -> Any:
    point = chunk.points[place]
    is_plain = chunk.kinds[place] & IS_LETTER != 0 or _is_digit(point)
    return is_plain or point in (ord("-"), ord("_")) or 0xA1 <= point <= 0xFFFF


@inlined
def _dots(chunk: Chunk, first: int, last: int) -> int:
    place = first
    while place < last and chunk.points[place] == ord("."):
        place += 1
    return place - first


@inlined
def _is_digit(point: Any) -> Any:
    return ord("0") <= point <= ord("9")


@inlined
def _is_sign(point: int) -> bool:
    return point in (ord("+"), ord("-"), ord("*"), ord("^"))

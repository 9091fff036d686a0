"""Which lines of a page C4 keeps: sentences of at least three words that are not about cookies or JavaScript.

Raffel et al. 2020 (arXiv:1910.10683), section 2.2, in the order of its published code (c4_utils.py of
tensorflow/datasets, read 2026-11): a line that was dropped for one reason is not asked for the next, so a page is only
dropped for a curly bracket or "lorem ipsum" in a line that would otherwise stay.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from nexus_llm.characters import CODE_POINTS, Bytes, Offsets, buffers, decode
from nexus_llm.data.judging.compiled import kernel
from nexus_llm.data.judging.repetition_statistics import first_visible, last_visible
from nexus_llm.data.judging.word_tables import IS_LINE_BREAK, IS_SPACE, tables

_Array = TypeVar("_Array", bound=npt.NDArray[Any])

MIN_WORDS = 3
MAX_WORD_CHARACTERS = 1000

KEPT, HAS_LOREM_IPSUM, HAS_CURLY_BRACKET = 1, 2, 4
_HAS_JAVASCRIPT, _HAS_POLICY = 8, 16

# In the order of the bits that they set; the first 1 sets HAS_LOREM_IPSUM, and so on.
_PHRASES = (
    ("lorem ipsum", HAS_LOREM_IPSUM),
    ("{", HAS_CURLY_BRACKET),
    ("javascript", _HAS_JAVASCRIPT),
    ("terms of use", _HAS_POLICY),
    ("privacy policy", _HAS_POLICY),
    ("cookie policy", _HAS_POLICY),
    ("uses cookies", _HAS_POLICY),
    ("use of cookies", _HAS_POLICY),
    ("use cookies", _HAS_POLICY),
)
_TEXT = np.frombuffer("".join(phrase for phrase, _ in _PHRASES).encode(), np.uint8)
_BOUNDS = np.cumsum([0] + [len(phrase) for phrase, _ in _PHRASES])
_FLAGS = np.array([flag for _, flag in _PHRASES])
_EDIT = np.frombuffer(b"[edit]", np.uint8)
_CITATION_NEEDED = np.frombuffer(b"[citation needed]", np.uint8)


def keep_c4_lines(texts: pl.Series) -> pl.Series:
    """The texts with only the lines that C4 keeps, joined by line feeds, citations such as `[3]` taken out.

    >>> keep_c4_lines(pl.Series(["Menu\\nThis is a whole sentence.[3]\\nPlease enable JavaScript to go on."])).item()
    'This is a whole sentence.'
    """
    data, offsets = buffers(texts)
    data, offsets = read_only(data), read_only(offsets)
    kept, bounds = np.empty(data.size + 1, np.uint8), np.zeros(offsets.size, np.int64)
    clean = np.empty(data.size + 1, np.uint8)
    size = _keep_lines(data, offsets, tables().kinds, clean, read_only(clean), kept, bounds)
    column = pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(bounds), pa.py_buffer(kept[:size]))
    return pl.Series(texts.name, pl.from_arrow(column), pl.String)


def read_only(memory: _Array) -> _Array:
    """The same memory as a read-only array, as which kernels take texts: they compile once for each type."""
    view = memory.view()
    view.flags.writeable = False
    return view


@kernel
def _keep_lines(data: Bytes, offsets: Offsets, kinds: Any, clean: Any, clean_text: Any, kept: Any, bounds: Any) -> int:
    """Bytes of all kept lines; fills them and the bounds of the texts in them."""
    size = 0
    for text in range(offsets.size - 1):
        place, end = offsets[text], offsets[text + 1]
        while place < end:
            stop, behind = line_end(data, place, end, kinds)
            words, longest = _words(data, place, stop, kinds)
            first = first_visible(data, place, stop, kinds)
            length = without_citations(data, first, last_visible(data, first, stop, kinds), clean)
            if judge_line(clean_text, np.int64(0), length, words, longest) & KEPT:
                if size > bounds[text]:
                    kept[size] = 10
                    size += 1
                for index in range(length):
                    kept[size + index] = clean[index]
                size += length
            place = behind
        bounds[text + 1] = size
    return size


@kernel
def line_end(data: Any, place: int, end: int, kinds: Any) -> Any:
    """(byte at which the line ends, byte at which the next one starts), for lines as `str.splitlines` breaks them."""
    while place < end:
        point, behind = decode(data, place)
        if point < CODE_POINTS and kinds[point] & IS_LINE_BREAK:
            is_pair = point == 13 and behind < end and data[behind] == 10
            return place, behind + 1 if is_pair else behind
        place = behind
    return end, end


@kernel
def _words(data: Any, place: int, stop: int, kinds: Any) -> Any:
    """(words between white space, characters of the longest)."""
    words = longest = length = 0
    while place < stop:
        point, place = decode(data, place)
        if point < CODE_POINTS and kinds[point] & IS_SPACE:
            length = 0
        else:
            words += length == 0
            length += 1
            longest = max(longest, length)
    return words, longest


@kernel
def without_citations(data: Any, start: int, stop: int, clean: Any) -> int:
    """Bytes of the line without `[1]`, `[]`, `[edit]` and `[citation needed]`, which it copies to `clean`."""
    size, place = 0, start
    while place < stop:
        length = _citation_length(data, place, stop) if data[place] == ord("[") else 0
        if length:
            place += length
        else:
            clean[size] = data[place]
            size += 1
            place += 1
    return size


@kernel
def _citation_length(data: Any, place: int, stop: int) -> int:
    """Bytes of the citation that starts with the bracket at `place`, 0 for none."""
    behind = place + 1
    while behind < stop and ord("0") <= data[behind] <= ord("9"):
        behind += 1
    if behind < stop and data[behind] == ord("]"):
        return behind + 1 - place
    if _starts_with(data, place, stop, _EDIT):
        return 6
    return 17 if _starts_with(data, place, stop, _CITATION_NEEDED) else 0


@kernel
def _starts_with(data: Any, place: int, stop: int, phrase: Any) -> bool:
    if place + phrase.size > stop:
        return False
    for index in range(phrase.size):  # noqa: SIM110 - kernels have no generators
        if data[place + index] != phrase[index]:
            return False
    return True


@kernel
def judge_line(data: Any, start: Any, stop: int, words: int, longest: int) -> int:
    """KEPT, and whether the line drops its page: HAS_LOREM_IPSUM, HAS_CURLY_BRACKET; 0 for a line that is dropped."""
    if words < MIN_WORDS or longest > MAX_WORD_CHARACTERS or not _ends_sentence(data, start, stop):
        return 0
    found = 0
    for place in range(start, stop):
        letter = data[place] | 0x20 if ord("A") <= data[place] <= ord("Z") else data[place]
        if letter in (ord("l"), ord("{"), ord("j"), ord("t"), ord("p"), ord("c"), ord("u")):
            found |= _phrase_at(data, place, stop)
    if found & _HAS_JAVASCRIPT:
        return found & HAS_LOREM_IPSUM
    flags = found & (HAS_LOREM_IPSUM | HAS_CURLY_BRACKET)
    return flags if found & _HAS_POLICY else flags | KEPT


@kernel
def _ends_sentence(data: Any, start: int, stop: int) -> bool:
    if stop <= start:
        return False
    last = data[stop - 1]
    if last == ord("."):
        return not (stop - start >= 3 and data[stop - 2] == ord(".") and data[stop - 3] == ord("."))
    return last in (ord("?"), ord("!"), ord('"'), ord("'"))


@kernel
def _phrase_at(data: Any, place: int, stop: int) -> Any:
    """The flag of the phrase that starts at `place`, whatever its case; 0 for none."""
    for index in range(_FLAGS.size):
        first, size = _BOUNDS[index], _BOUNDS[index + 1] - _BOUNDS[index]
        if place + size > stop:
            continue
        same = 0
        while same < size:
            letter = data[place + same]
            if ord("A") <= letter <= ord("Z"):
                letter |= 0x20
            if letter != _TEXT[first + same]:
                break
            same += 1
        if same == size:
            return _FLAGS[index]
    return 0

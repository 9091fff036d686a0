"""Which lines of a page C4 keeps: sentences of at least three words that are not about cookies or JavaScript.

Raffel et al. 2020 (arXiv:1910.10683), section 2.2, in the order of its published code (c4_utils.py of
tensorflow/datasets, read 2026-11): a line that was dropped for one reason is not asked for the next, so a page is only
dropped for a curly bracket or "lorem ipsum" in a line that would otherwise stay.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nexus_llm.data.judging.compiled import kernel

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


def read_only(memory: _Array) -> _Array:
    """The same memory as a read-only array, as which kernels take texts: they compile once for each type."""
    view = memory.view()
    view.flags.writeable = False
    return view


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

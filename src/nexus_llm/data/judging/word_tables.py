"""What the word splitter knows of characters and words: bits of each code point, abbreviations, units, stop words."""

from __future__ import annotations

import functools
import unicodedata
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nexus_llm.characters import CODE_POINTS, SPACE, classes, mix

# What a character is to the splitter and to the rules; bits of `Tables.kinds`.
IS_LETTER = np.uint16(1)
IS_LOWER = np.uint16(2)  # small letters, and letters of scripts without case
IS_UPPER = np.uint16(4)  # capitals, and letters of scripts without case
IS_SPACE = np.uint16(8)
IS_PREFIX = np.uint16(16)
IS_SUFFIX = np.uint16(32)
IS_INFIX = np.uint16(64)  # may split a word that it stands in
IS_QUOTE = np.uint16(128)
ENDS_BEFORE_STOP = np.uint16(256)  # a full stop behind it is a word of its own
IS_SYMBOL = np.uint16(512)  # punctuation, symbols, controls: no word consists of these alone
IS_PUNCTUATION = np.uint16(1024)
IS_TERMINAL = np.uint16(2048)  # ends a sentence
IS_LINE_BREAK = np.uint16(4096)  # `str.splitlines` breaks there
IS_MARK = np.uint16(8192)
IS_ICON = np.uint16(16384)

# Rae et al. 2021 (arXiv:2112.11446), appendix A.1.1: a document must contain two of these.
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")

_AFFIXES = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧"
_CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
_UNITS = "km m dm cm mm ha nm yd in ft kg g mg t lb oz m/s km/h kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K %"
_ABBREVIATIONS = (
    "Mr. Mrs. Ms. Dr. Prof. Rev. Gen. Gov. Rep. Sen. Adm. St. Mt. Jr. Messrs. Co. co. Corp. Inc. Ltd. Bros. "
    "Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec. e.g. E.g. E.G. i.e. I.e. I.E. vs. v.s. a.m. p.m. "
    "Ph.D. D.C. N.Y. N.J. N.C. S.C. C++ '' 's 'S ’s ’S 've 're 'll 'm 'd "
    ":) :-) ;) ;-) :( :-( =) :/ =/ :] [: =] (: 8) :P :p :D :o :O :x :X :> :* "
    "and/or :3 :0 :1 <3 ^_^ -_- \\n \\t"
)
# After Sentence_Terminal of Unicode 15's PropList, as (first, last) code points.
# https://www.unicode.org/Public/15.0.0/ucd/PropList.txt
_SENTENCE_TERMINALS = (
    (0x21, 0x21), (0x2E, 0x2E), (0x3F, 0x3F), (0x589, 0x589), (0x61D, 0x61F), (0x6D4, 0x6D4), (0x700, 0x702),
    (0x7F9, 0x7F9), (0x837, 0x837), (0x839, 0x839), (0x83D, 0x83E), (0x964, 0x965), (0x104A, 0x104B),
    (0x1362, 0x1362), (0x1367, 0x1368), (0x166E, 0x166E), (0x1735, 0x1736), (0x17D4, 0x17D5), (0x1803, 0x1803),
    (0x1809, 0x1809), (0x1944, 0x1945), (0x1AA8, 0x1AAB), (0x1B5A, 0x1B5B), (0x1B5E, 0x1B5F), (0x1B7D, 0x1B7E),
    (0x1C3B, 0x1C3C), (0x1C7E, 0x1C7F), (0x203C, 0x203D), (0x2047, 0x2049), (0x2E2E, 0x2E2E), (0x2E3C, 0x2E3C),
    (0x2E53, 0x2E54), (0x3002, 0x3002), (0xA4FF, 0xA4FF), (0xA60E, 0xA60F), (0xA6F3, 0xA6F3), (0xA6F7, 0xA6F7),
    (0xA876, 0xA877), (0xA8CE, 0xA8CF), (0xA92F, 0xA92F), (0xA9C8, 0xA9C9), (0xAA5D, 0xAA5F), (0xAAF0, 0xAAF1),
    (0xABEB, 0xABEB), (0xFE52, 0xFE52), (0xFE56, 0xFE57), (0xFF01, 0xFF01), (0xFF0E, 0xFF0E), (0xFF1F, 0xFF1F),
    (0xFF61, 0xFF61), (0x10A56, 0x10A57), (0x10F55, 0x10F59), (0x10F86, 0x10F89), (0x11047, 0x11048),
    (0x110BE, 0x110C1), (0x11141, 0x11143), (0x111C5, 0x111C6), (0x111CD, 0x111CD), (0x111DE, 0x111DF),
    (0x11238, 0x11239), (0x1123B, 0x1123C), (0x112A9, 0x112A9), (0x1144B, 0x1144C), (0x115C2, 0x115C3),
    (0x115C9, 0x115D7), (0x11641, 0x11642), (0x1173C, 0x1173E), (0x11944, 0x11944), (0x11946, 0x11946),
    (0x11A42, 0x11A43), (0x11A9B, 0x11A9C), (0x11C41, 0x11C42), (0x11EF7, 0x11EF8), (0x11F43, 0x11F44),
    (0x16A6E, 0x16A6F), (0x16AF5, 0x16AF5), (0x16B37, 0x16B38), (0x16B44, 0x16B44), (0x16E98, 0x16E98),
    (0x1BC9F, 0x1BC9F), (0x1DA88, 0x1DA88),
)  # fmt: skip


HASH_START = np.uint64(0x243F6A8885A308D3)  # the fraction of pi, as good as any
HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: multiplying loses nothing


class Tables(NamedTuple):
    """What the splitter knows of characters and words; see `tables`."""

    kinds: npt.NDArray[np.uint16]
    """Bits of each code point, shape (CODE_POINTS,)."""
    specials: npt.NDArray[np.uint64]
    """Short words that are never split; hash set of packed UTF-8."""
    units: npt.NDArray[np.uint64]
    """Units that are split from the number before them; hash set of packed UTF-8."""
    stop_words: npt.NDArray[np.uint64]
    """Hashes of the words, before the last step; shape (8,)."""


@functools.cache
def tables() -> Tables:
    """The tables, built once a process (0.1 s)."""
    specials = [*_ABBREVIATIONS.split(), *(f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyz")]
    stop_words = np.array([_hash(word) for word in STOP_WORDS], np.uint64)
    return Tables(_kinds(), _packed_set(specials), _packed_set(_UNITS.split()), stop_words)


def _kinds() -> npt.NDArray[np.uint16]:
    of_category: dict[str, np.uint16] = {}
    kinds = np.empty(CODE_POINTS, np.uint16)
    for point in range(CODE_POINTS):
        category = unicodedata.category(chr(point))
        if category not in of_category:
            of_category[category] = _kind_of_category(category)
        kinds[point] = of_category[category]
    kinds[np.flatnonzero(classes() & SPACE)] |= IS_SPACE
    marks = np.flatnonzero(kinds & IS_MARK)
    kinds[marks[marks >= 0x590]] |= IS_LOWER | IS_UPPER  # vowel signs belong to words; accents come after letters
    _add(kinds, _AFFIXES + _QUOTES + "—–", IS_PREFIX | IS_SUFFIX)
    _add(kinds, "§%=" + _CURRENCY, IS_PREFIX)
    _add(kinds, _QUOTES, IS_QUOTE)
    _add(kinds, ".,+-*^–—~:<>=/…", IS_INFIX)
    _add(kinds, "0123456789%²-+|" + _AFFIXES + _QUOTES, ENDS_BEFORE_STOP)
    _add(kinds, "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029", IS_LINE_BREAK)
    for first, last in _SENTENCE_TERMINALS:
        kinds[first : last + 1] |= IS_TERMINAL
    return kinds


def _kind_of_category(category: str) -> np.uint16:
    """The flags of a Unicode general category."""
    flags = np.uint16(0)
    if category[0] == "L":
        flags |= IS_LETTER
    if category in ("Ll", "Lm", "Lo"):
        flags |= IS_LOWER | ENDS_BEFORE_STOP
    if category in ("Lu", "Lt", "Lo"):
        flags |= IS_UPPER
    if category[0] == "M":
        flags |= IS_MARK
    if category[0] in "PSC":
        flags |= IS_SYMBOL
    if category[0] == "P":
        flags |= IS_PUNCTUATION
    if category == "So":
        flags |= IS_ICON | IS_PREFIX | IS_SUFFIX | IS_INFIX
    return flags


def _add(kinds: npt.NDArray[np.uint16], characters: str, flags: np.uint16) -> None:
    kinds[[ord(one) for one in characters]] |= flags


def _hash(word: str) -> int:
    """What the kernels make of a word's characters."""
    value = int(HASH_START)
    for character in word:
        value = (value ^ ord(character)) * int(HASH_MULTIPLIER) % 2**64
    return value


def _packed_set(words: list[str]) -> npt.NDArray[np.uint64]:
    """An open-addressing set of 256 slots, 0 where there is nothing."""
    slots = np.zeros(256, np.uint64)
    for word in words:
        packed = int.from_bytes(word.encode(), "little")
        place = int(mix(np.uint64(packed))) & 255
        while slots[place]:
            place = (place + 1) & 255
        slots[place] = packed
    return slots

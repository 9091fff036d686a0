"""Where personal data could be: one compiled pass over the bytes, so that exact patterns only read those places.

A candidate is a superset: whatever `patterns` accepts lies within one, which a test checks against the patterns run
over whole texts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from nexus_llm.characters import Bytes, Offsets

NUMBER, EMAIL, IPV6, IBAN, SECRET = 1, 2, 4, 8, 16
"""Kinds of candidates: bits, so that a mask names those wanted."""
ADDRESS, CARD, SOCIAL_SECURITY, PHONE = 1, 2, 4, 8
"""What a NUMBER may be, as bits. Most digits in a text have the shape or the surroundings of none: no candidates."""

SECRET_PREFIXES = (
    b"AKIA", b"ASIA", b"AIza", b"SG.", b"eyJ", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_", b"glpat-",
    b"hf_", b"hooks.slack.com/services/", b"npm_", b"pypi-AgE", b"rk_live_", b"sk-", b"sk_live_", b"sk_test_", b"xapp-",
    b"xoxa-", b"xoxb-", b"xoxe-", b"xoxp-", b"xoxr-", b"xoxs-", b"-----BEGIN ",
)  # fmt: skip
"""How tokens and keys begin; the number of the prefix is a SECRET candidate's detail."""
LONG_SECRETS = frozenset((SECRET_PREFIXES.index(b"eyJ"), SECRET_PREFIXES.index(b"-----BEGIN ")))
"""The prefixes of what may be kilobytes long."""
AWS_SECRET = len(SECRET_PREFIXES)
"""Detail of the candidates that are only the word "key" near "secret": an AWS secret key has no prefix of its own."""

# A run of 20 digits or more is no phone, card or social security number: the longest card has 19 (ISO/IEC 7812).
LONGEST_DIGIT_RUN = 19
FEWEST_DIGITS = 7
_LOCAL_PART_BYTES, _DOMAIN_BYTES = 64, 255  # RFC 5321, section 4.5.3.1
_IPV6_BYTES = 45  # eight groups, the last two as a dotted IPv4
_IBAN_LONGEST, _IBAN_SHORTEST = 34, 15  # ISO 13616; Norway has 15

_DIGIT, _AT, _COLON, _KEY = 1, 2, 4, 8
_RARE = 16
# In every prefix stands one of these bytes, each rare enough in prose that looking around at each costs nothing.
_RARE_BYTES = b"_-JIG/"
_SECRET_WORD = np.frombuffer(b"secret", np.uint8)
# How the words begin that stand around a telephone number in `patterns`, each byte with the bit of small letters.
_WORDS_BEFORE = np.frombuffer(b"photelcelmobfaxwhahotdest\xc3\xa9m\xc3\xb3han", np.uint8).reshape(-1, 3) | 32
_AT_ON_TO = np.frombuffer(b"atonto", np.uint8).reshape(-1, 2)
_WORDS_BEHIND = np.frombuffer(b"faxoffmobceldesext", np.uint8).reshape(-1, 3)


class Candidates(NamedTuple):
    """Arrays of one entry a candidate, ordered by row and place; `start` and `end` are places in the joined bytes.

    `detail` is, for NUMBER, what it may be (ADDRESS, CARD, …); for EMAIL, the place of the @; for SECRET, the prefix.
    """

    row: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    detail: npt.NDArray[np.int64]


def candidates(data: Bytes, offsets: Offsets, kinds: int) -> Candidates:
    """The candidates of the `kinds` (a sum of NUMBER, EMAIL, …) in the texts `data[offsets[i]:offsets[i + 1]]`."""
    table = _scan(data, offsets, kinds, _CLASSES, _PREFIX_BYTES, _PREFIX_BOUNDS, _PREFIX_TABLE)
    return Candidates(*table.T)


def _classes() -> npt.NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for byte in b"0123456789":
        table[byte] = _DIGIT
    for byte in _RARE_BYTES:
        table[byte] = _RARE
    table[ord("@")], table[ord(":")] = _AT, _COLON
    table[ord("k")] = table[ord("K")] = _KEY
    return table


def _prefix_table() -> npt.NDArray[np.int64]:
    """Rows of (rare byte, its place in the prefix, number of the prefix), grouped by the byte."""
    rows = []
    for number, prefix in enumerate(SECRET_PREFIXES):
        rare = next(byte for byte in _RARE_BYTES if byte in prefix)
        rows.append((rare, prefix.index(rare), number))
    return np.array(sorted(rows), np.int64)


_CLASSES = _classes()
_PREFIX_BYTES = np.frombuffer(b"".join(SECRET_PREFIXES), np.uint8)
_PREFIX_BOUNDS = np.cumsum([0, *map(len, SECRET_PREFIXES)]).astype(np.int64)
_PREFIX_TABLE = _prefix_table()


@njit(cache=True, nogil=True)
def _scan(  # noqa: PLR0912 - one branch a kind
    data: Any, offsets: Any, kinds: int, classes: Any, prefix_bytes: Any, prefix_bounds: Any, prefix_table: Any
) -> Any:  # pragma: no cover - compiled
    """Rows of (row, kind, start, end, detail)."""
    found = np.empty((1024, 5), np.int64)
    count = 0
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        place = begin
        address_end = begin
        while True:
            while place < end and classes[data[place]] == 0:
                place += 1
            if place >= end:
                break
            group = classes[data[place]]
            kind, start, stop, detail, following = 0, place, place, 0, place + 1
            if count + 2 > len(found):
                found = _twice(found)
            if group == _DIGIT:
                start, stop = _iban(data, begin, place, end)
                if kinds & IBAN and stop > start:
                    count = _keep(found, count, row, IBAN, start, stop, 0)
                start = place
                stop, detail = _number(data, begin, place, end)
                kind = NUMBER if detail else 0
                following = stop
            elif group == _AT:
                start, stop = _email(data, begin, place, end)
                kind, detail = EMAIL if stop > start else 0, place
            elif group == _COLON:
                if place >= address_end:
                    start, stop, is_address = _ipv6(data, address_end, place, end)
                    address_end = stop
                    # All of it may stand in an address, so none can begin behind its first byte.
                    is_inside = start > begin and (_is_word(data[start - 1]) or data[start - 1] in (46, 58))
                    kind = IPV6 if is_address and not is_inside else 0
            elif group == _KEY:
                kind, stop, detail = SECRET if _is_secret_key(data, begin, place, end) else 0, place + 3, AWS_SECRET
            else:
                start, detail = _prefix(data, begin, place, end, prefix_bytes, prefix_bounds, prefix_table)
                kind = SECRET if detail >= 0 else 0
            if kind & kinds:
                count = _keep(found, count, row, kind, start, stop, detail)
            place = following
    return found[:count].copy()


@njit(cache=True, nogil=True)
def _twice(found: Any) -> Any:  # pragma: no cover - compiled
    larger = np.empty((2 * len(found), found.shape[1]), np.int64)
    larger[: len(found)] = found
    return larger


@njit(cache=True, nogil=True)
def _keep(
    found: Any, count: int, row: int, kind: int, start: int, stop: int, detail: int
) -> int:  # pragma: no cover - compiled
    found[count, 0], found[count, 1], found[count, 2] = row, kind, start
    found[count, 3], found[count, 4] = stop, detail
    return count + 1


@njit(cache=True, nogil=True)
def _is_digit(byte: int) -> bool:  # pragma: no cover - compiled
    return 48 <= byte <= 57


@njit(cache=True, nogil=True)
def _is_letter(byte: int) -> bool:  # pragma: no cover - compiled
    return 97 <= (byte | 32) <= 122


@njit(cache=True, nogil=True)
def _is_word(byte: int) -> bool:  # pragma: no cover - compiled
    return _is_letter(byte) or _is_digit(byte) or byte == 95


@njit(cache=True, nogil=True)
def _is_separator(byte: int) -> bool:  # pragma: no cover - compiled
    """Between the digits of one number: space ( ) - . /"""
    return byte in (32, 40, 41, 45, 46, 47)


@njit(cache=True, nogil=True)
def _number(data: Any, begin: int, start: int, end: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """(end of the digits from `start` with up to two separators between, what the number may be).

    A run of more digits than any number has stands alone and is nothing.
    """
    place, digits, octets, may_be = start, 0, 0, 0
    before, last, gap = 0, 0, 0  # digits of the run before the last one, of the last one, separators behind it
    while True:
        run = place
        while run < end and run - place <= LONGEST_DIGIT_RUN and _is_digit(data[run]):
            run += 1
        size = run - place
        if size > LONGEST_DIGIT_RUN:
            while place == start and run < end and _is_digit(data[run]):
                run += 1
            place = run if place == start else place - gap
            break
        separator = data[place - 1] if gap == 1 else 0
        octets = 0 if size > 3 else octets + 1 if separator == 46 else 1
        may_be |= _shape(data, begin, place, size, separator, last, before)
        if octets == 4:
            may_be |= ADDRESS
        digits, place = digits + size, run
        before, last, gap = last, size, 0
        while gap < 3 and place + gap < end and _is_separator(data[place + gap]):
            gap += 1
        if gap == 0 or gap > 2 or place + gap >= end or not _is_digit(data[place + gap]):
            break
        place += gap
    sign = start - 2 if start > begin and data[start - 1] == 32 else start - 1
    if digits < FEWEST_DIGITS:
        return place, may_be & ADDRESS
    if (sign >= begin and data[sign] == 43) or _is_named(data, begin, start, place, end):  # + or "+ "
        may_be |= PHONE
    return place, may_be


@njit(cache=True, nogil=True)
def _shape(
    data: Any, begin: int, run: int, size: int, separator: int, last: int, before: int
) -> int:  # pragma: no cover - compiled
    """What the run of `size` digits at `run` makes of its number, by the two runs before and the single separator."""
    may_be = 0
    if size > 2 and data[run] == 48 and data[run + 1] == 48:
        may_be |= PHONE  # 0044 …
    if size == 4 and last == 3 and before >= 3 and separator in (32, 45, 46):
        may_be |= PHONE  # 212 555-0123
    if size == 4 and last == 2 and before == 3 and separator in (32, 45):
        may_be |= SOCIAL_SECURITY
    if size == 9 and _is_social_security(data, begin, run):
        may_be |= SOCIAL_SECURITY
    if size >= 12 and _passes_luhn(data, run, size):
        may_be |= CARD
    if last == 4 and size in (4, 6) and separator in (32, 45):
        may_be |= CARD
    return may_be


@njit(cache=True, nogil=True)
def _passes_luhn(data: Any, run: int, size: int) -> bool:  # pragma: no cover - compiled
    total = 0
    for index in range(size):
        digit = data[run + size - 1 - index] - 48
        doubled = digit << (index & 1)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


@njit(cache=True, nogil=True)
def _is_social_security(data: Any, begin: int, run: int) -> bool:  # pragma: no cover - compiled
    """Whether "ss" or "ty" ("SSN", "ss #", "social security") stands in the line before, 32 bytes between."""
    for place in range(run - 1, max(begin, run - 37), -1):
        byte = data[place] | 32
        if data[place] == 10 or _is_digit(data[place]):
            return False
        if data[place - 1] | 32 == (115 if byte == 115 else 116) and byte in (115, 121):
            return True
    return False


@njit(cache=True, nogil=True)
def _is_named(data: Any, begin: int, start: int, stop: int, end: int) -> bool:  # pragma: no cover - compiled
    """Whether there may be a word for a telephone before or behind, or an extension behind, which may have one."""
    place = stop
    while place < end and place - stop < 3 and data[place] in (32, 40, 44, 45):
        place += 1
    is_extension = place < end and data[place] | 32 == 120  # x12
    if is_extension or (place + 3 <= end and _begins_with(data, place, _WORDS_BEHIND)):
        return True
    place = start
    while place > begin and start - place < 6 and not _is_word(data[place - 1]):
        place -= 1
    if place - 2 >= begin and place < start and _begins_with(data, place - 2, _AT_ON_TO):  # "call me at"
        return True
    # The longest word has 9 letters, and 29 bytes may stand behind it.
    for place in range(start - 1, max(begin, start - 38) - 1, -1):
        if _is_digit(data[place]):
            return False
        is_first = place == begin or not _is_word(data[place - 1])
        if is_first and place + 3 <= start and _begins_with(data, place, _WORDS_BEFORE):
            return True
    return False


@njit(cache=True, nogil=True)
def _begins_with(data: Any, place: int, words: Any) -> bool:  # pragma: no cover - compiled
    for word in range(len(words)):
        same = 0
        while same < words.shape[1] and data[place + same] | 32 == words[word, same]:
            same += 1
        if same == words.shape[1]:
            return True
    return False


@njit(cache=True, nogil=True)
def _email(data: Any, begin: int, at: int, end: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """(start, end) of what may be an address around the @ at `at`; equal when there is none."""
    start = at
    while start > begin and at - start < _LOCAL_PART_BYTES and _is_local(data[start - 1]):
        start -= 1
    stop = at + 1
    has_dot = False
    while stop < end and stop - at <= _DOMAIN_BYTES:
        byte = data[stop]
        if byte == 46:
            has_dot = has_dot or (stop + 2 < end and _is_letter(data[stop + 1]) and _is_letter(data[stop + 2]))
        elif not (_is_letter(byte) or _is_digit(byte) or byte == 45 or byte >= 128):
            break
        stop += 1
    if start == at or not has_dot:
        return at, at
    return start, stop


@njit(cache=True, nogil=True)
def _is_local(byte: int) -> bool:  # pragma: no cover - compiled
    """What the part before the @ may hold: letters, digits, other scripts and _ . + % ' -"""
    return _is_word(byte) or byte >= 128 or byte in (37, 39, 43, 45, 46)


@njit(cache=True, nogil=True)
def _ipv6(data: Any, begin: int, colon: int, end: int) -> tuple[int, int, bool]:  # pragma: no cover - compiled
    """(start, end, may be an address) of the hexadecimal groups around a colon."""
    start = colon
    while start > begin and colon - start < 5 and _is_hexadecimal(data[start - 1]):
        start -= 1
    stop = colon
    colons = 0
    has_gap = False
    while stop < end and (_is_hexadecimal(data[stop]) or data[stop] == 58 or data[stop] == 46):
        if data[stop] == 58:
            colons += 1
            has_gap = has_gap or (stop + 1 < end and data[stop + 1] == 58)
        stop += 1
    return start, stop, (has_gap or colons >= 6) and stop - start <= _IPV6_BYTES + 1


@njit(cache=True, nogil=True)
def _is_hexadecimal(byte: int) -> bool:  # pragma: no cover - compiled
    return _is_digit(byte) or 97 <= (byte | 32) <= 102


@njit(cache=True, nogil=True)
def _iban(data: Any, begin: int, digit: int, end: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """(start, end) of two letters, the digits here, 11 to 30 letters or digits with single spaces; else equal."""
    start = digit - 2
    if start < begin or end - start < _IBAN_SHORTEST or not _is_digit(data[digit + 1]):
        return digit, digit
    if not (_is_letter(data[start]) and _is_letter(data[start + 1])) or (start > begin and _is_word(data[start - 1])):
        return digit, digit
    place, signs = start + 4, 4
    while place < end and signs < _IBAN_LONGEST:
        if _is_letter(data[place]) or _is_digit(data[place]):
            signs += 1
        elif data[place] != 32 or data[place - 1] == 32:
            break
        place += 1
    return (start, place) if signs >= _IBAN_SHORTEST else (digit, digit)


@njit(cache=True, nogil=True)
def _is_secret_key(data: Any, begin: int, place: int, end: int) -> bool:  # pragma: no cover - compiled
    """Whether "key" stands at `place` and "secret" within the 24 bytes before, both in any case."""
    if place + 40 > end or data[place + 1] | 32 != 101 or data[place + 2] | 32 != 121:
        return False
    for start in range(max(begin, place - 24), place - 5):
        same = 0
        while same < 6 and data[start + same] | 32 == _SECRET_WORD[same]:
            same += 1
        if same == 6:
            return True
    return False


@njit(cache=True, nogil=True)
def _begins_word(data: Any, begin: int, start: int) -> bool:  # pragma: no cover - compiled
    """Whether no letter, digit, _ or - stands before `start`; before a dash (-----BEGIN) anything may."""
    return start == begin or data[start] == 45 or not (_is_word(data[start - 1]) or data[start - 1] == 45)


@njit(cache=True, nogil=True)
def _prefix(
    data: Any, begin: int, rare: int, end: int, prefix_bytes: Any, prefix_bounds: Any, prefix_table: Any
) -> tuple[int, int]:  # pragma: no cover - compiled
    """(start, number) of the prefix whose rare byte stands at `rare`, at the start of a word; number -1 for none."""
    for entry in range(len(prefix_table)):
        if prefix_table[entry, 0] == data[rare]:
            start = rare - prefix_table[entry, 1]
            number = prefix_table[entry, 2]
            length = prefix_bounds[number + 1] - prefix_bounds[number]
            if start >= begin and end - start >= length and _begins_word(data, begin, start):
                same = 0
                while same < length and data[start + same] == prefix_bytes[prefix_bounds[number] + same]:
                    same += 1
                if same == length:
                    return start, number
    return rare, -1

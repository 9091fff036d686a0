"""Text without what no reader sees. It runs after judging, so that it never hides what a judge must see."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import polars as pl
from numba import njit

from nexus_llm.characters import CODE_POINTS, SPACE, buffers, classes, decode, series_of

_NEWLINE = np.uint8(10)
# The byte order mark inside a text is only an artefact of joining files.
_BYTE_ORDER_MARK = 0xFEFF
_MAX_NEWLINES = 3


def clean(texts: pl.Series) -> pl.Series:
    r"""NFC, "\n" as the only line end, no control characters, no white space at line ends or around the whole.

    More than two empty lines in a row become two; an indented first line keeps its indent. Cleaning twice changes
    nothing more.

    >>> clean(pl.Series(["Cafe\u0301  \r\nopen\x00\n\n\n\n\nlate "])).to_list()
    ['Café\nopen\n\n\nlate']
    """
    cleaned = series_of(*_cleaned(*buffers(texts), classes()))
    beyond_ascii = (cleaned.str.len_bytes() != cleaned.str.len_chars()).arg_true()
    composed = {
        place: unicodedata.normalize("NFC", text)
        for place, text in zip(beyond_ascii, cleaned.gather(beyond_ascii), strict=True)
        if not unicodedata.is_normalized("NFC", text)
    }
    if not composed:
        return cleaned
    return cleaned.scatter(list(composed), list(composed.values()))


@njit(cache=True, nogil=True)
def _cleaned(data: Any, offsets: Any, kinds: Any) -> tuple[Any, Any]:
    """(bytes, offsets) of the cleaned texts, not yet composed."""
    out = np.empty(len(data), np.uint8)
    bounds = np.zeros(len(offsets), np.int64)
    size = 0
    for text in range(len(offsets) - 1):
        start, place, end = size, offsets[text], offsets[text + 1]
        visible = size  # behind the last character that is no white space
        newlines = 0  # that are owed before the next visible character
        while place < end:
            here = place
            if newlines == 0 and 32 < data[here] < 127:  # nearly all characters of nearly all texts
                out[size] = data[here]
                size, place = size + 1, place + 1
                visible = size
                continue
            point, place = decode(data, place)
            if point == 13 and place < end and data[place] == _NEWLINE:
                continue
            if point in (10, 13, 0x85, 0x2028, 0x2029):
                newlines += 1
                size = visible
                continue
            if (point < 32 and point != 9) or 127 <= point < 160 or point == _BYTE_ORDER_MARK:
                continue
            if newlines and size == visible:
                # The first character of a line: pay what is owed, which nobody owes before the first text.
                for _ in range(min(newlines, _MAX_NEWLINES) if visible > start else 0):
                    out[size] = _NEWLINE
                    size += 1
            for byte in range(here, place):
                out[size] = data[byte]
                size += 1
            if not (point < CODE_POINTS and kinds[point] & SPACE):
                visible, newlines = size, 0
        size = visible
        bounds[text + 1] = size
    return out[:size], bounds

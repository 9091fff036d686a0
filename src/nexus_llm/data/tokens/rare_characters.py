"""Which texts hold a character of a marked kind: one compiled pass over their bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from nexus_llm.characters import Bytes, Offsets, decode

_RUN_BYTES = 128


def has_marked(data: Bytes, offsets: Offsets, marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether each text `data[offsets[i]:offsets[i + 1]]` has a code point that `marked` marks, shape (texts,).

    `marked` has shape (0x110000,), and marks neither ASCII's printable characters nor its white space. The bytes are
    UTF-8; halves of surrogate pairs may stand there, as three bytes each.
    """
    found: npt.NDArray[np.bool_] = _has_marked(data, offsets, marked)
    return found


@njit(cache=True, nogil=True)
def _has_marked(data: Any, offsets: Any, marked: Any) -> Any:
    found = np.zeros(len(offsets) - 1, np.bool_)
    for row in range(len(found)):
        place, end = offsets[row], offsets[row + 1]
        while place < end and not found[row]:
            stop = min(place + _RUN_BYTES, end)
            if _is_plain(data, place, stop):
                place = stop
            while place < stop:  # the last character may reach beyond
                point, place = decode(data, place)
                found[row] |= marked[point]
    return found


@njit(cache=True, nogil=True)
def _is_plain(data: Any, start: int, stop: int) -> bool:
    """Whether all bytes are ASCII's printable ones or white space; has no branch, so that many bytes go at once."""
    others = np.uint8(0)
    for byte in data[start:stop]:
        is_printable = np.uint8(byte - np.uint8(32)) < np.uint8(95)
        is_space = np.uint8(byte - np.uint8(9)) < np.uint8(5)
        others |= np.uint8(not (is_printable | is_space))
    return bool(others == 0)

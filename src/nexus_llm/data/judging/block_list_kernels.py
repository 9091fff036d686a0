"""Addresses as compiled code sees them: the host in a URL, and hashes of its parent domains and paths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from nexus_llm.characters import mix

_SEED = np.uint64(0xCBF29CE484222325)  # FNV-1a's offset and prime for 64 bits; `mix` spreads what it leaves unmixed
_PRIME = np.uint64(0x100000001B3)
_SLASH, _COLON, _DOT, _AT, _HASH, _QUESTION, _NEWLINE = 47, 58, 46, 64, 35, 63, 10


@njit(cache=True, nogil=True)
def look_up(data: Any, offsets: Any, domains: Any, urls: Any) -> Any:
    """(0 free, 1 blocked domain, 2 blocked URL; begin and end of the matching part in `data`), one entry a URL."""
    count = len(offsets) - 1
    kinds, begins, ends = np.zeros(count, np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64)
    for row in range(count):
        begin, host_end, path, end = _parts(data, offsets[row], offsets[row + 1])
        value = _SEED
        place = host_end
        while place > begin and kinds[row] == 0:
            place -= 1
            value = _step(value, _small(data[place]))
            if (place == begin or data[place - 1] == _DOT) and _holds(domains, mix(value)):
                kinds[row], begins[row], ends[row] = 1, place, host_end
        if kinds[row] == 0 and len(urls) > 0:
            begin = _without_www(data, begin, host_end)
            value = _SEED
            for place in range(begin, host_end):
                value = _step(value, _small(data[place]))
            place = path
            while True:
                is_border = place == end or data[place] == _SLASH or data[place] == _QUESTION or data[place] == _HASH
                if is_border and _holds(urls, mix(value)):
                    kinds[row], begins[row], ends[row] = 2, begin, place
                    break
                if place >= end:
                    break
                value = _step(value, data[place])
                place += 1
    return kinds, begins, ends


@njit(cache=True, nogil=True)
def line_hashes(data: Any, whole_hosts: bool) -> Any:
    """Hashes of the lines' hosts, read from the right as `look_up` does, or of their whole addresses."""
    lines = 1
    for byte in data:
        lines += byte == _NEWLINE
    hashes = np.empty(lines, np.uint64)
    count = 0
    start = 0
    while start < len(data):
        stop = start
        while stop < len(data) and data[stop] != _NEWLINE:
            stop += 1
        cut = start
        while cut < stop and not (data[cut] == _HASH and (cut == start or data[cut - 1] <= 32)):
            cut += 1
        begin, host_end, path, end = _parts(data, start, cut)
        start = stop + 1
        value = _SEED
        if whole_hosts:
            while begin < host_end and (data[begin] == _DOT or data[begin] == 42):  # ".example.org", "*.example.org"
                begin += 1
            for place in range(host_end - 1, begin - 1, -1):
                value = _step(value, _small(data[place]))
        else:
            for place in range(_without_www(data, begin, host_end), host_end):
                value = _step(value, _small(data[place]))
            while end > path and data[end - 1] == _SLASH:
                end -= 1
            for place in range(path, end):
                value = _step(value, data[place])
        if host_end > begin:
            hashes[count] = mix(value)
            count += 1
    return hashes[:count]


@njit(cache=True, nogil=True)
def _parts(data: Any, begin: int, end: int) -> tuple[int, int, int, int]:
    """(begin of the host, its end, begin of the path, end) of a URL with or without scheme, user, port, white space."""
    while begin < end and data[begin] <= 32:
        begin += 1
    while end > begin and data[end - 1] <= 32:
        end -= 1
    for place in range(begin, end - 1):
        if data[place] == _SLASH and data[place + 1] == _SLASH and (place == begin or data[place - 1] == _COLON):
            begin = place + 2
            break
        if data[place] == _SLASH or data[place] == _QUESTION or data[place] == _HASH:
            break
    path = begin
    while path < end and data[path] != _SLASH and data[path] != _QUESTION and data[path] != _HASH:
        path += 1
    host = begin
    for place in range(begin, path):
        if data[place] == _AT:
            host = place + 1
    host_end = host
    while host_end < path and data[host_end] != _COLON:
        host_end += 1
    while host_end > host and data[host_end - 1] == _DOT:
        host_end -= 1
    return host, host_end, path, end


@njit(cache=True, nogil=True)
def _without_www(data: Any, begin: int, end: int) -> int:
    is_www = end - begin > 4 and data[begin + 3] == _DOT
    for place in range(begin, min(begin + 3, end)):
        is_www = is_www and _small(data[place]) == 119
    return begin + 4 if is_www else begin


@njit(cache=True, nogil=True)
def _small(byte: int) -> int:
    return byte + 32 if 65 <= byte <= 90 else byte


@njit(cache=True, nogil=True)
def _step(value: Any, byte: int) -> Any:
    return (value ^ np.uint64(byte)) * _PRIME


@njit(cache=True, nogil=True)
def _holds(values: Any, value: Any) -> bool:
    """Whether the sorted `values` hold `value`."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(values) and values[low] == value

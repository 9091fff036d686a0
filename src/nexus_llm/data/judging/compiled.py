"""Decorators for functions that are compiled to machine code on their first call, and kept compiled in a cache.

They may not allocate: `_nrt=False` leaves out numba's reference counting, which twice as long as all else occupied
kernels that hand tuples of arrays to one another (9 against 21 MB/s, 2026-11). The cache does not notice a change in a
constant or function that another file defines: touch the files of the callers after such a change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., Any])

kernel: Callable[[_Function], _Function] = njit(cache=True, nogil=True, _nrt=False)
"""A function of numbers and arrays, compiled."""
inlined: Callable[[_Function], _Function] = njit(cache=True, nogil=True, _nrt=False, forceinline=True)
"""The same, put into its callers: saves handing over what a small function needs (31 against 18 ns a byte)."""

"""Connected components of a graph whose nodes are numbered from 0 and whose edges come piece by piece."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Numbers = npt.NDArray[np.uint64]


class Components:
    """Which nodes hang together: 5 bytes a node in memory, nothing for an edge.

    A component is named after its smallest node, so the order of edges does not matter.

    >>> parts = Components(4)
    >>> parts.join(np.array([3, 1], np.uint64), np.array([1, 0], np.uint64))
    >>> [part.tolist() for part in parts.joined(0, 4)]
    [[0, 1, 3], [0, 0, 0]]
    """

    def __init__(self, nodes: int) -> None:
        if nodes >= 2**32:
            raise ValueError(f"{nodes} nodes; their numbers must fit 32 bits")
        self._parents = np.arange(nodes, dtype=np.uint32)
        self._is_joined = np.zeros(nodes, np.bool_)

    def join(self, left: Numbers, right: Numbers) -> None:
        """Adds the edges (left[i], right[i])."""
        _join(self._parents, self._is_joined, left, right)

    def joined(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], Numbers]:
        """(nodes from `start` to before `stop` that have an edge, the smallest node of each one's component)."""
        nodes = start + np.flatnonzero(self._is_joined[start:stop])
        roots = np.empty(len(nodes), np.uint64)
        _find(self._parents, nodes, roots)
        return nodes, roots


@njit(cache=True, nogil=True, inline="always")
def _root(parents: Any, node: int) -> int:
    while parents[node] != node:
        # Halving the path on the way up keeps paths short (Tarjan and van Leeuwen 1984).
        parents[node] = parents[parents[node]]
        node = int(parents[node])
    return node


@njit(cache=True, nogil=True)
def _join(parents: Any, is_joined: Any, left: Any, right: Any) -> None:
    for edge in range(len(left)):
        one, other = int(left[edge]), int(right[edge])
        is_joined[one] = is_joined[other] = True
        a, b = _root(parents, one), _root(parents, other)
        parents[max(a, b)] = min(a, b)


@njit(cache=True, nogil=True)
def _find(parents: Any, nodes: Any, roots: Any) -> None:
    for place in range(len(nodes)):
        roots[place] = _root(parents, nodes[place])

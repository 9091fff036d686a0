"""Clusters of exact and near-duplicate documents, each with one representative."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nexus_llm.data import minhash


@dataclass(frozen=True, slots=True)
class Clustered:
    """Where one document stands among its duplicates."""

    cluster: str
    """Smallest content hash in the cluster: the same texts form the same cluster in every run."""
    representative: int
    """Index of the document that stands for the cluster; its own index for the representative itself."""
    copy_of: int
    """Index of the first document with the same content; its own index for that one."""


def content_hash(content: str) -> str:
    """128-bit hash of a cleaned text (a conversation's JSON) as 32 hex digits."""
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def similar_pairs(
    signed: minhash.Signatures,
    shingles_of: Callable[[int], minhash.Hashes],
    *,
    min_jaccard: float,
    checked: Callable[[int], None] = lambda _: None,
) -> list[tuple[int, int]]:
    """Pairs of rows whose shingle sets have at least `min_jaccard`, out of those that share a band.

    `shingles_of` gives a row's set again: sets are larger than texts, so nobody keeps them. `checked` is told how
    many pairs were just compared.
    """
    similar = []
    left, left_set = -1, None
    for a, b in minhash.candidate_pairs(signed):
        if a != left or left_set is None:
            left, left_set = a, shingles_of(a)
        if minhash.jaccard(left_set, shingles_of(b)) >= min_jaccard:
            similar.append((a, b))
        checked(1)
    return similar


def cluster(content_hashes: Sequence[str], lengths: Sequence[int], pairs: Iterable[tuple[int, int]]) -> list[Clustered]:
    """One entry a document: equal hashes and `pairs` join documents, directly or through others.

    The longest document represents its cluster; among equally long ones that with the smallest hash, then the first.
    """
    parents = list(range(len(content_hashes)))
    first_with: dict[str, int] = {}
    for index, digest in enumerate(content_hashes):
        _join(parents, first_with.setdefault(digest, index), index)
    for a, b in pairs:
        _join(parents, a, b)
    members: dict[int, list[int]] = {}
    for index in range(len(parents)):
        members.setdefault(_root(parents, index), []).append(index)
    clustered: dict[int, Clustered] = {}
    for group in members.values():
        best = min(group, key=lambda index: (-lengths[index], content_hashes[index], index))
        name = min(content_hashes[index] for index in group)
        for index in group:
            clustered[index] = Clustered(name, best, first_with[content_hashes[index]])
    return [clustered[index] for index in range(len(parents))]


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        # Halving the path on the way up keeps chains short (Tarjan and van Leeuwen 1984).
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _join(parents: list[int], a: int, b: int) -> None:
    low, high = sorted((_root(parents, a), _root(parents, b)))
    parents[high] = low

"""Which split a cluster of duplicates belongs to: decided by its content, so that nothing held out is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Protocol

from nexus_llm.records import Split

# Below this many clusters a held-out split says nothing; a small corpus gives up to a quarter of itself for each.
_MIN_CLUSTERS = 8


class Shares(Protocol):
    """How much is held out, in 0–1; `SplitRecipe` has them."""

    @property
    def validation_share(self) -> float: ...
    @property
    def test_share(self) -> float: ...


def splits(clusters: Iterable[str], shares: Shares, *, seed: int) -> Mapping[str, Split]:
    """The split of each cluster.

    A cluster's number in 0–1 depends on its name and the seed alone: low numbers go to test, high ones to validation.
    Added documents therefore leave the others where they are, except that a small corpus fills both held-out splits
    with the next numbers until each has 8 clusters or a quarter of all (where its share is above 0).
    """
    ordered = sorted((_number(name, seed), name) for name in set(clusters))
    least = min(_MIN_CLUSTERS, len(ordered) // 4) or (1 if len(ordered) >= 3 else 0)
    tests = sum(number < shares.test_share for number, _ in ordered)
    validations = sum(number >= 1 - shares.validation_share for number, _ in ordered)
    tests = max(tests, least if shares.test_share else 0)
    validations = max(validations, least if shares.validation_share else 0)
    train_end = len(ordered) - min(validations, len(ordered) - tests)
    return {
        name: "test" if place < tests else "validation" if place >= train_end else "train"
        for place, (_, name) in enumerate(ordered)
    }


def _number(name: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64

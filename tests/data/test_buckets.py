from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.duplicates.buckets import MAX_ALL_PAIRS, candidate_pairs, key_rows, pairs_within
from nexus_llm.data.duplicates.minhash import NO_KEY
from nexus_llm.data.duplicates.sorted_rows import Rows


def brute(buckets: dict[int, list[int]]) -> set[tuple[int, int]]:
    """All pairs of a bucket of up to 32; the next two of each in a larger one."""
    pairs: set[tuple[int, int]] = set()
    for members in buckets.values():
        if len(members) <= 32:
            pairs.update(combinations(members, 2))
        else:
            pairs.update(pairwise(members))
            pairs.update(zip(members, members[2:], strict=False))
    return pairs


def as_pairs(rows: Rows) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in rows}


@given(
    sizes=st.lists(st.integers(1, 70) | st.sampled_from([1, 2, 31, 32, 33, 34]), max_size=6),
    cut=st.sampled_from([1, 2, 3, 10, 31, 32, 33, 500]),
    seed=st.integers(0, 99),
)
def test_buckets_give_the_same_pairs_wherever_they_are_cut(sizes: list[int], cut: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    buckets = {key: sorted(draw.choice(10**6, size, replace=False).tolist()) for key, size in enumerate(sizes, 1)}
    rows = np.array([(key, one) for key, members in buckets.items() for one in members], np.uint64).reshape(-1, 2)
    found = [
        as_pairs(pairs) for pairs in candidate_pairs(rows[start : start + cut] for start in range(0, len(rows), cut))
    ]
    assert set().union(*found) == brute(buckets)


@pytest.mark.parametrize("members", [0, 1, 2, MAX_ALL_PAIRS, MAX_ALL_PAIRS + 1, 100])
def test_one_bucket_gives_all_pairs_or_neighbours(members: int) -> None:
    ordinals = np.arange(members, dtype=np.uint64) * 3
    pairs = pairs_within(ordinals)
    assert as_pairs(pairs) == brute({1: ordinals.tolist()})
    assert len(pairs) == len(as_pairs(pairs))


def test_a_bucket_of_a_million_is_never_held_at_once() -> None:
    pieces = (
        np.stack([np.full(1_000, 7), np.arange(start, start + 1_000)], axis=1).astype(np.uint64)
        for start in range(0, 10**6, 1_000)
    )
    sizes = [len(pairs) for pairs in candidate_pairs(pieces)]
    assert max(sizes) < 2_010
    assert 2 * 10**6 - 3 <= sum(sizes) <= 2 * 10**6 + 1_000


def test_texts_without_words_are_in_no_bucket() -> None:
    keys = np.array([[5, 6], [NO_KEY, NO_KEY], [5, 7]], np.uint64)
    rows = key_rows(np.array([10, 11, 12], np.uint64), keys)
    assert rows.tolist() == [[5, 10], [6, 10], [5, 12], [7, 12]]

from __future__ import annotations

import hashlib
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.duplicates.split import BORDER_CLUSTERS, Borders, cluster_numbers, split_borders, split_of
from nexus_llm.recipe import SplitRecipe


def content_hash(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def splits(names: list[str], shares: SplitRecipe, *, seed: int) -> dict[str, str]:
    """Names → splits, from borders that know only the extremes."""
    clusters = pl.Series(sorted(set(names)), dtype=pl.String)
    numbers = cluster_numbers(clusters, seed=seed)
    ordered = numbers.sort().to_list()
    borders = split_borders(len(clusters), ordered[:BORDER_CLUSTERS], ordered[-BORDER_CLUSTERS:], shares)
    return dict(zip(clusters, split_of(numbers, borders), strict=True))


def all_in_hand(names: list[str], shares: SplitRecipe, *, seed: int) -> dict[str, str]:
    """The same from the sorted list of all clusters."""

    def number(name: str) -> float:
        return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "big") / 2**64

    ordered = sorted((number(name), name) for name in set(names))
    least = min(8, len(ordered) // 4) or (1 if len(ordered) >= 3 else 0)
    tests = sum(value < shares.test_share for value, _ in ordered)
    validations = sum(value >= 1 - shares.validation_share for value, _ in ordered)
    tests = max(tests, least if shares.test_share else 0)
    validations = max(validations, least if shares.validation_share else 0)
    train_end = len(ordered) - min(validations, len(ordered) - tests)
    return {
        name: "test" if place < tests else "validation" if place >= train_end else "train"
        for place, (_, name) in enumerate(ordered)
    }


@given(
    count=st.integers(0, 400),
    seed=st.integers(0, 9),
    validation=st.sampled_from([0.0, 0.02, 0.3]),
    test=st.sampled_from([0.0, 0.04, 0.3]),
)
def test_borders_from_the_extremes_give_what_the_whole_list_gives(
    count: int, seed: int, validation: float, test: float
) -> None:
    names = [content_hash(str(number)) for number in range(count)]
    shares = SplitRecipe(validation_share=validation, test_share=test)
    assert splits(names, shares, seed=seed) == all_in_hand(names, shares, seed=seed)


@given(count=st.integers(0, 400), seed=st.integers(0, 9), validation=st.sampled_from([0.0, 0.02, 0.3]))
def test_every_cluster_has_one_split_and_small_corpora_hold_some_out(count: int, seed: int, validation: float) -> None:
    names = [content_hash(str(number)) for number in range(count)]
    shares = SplitRecipe(validation_share=validation, test_share=0.04)
    found = Counter(splits(names, shares, seed=seed).values())
    assert found.total() == count
    if count >= 3:
        assert found["train"] >= 1
        assert found["test"] >= min(8, max(1, count // 4))
        assert (found["validation"] > 0) == (validation > 0)


def test_added_documents_leave_the_others_in_their_splits() -> None:
    names = [content_hash(str(number)) for number in range(3_000)]
    shares = SplitRecipe()
    before, after = splits(names[:1_000], shares, seed=1), splits(names, shares, seed=1)
    assert all(after[name] == split for name, split in before.items())
    assert Counter(after.values())["test"] / 3_000 == pytest.approx(0.04, abs=0.012)


def test_the_order_of_the_extremes_does_not_matter() -> None:
    lowest, highest = [0.1, 0.01, 0.05], [0.95, 0.99, 0.9]
    shares = SplitRecipe(validation_share=0.02, test_share=0.02)
    assert split_borders(12, lowest, highest, shares) == split_borders(12, lowest[::-1], highest[::-1], shares)


def test_test_comes_first_where_both_splits_claim_a_number() -> None:
    found = split_of(pl.Series([0.2, 0.5, 0.9]), Borders(test_below=0.6, validation_from=0.4))
    assert found.to_list() == ["test", "test", "validation"]


def test_another_seed_draws_other_numbers() -> None:
    names = pl.Series([content_hash(str(number)) for number in range(50)])
    assert not (cluster_numbers(names, seed=1) == cluster_numbers(names, seed=2)).any()
    assert cluster_numbers(names.slice(0, 0), seed=1).dtype == pl.Float64

"""Epochs and weights become repeats."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nexus_llm.data.tokens.mix import effective_epochs, repeats
from nexus_llm.errors import DataError

numbers = st.floats(0.01, 50)
sources = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.integers(1, 10**12), numbers, numbers), min_size=1, max_size=6
)


def ids(count: int) -> pl.Series:
    return pl.Series([f"{number:032x}" for number in range(count)])


@given(found=sources)
def test_shares_of_tokens_are_as_the_weights_and_one_source_is_used_up(found) -> None:
    tokens = {name: count for name, (count, _, _) in found.items()}
    limits = {name: limit for name, (_, limit, _) in found.items()}
    weights = {name: weight for name, (_, _, weight) in found.items()}
    mixed = effective_epochs(tokens, epochs=limits, weights=weights)
    assert all(mixed[name] <= limits[name] for name in tokens)
    assert any(mixed[name] == limits[name] for name in tokens)
    seen = {name: mixed[name] * tokens[name] for name in tokens}
    for name in tokens:
        assert math.isclose(
            seen[name] / sum(seen.values()), weights[name] / sum(weights.values()), rel_tol=1e-6, abs_tol=1e-12
        )


@given(found=sources)
def test_without_weights_each_source_has_its_own_epochs_and_one_by_default(found) -> None:
    tokens = {name: count for name, (count, _, _) in found.items()}
    limits = {name: limit for name, (_, limit, _) in list(found.items())[:2]}
    assert effective_epochs(tokens, epochs=limits, weights={}) == {name: limits.get(name, 1.0) for name in tokens}


@given(epochs=st.floats(0, 20), seed=st.integers(0, 9))
def test_repeats_are_the_epochs_rounded_down_or_up(epochs: float, seed: int) -> None:
    often = repeats(ids(50), pl.Series(["a"] * 50), epochs={"a": epochs}, seed=seed)
    assert often.dtype == np.uint16
    assert set(often.tolist()) <= {math.floor(epochs), math.ceil(epochs)}


@pytest.mark.parametrize("epochs", [0.25, 1.5, 2.9])
def test_on_average_an_epoch_sees_a_document_as_often_as_asked(epochs: float) -> None:
    often = repeats(ids(20_000), pl.Series(["a"] * 20_000), epochs={"a": epochs}, seed=7)
    assert abs(often.mean() - epochs) < 0.015  # 4 standard errors


@given(seed=st.integers(0, 5), order=st.permutations(range(30)))
def test_a_documents_repeats_depend_on_its_id_source_and_the_seed_alone(seed: int, order: list[int]) -> None:
    names, kinds = ids(30), pl.Series(["a", "b"] * 15)
    epochs = {"a": 1.5, "b": 0.5}
    whole = repeats(names, kinds, epochs=epochs, seed=seed)
    shuffled = repeats(names[order], kinds[order], epochs=epochs, seed=seed)
    np.testing.assert_array_equal(shuffled, whole[order])
    assert (whole != repeats(names, kinds, epochs=epochs, seed=seed + 1)).any()


def test_a_source_without_text_is_left_out_and_the_others_keep_their_shares() -> None:
    mixed = effective_epochs({"a": 100, "b": 100, "c": 0}, epochs={}, weights={"a": 1, "b": 3, "c": 6})
    assert mixed == pytest.approx({"a": 1 / 3, "b": 1.0, "c": 0.0})


def test_a_weight_of_nought_leaves_a_source_out() -> None:
    assert effective_epochs({"a": 5, "b": 9}, epochs={"b": 2}, weights={"a": 0, "b": 1}) == {"a": 0.0, "b": 2.0}


@given(found=sources)
def test_the_binding_source_is_repeated_a_whole_number_of_times_when_its_epochs_are_whole(found) -> None:
    tokens = {name: count for name, (count, _, _) in found.items()}
    limits = {name: float(round(limit)) for name, (_, limit, _) in found.items()}
    assume(all(limits.values()))
    mixed = effective_epochs(tokens, epochs=limits, weights={name: weight for name, (_, _, weight) in found.items()})
    binding = [name for name in tokens if mixed[name] == limits[name]]
    often = repeats(ids(20), pl.Series([binding[0]] * 20), epochs=mixed, seed=0)
    assert set(often.tolist()) == {limits[binding[0]]}


@pytest.mark.parametrize(
    ("epochs", "weights", "complaint"),
    [
        ({}, {"a": 1.0}, "sources b have no weight"),
        ({}, {"a": 0.0, "b": 0.0}, "no source with text has a weight above 0"),
        ({"a": -1.0}, {}, "'a' has epochs -1"),
        ({"a": 70_000.0}, {}, "'a' has epochs 70000"),
        ({}, {"a": math.inf, "b": 1.0}, "'a' has weight inf"),
        ({"b": math.nan}, {}, "'b' has epochs nan"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(epochs, weights, complaint) -> None:
    with pytest.raises(DataError, match=complaint):
        effective_epochs({"a": 10, "b": 20}, epochs=epochs, weights=weights)

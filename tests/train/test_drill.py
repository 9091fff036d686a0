"""The plan of a drill, and what it calls equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.train.drill import (
    MOMENTS,
    Kill,
    Outcome,
    compare,
    damage,
    first_different_tensor,
    plan_kills,
    shortened,
)

ROWS: tuple[dict[str, Any], ...] = tuple(
    {"step": step, "loss": 2.0 / step, "tokens": 64, "rows_sha256": f"{step}", "tokens_per_second": 10.0 * step}
    for step in (1, 2, 3)
)
OUTCOME = Outcome(
    files={"adapter_model.safetensors": "aa"},
    checkpoints={2: {"tensors.safetensors": "bb"}, 3: {"tensors.safetensors": "cc"}},
    rows=ROWS,
)


@given(
    kills=st.integers(1, 20),
    max_steps=st.integers(1, 5_000),
    save_steps=st.integers(1, 500),
    wanted=st.integers(4, 60),
    seed=st.integers(0, 2**32),
)
def test_every_kill_can_be_reached_and_one_of_them_has_a_checkpoint_to_damage(
    kills: int, max_steps: int, save_steps: int, wanted: int, seed: int
) -> None:
    steps, every = shortened(max_steps=max_steps, save_steps=save_steps, wanted=wanted)
    assert 4 <= steps <= max(4, wanted)
    planned = plan_kills(kills=kills, steps=steps, save_steps=every, corrupt=True, seed=seed)
    assert planned == plan_kills(kills=kills, steps=steps, save_steps=every, corrupt=True, seed=seed)
    assert len(planned) == kills
    assert [one.step for one in planned] == sorted(one.step for one in planned)
    assert sum(one.corrupts for one in planned) == 1
    for one in planned:
        assert 0 <= one.step <= (steps if one.moment == MOMENTS[0] else steps - 1)
        if one.moment == "while a checkpoint is written":
            assert one.step % every == 0
        if one.corrupts:
            assert one.step >= every


def test_three_kills_hit_three_kinds_of_moment_and_another_seed_other_ones() -> None:
    def planned(seed: int) -> tuple[Kill, ...]:
        return plan_kills(kills=3, steps=100, save_steps=10, corrupt=False, seed=seed)

    assert {one.moment for one in planned(1)} == set(MOMENTS)
    assert planned(1) != planned(2)
    assert not any(one.corrupts for one in planned(1))


@given(size=st.integers(1, 2**40), seed=st.integers(0, 2**32))
def test_damage_changes_one_byte_of_the_file(size: int, seed: int) -> None:
    place, change = damage(size, seed=seed)
    assert 0 <= place < size
    assert 1 <= change <= 255


def test_runs_that_differ_in_speed_alone_are_equal() -> None:
    slower = tuple(row | {"tokens_per_second": 1.0} for row in ROWS)
    assert all(one.equal for one in compare(OUTCOME, replace(OUTCOME, rows=slower)))


@pytest.mark.parametrize(
    ("changed", "what", "note"),
    [
        ({"files": {"adapter_model.safetensors": "a0"}}, "weights", ""),
        (
            {"checkpoints": OUTCOME.checkpoints | {3: {"tensors.safetensors": "c0"}}},
            "optimizer state",
            "first different in the checkpoint after step 3",
        ),
        ({"checkpoints": {}}, "optimizer state", "no checkpoint of the same step"),
        (
            {"rows": (ROWS[0], ROWS[1] | {"rows_sha256": "7"}, ROWS[2])},
            "order of the data",
            "step 2: rows_sha256 2 against 7",
        ),
        ({"rows": (*ROWS[:2], ROWS[2] | {"loss": 0.5})}, "loss and gradient norm of each step", "step 3: loss"),
        ({"rows": ROWS[:2]}, "order of the data", "3 steps against 2"),
    ],
)
def test_a_difference_is_named_with_its_step(changed: dict[str, Any], what: str, note: str) -> None:
    found = {one.what: one for one in compare(OUTCOME, replace(OUTCOME, **changed))}
    assert not found[what].equal
    assert note in found[what].note


def test_the_first_tensor_that_differs_is_named_even_by_a_sign_of_zero(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {"a": torch.zeros(3), "b": torch.ones(2, 2, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "1")
    save_file(tensors | {"b": tensors["b"] * 1.5}, tmp_path / "2")
    save_file(tensors | {"a": -tensors["a"]}, tmp_path / "3")
    assert first_different_tensor(tmp_path / "1", tmp_path / "1") is None
    assert first_different_tensor(tmp_path / "1", tmp_path / "2") == "b differs, by 0.5 at most"
    assert first_different_tensor(tmp_path / "1", tmp_path / "3") == "a differs, by 0 at most"

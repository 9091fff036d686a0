from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.errors import TrainingError
from nexus_llm.recipe.train import GuardRecipe
from nexus_llm.train.guards import SUSPICIOUS_BATCHES, History, fault, refuse_too_many

GUARD = GuardRecipe(window_steps=4, max_loss_spike=3.0, max_skipped_steps=2)
losses = st.lists(st.floats(0.1, 10), max_size=12)


def after(values: list[float]) -> History:
    history = History()
    for value in values:
        history = history.kept(value, window_steps=GUARD.window_steps)
    return history


@given(values=losses, loss=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_no_number_is_never_applied(values, loss):
    assert fault(after(values), loss, GUARD) == f"the loss became {loss}"


@given(values=losses, loss=st.floats(0.1, 1e9))
def test_a_guard_without_a_full_window_sees_no_spike(values, loss):
    if len(values) < GUARD.window_steps:
        assert fault(after(values), loss, GUARD) is None


def test_a_spike_is_measured_against_the_median_of_the_window():
    history = after([100.0, 2.0, 2.0, 2.0, 8.0])
    assert fault(history, 6.0, GUARD) is None
    assert fault(history, 6.1, GUARD) == "the loss became 6.1, 3.05 x the median of the last 4 steps"
    assert fault(history, 6.1, GuardRecipe(window_steps=4, max_loss_spike=None)) is None


def test_noise_of_a_loss_near_zero_is_no_spike():
    """Values of a run that learned to classify: all of its batches were sound."""
    history = after([0.03, 0.002, 0.036, 0.05])
    assert fault(history, 0.25, GUARD) is None
    assert fault(history, 1.1, GUARD) is not None


@given(values=losses, skips=st.integers(0, 4))
def test_a_history_comes_back_from_json_as_it_was(values, skips):
    history = after(values)
    for step in range(skips):
        history = history.skip(step, "the loss became nan", learning_rate=0.1)
    history = history.roll_back(9, after(values[:2]), to_step=5, reason="why")
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history


def test_weights_are_suspected_after_several_batches_in_a_row_only():
    history = after([1.0])
    for step in range(SUSPICIOUS_BATCHES):
        assert not history.suspects_weights
        history = history.skip(step, "x", learning_rate=0.1)
    assert history.suspects_weights
    assert not history.kept(1.0, window_steps=4).suspects_weights


def test_one_more_than_allowed_ends_the_run_with_every_step_and_value():
    history = History().skip(3, "the loss became nan", learning_rate=0.1)
    history = history.skip(7, "the loss became inf", learning_rate=0.1)
    refuse_too_many(history, GUARD)
    with pytest.raises(TrainingError, match=r"nan at step 3 .*inf at step 7 .*nan at step 8 .*max_skipped_steps is 2"):
        refuse_too_many(history.skip(8, "the loss became nan", learning_rate=0.1), GUARD)

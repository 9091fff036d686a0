from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.train.schedule import learning_rate

steps = st.integers(0, 10_000)


@given(step=steps, warmup=st.integers(0, 500), total=st.integers(1, 5_000), share=st.floats(0, 1))
def test_the_learning_rate_never_leaves_zero_to_peak(step, warmup, total, share):
    rate = learning_rate(step, peak=3e-4, warmup_steps=warmup, total_steps=total, least_share=share)
    assert 0 <= rate <= 3e-4 * (1 + 1e-9)


@given(warmup=st.integers(0, 50), total=st.integers(60, 500), share=st.floats(0, 1))
def test_it_rises_in_the_warm_up_and_never_again(warmup, total, share):
    rates = [
        learning_rate(step, peak=1.0, warmup_steps=warmup, total_steps=total, least_share=share)
        for step in range(total + 10)
    ]
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(share)


def test_the_first_step_is_never_wasted_on_a_rate_of_zero():
    assert learning_rate(0, peak=1.0, warmup_steps=10, total_steps=20, least_share=0.1) == pytest.approx(0.1)


@given(
    warmup=st.integers(0, 50), total=st.integers(60, 500), decay=st.none() | st.integers(1, 600), share=st.floats(0, 1)
)
def test_warmup_stable_decay_stays_at_the_peak_and_falls_in_its_last_steps(warmup, total, decay, share):
    rates = [
        learning_rate(
            step,
            peak=1.0,
            warmup_steps=warmup,
            total_steps=total,
            least_share=share,
            schedule="warmup_stable_decay",
            decay_steps=decay,
        )
        for step in range(total + 1)
    ]
    start = max(warmup, total - (max(1, total // 5) if decay is None else decay))
    assert rates[warmup : start + 1] == pytest.approx([1.0] * (start + 1 - warmup))
    falls = [before - after for before, after in zip(rates[start:], rates[start + 1 :], strict=False)]
    assert falls == pytest.approx([(1 - share) / (total - start)] * len(falls), abs=1e-9)
    assert rates[-1] == pytest.approx(share)


def test_a_constant_schedule_warms_up_and_stays():
    rates = [
        learning_rate(step, peak=2.0, warmup_steps=2, total_steps=5, least_share=0.1, schedule="constant_with_warmup")
        for step in range(5)
    ]
    assert rates == [1.0, 2.0, 2.0, 2.0, 2.0]

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from nexus_llm.cost.capacity.arrivals import LengthSpread, hourly, month, poisson, recorded, replayed
from nexus_llm.cost.capacity.calibrate import non_negative_least_squares
from nexus_llm.cost.capacity.search import capacity, saturated_requests_per_second
from nexus_llm.cost.capacity.simulate import simulate
from nexus_llm.cost.day import hourly_profile
from nexus_llm.cost.quantities import (
    EngineLimits,
    LatencyObjective,
    ReplicaCapacity,
    StepTime,
    Traffic,
)
from nexus_llm.errors import CostError, UsageError

STEP = StepTime(0.02, 1e-4, 5e-4, 1e-6, "measured", "a test")
LIMITS = EngineLimits(kv_cache_tokens=200_000, max_sequences=32, max_batched_tokens=512)
CHAT = Traffic(requests_per_month=1e6, input_tokens=200, output_tokens=60)
SATURATION = saturated_requests_per_second(poisson(1.0, 3_000, CHAT, seed=1), STEP, LIMITS)


def found(objective: LatencyObjective) -> ReplicaCapacity:
    return capacity(STEP, LIMITS, CHAT, objective, seed=1, requests=3_000)


def test_the_load_that_is_found_keeps_the_objective_and_a_little_more_breaks_it() -> None:
    objective = LatencyObjective(ttft_seconds=0.3, e2e_seconds=6.0)
    point = found(objective).at_objective
    assert point.ttft.p95 <= 0.3
    assert point.e2e.p95 <= 6.0
    assert 0 < point.requests_per_second < SATURATION
    more = point.requests_per_second + 0.006 * SATURATION
    beyond = simulate(poisson(more, 3_000, CHAT, seed=1), STEP, LIMITS).load_point()
    assert beyond.ttft.p95 > 0.3 or beyond.e2e.p95 > 6.0


def test_a_stricter_objective_never_allows_more() -> None:
    rates = [found(LatencyObjective(e2e_seconds=s)).at_objective.requests_per_second for s in (5.0, 6.0, 8.0, 20.0)]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_without_objective_it_is_95_percent_of_saturation() -> None:
    assert found(LatencyObjective()).at_objective.requests_per_second == pytest.approx(0.95 * SATURATION)


def test_what_an_empty_replica_misses_no_load_keeps_and_what_it_gives_is_told() -> None:
    nothing = found(LatencyObjective(ttft_seconds=5.0, tpot_seconds=0.001)).at_objective
    assert nothing.requests_per_second == nothing.output_tokens_per_second == 0
    ((name, bound, seconds),) = LatencyObjective(ttft_seconds=5.0, tpot_seconds=0.001).missed(nothing)
    assert (name, bound) == ("tpot", 0.001)
    assert 0.02 < seconds < 0.03
    assert found(LatencyObjective(ttft_seconds=5.0, tpot_seconds=0.04)).at_objective.requests_per_second > 0
    small = replace(LIMITS, kv_cache_tokens=200)
    assert capacity(STEP, small, CHAT, LatencyObjective(), seed=1, requests=500).at_objective.requests_per_second == 0


def test_a_trace_s_own_arrivals_and_lengths_are_what_is_tried() -> None:
    drawn = poisson(1.0, 3_000, CHAT, seed=1)
    objective = LatencyObjective(ttft_seconds=0.3)
    calm, crowded = (
        capacity(STEP, LIMITS, CHAT, objective, seed=1, trace=trace).at_objective
        for trace in (drawn, replace(drawn, arrived_seconds=np.floor(drawn.arrived_seconds / 30) * 30))
    )
    # Poisson's own draw as a trace is Poisson, but for the rate, which is now that of the sample.
    assert calm.requests_per_second == pytest.approx(found(objective).at_objective.requests_per_second, rel=0.05)
    assert crowded.requests_per_second == 0  # thirty come at the same moment: at no rate is the last one in time
    assert crowded.ttft.p95 > 0.3
    played = replayed(drawn, 4.0, replace(CHAT, input_tokens=2 * drawn.input_tokens.mean()))
    assert (len(played) - 1) / played.arrived_seconds[-1] == pytest.approx(4.0)
    assert played.input_tokens.mean() == pytest.approx(2 * drawn.input_tokens.mean(), rel=0.01)
    day = hourly(
        np.full(24, 500.0), CHAT, trace=recorded(np.arange(2.0), np.array([100, 300]), np.array([90, 30])), seed=0
    )
    assert {*zip(day.input_tokens.tolist(), day.output_tokens.tolist(), strict=True)} == {(100, 90), (300, 30)}


def test_saturation_is_what_the_steps_allow() -> None:
    """All places full: a request costs its prompt, and its share of the steps that decode it."""
    demand = poisson(1.0, 4_000, CHAT, spread=LengthSpread(0, 0), seed=0)
    rate = saturated_requests_per_second(demand, STEP, LIMITS)
    context = 200 + 30
    full = 32
    step = STEP.fixed_seconds + full * (STEP.seconds_per_sequence + STEP.seconds_per_context_token * context)
    request = 200 * STEP.seconds_per_prefill_token + 60 * step / full
    assert rate == pytest.approx(1 / request, rel=0.05)


def test_least_squares_without_negative_numbers_are_those_of_scipy() -> None:
    source = np.random.default_rng(0)
    scipy_optimize = pytest.importorskip("scipy.optimize")
    for _ in range(50):
        rows, target = source.normal(size=(9, 4)), source.normal(size=9)
        np.testing.assert_allclose(
            non_negative_least_squares(rows, target), scipy_optimize.nnls(rows, target)[0], atol=1e-9
        )


@pytest.mark.parametrize("peak", [1.0, 1.5, 3.0, 10.0, 20.0])
def test_the_busiest_hour_of_a_month_has_the_peak_ratio(peak: float) -> None:
    profile = hourly_profile(peak)
    assert max(profile) == pytest.approx(peak, rel=1e-6)
    assert sum(profile) / 24 == pytest.approx(1.0)
    drawn = month(Traffic(500_000, 100, 20, peak), seed=3)
    assert len(drawn) == pytest.approx(500_000, rel=0.005)
    by_hour = np.bincount((drawn.arrived_seconds / 3600).astype(int) % 24, minlength=24)
    assert by_hour.max() / by_hour.mean() == pytest.approx(peak, rel=0.05)
    assert (np.diff(drawn.arrived_seconds) >= 0).all()


def test_lengths_have_the_mean_and_the_spread_that_was_asked_for() -> None:
    drawn = poisson(1.0, 200_000, Traffic(1e6, 1_155, 211), seed=0)
    assert drawn.input_tokens.mean() == pytest.approx(1_155, rel=0.01)
    assert drawn.output_tokens.std() / drawn.output_tokens.mean() == pytest.approx(0.77, rel=0.03)
    same = poisson(1.0, 10, Traffic(1e6, 1_155, 211), spread=LengthSpread(0, 0), seed=0)
    assert set(same.output_tokens) == {211}


def test_a_trace_is_played_in_the_order_of_time() -> None:
    played = recorded(np.array([30.0, 10.0]), np.array([3, 1]), np.array([4, 0]), speed=10)
    assert played.arrived_seconds.tolist() == [0.0, 2.0]
    assert played.input_tokens.tolist() == [1, 3]
    assert played.output_tokens.tolist() == [1, 4]


@pytest.mark.parametrize(
    "numbers", [(0, 1, 1), (-5, 1, 1), (1e12, 1, 1), (1e3, 0, 1), (1e3, 1, math.nan), (1e3, 5, 5, 0.9)]
)
def test_traffic_that_nobody_has_is_refused(numbers: tuple[float, ...]) -> None:
    with pytest.raises(CostError, match=r"no traffic|all people"):
        Traffic(*numbers)
    with pytest.raises(UsageError, match="peak ratio"):
        month(Traffic(1e3, 5, 5, 30), seed=0)

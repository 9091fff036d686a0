from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_llm.cost.capacity.arrivals import LengthSpread, poisson
from nexus_llm.cost.capacity.simulate import Demand, simulate, simulate_closed
from nexus_llm.cost.quantities import EngineLimits, StepTime, Traffic
from nexus_llm.errors import UsageError
from step_by_step import run_closed, run_open

STEP = StepTime(0.01, 1e-4, 5e-4, 2e-6, "measured", "a test")
ROOMY = EngineLimits(kv_cache_tokens=100_000, max_sequences=8, max_batched_tokens=64)
CHAT = Traffic(requests_per_month=1e6, input_tokens=60, output_tokens=20)


def demand_of(rows: list[tuple[float, int, int]]) -> Demand:
    arrived, prompts, answers = (list(column) for column in zip(*rows, strict=True))
    return Demand(np.cumsum(arrived), np.array(prompts), np.array(answers))


requests = st.lists(
    st.tuples(st.floats(0.0001, 0.3), st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=25
).map(demand_of)
step_times = st.builds(
    StepTime,
    st.floats(1e-3, 0.02),
    st.floats(0, 1e-3),
    st.floats(1e-5, 1e-3),
    st.one_of(st.just(0.0), st.floats(1e-7, 1e-4)),
    st.just("measured"),
    st.just("hypothesis"),
    st.one_of(st.just(0.0), st.floats(1e-4, 2e-2)),
)
engines = st.builds(
    EngineLimits,
    kv_cache_tokens=st.integers(160, 600),
    max_sequences=st.integers(1, 6),
    max_batched_tokens=st.integers(6, 80),
    kv_block_tokens=st.sampled_from([1, 4, 16, 32]),
    admission_seconds=st.sampled_from([0.0, 0.003]),
    batching=st.sampled_from(["continuous", "static"]),
)


@settings(max_examples=150, deadline=None)
@given(requests, step_times, engines, st.integers(1, 3))
def test_jumping_from_event_to_event_equals_a_plain_loop_over_steps(
    demand: Demand, time: StepTime, limits: EngineLimits, replicas: int
) -> None:
    found = simulate(demand, time, limits, replicas=replicas)
    first, last, fleet = run_open(demand, time, limits, replicas=replicas, static=limits.batching == "static")
    np.testing.assert_allclose(found.first_token_seconds, first, rtol=1e-9)
    np.testing.assert_allclose(found.last_token_seconds, last, rtol=1e-9)
    assert found.preemptions == sum(one.preemptions for one in fleet)
    assert found.steps == sum(one.steps for one in fleet)
    assert math.isclose(found.busy_seconds, sum(one.busy for one in fleet), rel_tol=1e-9)


def test_a_full_cache_preempts_and_everybody_is_answered_all_the_same() -> None:
    demand = poisson(20.0, 200, CHAT, spread=LengthSpread(0.5, 0.5), seed=1)
    tight = EngineLimits(kv_cache_tokens=480, max_sequences=16, max_batched_tokens=64)
    found = simulate(demand, STEP, tight)
    first, last, (reference,) = run_open(demand, STEP, tight)
    assert found.preemptions == reference.preemptions > 10
    np.testing.assert_allclose(found.first_token_seconds, first, rtol=1e-9)
    np.testing.assert_allclose(found.last_token_seconds, last, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=30),
    st.integers(1, 8),
    step_times,
    engines,
)
def test_a_closed_loop_equals_a_plain_loop_over_steps(
    lengths: list[tuple[int, int]], concurrency: int, time: StepTime, limits: EngineLimits
) -> None:
    prompts, answers = [row[0] for row in lengths], [row[1] for row in lengths]
    found = simulate_closed(np.array(prompts), np.array(answers), time, limits, concurrency=concurrency)
    arrived, first, last = run_closed(
        prompts, answers, time, limits, concurrency=concurrency, static=limits.batching == "static"
    )
    # Who ends in one step is answered in any order, and gets the next requests in that order: times are what counts.
    np.testing.assert_allclose(found.demand.arrived_seconds, arrived, rtol=1e-9)
    np.testing.assert_allclose(found.first_token_seconds, first, rtol=1e-9)
    np.testing.assert_allclose(found.last_token_seconds, last, rtol=1e-9)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_single_token_requests_one_at_a_time_wait_as_queueing_theory_says(load: float) -> None:
    """M/D/1: mean wait = load x service / (2 (1 - load)) (Pollaczek 1930)."""
    service = STEP.fixed_seconds + 50 * STEP.seconds_per_prefill_token
    one = EngineLimits(kv_cache_tokens=10_000, max_sequences=1, max_batched_tokens=64)
    traffic = Traffic(requests_per_month=1e6, input_tokens=50, output_tokens=1)
    found = simulate(poisson(load / service, 400_000, traffic, spread=LengthSpread(0, 0), seed=3), STEP, one)
    waited = float((found.ttft - service).mean())
    assert waited == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)
    assert found.load_point().utilisation == pytest.approx(load, rel=0.02)


def test_more_load_is_never_faster() -> None:
    points = [simulate(poisson(rate, 5_000, CHAT, seed=5), STEP, ROOMY).load_point() for rate in (1, 4, 8, 12, 16, 20)]
    for field in ("ttft", "e2e"):
        p95 = [getattr(point, field).p95 for point in points]
        assert p95 == sorted(p95)
    utilisation = [point.utilisation for point in points]
    assert utilisation == sorted(utilisation)


def test_two_replicas_are_faster_than_one() -> None:
    demand = poisson(20.0, 20_000, CHAT, seed=5)
    one = simulate(demand, STEP, ROOMY).load_point().e2e.p95
    assert simulate(demand, STEP, ROOMY, replicas=2).load_point().e2e.p95 < one


def test_a_batch_that_nobody_may_join_is_much_slower() -> None:
    demand = poisson(8.0, 3_000, CHAT, seed=5)
    static = EngineLimits(kv_cache_tokens=100_000, max_sequences=8, max_batched_tokens=64, batching="static")
    assert (
        simulate(demand, STEP, static).load_point().ttft.p95 > 2 * simulate(demand, STEP, ROOMY).load_point().ttft.p95
    )


def test_the_same_seed_gives_the_same_numbers() -> None:
    once, again = (simulate(poisson(9.0, 500, CHAT, seed=8), STEP, ROOMY).load_point() for _ in range(2))
    assert once == again


@pytest.mark.parametrize(
    ("time", "limits", "words"),
    [
        (StepTime(0.0, 1e-4, 0.0, 0.0, "measured", ""), ROOMY, "step time"),
        (StepTime(-0.1, 1e-4, 1e-3, 0.0, "measured", ""), ROOMY, "step time"),
        (STEP, EngineLimits(100_000, 128, 64), "max_batched_tokens 64"),
        (STEP, EngineLimits(64, 8, 64), "does not fit a cache"),
        (STEP, EngineLimits(100_000, 0, 64), "cannot be an engine's"),
    ],
)
def test_what_no_engine_can_be_is_refused_by_name(time: StepTime, limits: EngineLimits, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        simulate(poisson(1.0, 50, CHAT, seed=0), time, limits)

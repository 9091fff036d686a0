from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nexus_llm.cost.capacity.arrivals import LengthSpread, poisson
from nexus_llm.cost.capacity.calibrate import Observed, fit_engine
from nexus_llm.cost.capacity.calibration import (
    Calibration,
    Experiment,
    LoadTest,
    Measure,
    calibrate,
    with_static_batching,
)
from nexus_llm.cost.capacity.simulate import Demand
from nexus_llm.cost.quantities import EngineLimits, StepTime, Traffic
from nexus_llm.errors import UsageError
from step_by_step import run_closed, run_open

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
TRUE = StepTime(0.012, 2.5e-4, 6e-4, 1.5e-6, "measured", "the pretended server", seconds_per_batch_change=0.006)
TRUE_LIMITS = EngineLimits(100_000, 24, 256, admission_seconds=0.004)
SMALL = Experiment(
    concurrencies=(1, 4, 16), input_tokens=(16, 96, 400), output_tokens=(8, 24), requests_per_place=2,
    open_requests=80, open_input_tokens=64, open_output_tokens=16, saturation_concurrency=24, repeats=1,
)  # fmt: skip


def pretended_server(
    step_time: StepTime = TRUE, *, chunked: bool = True, static: bool = False, noise: float = 0.03
) -> Measure:
    """Measures the plain loop over steps, with noise as a machine has it."""

    def measure(test: LoadTest) -> Observed:
        limits = TRUE_LIMITS
        source = np.random.default_rng(test.seed + test.requests)
        low, high = test.answer_ends
        prompts, answers = [test.input_tokens] * test.requests, source.integers(low, high + 1, test.requests).tolist()
        if test.concurrency:
            arrived, first, last = run_closed(
                prompts, answers, step_time, limits, concurrency=test.concurrency, chunked=chunked, static=static
            )
        else:
            assert test.requests_per_second
            traffic = Traffic(1e6, test.input_tokens, test.output_tokens)
            spread = LengthSpread(0, 0)
            drawn = poisson(test.requests_per_second, test.requests, traffic, spread=spread, seed=test.seed)
            arrived = drawn.arrived_seconds
            first, last, _ = run_open(drawn, step_time, limits, chunked=chunked, static=static)
        wobble = 1 + noise * source.normal(size=test.requests)
        return Observed(
            Demand(arrived, np.array(prompts), np.array(answers)),
            test.concurrency,
            (first - arrived) * wobble,
            (last - first) / (np.array(answers) - 1) * wobble,
            (last - arrived) * wobble,
            float(last.max()),
        )

    return measure


def calibrated(measure: Measure, limits: EngineLimits = TRUE_LIMITS) -> Calibration:
    unknown = replace(limits, admission_seconds=0.0)
    return calibrate(measure, SMALL, unknown, given=("max_sequences", "kv_cache_tokens"), source="a test")


def test_half_of_a_grid_is_enough_to_predict_the_rest_and_open_loops() -> None:
    result = calibrated(pretended_server())
    assert result.is_trustworthy, result.errors
    assert result.errors["tpot"] < 0.05
    assert result.engine.limits.max_batched_tokens == 256
    assert result.engine.step_time.provenance == "measured"
    assert result.engine.step_time.seconds_per_batch_change == pytest.approx(0.006, rel=0.3)
    kinds = [point.test.kind for point in result.points]
    assert kinds.count("fitted") == kinds.count("held_out") == 9
    assert kinds.count("open") == 4


@pytest.mark.parametrize("wrong", [{"static": True}, {"chunked": False, "static": True}])
def test_a_server_that_schedules_otherwise_than_is_simulated_fails_the_check(wrong: dict[str, bool]) -> None:
    result = calibrated(pretended_server(TRUE, **wrong))
    assert not result.is_trustworthy


def test_a_simulation_that_schedules_otherwise_than_the_server_fails_the_check() -> None:
    right = calibrated(pretended_server())
    wrong = with_static_batching(right)
    assert right.is_trustworthy
    assert not wrong.is_trustworthy
    assert wrong.engine.limits.batching == "static"


def test_the_result_is_json_that_says_what_was_fitted_and_what_given() -> None:
    document = calibrated(pretended_server()).as_json()
    assert document["limits_found_by"]["max_batched_tokens"] == "fitted"
    assert document["limits_found_by"]["max_sequences"] == "given"
    assert set(document["errors"]) == set(document["targets"])
    assert all(math.isfinite(value) for value in document["errors"].values())
    assert {"test", "measured", "predicted", "errors"} == set(document["points"][0])


def test_one_point_cannot_tell_six_numbers() -> None:
    measure = pretended_server()
    one = measure(LoadTest("fitted", 16, 8, 8, concurrency=1))
    with pytest.raises(UsageError, match="1 measured points"):
        fit_engine([one], TRUE_LIMITS, source="a test")


def test_points_to_fit_and_to_predict_are_measured_in_turns() -> None:
    measure, tests = pretended_server(), []

    def watched(test: LoadTest) -> Observed:
        tests.append(test)
        return measure(test)

    calibrate(watched, replace(SMALL, repeats=2), TRUE_LIMITS, given=("max_batched_tokens",), source="a test")
    one_round = ["saturation"] + ["open"] * 4 + ["fitted", "held_out"] * 9
    assert [test.kind for test in tests] == one_round * 2
    # No share of the load is always measured right after the full one.
    assert [test.load_share for test in tests if test.load_share] == [0.95, 0.8, 0.6, 0.3, 0.8, 0.6, 0.3, 0.95]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import cost_calibration

        yield cost_calibration
    finally:
        sys.path.remove(str(BENCHMARKS))


def drifting_server(benchmark: ModuleType, *, is_seen: bool) -> Measure:
    """Takes between 20 % less and 25 % more from test to test. The piece of work does so by the square root of that."""
    factors = iter(np.exp(0.22 * np.sin(0.45 * np.arange(100))))
    noise = iter(1 + 0.05 * np.sin(2.3 * np.arange(100)))

    def measure(test: LoadTest) -> Observed:
        factor = float(next(factors))
        fixed, prefill, sequence, context, change = (number * factor for number in TRUE.numbers)
        slower = StepTime(fixed, prefill, sequence, context, TRUE.provenance, TRUE.source, change)
        one = pretended_server(slower, noise=0.01)(test)
        pace = 0.0005 * (factor**0.5 if is_seen else next(noise))
        watched: Observed = benchmark.Watched(*(getattr(one, field.name) for field in fields(Observed)), pace)
        return watched

    return measure


def found_at_the_speed(benchmark: ModuleType, *, is_seen: bool) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    measure = drifting_server(benchmark, is_seen=is_seen)
    shape = replace(SMALL, repeats=3)
    result = calibrate(measure, shape, TRUE_LIMITS, given=("max_batched_tokens",), source="a test")
    return result.errors_of("open"), benchmark.at_the_speed_beside(result)


def test_errors_are_told_again_at_the_speed_that_the_machine_had_beside_each_test(benchmark: ModuleType) -> None:
    plain, beside = found_at_the_speed(benchmark, is_seen=True)
    assert plain["tpot"] > 0.12
    assert beside["errors_of_open_loops"]["tpot"] < plain["tpot"] / 3
    assert beside["errors"]["tpot"] < 0.05
    assert beside["exponent"] == pytest.approx(2, rel=0.15)
    assert beside["longer_by_of_loops_to_fit"]["correlation"] > 0.9


def test_a_pace_that_says_nothing_corrects_nothing(benchmark: ModuleType) -> None:
    plain, beside = found_at_the_speed(benchmark, is_seen=False)
    assert abs(beside["longer_by_of_loops_to_fit"]["correlation"]) < 0.3
    assert beside["errors_of_open_loops"]["tpot"] == pytest.approx(plain["tpot"], rel=0.3)


def test_the_pace_is_that_of_the_time_that_is_asked_about(benchmark: ModuleType) -> None:
    with benchmark.watched() as pace:
        began = time.monotonic()
        while not np.isfinite(found := pace(began, time.monotonic())):
            assert time.monotonic() < began + 30
            time.sleep(0.1)
        assert 1e-5 < found < 1
        assert np.isnan(pace(began - 10, began - 5))

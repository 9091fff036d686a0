"""The experiment behind `nexus cost calibrate`: which points are measured, and the verdict on what was predicted.

Half of a grid (concurrency × prompt × answer) is fitted; the other half, the saturated engine, and open loops at
several shares of saturation are predicted. What measures is a function, so that tests measure a simulated engine.

A shared machine may be half as fast some minutes later, and no model of an engine knows that: medians over repeats are
compared, and points to fit stand between those to predict.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, StrictBool

from nexus_llm.cost.capacity.calibrate import (
    STATISTICS,
    FittedEngine,
    Observed,
    Statistics,
    error_shares,
    fit_engine,
    median_statistics,
    predicted_statistics,
)
from nexus_llm.cost.capacity.simulate import check_limits
from nexus_llm.cost.quantities import EngineLimits, StepTime

Kind = Literal["fitted", "held_out", "saturation", "open"]

TARGETS: Mapping[str, float] = {"tpot": 0.10, "e2e_p95": 0.15, "ttft_p95": 0.25, "saturation": 0.10}
"""What the mean error over predicted points may be."""
BATCHED_TOKENS = (512, 256, 1024, 2048, 8192)
LOAD_SHARES = (0.3, 0.6, 0.8, 0.95)


@dataclass(frozen=True, slots=True)
class LoadTest:
    """One load test to run."""

    kind: Kind
    input_tokens: int
    output_tokens: int
    requests: int
    concurrency: int | None = None
    """Of a closed loop."""
    requests_per_second: float | None = None
    """Of an open loop."""
    load_share: float | None = None
    """Of saturation, in an open loop."""
    answer_spread: float = 0.0
    """Answers are drawn evenly from up to this share below `output_tokens` to as much above."""
    seed: int = 0

    @property
    def answer_ends(self) -> tuple[int, int]:
        """Tokens of the shortest and the longest answer.

        >>> LoadTest("fitted", 32, 16, 8, answer_spread=0.5).answer_ends
        (8, 24)
        """
        reach = int(self.output_tokens * self.answer_spread)
        return self.output_tokens - reach, self.output_tokens + reach


Measure = Callable[[LoadTest], Observed]


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is measured."""

    concurrencies: tuple[int, ...] = (1, 4, 16, 32)
    input_tokens: tuple[int, ...] = (32, 128, 512)
    output_tokens: tuple[int, ...] = (16, 64)
    answer_spread: float = 0.5
    """Of the grid. Answers of one length end together and the next begin together: such loops cannot tell what it costs
    that a batch changes, which other traffic makes it do all the time."""
    requests_per_place: int = 4
    """Requests in a closed loop, over its concurrency; at least 8 in all."""
    open_requests: int = 150
    """At the rate of the saturated engine; fewer in proportion at a part of it."""
    open_input_tokens: int = 128
    open_output_tokens: int = 64
    saturation_concurrency: int = 64
    load_shares: tuple[float, ...] = LOAD_SHARES
    repeats: int = 1
    seed: int = 0

    def grid(self) -> tuple[list[LoadTest], list[LoadTest]]:
        """(to fit, held out): the squares of a chess board in three dimensions, so that both halves reach all edges."""
        halves: tuple[list[LoadTest], list[LoadTest]] = ([], [])
        for i, concurrency in enumerate(self.concurrencies):
            for j, given in enumerate(self.input_tokens):
                for k, said in enumerate(self.output_tokens):
                    half = (i + j + k) % 2
                    halves[half].append(
                        LoadTest(
                            "held_out" if half else "fitted",
                            given,
                            said,
                            max(8, self.requests_per_place * concurrency),
                            concurrency=concurrency,
                            answer_spread=self.answer_spread,
                        )
                    )
        return halves

    def saturated(self) -> LoadTest:
        """As many at once as the engine takes."""
        count = self.saturation_concurrency * max(2, self.requests_per_place)
        return LoadTest(
            "saturation", self.open_input_tokens, self.open_output_tokens, count,
            concurrency=self.saturation_concurrency,
        )  # fmt: skip

    def open(self, load_share: float, saturation: float) -> LoadTest:
        """Requests that come when they come, at that share of `saturation` requests a second. All take equally long."""
        return LoadTest(
            "open",
            self.open_input_tokens,
            self.open_output_tokens,
            math.ceil(self.open_requests * load_share),
            requests_per_second=load_share * saturation,
            load_share=load_share,
        )


@dataclass(frozen=True, slots=True)
class Point:
    """One load test beside its prediction."""

    test: LoadTest
    measured: Statistics
    """Medians over repeats."""
    predicted: Statistics
    errors: Statistics


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found and how far its predictions are off."""

    engine: FittedEngine
    points: tuple[Point, ...]
    limits_found_by: Mapping[str, str]
    """Each limit → `given`, `fitted`, or `assumed`: the grid never reached it."""
    observed: Mapping[LoadTest, Sequence[Observed]] = field(repr=False)

    @property
    def errors(self) -> dict[str, float]:
        """Mean error over the points that were predicted, by the names of `TARGETS`."""
        found = dict.fromkeys(TARGETS, math.nan)
        return found | self.errors_of("held_out", "open", "saturation")

    def errors_of(self, *kinds: Kind) -> dict[str, float]:
        """The same over points of some kinds; without what none of them has."""
        points = [point for point in self.points if point.test.kind in kinds]
        found = {
            name: [point.errors[name] for point in points if name in point.errors]
            for name in ("tpot", "e2e_p95", "ttft_p95")
        }
        found["saturation"] = [
            point.errors["requests_per_second"] for point in points if point.test.kind == "saturation"
        ]
        return {name: float(np.mean(errors)) for name, errors in found.items() if errors}

    @property
    def is_trustworthy(self) -> bool:
        """Whether every error is within its target."""
        return all(self.errors[name] <= target for name, target in TARGETS.items())

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values; not-a-number is null."""
        return {
            "step_time": asdict(self.engine.step_time),
            "limits": asdict(self.engine.limits),
            "limits_found_by": dict(self.limits_found_by),
            "errors": {name: _json_number(value) for name, value in sorted(self.errors.items())},
            "targets": dict(sorted(TARGETS.items())),
            "is_trustworthy": self.is_trustworthy,
            "points": [_point_json(point) for point in self.points],
        }


class _Engine(BaseModel):
    """The part of a calibration that plans read."""

    step_time: StepTime
    limits: EngineLimits
    is_trustworthy: StrictBool


def calibrate(
    measure: Measure,
    experiment: Experiment,
    limits: EngineLimits,
    *,
    given: Sequence[str] = (),
    source: str,
    tell: Callable[[LoadTest, Statistics], None] = lambda _test, _measured: None,
) -> Calibration:
    """Measures, fits and predicts. `given` names the limits that are known; the others are fitted or assumed.

    Raises:
        UsageError: limits that no engine has, or a grid with fewer than two points to fit.
        Whatever `measure` raises.
    """
    check_limits(limits)
    observed: dict[LoadTest, list[Observed]] = {}
    for number in range(experiment.repeats):
        for test, found in _round(measure, experiment, number, tell):
            observed.setdefault(test, []).append(found)
    engine = fit_engine(
        _fitted(observed),
        limits,
        batched_tokens=() if "max_batched_tokens" in given else BATCHED_TOKENS,
        source=source,
    )
    points = tuple(compared(test, repeats, engine) for test, repeats in observed.items())
    return Calibration(engine, points, _found_by(given, engine), observed)


def with_static_batching(calibration: Calibration) -> Calibration:
    """The same experiment explained, as well as it can be, by an engine whose batches nobody joins: it has to fail."""
    limits, observed = replace(calibration.engine.limits, batching="static"), calibration.observed
    engine = fit_engine(_fitted(observed), limits, source=calibration.engine.step_time.source)
    points = tuple(compared(test, repeats, engine) for test, repeats in observed.items())
    return replace(calibration, engine=engine, points=points)


def _fitted(observed: Mapping[LoadTest, Sequence[Observed]]) -> list[Observed]:
    return [one for test, repeats in observed.items() if test.kind == "fitted" for one in repeats]


def compared(test: LoadTest, repeats: Sequence[Observed], engine: FittedEngine) -> Point:
    """Medians over repeats, measured and predicted for the very same requests."""
    measured = median_statistics([one.statistics() for one in repeats])
    predicted = median_statistics([predicted_statistics(one, engine.step_time, engine.limits) for one in repeats])
    return Point(test, measured, predicted, error_shares(measured, predicted))


def engine_from_json(document: Mapping[str, Any]) -> tuple[StepTime, EngineLimits]:
    """What `Calibration.as_json` wrote.

    Raises:
        ValueError: it did not write this; the text says where.
        UsageError: limits that no engine has.
    """
    found = _Engine.model_validate(document).model_dump()
    step, limits = StepTime(**found["step_time"]), EngineLimits(**found["limits"])
    if not (min(step.numbers) >= 0 and step.fixed_seconds > 0 and math.isfinite(sum(step.numbers))):
        raise ValueError(f"a step of {step.numbers} seconds")
    check_limits(limits)
    return step, limits


def _round(
    measure: Measure, experiment: Experiment, number: int, tell: Callable[[LoadTest, Statistics], None]
) -> list[tuple[LoadTest, Observed]]:
    """Every point once, with what was measured.

    The open loops follow the saturated server at once: their rates are shares of its. Each round begins with another
    one, so that no share always has the same place after full load. Points to fit are between those to predict, so
    that a drift of the machine favours neither half.
    """
    found: list[tuple[LoadTest, Observed]] = []

    def measured(test: LoadTest) -> Observed:
        one = measure(replace(test, seed=experiment.seed + number))
        found.append((replace(test, requests_per_second=None), one))  # the same point in every round
        tell(test, one.statistics())
        return one

    saturation = measured(experiment.saturated()).statistics()["requests_per_second"]
    shares = sorted(experiment.load_shares, reverse=True)
    first = number % max(1, len(shares))
    for share in shares[first:] + shares[:first]:
        measured(experiment.open(share, saturation))
    for pair in itertools.zip_longest(*experiment.grid()):
        for test in filter(None, pair):
            measured(test)
    return found


def _found_by(given: Sequence[str], engine: FittedEngine) -> dict[str, str]:
    found = {name: "given" if name in given else "assumed" for name in ("kv_cache_tokens", "max_sequences")}
    return found | {
        "max_batched_tokens": "given" if "max_batched_tokens" in given else "fitted",
        "kv_block_tokens": "given" if "kv_block_tokens" in given else "assumed",
        "admission_seconds": "fitted",
        "batching": "assumed" if engine.limits.batching == "continuous" else "given",
    }


def _point_json(point: Point) -> dict[str, Any]:
    return {
        "test": {name: value for name, value in asdict(point.test).items() if value is not None and name != "seed"},
        **{
            kind: {name: _json_number(values[name]) for name in STATISTICS if name in values}
            for kind, values in (("measured", point.measured), ("predicted", point.predicted), ("errors", point.errors))
        },
    }


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")

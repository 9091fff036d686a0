"""Step time and limits of an engine from what its users measure, and how far predictions made with them are off.

Nobody outside sees single steps. But a simulated load test has the same latencies as the real one when its step time
and limits are right. So: simulate each measured point (the same requests, the same loop), compare medians, and move the
six numbers (five of `StepTime`, and `admission_seconds`) until they agree: Gauss-Newton on relative errors, no number
below 0. Limits that are not known are tried one after another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from nexus_llm.cost.capacity.simulate import Demand, Floats, Simulated, simulate, simulate_closed
from nexus_llm.cost.quantities import EngineLimits, Provenance, StepTime
from nexus_llm.errors import UsageError

STATISTICS = ("tpot", "ttft", "e2e", "ttft_p95", "e2e_p95", "tpot_mean", "requests_per_second")
"""Medians and 95th percentiles in seconds, a mean, and ends a second."""
FITTED = ("tpot", "ttft", "e2e", "requests_per_second")
_ROUNDS, _NUDGE, _DAMPING = 12, 0.05, 1e-3
_FIRST_GUESS = (0.02, 1e-4, 5e-4, 1e-7, 2e-3, 5e-3)
_LEAST = np.array([1e-7, 1e-9, 0, 0, 0, 0])  # a step without time is none: a guess may go there, no engine does

Statistics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Observed:
    """One load test: what was sent and how long each request took, in the order of sending."""

    demand: Demand
    concurrency: int | None
    """Of a closed loop; None: an open one, in which `demand` says when."""
    ttft: Floats
    tpot: Floats
    e2e: Floats
    seconds: float
    """From the first sending to the last end."""

    def statistics(self) -> Statistics:
        """The numbers that are compared."""
        return _statistics(self.ttft, self.tpot, self.e2e, self.seconds)


@dataclass(frozen=True, slots=True)
class FittedEngine:
    """What was found, and how well it tells the points that it was found from."""

    step_time: StepTime
    limits: EngineLimits
    loss: float
    """Mean squared relative error over points and statistics."""


def predict(observed: Observed, step_time: StepTime, limits: EngineLimits) -> Simulated:
    """The same load test, simulated."""
    demand = observed.demand
    if observed.concurrency is None:
        return simulate(demand, step_time, limits)
    return simulate_closed(
        demand.input_tokens, demand.output_tokens, step_time, limits, concurrency=observed.concurrency
    )


def predicted_statistics(observed: Observed, step_time: StepTime, limits: EngineLimits) -> Statistics:
    """What `Observed.statistics` would be."""
    found = predict(observed, step_time, limits)
    seconds = float(found.last_token_seconds.max() - found.demand.arrived_seconds.min())
    return _statistics(found.ttft, found.tpot, found.e2e, seconds)


def fit_engine(
    points: Sequence[Observed],
    limits: EngineLimits,
    *,
    batched_tokens: Iterable[int] = (),
    statistics: Sequence[str] = FITTED,
    fits_admission: bool = True,
    source: str,
    provenance: Provenance = "measured",
) -> FittedEngine:
    """The engine that explains the points best.

    `batched_tokens` are limits to try instead of the one in `limits`. Those that the points never reached cannot be
    told apart: then the first of the candidates stays.

    Raises:
        UsageError: fewer than two points: six numbers cannot be told from one.
    """
    if len(points) < 2:
        raise UsageError(f"{len(points)} measured points cannot tell a step time", fix="measure a larger grid")
    best: FittedEngine | None = None
    for batched in list(batched_tokens) or [limits.max_batched_tokens]:
        tried = replace(limits, max_batched_tokens=max(batched, limits.max_sequences))
        numbers, loss = least_relative_errors(
            partial(_told, points, tried, statistics),
            np.array(_FIRST_GUESS if best is None else _numbers(best)),
            first_guess=np.array(_FIRST_GUESS),
            least=_LEAST,
            free=6 if fits_admission else 5,
        )
        if best is None or loss < best.loss * 0.98:  # a tie is no reason to prefer the later one
            best = FittedEngine(
                step_time(numbers, provenance=provenance, source=source),
                replace(tried, admission_seconds=float(numbers[5])),
                loss,
            )
    assert best is not None
    return best


def _told(points: Sequence[Observed], limits: EngineLimits, statistics: Sequence[str], numbers: Floats) -> Floats:
    """Predicted over measured, of every point and statistic that was measured, with six numbers."""
    tried = step_time(numbers, provenance="measured", source="")
    limits = replace(limits, admission_seconds=float(numbers[5]))
    ratios = []
    for point in points:
        measured, told = point.statistics(), predicted_statistics(point, tried, limits)
        known = (name for name in statistics if not math.isnan(measured[name]))
        ratios += [told[name] / measured[name] for name in known]
    return np.array(ratios)


def error_shares(measured: Statistics, predicted: Statistics) -> Statistics:
    """|predicted − measured| over measured, of every statistic that both have."""
    return {
        name: abs(predicted[name] / measured[name] - 1)
        for name in STATISTICS
        if not math.isnan(measured[name]) and not math.isnan(predicted[name]) and measured[name] > 0
    }


def median_statistics(repeats: Sequence[Statistics]) -> Statistics:
    """Of each statistic the median over repeats."""
    return {name: float(np.median([one[name] for one in repeats])) for name in STATISTICS}


def least_relative_errors(
    told: Callable[[Floats], Floats], start: Floats, *, first_guess: Floats, least: Floats, free: int
) -> tuple[Floats, float]:
    """The numbers whose predictions come closest, and their mean squared relative error: Gauss-Newton.

    `told` gives predicted over measured, of every measurement; `least` is what no number goes below; the last numbers,
    from `free` on, stay. `first_guess` tells how large the numbers are: what the measurements say nothing about stays
    near where it is, and a number at 0 is nudged by a part of its guess.
    """
    numbers, ratios = start, told(start)
    loss = _loss(ratios)
    for _ in range(_ROUNDS):
        candidate = _gauss_newton(told, numbers, ratios, first_guess[:free])
        candidate = np.maximum(candidate, least)
        improved = False
        for share in (1.0, 0.5, 0.2, 0.05):
            tried = numbers + share * (candidate - numbers)
            tried_ratios = told(tried)
            if _loss(tried_ratios) < loss * (1 - 1e-4):
                numbers, ratios, improved = tried, tried_ratios, True
                break
        if not improved:
            break
        before, loss = loss, _loss(ratios)
        if loss > before * 0.999:
            break
    return numbers, loss


def _gauss_newton(told: Callable[[Floats], Floats], numbers: Floats, ratios: Floats, first_guess: Floats) -> Floats:
    """Where the errors would be least if they were linear in the first numbers, none below 0."""
    free = len(first_guess)
    at = numbers[:free]
    scale = np.maximum(at, first_guess * 0.01)
    slopes = np.zeros((len(ratios), free))
    for place in range(free):
        nudged = numbers.copy()
        nudged[place] += scale[place] * _NUDGE
        slopes[:, place] = (told(nudged) - ratios) / (scale[place] * _NUDGE)
    held = np.diag(_DAMPING * math.sqrt(len(ratios)) / scale)
    rows = np.vstack([slopes, held])
    target = np.concatenate([1.0 - ratios + slopes @ at, held @ at])
    found = numbers.copy()
    found[:free] = non_negative_least_squares(rows, target)
    return found


def step_time(coefficients: Floats, *, provenance: Provenance, source: str) -> StepTime:
    """The step time of five numbers, in the order of `StepTime.numbers`."""
    fixed, prefill, sequence, context, change = (float(value) for value in coefficients[:5])
    return StepTime(fixed, prefill, sequence, context, provenance, source, change)


def non_negative_least_squares(rows: Floats, target: Floats) -> Floats:
    """The x ≥ 0 with the least |rows·x − target|², for a handful of columns.

    Its positive entries are the plain least-squares solution over their own columns, so trying all sets of columns
    finds it (Lawson and Hanson 1974, chapter 23).

    >>> non_negative_least_squares(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([2.0, 1.0])).round(6).tolist()
    [1.5, 0.0]
    """
    columns = rows.shape[1]
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)  # seconds beside millions of tokens
    scaled = rows / scale
    best, least = np.zeros(columns), float(target @ target)
    for size in range(1, columns + 1):
        for chosen in itertools.combinations(range(columns), size):
            part = scaled[:, chosen]
            found = np.linalg.lstsq(part, target, rcond=None)[0]
            error = float(((part @ found - target) ** 2).sum())
            if (found >= 0).all() and error < least * (1 - 1e-12):
                best, least = np.zeros(columns), error
                best[list(chosen)] = found
    solution: Floats = best / scale
    return solution


def _loss(told: Floats) -> float:
    # Ratios far off count by their logarithm too: 0.1 is as wrong as 10.
    return float(np.mean((told - 1) ** 2 + np.log(np.maximum(told, 1e-9)) ** 2) / 2)


def _numbers(of: FittedEngine) -> tuple[float, ...]:
    return (*of.step_time.numbers, of.limits.admission_seconds)


def _statistics(ttft: Floats, tpot: Floats, e2e: Floats, seconds: float) -> Statistics:
    def quantile(values: Floats, share: float) -> float:
        known = values[~np.isnan(values)]
        return float(np.quantile(known, share)) if len(known) else math.nan

    return {
        "tpot": quantile(tpot, 0.5),
        "ttft": quantile(ttft, 0.5),
        "e2e": quantile(e2e, 0.5),
        "ttft_p95": quantile(ttft, 0.95),
        "e2e_p95": quantile(e2e, 0.95),
        "tpot_mean": float(np.nanmean(tpot)) if not np.isnan(tpot).all() else math.nan,
        "requests_per_second": len(e2e) / seconds,
    }

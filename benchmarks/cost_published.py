"""Published load tests of Llama 3.1 8B: a part of them fitted, the others predicted, card by card.

    python benchmarks/cost_published.py --rows silicon_sample.csv [--note TEXT]

`silicon_sample.csv` lies in NVIDIA's wheel aiconfigurator-core 0.12.0 (Apache-2.0), in `aiconfigurator_core/systems/`:
mean time to first token and per output token of closed loops, by card, engine, tensor parallelism, prompt and answer
length. Fitted are times per output token only: the published times to the first contain the rush at a test's start.
The rows themselves are not kept here; the result holds what was fitted.

`cards` are calibrated once for a card and its engine: six numbers for one card and for two, four and eight that share
the work (tensor parallelism), of which each does its part of weights, prompts and cache. Of every second row the others
are predicted, then the other way round; and in five folds of which each is predicted from the other four. `setups` are
calibrated by themselves, five numbers for each number of cards with eight rows or more.

`few_points` are tables of one shape, three or four batch sizes each: the first, third, … are fitted, by a fixed time
and one per sequence (what prefill and context add cannot be told apart there), and predict the others, and the other
way round.

A setup that misses the target is told row by row.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm.cost.capacity.calibrate import (
    FittedEngine,
    Observed,
    fit_engine,
    least_relative_errors,
    non_negative_least_squares,
    predict,
)
from nexus_llm.cost.capacity.simulate import Demand, Floats
from nexus_llm.cost.quantities import EngineLimits, StepTime

RESULTS = Path(__file__).parent / "results"
SOURCE = "NVIDIA aiconfigurator-core 0.12.0, systems/silicon_sample.csv (Apache-2.0)"
CARD = ("system", "backend", "backend_version", "model_path", "precision")
SETUP = (*CARD, "tp_size")
BATCHED_TOKENS = (8192, 2048, 4096, 16384)
LIMITS = EngineLimits(kv_cache_tokens=10_000_000, max_sequences=512, max_batched_tokens=8192)
PLACES = 6
"""Requests of a simulated loop, over its concurrency."""
TARGET = 0.10
FEWEST_ROWS = 8
FOLDS = 5
SHARED_NUMBERS = (
    "fixed_seconds", "seconds_of_weights", "seconds_per_prefill_token",
    "seconds_per_sequence", "seconds_per_context_token", "seconds_per_batch_change",
)  # fmt: skip
FIRST_GUESS = np.array([0.01, 0.01, 1e-4, 5e-4, 1e-7, 2e-3])
LEAST = np.array([1e-7, 0, 1e-9, 0, 0, 0])
FEW_POINTS = {
    "L40S, bfloat16, vLLM 0.24, modelled": ((1, 22.0), (8, 24.0), (32, 31.7), (64, 40.9)),
    "L40S, float8, vLLM 0.24, modelled": ((1, 14.1), (8, 15.2), (32, 21.0), (64, 30.1)),
    "A100-80GB, bfloat16, vLLM 0.14, modelled": ((1, 11.8), (8, 13.3), (32, 18.4), (64, 24.5)),
    "H100, float8, vLLM 0.24, modelled": ((1, 4.4), (8, 5.1), (32, 7.6), (64, 10.4)),
    "H100, NIM 1.8.0, measured": ((1, 4.6), (25, 5.2), (100, 7.6), (200, 12.7)),
    "H100 SXM, bfloat16, TensorRT-LLM 1.0rc3, measured": ((8, 7.9), (32, 13.2), (64, 20.1)),
}
"""Sequences at once and ms a token, of Llama 3.1 8B. Modelled: aiconfigurator 0.12.0, 512 tokens in, 200 out, from
measured operators, run on 2026-11-21; NIM: docs.nvidia.com, NIM benchmarking; TensorRT-LLM: aiconfigurator-core."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    cards = [card(name, rows) for name, rows in groups(arguments.rows, CARD)]
    setups = [setup(name, rows) for name, rows in groups(arguments.rows, SETUP) if len(rows) >= FEWEST_ROWS]
    hardware = sorted({one["hardware"] for one in cards})
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "source": SOURCE,
        "target_mean_error_share": TARGET,
        "held_out_mean_error_share": {
            how: {"all": _over_rows(found, ""), **{name: _over_rows(found, name) for name in hardware}}
            for how, found in (("cards", cards), ("setups", setups))
        },
        "note": arguments.note,
        "few_points": {name: few_points(points) for name, points in FEW_POINTS.items()},
        "cards": cards,
        "setups": setups,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"cost_published_{result['date']}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _over_rows(cards: list[dict[str, Any]], hardware: str) -> float:
    """The mean error of all rows that were held out in the second half, of one kind of card or ("") of all."""
    chosen = [one for one in cards if one["hardware"].startswith(hardware)]
    rows = [one["rows_held_out"] for one in chosen]
    return _round(float(np.average([one["held_out_mean_error_share"] for one in chosen], weights=rows)))


def groups(path: Path, by: Sequence[str]) -> list[tuple[tuple[str, ...], list[dict[str, str]]]]:
    """(card, engine, …) → its rows of Llama 3.1 8B, sorted."""
    with path.open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if "llama-3.1-8b" in row["model_path"].lower()]
    rows = [row for row in rows if row["silicon_tpot_ms"]]

    def key(row: dict[str, str]) -> tuple[str, ...]:
        return tuple(row[name] for name in by)

    def order(row: dict[str, str]) -> tuple[float, ...]:
        return tuple(float(row[name]) for name in ("tp_size", "isl", "osl", "concurrency"))

    rows = sorted(sorted(rows, key=order), key=key)
    return [(name, list(found)) for name, found in itertools.groupby(rows, key=key)]


def card(name: tuple[str, ...], rows: list[dict[str, str]]) -> dict[str, Any]:
    """One calibration of a card and its engine, however many share the work, and how far its predictions are off."""
    halves = halves_of(rows)
    numbers, limits = fit_shared(halves[0])
    held_out = shared_errors(halves[1], numbers, limits)
    exchanged = shared_errors(halves[0], *fit_shared(halves[1]))
    folds = []
    for fold in range(FOLDS):
        others = [row for place, row in enumerate(rows) if place % FOLDS != fold]
        folds += shared_errors(rows[fold::FOLDS], *fit_shared(others)).tolist()
    print(f"{name}: held out {np.mean(held_out):.1%} of {len(held_out)}", file=sys.stderr, flush=True)
    system, engine, version, model, precision = name
    degrees = np.array([int(float(row["tp_size"])) for row in halves[1]])
    return {
        "hardware": system,
        "engine": f"{engine} {version}",
        "model": model,
        "precision": precision or "bfloat16",
        **{one: _round(number) for one, number in zip(SHARED_NUMBERS, numbers, strict=True)},
        "max_batched_tokens": limits.max_batched_tokens,
        "rows_fitted": len(halves[0]),
        "rows_held_out": len(halves[1]),
        "held_out_mean_error_share": _round(float(np.mean(held_out))),
        "held_out_largest_error_share": _round(float(max(held_out))),
        "held_out_mean_error_share_by_cards": {
            str(degree): _round(float(held_out[degrees == degree].mean())) for degree in np.unique(degrees)
        },
        "exchanged_mean_error_share": _round(float(np.mean(exchanged))),
        "five_folds_mean_error_share": _round(float(np.mean(folds))),
        "source": SOURCE,
    }


def halves_of(rows: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Every second row of each number of cards, and the others."""
    halves: tuple[list[dict[str, str]], list[dict[str, str]]] = ([], [])
    for _, found in itertools.groupby(rows, key=lambda row: row["tp_size"]):
        for place, row in enumerate(found):
            halves[place % 2].append(row)
    return halves


def fit_shared(rows: list[dict[str, str]]) -> tuple[Floats, EngineLimits]:
    """The six numbers, and the tokens of a step, that explain these rows' times per output token."""
    best: tuple[float, Floats, EngineLimits] | None = None
    for batched in BATCHED_TOKENS:
        limits = replace(LIMITS, max_batched_tokens=batched)
        numbers, loss = least_relative_errors(
            partial(shared_ratios, rows, limits),
            FIRST_GUESS if best is None else best[1],
            first_guess=FIRST_GUESS,
            least=LEAST,
            free=len(FIRST_GUESS),
        )
        if best is None or loss < best[0] * 0.98:
            best = loss, numbers, limits
    assert best is not None
    return best[1:]


def shared_ratios(rows: list[dict[str, str]], limits: EngineLimits, numbers: Floats) -> Floats:
    """Predicted over published time per output token, of each row."""
    return np.array([_tpot(row, shared(numbers, float(row["tp_size"])), limits) for row in rows])


def shared_errors(rows: list[dict[str, str]], numbers: Floats, limits: EngineLimits) -> Floats:
    """|predicted - published| over published."""
    return np.abs(shared_ratios(rows, limits, numbers) - 1)


def shared(numbers: Floats, cards: float) -> StepTime:
    """The step time where so many cards share weights, prompts and cache."""
    fixed, weights, prefill, sequence, context, change = (float(number) for number in numbers)
    return StepTime(fixed + weights / cards, prefill / cards, sequence, context / cards, "published", SOURCE, change)


def setup(name: tuple[str, ...], rows: list[dict[str, str]]) -> dict[str, Any]:
    """The fit of one number of cards by itself, and how far its other half is off."""
    fitted = fit(rows[0::2])
    held_out = errors(rows[1::2], fitted)
    print(f"{name}: held out {np.mean(held_out):.1%} of {len(held_out)}", file=sys.stderr, flush=True)
    step, everything = fitted.step_time, dict(zip(SETUP, name, strict=True))
    system, engine, version, model, precision, cards = everything.values()
    return {
        "hardware": system,
        "cards": int(float(cards)),
        "engine": f"{engine} {version}",
        "model": model,
        "precision": precision or "bfloat16",
        "fixed_seconds": _round(step.fixed_seconds),
        "seconds_per_prefill_token": _round(step.seconds_per_prefill_token),
        "seconds_per_sequence": _round(step.seconds_per_sequence),
        "seconds_per_context_token": _round(step.seconds_per_context_token),
        "seconds_per_batch_change": _round(step.seconds_per_batch_change),
        "max_batched_tokens": fitted.limits.max_batched_tokens,
        "rows_fitted": len(rows[0::2]),
        "rows_held_out": len(held_out),
        "fitted_mean_error_share": _round(float(np.mean(errors(rows[0::2], fitted)))),
        "held_out_mean_error_share": _round(float(np.mean(held_out))),
        "held_out_largest_error_share": _round(float(max(held_out))),
        **(_row_by_row(rows, fitted) if np.mean(held_out) > TARGET else {}),
        "source": SOURCE,
    }


def few_points(points: Sequence[tuple[int, float]]) -> dict[str, float | None]:
    """Mean error of the points that were held out, and of the others held out in their stead where two would be left to
    fit."""
    terms, times = np.array([(1.0, count) for count, _ in points]), np.array([ms for _, ms in points])

    def error(chosen: slice, others: slice) -> float:
        numbers = non_negative_least_squares(terms[chosen] / times[chosen, None], np.ones(len(times[chosen])))
        return _round(float(np.mean(np.abs(terms[others] @ numbers / times[others] - 1))))

    halves = slice(0, None, 2), slice(1, None, 2)
    exchanged = error(halves[1], halves[0]) if len(points) > 3 else None
    return {"held_out_mean_error_share": error(*halves), "exchanged": exchanged}


def _row_by_row(rows: list[dict[str, str]], fitted: FittedEngine) -> dict[str, Any]:
    """Each row with its error; the first, third, … were fitted."""
    told = [_tpot(row, fitted.step_time, fitted.limits) for row in rows]
    return {
        "columns": ["prompt tokens", "answer tokens", "at once", "ms a token", "predicted, over it - 1"],
        "rows": [
            [*(int(row[one]) for one in ("isl", "osl", "concurrency")), _round(ms), _round(ratio - 1)]
            for row, ratio in zip(rows, told, strict=True)
            for ms in [float(row["silicon_tpot_ms"])]
        ],
    }


def fit(rows: list[dict[str, str]]) -> FittedEngine:
    """The engine that explains these rows' times per output token."""
    return fit_engine(
        [observed(row) for row in rows],
        LIMITS,
        batched_tokens=BATCHED_TOKENS,
        statistics=("tpot_mean",),
        fits_admission=False,
        source=SOURCE,
        provenance="published",
    )


def errors(rows: list[dict[str, str]], fitted: FittedEngine) -> list[float]:
    """|predicted - published| over published, of each row's time per output token."""
    return [abs(_tpot(row, fitted.step_time, fitted.limits) - 1) for row in rows]


def _tpot(row: dict[str, str], step_time: StepTime, limits: EngineLimits) -> float:
    """Predicted over published time per output token."""
    told = float(np.mean(predict(observed(row), step_time, limits).tpot))
    return told / (float(row["silicon_tpot_ms"]) / 1000)


def observed(row: dict[str, str]) -> Observed:
    """A published row as a load test in which every request took the same time."""
    concurrency = int(row["concurrency"])
    count = concurrency * PLACES
    ttft, tpot = float(row["silicon_ttft_ms"]) / 1000, float(row["silicon_tpot_ms"]) / 1000
    said = int(row["osl"])
    demand = Demand(np.zeros(count), np.full(count, int(row["isl"])), np.full(count, said))
    e2e = ttft + tpot * (said - 1)
    return Observed(demand, concurrency, np.full(count, ttft), np.full(count, tpot), np.full(count, e2e), e2e * PLACES)


def _round(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()

"""Published load tests of Llama 3.1 8B, half of them fitted and the other half predicted, card by card.

    python benchmarks/cost_published.py --rows silicon_sample.csv [--note TEXT]

`silicon_sample.csv` lies in NVIDIA's wheel aiconfigurator-core 0.12.0 (Apache-2.0), in `aiconfigurator_core/systems/`:
mean time to first token and per output token of closed loops, by card, engine, tensor parallelism, prompt and answer
length. Fitted are times per output token only: the published times to the first contain the rush at a test's start.
The rows themselves are not kept here; the result holds what was fitted.

`few_points` are tables of one shape, three or four batch sizes each: the first, third, … are fitted, by a fixed time
and one per sequence (what prefill and context add cannot be told apart there), and predict the others, and the other
way round.

`tried` is what other forms of the step time would give, in steady state without a simulation: without a time for a
changed batch, with one for each prompt instead, with the card's bandwidth as the least that weights and cache cost.
Each is fitted to either half and predicts the other: a form that helps one half, or one card, only is no better. A card
that misses the target is told row by row.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm.cost.capacity.calibrate import FittedEngine, Observed, fit_engine, non_negative_least_squares, predict
from nexus_llm.cost.capacity.simulate import Demand
from nexus_llm.cost.quantities import EngineLimits

RESULTS = Path(__file__).parent / "results"
SOURCE = "NVIDIA aiconfigurator-core 0.12.0, systems/silicon_sample.csv (Apache-2.0)"
GROUP = ("system", "backend", "backend_version", "model_path", "precision", "tp_size")
BATCHED_TOKENS = (8192, 2048, 4096, 16384)
LIMITS = EngineLimits(kv_cache_tokens=10_000_000, max_sequences=512, max_batched_tokens=8192)
PLACES = 6
"""Requests of a simulated loop, over its concurrency."""
TARGET = 0.10
FEWEST_ROWS = 8
FORMS = ("as now", "without batch changes", "a time a prompt instead", "not below the bandwidth")
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
BYTES_PER_SECOND = {"h100_sxm": 3.35e12, "h200_sxm": 4.8e12}  # NVIDIA's data sheets


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    cards = [card(name, rows) for name, rows in groups(arguments.rows) if len(rows) >= FEWEST_ROWS]
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "source": SOURCE,
        "target_mean_error_share": TARGET,
        "held_out_mean_error_share": {
            "all": _over_rows(cards, ""),
            **{name: _over_rows(cards, name) for name in sorted(BYTES_PER_SECOND)},
        },
        "note": arguments.note,
        "few_points": {name: few_points(points) for name, points in FEW_POINTS.items()},
        "cards": cards,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"cost_published_{result['date']}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _over_rows(cards: list[dict[str, Any]], hardware: str) -> float:
    """The mean error of all rows that were held out, of one kind of card or ("") of all."""
    chosen = [one for one in cards if one["hardware"].startswith(hardware)]
    rows = [one["rows_held_out"] for one in chosen]
    return _round(float(np.average([one["held_out_mean_error_share"] for one in chosen], weights=rows)))


def groups(path: Path) -> list[tuple[tuple[str, ...], list[dict[str, str]]]]:
    """(card, engine, …) → its rows of Llama 3.1 8B, in order."""
    with path.open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if "llama-3.1-8b" in row["model_path"].lower()]
    rows = [row for row in rows if row["silicon_tpot_ms"]]

    def key(row: dict[str, str]) -> tuple[str, ...]:
        return tuple(row[name] for name in GROUP)

    return [(name, list(found)) for name, found in itertools.groupby(sorted(rows, key=key), key=key)]


def card(name: tuple[str, ...], rows: list[dict[str, str]]) -> dict[str, Any]:
    """One card's fit and how far its other half is off."""
    rows = sorted(rows, key=lambda row: (int(row["isl"]), int(row["osl"]), int(row["concurrency"])))
    fitted = fit(rows[0::2])
    held_out = errors(rows[1::2], fitted)
    print(f"{name}: held out {np.mean(held_out):.1%} of {len(held_out)}", file=sys.stderr, flush=True)
    step, everything = fitted.step_time, dict(zip(GROUP, name, strict=True))
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
        "tried": {form: [_round(one) for one in tried(name, rows, form)] for form in FORMS},
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
    told = [float(np.mean(predict(observed(row), fitted.step_time, fitted.limits).tpot)) for row in rows]
    return {
        "columns": ["prompt tokens", "answer tokens", "at once", "ms a token", "predicted, over it - 1"],
        "rows": [
            [*(int(row[one]) for one in ("isl", "osl", "concurrency")), _round(ms), _round(1000 * seconds / ms - 1)]
            for row, seconds in zip(rows, told, strict=True)
            for ms in [float(row["silicon_tpot_ms"])]
        ],
    }


def tried(name: tuple[str, ...], rows: list[dict[str, str]], form: str) -> tuple[float, float]:
    """Mean error of the second half fitted to the first, and of the first fitted to the second, in steady state: each
    step prefills what the answers that end make room for."""
    system, _, _, _, precision, cards = name
    bandwidth = BYTES_PER_SECOND[system] * float(cards)
    least = np.zeros(5)
    if form == FORMS[3]:
        least[0] = 8.03e9 * (1 if precision == "fp8" else 2) / bandwidth * 1000
        least[3] = 131_072 / bandwidth * 1000  # of cache a token: 32 layers x 8 heads x 128 x 2 values of 2 bytes

    def columns(half: list[dict[str, str]]) -> tuple[Any, Any]:
        found = []
        for row in half:
            given, said, count = int(row["isl"]), int(row["osl"]), int(row["concurrency"])
            begun = count / said  # prompts a step, as Poisson's: each changes the batch of its step and of the next
            last = {FORMS[1]: 0.0, FORMS[2]: begun}.get(form, 1 - math.exp(-2 * begun))
            found.append([1, begun * given, count, count * (given + said / 2), last])
        return np.array(found, float), np.array([float(row["silicon_tpot_ms"]) for row in half])

    def error(fitted_to: list[dict[str, str]], other: list[dict[str, str]]) -> float:
        terms, told = columns(fitted_to)
        numbers = least + non_negative_least_squares(terms / told[:, None], 1 - terms @ least / told)
        terms, told = columns(other)
        return float(np.mean(np.abs(terms @ numbers / told - 1)))

    return error(rows[0::2], rows[1::2]), error(rows[1::2], rows[0::2])


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
    """|predicted − published| over published, of each row's time per output token."""
    found = []
    for row in rows:
        told = float(np.mean(predict(observed(row), fitted.step_time, fitted.limits).tpot))
        found.append(abs(told / (float(row["silicon_tpot_ms"]) / 1000) - 1))
    return found


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

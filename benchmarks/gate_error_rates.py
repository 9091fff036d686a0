"""How often the gate is wrong, and how often it sees what is there: simulated evaluations of two models.

    python benchmarks/gate_error_rates.py [--trials 2000]

Every trial draws two models' scores, item by item, and goes the gate's own way (`judge_tasks`, `corrected`). In the
trials of the first kind the truth lies exactly at the limit, where errors are most frequent: at most 1 − confidence =
5 % of gates may fail, and at most as many pass. Those of the second kind have a real effect. The result is stored in
results/gate_error_rates_*.json, beside the rates without Holm's correction.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nexus_llm.evaluate import comparison_statistics
from nexus_llm.evaluate.gate import GatedComparison, corrected, judge_tasks, overall
from nexus_llm.evaluate.results import ItemResult, TaskResult
from nexus_llm.recipe import GateRecipe, TaskRule
from nexus_llm.records import CompleterFacts

RESULTS = Path(__file__).parent / "results"
RESAMPLES = 1_000  # a tenth of the product's: a tail of 2.5 % is then known to 0.5 points, evenly to both sides
Scores = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, float], tuple[Scores, Scores]]
"""(generator, items, true effect) → scores of base and tuned model."""


def right_or_wrong(generator: np.random.Generator, items: int, effect: float) -> tuple[Scores, Scores]:
    """An accuracy near 0.6; the two disagree in 16 % of items."""
    draws = generator.random(items)
    wins, losses = (0.16 + effect) / 2, (0.16 - effect) / 2
    both = 0.6 - losses
    base = (draws < both) | ((draws >= both + wins) & (draws < both + wins + losses))
    return base.astype(float), (draws < both + wins).astype(float)


def smooth(generator: np.random.Generator, items: int, effect: float) -> tuple[Scores, Scores]:
    """Scores around 0.5 whose differences are normal."""
    base = generator.normal(0.5, 0.2, items)
    return base, base + effect + generator.normal(0, 0.15, items)


def skewed(generator: np.random.Generator, items: int, effect: float) -> tuple[Scores, Scores]:
    """Differences with a long tail to one side (a shifted exponential)."""
    base = generator.normal(0.5, 0.2, items)
    return base, base + effect + 0.15 * (generator.exponential(1.0, items) - 1)


def sparse(generator: np.random.Generator, items: int, effect: float) -> tuple[Scores, Scores]:
    """A judge's 0, 0.5 and 1, which differ by half a point in one item of ten."""
    base = generator.choice([0.0, 0.5, 1.0], items)
    toward = np.where(generator.random(items) < 0.5 + effect * 10, 0.5, -0.5)
    moved = base + np.where(generator.random(items) < 0.1, toward, 0.0)
    return base, moved


def gate_of(
    generator: np.random.Generator, draws: list[Draw], *, items: int, effect: float, rule: TaskRule
) -> list[GatedComparison]:
    """One gate over a task for each of `draws`, not yet corrected."""
    pairs, rules = [], {}
    for place, draw in enumerate(draws):
        base, tuned = draw(generator, items, effect)
        pairs.append((_result(f"task{place}", base), _result(f"task{place}", tuned)))
        rules[f"task{place}"] = rule
    return judge_tasks(pairs, GateRecipe(tasks=rules), seed=int(generator.integers(2**31)))


def rates(draws: list[Draw], *, trials: int, items: int, effect: float, rule: TaskRule, seed: int) -> dict[str, Any]:
    """Shares of gates: verdicts over all, and any single rule that passed or failed, with Holm's correction and not."""
    generator = np.random.default_rng(seed)
    verdicts: Counter[str] = Counter()
    for _ in range(trials):
        judged = gate_of(generator, draws, items=items, effect=effect, rule=rule)
        kept = corrected(judged, confidence=0.95)
        verdicts[overall(one.verdict for one in kept)] += 1
        for name, rows in (("", kept), (" without Holm", judged)):
            for verdict in ("pass", "fail"):
                verdicts[f"any {verdict}{name}"] += any(one.verdict == verdict for one in rows)
    return {name: round(count / trials, 4) for name, count in sorted(verdicts.items())}


def _result(task: str, scores: Scores) -> TaskResult:
    items = tuple(ItemResult(str(place), {"score": value}) for place, value in enumerate(scores.tolist()))
    who = CompleterFacts(model="simulated", road="scripted")
    return TaskResult(task, "1", "score", "", 0, who, items)


NO_LOSS, A_GAIN, SMALL_LOSS = TaskRule(max_regression=0), TaskRule(min_improvement=0), TaskRule(max_regression=0.02)
SCENARIOS: dict[str, dict[str, Any]] = {
    # The truth is at the limit.
    "0/1, 200 items, same models": {"draws": [right_or_wrong], "items": 200, "effect": 0.0, "rule": NO_LOSS},
    "0/1, 1,000 items, 0.02 lost, 0.02 allowed": {
        "draws": [right_or_wrong],
        "items": 1000,
        "effect": -0.02,
        "rule": SMALL_LOSS,
    },
    "means, 50 items, same models": {"draws": [smooth], "items": 50, "effect": 0.0, "rule": NO_LOSS},
    "skewed means, 50 items, same models": {"draws": [skewed], "items": 50, "effect": 0.0, "rule": NO_LOSS},
    "sparse means, 200 items, same models": {"draws": [sparse], "items": 200, "effect": 0.0, "rule": NO_LOSS},
    "10 tasks of 0/1, 200 items, same models": {
        "draws": [right_or_wrong] * 10,
        "items": 200,
        "effect": 0.0,
        "rule": NO_LOSS,
    },
    "5 tasks of 0/1 and 5 of means, 100 items, same models": {
        "draws": [right_or_wrong] * 5 + [smooth, smooth, skewed, skewed, sparse],
        "items": 100,
        "effect": 0.0,
        "rule": NO_LOSS,
    },
    # There is something to see.
    "0/1, 1,000 items, 0.05 gained, a gain is asked": {
        "draws": [right_or_wrong],
        "items": 1000,
        "effect": 0.05,
        "rule": A_GAIN,
    },
    "0/1, 1,000 items, 0.05 lost, none allowed": {
        "draws": [right_or_wrong],
        "items": 1000,
        "effect": -0.05,
        "rule": NO_LOSS,
    },
    "means, 50 items, 0.08 gained, a gain is asked": {"draws": [smooth], "items": 50, "effect": 0.08, "rule": A_GAIN},
    "10 tasks of 0/1, 1,000 items, 0.05 lost in each, none allowed": {
        "draws": [right_or_wrong] * 10,
        "items": 1000,
        "effect": -0.05,
        "rule": NO_LOSS,
    },
    "10 tasks of 0/1, 3,000 items, same models, 0.05 allowed": {
        "draws": [right_or_wrong] * 10,
        "items": 3000,
        "effect": 0.0,
        "rule": TaskRule(max_regression=0.05),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="of each scenario; a tenth where it has ten tasks")
    options = parser.parse_args()
    comparison_statistics._RESAMPLES = RESAMPLES
    rows = []
    for name, scenario in SCENARIOS.items():
        started = time.monotonic()
        trials = max(1, options.trials // len(scenario["draws"]) * (2 if len(scenario["draws"]) > 1 else 1))
        found = rates(**scenario, trials=trials, seed=1)
        rows.append({"scenario": name, "trials": trials, **found})
        print(json.dumps(rows[-1]), f"{time.monotonic() - started:.0f} s", flush=True)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    result = {"date": today, "confidence": 0.95, "resamples": RESAMPLES, "scenarios": rows}
    target = RESULTS / f"gate_error_rates_{platform.machine()}_{today}.json"
    target.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Two results of one task, item by item: what changed, and how sure that is.

Scores that are 0 or 1 are compared by the items in which the two disagree (McNemar, Tango), all others by the
bootstrap-t of their differences. What was measured differently is not compared at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nexus_llm.errors import EvaluationError
from nexus_llm.evaluate.comparison_statistics import (
    MIN_ITEMS,
    Effect,
    FewDifferences,
    Floats,
    OneShare,
    PairedShares,
    bootstrap_t,
    require_scipy,
)
from nexus_llm.evaluate.results import TaskResult
from nexus_llm.recipe import RuleName


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """What one rule asks of one task."""

    name: str
    """The task's."""
    metric: str
    rule: RuleName
    method: str
    """Of the interval and the p-values."""
    asked: int
    """Items of the task."""
    items: int
    """Those with a score from both models; for `min_score`, from the tuned one."""
    base_errors: int
    """Items to which the base model gave nothing that could be scored."""
    tuned_errors: int
    base_score: float | None
    """Mean over those items; None for `min_score`, and where there are none."""
    tuned_score: float | None
    change: float | None
    """tuned − base (for `min_score`: − that score), turned round where lower is better: above 0 is better."""
    low: float
    """Lower end of the confidence interval of `change`; infinite where there are too few items."""
    high: float
    confidence: float
    effect: Effect | None = field(default=None, repr=False, compare=False)

    @property
    def error_share(self) -> float:
        """The larger share of items without a score, of the two models."""
        return max(self.base_errors, self.tuned_errors) / max(1, self.asked)


def compare_tasks(
    base: TaskResult, tuned: TaskResult, *, rule: RuleName, min_score: float = 0.0, confidence: float, seed: int
) -> TaskComparison:
    """What `rule` looks at: the change from base to tuned, or the tuned model's distance from `min_score`.

    Raises:
        EvaluationError: the two were measured differently, or on other items.
        MissingExtraError: scipy is not installed.
    """
    require_scipy()
    refuse_differences(base, tuned)
    sign = 1.0 if tuned.higher_is_better else -1.0
    before, after = _scores(base), _scores(tuned)
    both = [name for name in before if name in after] if rule != "min_score" else list(after)
    new = np.array([after[name] for name in both], np.float64)
    old = None if rule == "min_score" else np.array([before[name] for name in both], np.float64)
    found: tuple[Effect, str] | None = None
    if len(both):
        found = _against(new, min_score, sign, seed) if old is None else _paired(old, new, sign, seed)
    low, high = found[0].interval(confidence) if found else (-np.inf, np.inf)
    return TaskComparison(
        name=tuned.task,
        metric=tuned.metric,
        rule=rule,
        method=found[1] if found else "none",
        asked=len(tuned.items),
        items=len(both),
        base_errors=len(base.items) - len(before),
        tuned_errors=len(tuned.items) - len(after),
        base_score=float(old.mean()) if old is not None and len(both) else None,
        tuned_score=float(new.mean()) if len(both) else None,
        change=found[0].estimate if found else None,
        low=low,
        high=high,
        confidence=confidence,
        effect=found[0] if found else None,
    )


def refuse_differences(base: TaskResult, tuned: TaskResult) -> None:
    """Does nothing where both results are about the same items, asked in the same way.

    Raises:
        EvaluationError: they are not; every difference is named with both values.
    """
    first, second = base.identity(), tuned.identity()
    differences = [
        f"{name} {first.get(name)} against {second.get(name)}"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]
    if not differences:
        ids = {one.id for one in base.items} ^ {one.id for one in tuned.items}
        differences = [f"{len(ids)} items that only one of them has ({', '.join(sorted(ids)[:3])})"] if ids else []
    if differences:
        raise EvaluationError(
            f"{tuned.task}: the two results cannot be compared: {'; '.join(differences)}",
            fix="evaluate both models with the same nexus, data and settings",
        )


def _scores(result: TaskResult) -> dict[str, float]:
    """Item → value of the task's metric, of those without an error.

    Raises:
        EvaluationError: two items have one id, or one has neither a score nor an error.
    """
    if len({one.id for one in result.items}) != len(result.items):
        raise EvaluationError(f"{result.task}: two items have the same id", fix="give each item an id of its own")
    found = {one.id: one.scores.get(result.metric) for one in result.items if one.error is None}
    for name, value in found.items():
        if value is None or not np.isfinite(value):
            raise EvaluationError(
                f"{result.task}: item {name} has no {result.metric} ({value}), and no error that says why",
                fix="run the evaluation again",
            )
    return {name: float(value) for name, value in found.items() if value is not None}


def _paired(old: Floats, new: Floats, sign: float, seed: int) -> tuple[Effect, str]:
    changes = sign * (new - old)
    better, worse = int((changes > 0).sum()), int((changes < 0).sum())
    if _is_right_or_wrong(old) and _is_right_or_wrong(new):
        return PairedShares(better, worse, len(new)), "exact McNemar, interval with Tango's score"
    if better + worse < MIN_ITEMS:
        spread = float(max(old.max(), new.max()) - min(old.min(), new.min()))
        few = FewDifferences(float(changes.mean()), better, worse, len(new), max(1.0, spread))
        return few, f"a bound, since only {better + worse} items differ"
    return bootstrap_t(changes, seed=seed), "bootstrap-t"


def _against(new: Floats, wanted: float, sign: float, seed: int) -> tuple[Effect, str]:
    if _is_right_or_wrong(new) and sign > 0:
        return OneShare(int(new.sum()), len(new), wanted), "exact binomial"
    return bootstrap_t(sign * (new - wanted), seed=seed), "bootstrap-t"


def _is_right_or_wrong(scores: Floats) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())

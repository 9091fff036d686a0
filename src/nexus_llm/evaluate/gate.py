"""May the tuned model replace its base? Pass, fail, or inconclusive: the data cannot tell.

Each rule is held against its confidence interval, and all together against chance: among many rules some would be
broken, or kept, by luck. A verdict stands where it stands after Holm's correction, so that of all rules that are kept
in truth any one fails in at most 1 − confidence of cases, and of all that are broken any one passes as seldom. One or
two rules need no correction: each is wrong on its side in at most half of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from nexus_llm.errors import EvaluationError
from nexus_llm.evaluate.comparison import Comparison
from nexus_llm.evaluate.comparison_statistics import MIN_ITEMS, holm, items_needed
from nexus_llm.evaluate.comparison_tasks import TaskComparison, compare_tasks
from nexus_llm.evaluate.results import TaskResult
from nexus_llm.recipe import GateRecipe

Verdict = Literal["pass", "inconclusive", "fail"]
_FROM_BEST: tuple[Verdict, ...] = ("pass", "inconclusive", "fail")

# Two p-values that are equal on paper may differ in the last digit.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class GatedComparison:
    """A comparison held against its limit."""

    comparison: Comparison | TaskComparison
    limit: float
    """The change that may not be exceeded, as a share: of a perplexity −0.02 asks for a drop of at least 2 %. For a
    task, in the unit of its metric, the change that must be reached: −0.02 allows a loss of 0.02."""
    verdict: Verdict
    reason: str
    """One sentence for people."""
    p_pass: float = 0.0
    """How likely such a result is if the limit is not kept; after `corrected`, by Holm for all rules together."""
    p_fail: float = 0.0
    """How likely such a result is if the limit is kept; likewise."""


def judge_domain(comparison: Comparison, *, min_improvement: float) -> GatedComparison:
    """Pass where the whole interval lies below `-min_improvement`, fail where none of it does."""
    limit = -min_improvement or 0.0
    verdict: Verdict = "pass" if comparison.high < limit else "fail" if comparison.low >= limit else "inconclusive"
    return _perplexity(comparison, limit, verdict)


def judge_general(comparison: Comparison, *, max_regression: float) -> GatedComparison:
    """Pass where the whole interval lies at or below `max_regression`, fail where none of it does."""
    limit = max_regression
    verdict: Verdict = "pass" if comparison.high <= limit else "fail" if comparison.low > limit else "inconclusive"
    return _perplexity(comparison, limit, verdict)


def judge_task(comparison: TaskComparison, limit: float, *, max_error_share: float) -> GatedComparison:
    """Pass where the whole interval of the change lies at or above `limit`, fail where none of it does.

    An improvement of 0 must be more than none. With more errors than `max_error_share` nothing is decided.
    """
    verdict: Verdict = "inconclusive"
    has_enough = comparison.effect is not None and comparison.error_share <= max_error_share
    if has_enough and comparison.rule == "min_improvement":
        verdict = "pass" if comparison.low > limit else "fail" if comparison.high <= limit else "inconclusive"
    elif has_enough:
        verdict = "pass" if comparison.low >= limit else "fail" if comparison.high < limit else "inconclusive"
    p_pass = comparison.effect.p_above(limit) if comparison.effect and has_enough else 1.0
    p_fail = comparison.effect.p_below(limit) if comparison.effect and has_enough else 1.0
    reason = _task_reason(comparison, limit, verdict, max_error_share)
    return GatedComparison(comparison, limit, verdict, reason, p_pass, p_fail)


def judge_tasks(
    results: Iterable[tuple[TaskResult, TaskResult]], gate: GateRecipe, *, seed: int
) -> list[GatedComparison]:
    """Every rule held against its task; `results` are pairs of the base's and the tuned model's. Not yet `corrected`.

    Raises:
        EvaluationError: a rule is about a task that was not measured, or the two results cannot be compared.
    """
    by_name = {tuned.task: (base, tuned) for base, tuned in results}
    require_measured(gate, by_name)
    judged = []
    for name, rule in sorted(gate.tasks.items()):
        base, tuned = by_name[name]
        for kind, value in rule.limits().items():
            compared = compare_tasks(
                base, tuned, rule=kind, min_score=rule.min_score or 0.0, confidence=gate.confidence, seed=seed
            )
            limit = {"max_regression": -value or 0.0, "min_improvement": value}.get(kind, 0.0)
            judged.append(judge_task(compared, limit, max_error_share=gate.max_error_share))
    return judged


def require_measured(gate: GateRecipe, tasks: Iterable[str]) -> None:
    """Does nothing where each rule is about one of the tasks.

    Raises:
        EvaluationError: one is not.
    """
    if missing := sorted(gate.tasks.keys() - set(tasks)):
        raise EvaluationError(
            f"gate.tasks: nothing measured {', '.join(missing)} (measured: {', '.join(sorted(tasks)) or 'no task'})",
            fix="name it in evaluate.benchmarks or evaluate.tasks, or take the rule away",
        )


def corrected(judged: Sequence[GatedComparison], *, confidence: float) -> tuple[GatedComparison, ...]:
    """The same with p-values by Holm; a verdict that does not stand among so many becomes inconclusive."""
    passing, failing = holm([one.p_pass for one in judged]), holm([one.p_fail for one in judged])
    found = []
    for one, p_pass, p_fail in zip(judged, passing, failing, strict=True):
        p_value = {"pass": p_pass, "fail": p_fail, "inconclusive": 0.0}[one.verdict]
        kept = replace(one, p_pass=p_pass, p_fail=p_fail)
        if p_value > 1 - confidence + _ROUNDING:
            chance = f", but among {len(judged)} rules that can be chance (Holm's p = {p_value:.3f})"
            level = 1 - (1 - confidence) / len(judged)
            reason = one.reason + chance + _more_items(one.comparison, one.limit, level)
            kept = replace(kept, verdict="inconclusive", reason=reason)
        found.append(kept)
    return tuple(found)


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of all.

    >>> overall(["pass", "fail", "inconclusive"])
    'fail'
    """
    return max(verdicts, key=_FROM_BEST.index)


def gate_json(judged: Sequence[GatedComparison]) -> dict[str, Any]:
    """`{"verdict", "comparisons": [...]}` as JSON values; numbers that do not exist are null."""
    return {"verdict": overall(one.verdict for one in judged), "comparisons": [_row(one) for one in judged]}


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with None for numbers that do not exist: JSON has neither NaN nor infinity."""
    return {key: None if isinstance(one, float) and not math.isfinite(one) else one for key, one in values.items()}


def percent(share: float) -> str:
    """A share as a signed percentage.

    >>> percent(-0.0834), percent(0.0), percent(math.inf)
    ('−8.3 %', '0.0 %', 'unknown')
    """
    if not math.isfinite(share):
        return "unknown"
    shown = f"{abs(share):.1%}".replace("%", " %")
    return shown if float(shown[:-2]) == 0 else f"{'−' if share < 0 else '+'}{shown}"


def signed(value: float | None) -> str:
    """A change of a metric with its sign.

    >>> signed(-0.0213), signed(0.0), signed(None)
    ('−0.021', '0.000', 'unknown')
    """
    if value is None or not math.isfinite(value):
        return "unknown"
    shown = f"{abs(value):.3f}"
    return shown if float(shown) == 0 else f"{'−' if value < 0 else '+'}{shown}"


def _row(gated: GatedComparison) -> dict[str, Any]:
    comparison = gated.comparison
    values = {one.name: getattr(comparison, one.name) for one in fields(comparison) if one.name != "effect"}
    if isinstance(comparison, TaskComparison):
        values |= {"p_pass": gated.p_pass, "p_fail": gated.p_fail}
    return finite(values) | {"limit": gated.limit, "verdict": gated.verdict, "reason": gated.reason}


def _perplexity(comparison: Comparison, limit: float, verdict: Verdict) -> GatedComparison:
    effect, reason = comparison.effect, _reason(comparison, limit, verdict)
    if effect is None:
        return GatedComparison(comparison, limit, verdict, reason)
    nats = math.log1p(limit)
    return GatedComparison(comparison, limit, verdict, reason, effect.p_below(nats), effect.p_above(nats))


def _reason(comparison: Comparison, limit: float, verdict: Verdict) -> str:
    if comparison.documents < MIN_ITEMS:
        return f"{comparison.documents} documents are too few for an interval; at least {MIN_ITEMS} are needed"
    interval, line = (
        f"{percent(comparison.low)} to {percent(comparison.high)}",
        percent(limit) if limit else "no change",
    )
    if verdict == "pass":
        return f"the whole interval ({interval}) is below {line}"
    if verdict == "fail":
        return f"the whole interval ({interval}) is above {line}"
    return f"the interval ({interval}) holds {line}{_more_items(comparison, limit, comparison.confidence)}"


def _task_reason(comparison: TaskComparison, limit: float, verdict: Verdict, max_error_share: float) -> str:
    if comparison.effect is None:
        return "no item has a score from both models"
    if comparison.error_share > max_error_share:
        return (
            f"of {comparison.asked:,} items the base model left {comparison.base_errors:,} and the tuned one "
            f"{comparison.tuned_errors:,} without a score; {max_error_share:.1%} may lack one"
        )
    if not math.isfinite(comparison.high):
        return f"{comparison.items} items are too few for an interval; at least {MIN_ITEMS} are needed"
    interval = f"{signed(comparison.low)} to {signed(comparison.high)}"
    line = "the score that is wanted" if comparison.rule == "min_score" else signed(limit) if limit else "no change"
    if verdict == "pass":
        return f"the whole interval ({interval}) is above {line}"
    if verdict == "fail":
        return f"the whole interval ({interval}) is below {line}"
    return f"the interval ({interval}) holds {line}{_more_items(comparison, limit, comparison.confidence)}"


def _more_items(comparison: Comparison | TaskComparison, limit: float, confidence: float) -> str:
    if comparison.effect is None:
        return ""
    if isinstance(comparison, Comparison):
        limit, count, unit = math.log1p(limit), comparison.documents, "documents"
    else:
        count, unit = comparison.items, "items"
    needed = items_needed(comparison.effect, limit, confidence=confidence)
    more = max(1, needed - count) if needed else 0
    return f"; needs about {more:,} more {unit if more > 1 else unit[:-1]}" if more else ""

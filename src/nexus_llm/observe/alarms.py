"""CloudWatch's alarms without CloudWatch: which state an alarm takes on which data. Pure.

Rules, all AWS' (CloudWatch user guide, read 22 November 2026):

- "Alarm evaluation" (alarm-evaluation.html): an alarm looks at its newest `evaluation_periods` data points and goes to
  ALARM when `datapoints_to_alarm` of them breach the threshold.
- "Configuring how CloudWatch alarms treat missing data" (alarms-and-missing-data.html): more data points are fetched
  than evaluated, the *evaluation range*; real ones from further back go before missing ones, and missing ones are
  filled in as few times as possible. How much further back is not published: the page's one example fetches 5 for 3,
  and so does this (`EXTRA_POINTS`).
- The same page, "Avoiding premature transitions to alarm state": with too little data, an alarm whose missing points
  are `missing` still goes to ALARM once the oldest breaching point is as old as `datapoints_to_alarm` and nothing newer
  contradicts it.
- "Percentile-based alarms and low data samples" (percentiles-with-low-samples.html): with `ignore`, the state stays
  while there are fewer than 10/(1-p) samples, or 10/p below the median.
- "Combining alarms" (alarm-combining.html) and PutCompositeAlarm: AND, OR, NOT over the states of others.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nexus_llm.errors import UsageError
from nexus_llm.observe.metric_math import Series, evaluated

State = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]
Treatment = Literal["missing", "ignore", "breaching", "notBreaching"]

EXTRA_POINTS = 2
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
_STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "Sum": math.fsum,
    "Average": lambda samples: math.fsum(samples) / len(samples),
    "Minimum": min,
    "Maximum": max,
    "SampleCount": len,
}


@dataclass(frozen=True)
class Metric:
    """One metric as an alarm reads it."""

    id: str
    """What the expression calls it; `value` where there is none."""
    namespace: str
    name: str
    dimensions: tuple[str, ...]
    """Names of the dimensions, sorted; `*` where a plan does not tell them yet."""
    statistic: str
    """`Sum`, `Average`, `Minimum`, `Maximum`, `SampleCount`, `p95`, or `PR(:2)`: percent of samples up to 2."""


@dataclass(frozen=True)
class MetricAlarm:
    """One alarm as it is defined."""

    name: str
    metrics: tuple[Metric, ...]
    expression: str
    comparison: str
    threshold: float
    period_seconds: int
    evaluation_periods: int
    datapoints_to_alarm: int
    treat_missing: Treatment = "missing"
    ignores_low_samples: bool = False
    description: str = ""
    actions: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompositeAlarm:
    """An alarm over the states of others."""

    name: str
    rule: str
    description: str = ""


def statistic(samples: Sequence[float], name: str) -> float | None:
    """The statistic of one period's samples; None where there are none.

    AWS does not say how percentiles are interpolated: this takes the smallest sample that enough others do not exceed.

    >>> statistic([1, 2, 3, 4], "p50"), statistic([1, 2, 3, 4], "PR(:3)"), statistic([], "Sum")
    (2, 75.0, None)

    Raises:
        UsageError: the statistic is not known here.
    """
    if not samples:
        return None
    if name in _STATISTICS:
        return _STATISTICS[name](samples)
    if found := re.fullmatch(r"p(\d{1,2}(?:\.\d+)?|100)", name):
        return sorted(samples)[max(0, math.ceil(float(found[1]) / 100 * len(samples)) - 1)]
    if found := re.fullmatch(r"PR\(:(\d+(?:\.\d+)?)\)", name):
        return 100 * sum(sample <= float(found[1]) for sample in samples) / len(samples)
    raise UsageError(f"the statistic {name} is not known here", fix="use a standard statistic, a percentile or PR(:n)")


def points(alarm: MetricAlarm, samples: Mapping[str, Sequence[Sequence[float]]]) -> list[float | None]:
    """What an alarm compares, one value a period: of each period's samples of each metric, by its name."""
    series: dict[str, Series] = {
        metric.id: [statistic(period, metric.statistic) for period in samples[metric.name]] for metric in alarm.metrics
    }
    found = evaluated(alarm.expression, series)
    if isinstance(found, float):
        raise UsageError(f"{alarm.name} compares a number, not a series", fix="name a metric in its expression")
    return list(found)


def evaluate(alarm: MetricAlarm, found: Series, *, previous: State = "INSUFFICIENT_DATA") -> State:
    """The state on the data points of one evaluation range, oldest first."""
    breaches = _COMPARISONS[alarm.comparison]
    is_breaching = [None if one is None else breaches(one, alarm.threshold) for one in found]
    real = [one for one in is_breaching if one is not None]
    needed, most = alarm.datapoints_to_alarm, alarm.evaluation_periods
    filled = max(0, most - len(real)) if alarm.treat_missing == "breaching" else 0
    if sum(real[-most:]) + filled >= needed:
        return "ALARM"
    if len(real) >= most or alarm.treat_missing in ("breaching", "notBreaching") or False in real:
        return "OK"
    if alarm.treat_missing == "ignore":
        return previous
    if not real:
        return "INSUFFICIENT_DATA"
    # Only breaching points are left, and fewer than needed: what counts is how long ago the oldest of them was.
    recent = is_breaching[-most:]
    return "ALARM" if True in recent and len(recent) - recent.index(True) >= needed else "OK"


def is_low_sample(percentile: float, samples: int) -> bool:
    """Whether an alarm with `evaluate_low_sample_count_percentiles = "ignore"` would keep its state.

    >>> is_low_sample(99, 999), is_low_sample(99, 1000), is_low_sample(20, 49)
    (True, False, True)
    """
    share = percentile / 100
    return samples < round(10 / (1 - share if share >= 0.5 else share), 6)


def history(alarm: MetricAlarm, found: Series, *, stride: int = 1, start: State = "INSUFFICIENT_DATA") -> list[State]:
    """The state after each data point. With `stride`, points are of overlapping periods: a period has so many."""
    length = (alarm.evaluation_periods + EXTRA_POINTS) * stride
    states: list[State] = []
    state = start
    for end in range(len(found)):
        seen = found[max(end % stride, end + stride - length) : end + 1 : stride]
        state = evaluate(alarm, seen, previous=state)
        states.append(state)
    return states


def composite_holds(rule: str, states: Mapping[str, State]) -> bool:
    """Whether a composite alarm's rule is true, so that it is in ALARM.

    >>> composite_holds('ALARM("a") AND (OK(b) OR NOT ALARM("c"))', {"a": "ALARM", "b": "ALARM", "c": "OK"})
    True

    Raises:
        UsageError: the rule is not well formed, or names an alarm that is not there.
    """

    def told(found: re.Match[str]) -> str:
        name = found[2].strip().strip('"')
        if name not in states:
            raise UsageError(f"the rule {rule!r} names {name}, which is no alarm", fix="name an alarm that is made")
        return str(states[name] == found[1])

    words = re.sub(r"\b(ALARM|OK|INSUFFICIENT_DATA)\(([^)]*)\)", told, rule)
    words = re.sub(r"\b(AND|OR|NOT)\b", lambda found: found[1].lower(), words)
    words = re.sub(r"\b(TRUE|FALSE)\b", lambda found: found[1].title(), words)
    try:
        return _truth(ast.parse(words.strip(), mode="eval").body)
    except SyntaxError as error:
        raise UsageError(f"the rule {rule!r} is not well formed ({error.msg})", fix="see PutCompositeAlarm") from error


def _truth(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=bool() as value):
            return value
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _truth(operand)
        case ast.BoolOp(op=op, values=values):
            return (all if isinstance(op, ast.And) else any)(_truth(value) for value in values)
    raise SyntaxError(f"{ast.unparse(node)} is neither a state nor AND, OR, NOT")

"""What a person wants to read of a task's result: a few numbers, and how fast they came."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nexus_llm.evaluate.results import TaskResult
from nexus_llm.evaluate.speed import Speed, speed_of
from nexus_llm.records import Answer


@dataclass(frozen=True, slots=True)
class Summary:
    """A task's result. `items` = `scored` + `errors`, always."""

    task: str
    metric: str
    value: float
    """Mean of the metric over the scored items; NaN where there is none."""
    standard_error: float
    """Of that mean; NaN below two items."""
    items: int
    scored: int
    errors: int
    """Items without a score; each says why in items.jsonl."""
    cut_answers: int
    """Answers that ended at max_new_tokens."""
    cut_items: int
    """Items whose beginning did not fit into the model's context."""
    others: Mapping[str, float] = field(default_factory=dict)
    """The other metrics: means over the items that have them, and the result's aggregates."""
    speed: Speed | None = None
    """None where no answers were generated."""


def summary_of(result: TaskResult, answers: Sequence[Answer], *, usd_per_hour: float | None = None) -> Summary:
    """The few numbers of a result and the answers that it stands on (none where likelihoods do)."""
    scored = [one for one in result.items if one.error is None]
    values = [one.scores[result.metric] for one in scored]
    names = sorted({name for one in scored for name in one.scores} - {result.metric})
    others = {name: statistics.fmean(one.scores[name] for one in scored if name in one.scores) for name in names}
    return Summary(
        task=result.task,
        metric=result.metric,
        value=statistics.fmean(values) if values else math.nan,
        standard_error=statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan,
        items=len(result.items),
        scored=len(scored),
        errors=len(result.items) - len(scored),
        cut_answers=sum(one.finish_reason == "length" for one in answers),
        cut_items=sum(one.cut_tokens > 0 for one in result.items),
        others=others | dict(result.aggregates),
        speed=speed_of(answers, usd_per_hour=usd_per_hour) if answers else None,
    )

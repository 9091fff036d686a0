"""What a person wants to read of a task's result: a few numbers, and how fast they came."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nexus_llm.evaluate.results import TaskResult
from nexus_llm.records import Answer


@dataclass(frozen=True, slots=True)
class Speed:
    """As one who asks sees it, and what the machine made in all. `nexus bench` measures a server's throughput."""

    answers: int
    """Those that say how long they took and how many tokens they have."""
    tokens: int
    first_token_seconds: float | None
    """Median; None where nobody measured it."""
    tokens_per_second: float | None
    """Of all those tokens over the sum of their answers' seconds."""
    machine_tokens_per_second: float | None
    """Answers that were made side by side share those seconds."""
    usd_per_million_tokens: float | None
    """Generated tokens, at the machine's price and the machine's rate; None without a price."""


@dataclass(frozen=True, slots=True)
class Score:
    """A metric over the items of a task."""

    value: float
    standard_error: float | None = None
    """Of a mean over items; None where the metric is none, or there is one item."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a report says about one task."""

    task: str
    metric: str
    """The one that comparisons are about."""
    items: int
    errors: int
    """Items without a score; each says why in items.jsonl."""
    most_frequent_error: str | None
    cut_items: int
    """Items whose beginning did not fit into the model's context."""
    few_shot: int
    scores: Mapping[str, Score] = field(default_factory=dict)
    """Metric → over the items that have it, or as the task's own definition puts them together."""
    cut_answers: int = 0
    """Answers that ended at max_new_tokens."""
    speed: Speed | None = None
    """None where no answers were generated."""

    @property
    def value(self) -> float:
        """Of `metric`; NaN where no item has it."""
        return self.scores[self.metric].value if self.metric in self.scores else math.nan


def summary_of(result: TaskResult, answers: Sequence[Answer] = (), *, usd_per_hour: float | None = None) -> Summary:
    """The few numbers of a result and the answers that it stands on (none where likelihoods do)."""
    scores = {name: Score(value) for name, value in sorted(result.aggregates.items())}
    errors = [one.error for one in result.items if one.error is not None]
    for name in sorted({one for item in result.items for one in item.scores}):
        values = [item.scores[name] for item in result.items if name in item.scores]
        spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        if name not in scores or math.isclose(scores[name].value, statistics.fmean(values), abs_tol=1e-9):
            scores[name] = Score(statistics.fmean(values), spread)
    return Summary(
        result.task,
        result.metric,
        items=len(result.items),
        errors=len(errors),
        most_frequent_error=Counter(errors).most_common(1)[0][0] if errors else None,
        cut_items=sum(one.cut_tokens > 0 for one in result.items),
        few_shot=result.few_shot,
        scores=scores,
        cut_answers=sum(one.finish_reason == "length" for one in answers),
        speed=speed_of(answers, usd_per_hour=usd_per_hour) if answers else None,
    )


def pooled(group: str, results: Sequence[TaskResult]) -> Summary:
    """The tasks of a group as one, each item with the same weight."""
    items = tuple(item for one in results for item in one.items)
    return summary_of(replace(results[0], task=group, items=items, aggregates={}))


def speed_of(answers: Sequence[Answer], *, usd_per_hour: float | None = None) -> Speed:
    """The speed of the answers that arrived. `usd_per_hour` is what the machine that gave them costs.

    >>> two = [Answer(name, "a b", "stop", tokens=20, seconds=2.0, at_once=2) for name in "12"]
    >>> found = speed_of(two, usd_per_hour=0.36)
    >>> found.tokens_per_second, found.machine_tokens_per_second, found.usd_per_million_tokens
    (10.0, 20.0, 5.0)
    """
    timed = [one for one in answers if one.error is None and one.tokens and one.seconds > 0]
    tokens = sum(one.tokens or 0 for one in timed)
    rate = tokens / sum(one.seconds for one in timed) if timed else None
    machine = tokens / sum(one.seconds / one.at_once for one in timed) if timed else None
    firsts = [one.first_token_seconds for one in answers if one.first_token_seconds is not None]
    price = usd_per_hour / 3600 / machine * 1e6 if machine and usd_per_hour is not None else None
    return Speed(len(timed), tokens, statistics.median(firsts) if firsts else None, rate, machine, price)

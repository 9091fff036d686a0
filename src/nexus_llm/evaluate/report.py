"""The evaluation as JSON for programs and as one self-contained HTML page for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any

from nexus_llm.evaluate.comparison import Comparison
from nexus_llm.evaluate.comparison_tasks import TaskComparison, compare_tasks
from nexus_llm.evaluate.contamination import Contamination
from nexus_llm.evaluate.gate import GatedComparison, Verdict, finite, gate_json, overall, percent, signed
from nexus_llm.evaluate.plots import interval_plot, scatter_plot, task_plot
from nexus_llm.evaluate.results import ItemResult, TaskResult
from nexus_llm.records import Sample

_HEADLINES: dict[Verdict, str] = {
    "pass": "The tuned model may replace its base.",
    "fail": "The tuned model should not replace its base.",
    "inconclusive": "The data cannot tell yet whether the tuned model may replace its base.",
}
_SETS = {
    "domain": ("Held-out domain text", "must fall"),
    "general": ("General text", "may not rise much"),
}


@dataclass(frozen=True, slots=True)
class PairedScore:
    """One document under both models."""

    set: str
    """`domain` or `general`."""
    id: str
    origin: str
    """Where the document comes from, for people."""
    tokens: int
    base_nll: float
    """Negative log-likelihood of all its tokens in nats, by the base model."""
    tuned_nll: float


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One task that both models went through."""

    base: TaskResult
    tuned: TaskResult
    change: TaskComparison
    """Without a limit: rules are judged in the gate."""
    overlap: Contamination | None = None
    """Items of which the training text holds a part; None where nobody looked."""

    def disagreements(self, count: int = 2) -> list[tuple[ItemResult, ItemResult]]:
        """The first items that the two models did not do equally well."""
        tuned = {one.id: one for one in self.tuned.items}
        pairs = [(one, tuned[one.id]) for one in self.base.items if one.id in tuned]
        return [pair for pair in pairs if pair[0].scores != pair[1].scores][:count]


def task_report(
    base: TaskResult, tuned: TaskResult, *, confidence: float, seed: int, overlap: Contamination | None = None
) -> TaskReport:
    """What the page says about one task.

    Raises:
        EvaluationError: the two results cannot be compared.
    """
    change = compare_tasks(base, tuned, rule="max_regression", confidence=confidence, seed=seed)
    return TaskReport(base, tuned, change, overlap)


@dataclass(frozen=True)
class Report:
    """Everything that the pages say."""

    name: str
    """Of the run."""
    base: str
    """Of the base model, as the recipe names it."""
    gated: tuple[GatedComparison, ...]
    scores: tuple[PairedScore, ...]
    samples: tuple[Sample, ...]
    max_tokens_per_document: int
    inputs: dict[str, str]
    """Kind → id of the artifacts that were compared."""
    tasks: tuple[TaskReport, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The part that says how was measured, for whoever repeats it."""


def report_json(report: Report) -> dict[str, Any]:
    """The report as JSON values. Ends of an interval that does not exist are null."""
    values = {
        "name": report.name,
        "base": report.base,
        "gate": gate_json(report.gated),
        "samples": [asdict(one) for one in report.samples],
        "max_tokens_per_document": report.max_tokens_per_document,
        "inputs": report.inputs,
    }
    return values | {"tasks": [_task_json(one) for one in report.tasks]} if report.tasks else values


def report_html(report: Report) -> str:
    """The report as one HTML page without scripts or links; everything that came from outside is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"percent": percent, "number": number, "signed": signed, "score": score, "p_value": p_value}
    environment.filters["overlap"] = overlap
    source = (resources.files("nexus_llm.evaluate") / "report_page.html").read_text(encoding="utf-8")
    verdict = overall(one.verdict for one in report.gated)
    perplexities = [one for one in report.gated if isinstance(one.comparison, Comparison)]
    rules = [one for one in report.gated if isinstance(one.comparison, TaskComparison)]
    return environment.from_string(source).render(
        report=report,
        verdict=verdict,
        headline=_HEADLINES[verdict],
        sets=_SETS,
        perplexities=perplexities,
        rules=rules,
        recipe=json.dumps(report.recipe, indent=2, ensure_ascii=False),
        intervals=Markup(interval_plot(perplexities)),  # noqa: S704 - built from numbers and our own words
        task_intervals=Markup(task_plot(rules)) if rules else "",  # noqa: S704 - names in it are escaped
        scatter=Markup(scatter_plot([(one.set, one.origin, *_perplexities(one)) for one in report.scores])),  # noqa: S704
    )


def number(value: float) -> str:
    """A perplexity with three or four digits that count.

    >>> number(16.5338), number(1234.5), number(4.2)
    ('16.53', '1,234', '4.20')
    """
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def score(value: float | None) -> str:
    """A score with three digits.

    >>> score(0.8123), score(None)
    ('0.812', '–')
    """
    return "–" if value is None else f"{value:.3f}"


def overlap(found: Contamination | None) -> str:
    """How much of a task stands in the training text.

    >>> overlap(Contamination(50, 40, ("3",))), overlap(Contamination(2, 0, ())), overlap(None)
    ('1 of 40 (2.5%)', 'items too short', 'not known')
    """
    if found is None or found.share is None:
        return "not known" if found is None else "items too short"
    return f"{len(found.overlapping)} of {found.checked:,} ({found.share:.1%})"


def p_value(value: float) -> str:
    """Four digits.

    >>> p_value(0.02469), p_value(0.00000012)
    ('0.0247', '< 0.0001')
    """
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def _task_json(task: TaskReport) -> dict[str, Any]:
    change = task.change
    found = {"base_score": change.base_score, "tuned_score": change.tuned_score, "change": change.change}
    overlap = asdict(task.overlap) | {"share": task.overlap.share} if task.overlap else None
    interval = {"low": change.low, "high": change.high, "contamination": overlap}
    counts = {"asked": change.asked, "base_errors": change.base_errors, "tuned_errors": change.tuned_errors}
    return finite(task.tuned.identity() | counts | found | interval)


def _perplexities(one: PairedScore) -> tuple[float, float]:
    return math.exp(one.base_nll / one.tokens), math.exp(one.tuned_nll / one.tokens)

"""The evaluation as JSON for programs and as one self-contained HTML page for people."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from nexus_llm.evaluate.gate import GatedComparison, Verdict, overall, percent
from nexus_llm.evaluate.plots import interval_plot, scatter_plot
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


def report_json(report: Report) -> dict[str, Any]:
    """The report as JSON values. Ends of an interval that does not exist are null."""
    return {
        "name": report.name,
        "base": report.base,
        "gate": {
            "verdict": overall(one.verdict for one in report.gated),
            "comparisons": [_comparison_json(one) for one in report.gated],
        },
        "samples": [asdict(one) for one in report.samples],
        "max_tokens_per_document": report.max_tokens_per_document,
        "inputs": report.inputs,
    }


def report_html(report: Report) -> str:
    """The report as one HTML page without scripts or links; everything that came from outside is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"percent": percent, "number": number}
    source = (resources.files("nexus_llm.evaluate") / "report_page.html").read_text(encoding="utf-8")
    verdict = overall(one.verdict for one in report.gated)
    return environment.from_string(source).render(
        report=report,
        verdict=verdict,
        headline=_HEADLINES[verdict],
        sets=_SETS,
        intervals=Markup(interval_plot(report.gated)),  # noqa: S704 - built from numbers and our own words
        scatter=Markup(scatter_plot([(one.set, one.origin, *_perplexities(one)) for one in report.scores])),  # noqa: S704
    )


def number(value: float) -> str:
    """A perplexity with three or four digits that count.

    >>> number(16.5338), number(1234.5), number(4.2)
    ('16.53', '1,234', '4.20')
    """
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _comparison_json(gated: GatedComparison) -> dict[str, Any]:
    values = {
        key: value if not isinstance(value, float) or math.isfinite(value) else None
        for key, value in asdict(gated.comparison).items()
    }
    return {**values, "limit": gated.limit, "verdict": gated.verdict, "reason": gated.reason}


def _perplexities(one: PairedScore) -> tuple[float, float]:
    return math.exp(one.base_nll / one.tokens), math.exp(one.tuned_nll / one.tokens)

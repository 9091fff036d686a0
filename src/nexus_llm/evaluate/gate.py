"""May the tuned model replace its base? Pass, fail, or inconclusive: the data cannot tell."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from nexus_llm.evaluate.comparison import MIN_DOCUMENTS, Comparison

Verdict = Literal["pass", "inconclusive", "fail"]
_FROM_BEST: tuple[Verdict, ...] = ("pass", "inconclusive", "fail")

# Beyond this, "more documents" is no advice.
_MAX_DOCUMENTS_NEEDED = 100_000


@dataclass(frozen=True, slots=True)
class GatedComparison:
    """A comparison held against its limit."""

    comparison: Comparison
    limit: float
    """The change of perplexity that may not be exceeded, as a share: −0.02 asks for a drop of at least 2 %."""
    verdict: Verdict
    reason: str
    """One sentence for people."""


def judge_domain(comparison: Comparison, *, min_improvement: float) -> GatedComparison:
    """Pass where the whole interval lies below `-min_improvement`, fail where none of it does."""
    limit = -min_improvement or 0.0
    verdict: Verdict = "pass" if comparison.high < limit else "fail" if comparison.low >= limit else "inconclusive"
    return GatedComparison(comparison, limit, verdict, _reason(comparison, limit, verdict))


def judge_general(comparison: Comparison, *, max_regression: float) -> GatedComparison:
    """Pass where the whole interval lies at or below `max_regression`, fail where none of it does."""
    limit = max_regression
    verdict: Verdict = "pass" if comparison.high <= limit else "fail" if comparison.low > limit else "inconclusive"
    return GatedComparison(comparison, limit, verdict, _reason(comparison, limit, verdict))


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of all.

    >>> overall(["pass", "fail", "inconclusive"])
    'fail'
    """
    return max(verdicts, key=_FROM_BEST.index)


def documents_needed(comparison: Comparison, limit: float) -> int | None:
    """About how many documents would decide, if the change stayed as measured; None where nobody can say.

    The interval shrinks with the square root of the number of documents.
    """
    distance = abs(comparison.change - limit)
    if not math.isfinite(comparison.high) or distance == 0:
        return None
    side = comparison.high - comparison.change if comparison.change < limit else comparison.change - comparison.low
    ratio = side / distance
    needed = comparison.documents * ratio * ratio
    return math.ceil(needed) if needed <= _MAX_DOCUMENTS_NEEDED else None


def percent(share: float) -> str:
    """A share as a signed percentage.

    >>> percent(-0.0834), percent(0.0), percent(math.inf)
    ('−8.3 %', '0.0 %', 'unknown')
    """
    if not math.isfinite(share):
        return "unknown"
    shown = f"{abs(share):.1%}".replace("%", " %")
    return shown if float(shown[:-2]) == 0 else f"{'−' if share < 0 else '+'}{shown}"


def _reason(comparison: Comparison, limit: float, verdict: Verdict) -> str:
    if comparison.documents < MIN_DOCUMENTS:
        return f"{comparison.documents} documents are too few for an interval; at least {MIN_DOCUMENTS} are needed"
    interval, line = (
        f"{percent(comparison.low)} to {percent(comparison.high)}",
        percent(limit) if limit else "no change",
    )
    if verdict == "pass":
        return f"the whole interval ({interval}) is below {line}"
    if verdict == "fail":
        return f"the whole interval ({interval}) is above {line}"
    needed = documents_needed(comparison, limit)
    advice = f"; about {needed:,} documents would decide" if needed else ""
    return f"the interval ({interval}) holds {line}{advice}"

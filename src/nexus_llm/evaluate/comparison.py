"""Two models on the same documents: the change of perplexity with a confidence interval.

The documents, not the tokens, are drawn again: tokens of one document are not independent. The interval is that of
the bootstrap-t (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 12.5). In a simulation with 16
documents and skewed differences it missed the truth on one side in 6 % of cases at a nominal 2.5 %, where the
percentile method missed it in 12 % and BCa in 10 %; with symmetric ones in 2–3 % against 4–5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nexus_llm.errors import DataError
from nexus_llm.evaluate.comparison_statistics import Effect, bootstrap_t
from nexus_llm.records import DocumentScore


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base against tuned on one set of documents."""

    name: str
    documents: int
    tokens: int
    """Predicted tokens in all documents."""
    base_perplexity: float
    tuned_perplexity: float
    change: float
    """tuned / base − 1: below 0 the tuned model predicts better."""
    low: float
    """Lower end of the confidence interval of `change`; −1 where there are too few documents."""
    high: float
    """Upper end; infinite where there are too few documents."""
    confidence: float
    effect: Effect | None = field(default=None, repr=False, compare=False)
    """The change in nats a token, for p-values."""


def compare(
    name: str,
    base: Sequence[DocumentScore],
    tuned: Sequence[DocumentScore],
    *,
    confidence: float,
    seed: int,
) -> Comparison:
    """The paired comparison of two models' scores of the same documents.

    Raises:
        DataError: the two lists are not about the same tokens of the same documents, or are empty.
    """
    if [(one.id, one.tokens) for one in base] != [(one.id, one.tokens) for one in tuned]:
        raise DataError(
            f"the two models were scored on different {name} documents, so they cannot be compared",
            fix="delete the evaluate artifact and run the same command",
        )
    if sum(one.tokens for one in base) == 0:
        raise DataError(f"there is no {name} text to score", fix="give more text, or relax data.quality")
    weights = np.array([one.tokens for one in base], np.float64)
    differences = np.array(
        [b.negative_log_likelihood - a.negative_log_likelihood for a, b in zip(base, tuned, strict=True)], np.float64
    )
    effect = bootstrap_t(differences, weights, seed=seed)
    low, high = effect.interval(confidence)
    return Comparison(
        name=name,
        documents=len(base),
        tokens=int(weights.sum()),
        base_perplexity=perplexity(base),
        tuned_perplexity=perplexity(tuned),
        change=math.expm1(effect.estimate),
        low=_as_share(low),
        high=_as_share(high),
        confidence=confidence,
        effect=effect,
    )


def perplexity(scores: Sequence[DocumentScore]) -> float:
    """exp of the mean negative log-likelihood of a token, over all documents.

    >>> round(perplexity([DocumentScore("a", tokens=3, negative_log_likelihood=3 * math.log(7))]), 6)
    7.0
    """
    return math.exp(sum(one.negative_log_likelihood for one in scores) / sum(one.tokens for one in scores))


def _as_share(nats: float) -> float:
    """exp(nats) − 1, infinite where no float holds it: a few odd documents can leave an interval without end."""
    return math.expm1(nats) if nats < 700 else math.inf

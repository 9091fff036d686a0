"""The gate between a package and its existence: trained = merged = quantised = served, on held-out text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nexus_llm.errors import PackagingError
from nexus_llm.package.divergence import Divergence, Float32, divergence
from nexus_llm.recipe.package import Compared, EquivalenceLimits, EquivalenceRecipe

ROW_TOKENS = 128
_MIN_ROW_TOKENS = 8
# Digits kept of a number: noise between two runs of one machine must not change an artifact.
_DIGITS = 3

Rows = list[list[int]]
Predictions = Callable[[], Iterable[Float32]]
"""For each row the log-probabilities of every next token, shape (tokens - 1, vocabulary)."""


def held_out_rows(data: Path, *, tokens: int, longest: int = ROW_TOKENS) -> Rows:
    """Token ids of held-out documents, `tokens` in all at most: the beginnings of validation documents, then of test
    documents. Empty where there are none."""
    rows: Rows = []
    for shard in [*sorted(data.glob("validation-*.tokens.npy")), *sorted(data.glob("test-*.tokens.npy"))]:
        found = np.load(shard, mmap_mode="r", allow_pickle=False)
        bounds = np.load(shard.with_name(shard.name.replace(".tokens.", ".offsets.")), allow_pickle=False)
        for start, end in pairwise(bounds.tolist()):
            room = min(end - start, longest, tokens - sum(map(len, rows)))
            if room >= _MIN_ROW_TOKENS:
                rows.append(found[start : start + room].tolist())
    return rows


def check_equivalence(
    reference: Sequence[Float32],
    others: Mapping[Compared, Predictions],
    rows: Rows,
    recipe: EquivalenceRecipe,
    *,
    on_tokens: Callable[[int], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Each other form beside the reference: its measures and their limits. `on_tokens` hears how many were compared.

    Raises:
        PackagingError: one lies beyond a limit; it is named with all its numbers.
    """
    facts: dict[str, dict[str, Any]] = {}
    for name, predictions in others.items():
        try:
            found = heard(predictions(), rows, on_tokens)
            measured = divergence(
                (before, after, row[1:]) for before, after, row in zip(reference, found, rows, strict=True)
            )
        except ValueError as error:
            raise PackagingError(
                f"{name} is not the model that was trained: {error}",
                fix="package again; if it stays so, leave that format out of package.formats",
            ) from error
        facts[name] = _judged(name, measured, recipe.limits_for(name))
    return facts


def heard(given: Iterable[Float32], rows: Rows, on_tokens: Callable[[int], None]) -> Iterator[Float32]:
    """The same predictions; `on_tokens` hears of each row as it comes."""
    for predicted, row in zip(given, rows, strict=True):
        on_tokens(len(row))
        yield predicted


Check = tuple[float, float, float, Literal["at most", "at least"]]
"""What is told, what is held against the limit, the limit, and on which side of it is good."""


def judged(name: str, checks: Mapping[str, Check], *, about: str) -> dict[str, Any]:
    """The measures, rounded, with their limits.

    Raises:
        PackagingError: one lies beyond its limit; those that do are named with their numbers.
    """
    broken = [
        f"{measure} {told:.3g} ({side} {limit:.3g})"
        for measure, (told, held, limit, side) in checks.items()
        if not (held >= limit if side == "at least" else held <= limit)
    ]
    if broken:
        raise PackagingError(
            f"{name} is not the model that was trained: {', '.join(broken)}, on {about}",
            fix="package again; if it stays so, the merge or the engine is broken: do not ship it"
            if name in ("merged", "served")
            else f"leave {name} out of package.formats, or widen package.equivalence.limits.{name} knowingly",
        )
    return {
        **{measure: _rounded(told) for measure, (told, *_) in checks.items()},
        "limits": {measure: limit for measure, (_, _, limit, _) in checks.items()},
    }


def _judged(name: Compared, found: Divergence, limits: EquivalenceLimits) -> dict[str, Any]:
    change = found.perplexity_change_share
    measures: dict[str, Check] = {
        "mean_kl": (found.mean_kl, found.mean_kl, limits.max_mean_kl, "at most"),
        "max_kl": (found.max_kl, found.max_kl, limits.max_kl, "at most"),
        "top_1_share": (found.top_1_share, found.top_1_share, limits.min_top_1_share, "at least"),
        "perplexity_change_share": (change, abs(change), limits.max_perplexity_change_share, "at most"),
    }
    about = (
        f"{found.tokens:,} held-out tokens (perplexity {found.perplexity:.4g}, where training left "
        f"{found.reference_perplexity:.4g})"
    )
    return {"perplexity": _rounded(found.perplexity), **judged(name, measures, about=about)}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")

"""Which documents are worth learning from: simple rules on the text as it came, each with a name and a value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import polars as pl


class Limits(Protocol):
    """The thresholds; `QualityRecipe` has them."""

    @property
    def min_characters(self) -> int: ...
    @property
    def max_characters(self) -> int: ...
    @property
    def min_alphabetic_share(self) -> float: ...
    @property
    def max_repeated_line_share(self) -> float: ...
    @property
    def min_mean_word_characters(self) -> float: ...
    @property
    def max_mean_word_characters(self) -> float: ...


# (rule, measured column, what a rejected document is told)
_RULES = (
    ("min_characters", "characters", "too short"),
    ("max_characters", "characters", "too long"),
    ("min_alphabetic_share", "alphabetic_share", "too few letters"),
    ("max_repeated_line_share", "repeated_line_share", "too many repeated lines"),
    ("min_mean_word_characters", "mean_word_characters", "words too short for prose"),
    ("max_mean_word_characters", "mean_word_characters", "words too long for prose"),
)


def judge(texts: Iterable[str], limits: Limits) -> pl.DataFrame:
    """One row a text: `rule` (the first that it breaks, or null), `reason` and the measured `value`."""
    verdict = pl.coalesce([_verdict(rule, column, reason, getattr(limits, rule)) for rule, column, reason in _RULES])
    nothing = {"rule": pl.String, "reason": pl.String, "value": pl.Float64}
    return measure(texts).select(verdict=verdict.cast(pl.Struct(nothing))).unnest("verdict")


def measure(texts: Iterable[str]) -> pl.DataFrame:
    """What the rules look at, one row a text: characters, two shares in 0–1, and mean characters of a word."""
    texts = list(texts)
    text = pl.col("text")
    visible = text.str.replace_all(r"\s+", "").str.len_chars()
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(
        characters=text.str.len_chars(),
        # Letters as Unicode counts them, with the marks that belong to them: Hindi is not made of symbols.
        alphabetic_share=_share(text.str.replace_all(r"[^\p{L}\p{M}]+", "").str.len_chars(), visible),
        mean_word_characters=_share(visible, text.str.count_matches(r"\S+")),
    )
    return frame.with_columns(
        repeated_line_share=pl.Series([repeated_line_share(one) for one in texts], dtype=pl.Float64)
    )


def repeated_line_share(text: str) -> float:
    """Share of a text's characters that stand in lines which repeat an earlier line; white space at the ends and
    empty lines do not count.

    >>> repeated_line_share("buy now\\nbuy now\\nread it")
    0.3333333333333333
    """
    seen: set[str] = set()
    total = repeated = 0
    for line in text.splitlines():
        stripped = line.strip()
        total += len(stripped)
        if stripped in seen:
            repeated += len(stripped)
        seen.add(stripped)
    return repeated / total if total else 0.0


def _verdict(rule: str, column: str, reason: str, limit: float) -> pl.Expr:
    """What a document is told that breaks the rule; null for one that does not."""
    value = pl.col(column)
    is_broken = value < limit if rule.startswith("min_") else value > limit
    return pl.when(is_broken).then(pl.struct(rule=pl.lit(rule), reason=pl.lit(reason), value=value.cast(pl.Float64)))


def _share(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    """part / whole, and 0 where there is nothing to divide."""
    return pl.when(whole > 0).then(part / whole).otherwise(0.0)

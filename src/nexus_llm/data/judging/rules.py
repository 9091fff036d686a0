"""Whether a text is worth learning from: the published rules of rules.yaml, each with a name, a value and a source."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nexus_llm.errors import UsageError

_SHIPPED = Path(__file__).with_name("rules.yaml")

VERDICT = {"rule": pl.String, "reason": pl.String, "value": pl.Float64}


class DatatroveRule(BaseModel):
    """The same rule in datatrove 0.10; statistic and threshold only where they differ from ours."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    filter: str
    option: str
    reason: str
    """What its filter answers for a text that breaks the rule."""
    statistic: str | None = None
    threshold: float | None = None


class Rule(BaseModel):
    """One bound on one statistic. A text that lies exactly on the bound is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    family: str
    statistic: str
    at_least: float | None = None
    at_most: float | None = None
    unit: str
    reason: str
    """What a person is told of a text that breaks the rule."""
    source: str
    languages: tuple[str, ...] | Literal["any"] = "any"
    assumes_spaces: bool = False
    """Means nothing in languages that are written without spaces between words."""
    deviation: str | None = None
    """Where we knowingly differ from the source or from datatrove, and why."""
    datatrove: DatatroveRule | None = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> Rule:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("needs at_least or at_most, one of the two")
        return self

    @property
    def threshold(self) -> float:
        """The bound."""
        bound = self.at_most if self.at_least is None else self.at_least
        assert bound is not None
        return bound

    def is_broken(self, threshold: float) -> pl.Expr:
        """Whether a row of `measure` lies beyond the threshold."""
        value = pl.col(self.statistic)
        return value > threshold if self.at_least is None else value < threshold


class Spec(BaseModel):
    """All rules, in the order in which they are asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1]
    families: dict[str, str]
    """What each set of rules is for."""
    rules: tuple[Rule, ...]

    @model_validator(mode="after")
    def _names_fit(self) -> Spec:
        names = [rule.id for rule in self.rules]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"rule {doubled[0]} is there twice")
        unknown = sorted({rule.family for rule in self.rules} - self.families.keys())
        if unknown:
            raise ValueError(f"family {unknown[0]} is not described under families")
        return self


def load_spec() -> Spec:
    """The rules that ship with the package."""
    return Spec.model_validate(yaml.safe_load(_SHIPPED.read_text(encoding="utf-8")))


def judge(
    texts: pl.Series, spec: Spec, *, families: Sequence[str], overrides: Mapping[str, float | None]
) -> pl.DataFrame:
    """One row a text, columns of VERDICT: the first rule in the spec's order that it breaks, or three nulls.

    Only rules of these families are asked. `overrides` has other thresholds by rule; None switches a rule off.

    Raises:
        UsageError: a family or rule that the spec does not have.
    """
    from nexus_llm.data.judging.text_statistics import PLAIN_STATISTICS, measure

    asked = asked_rules(spec, families, overrides)
    if not asked:
        return pl.DataFrame({name: pl.Series([None] * len(texts), dtype=kind) for name, kind in VERDICT.items()})
    with_words = any(rule.statistic not in PLAIN_STATISTICS for rule, _ in asked)
    verdicts = [
        pl.when(rule.is_broken(threshold)).then(
            pl.struct(rule=pl.lit(rule.id), reason=pl.lit(rule.reason), value=pl.col(rule.statistic))
        )
        for rule, threshold in asked
    ]
    measured = measure(texts, with_words=with_words)
    return measured.select(verdict=pl.coalesce(verdicts).cast(pl.Struct(VERDICT))).unnest("verdict")


def asked_rules(spec: Spec, families: Sequence[str], overrides: Mapping[str, float | None]) -> list[tuple[Rule, float]]:
    """The rules to ask and their thresholds, in the spec's order.

    Raises:
        UsageError: a family or rule that is none.
    """
    for name in families:
        if name not in spec.families:
            raise UsageError(f"there is no family of rules {name!r}", fix=f"take some of {', '.join(spec.families)}")
    known = [rule.id for rule in spec.rules]
    for name in overrides:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
            raise UsageError(f"there is no rule {name!r} to set a threshold for", fix=f"near: {', '.join(near)}")
    asked = []
    for rule in spec.rules:
        threshold = overrides.get(rule.id, rule.threshold)
        if rule.family in families and threshold is not None:
            asked.append((rule, float(threshold)))
    return asked

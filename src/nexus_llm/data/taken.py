"""What judging needs, and what it gives: told without the compiled code that does it, which worker processes import."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from nexus_llm.data.duplicates.bands import BANDS
from nexus_llm.data.reading.blocks import BrokenRecord
from nexus_llm.recipe import DataRecipe

if TYPE_CHECKING:
    from nexus_llm.data.judging import block_lists, decontaminate, language, rules

_EXCERPT_CHARACTERS = 200

KEPT_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "ordinal": pl.UInt64,
    "id": pl.String,
    "source": pl.String,
    "origin": pl.String,
    "text": pl.String,
    # `rows.conversation_json` for a conversation, a preference, and either with tools; null for running text.
    "messages": pl.String,
    "language": pl.String,
    "characters": pl.UInt32,
    "content_hash": pl.String,
    "band_keys": pl.Array(pl.UInt64, BANDS),
}
REJECTED_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "ordinal": pl.UInt64,
    "id": pl.String,
    "source": pl.String,
    "origin": pl.String,
    "reason": pl.String,
    "rule": pl.String,
    "value": pl.Float64,
    "excerpt": pl.String,
}


@dataclass(frozen=True)
class Tools:
    """What judging needs besides the recipe, read once and the same for every block. Can be pickled."""

    recipe: DataRecipe
    spec: rules.Spec
    language_model: language.Model | None = None
    blocked: block_lists.BlockLists | None = None
    evaluation_index: decontaminate.Index | None = None
    erased_ids: frozenset[str] = frozenset()


@dataclass
class Taken:
    """What became of the records of one or several blocks, each counted exactly once."""

    kept: pl.DataFrame
    """Columns of KEPT_SCHEMA, in the order of ordinals."""
    rejected: pl.DataFrame
    """Columns of REJECTED_SCHEMA, likewise."""
    broken: list[BrokenRecord] = field(default_factory=list)
    read: Counter[str] = field(default_factory=Counter)
    """Source → usable records."""
    personal: Counter[str] = field(default_factory=Counter)
    """Entity → how often it was found in text that was kept or dropped for it."""
    contaminated: Counter[str] = field(default_factory=Counter)
    """Evaluation set → documents that hold a part of it."""


def rejections(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of REJECTED_SCHEMA from documents with their `reason`, `rule` and `value`."""
    excerpt = pl.col("text").str.slice(0, 2 * _EXCERPT_CHARACTERS).str.replace_all(r"\s+", " ").str.strip_chars()
    return frame.with_columns(excerpt=excerpt.str.slice(0, _EXCERPT_CHARACTERS)).select(
        pl.col(name).cast(kind) for name, kind in REJECTED_SCHEMA.items()
    )

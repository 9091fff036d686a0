"""What is decided about all documents together: who repeats whom, and who is held out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from nexus_llm.data.intake import rejections
from nexus_llm.data.split import Borders, cluster_numbers, split_of

DUPLICATES_SCHEMA = {
    "ordinal": pl.UInt64,
    "cluster": pl.String,
    "representative": pl.UInt64,
    "copy_of": pl.UInt64,
    "jaccard": pl.Float64,
    "representative_id": pl.String,
    "copy_of_id": pl.String,
}
"""Only documents that are not alone; `ordinal` ascending."""


@dataclass(frozen=True)
class Decisions:
    """What was decided about all documents together. Can be pickled."""

    duplicates: pl.DataFrame
    """Columns of DUPLICATES_SCHEMA."""
    borders: Borders
    keep_near: bool
    """Near-duplicates stay (in one split)."""
    seed: int

    def about(self, first: int, last: int) -> Decisions:
        """What concerns the ordinals `first` to `last` alone."""
        return replace(self, duplicates=self.duplicates.filter(pl.col("ordinal").is_between(first, last)))

    def part(self, kept: pl.DataFrame) -> Decided:
        """What becomes of rows with the columns of `intake.KEPT_SCHEMA`."""
        rows = clusters_of(kept, self.duplicates)
        is_copy = pl.col("copy_of") != pl.col("ordinal")
        is_near = pl.lit(not self.keep_near) & (pl.col("representative") != pl.col("ordinal"))
        rows = rows.with_columns(
            rule=pl.when(is_copy).then(pl.lit("exact_duplicate")).when(is_near).then(pl.lit("near_duplicate")),
            reason=pl.when(is_copy)
            .then(pl.format("equal to {}", "copy_of_id"))
            .when(is_near)
            .then(pl.format("nearly equal to {}", "representative_id")),
            value=pl.when(is_copy).then(1.0).otherwise("jaccard"),
        )
        staying = rows.filter(pl.col("rule").is_null()).select(*kept.columns, "cluster")
        staying = staying.with_columns(
            split=split_of(cluster_numbers(staying["cluster"], seed=self.seed), self.borders)
        )
        return Decided(staying, rejections(rows.filter(pl.col("rule").is_not_null())))


@dataclass(frozen=True)
class Decided:
    """The documents of some rows, parted."""

    staying: pl.DataFrame
    """Columns of `intake.KEPT_SCHEMA`, `cluster` and `split`."""
    repeated: pl.DataFrame
    """Rejections of exact and near duplicates."""


def clusters_of(kept: pl.DataFrame, duplicates: pl.DataFrame) -> pl.DataFrame:
    """`kept` (at least `ordinal`, `content_hash`) with `cluster` and what `duplicates` says; alone: its own cluster."""
    joined = kept.join(duplicates, on="ordinal", how="left", maintain_order="left")
    return joined.with_columns(
        cluster=pl.coalesce("cluster", "content_hash"),
        representative=pl.coalesce("representative", "ordinal"),
        copy_of=pl.coalesce("copy_of", "ordinal"),
    )

"""What is decided about all documents together: who repeats whom, and who is held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from nexus_llm.data.duplicates.split import BORDER_CLUSTERS, Borders, cluster_numbers, split_borders, split_of
from nexus_llm.data.segments import Segments
from nexus_llm.data.taken import rejections
from nexus_llm.recipe import DataRecipe

if TYPE_CHECKING:
    # Compiled code: the process that only hands out work never needs it.
    from nexus_llm.data.duplicates import minhash
    from nexus_llm.data.duplicates.find import Signed

# Of the process that compares documents; the rest of the engine needs about as much again.
_MEMORY_BYTES = 150 * 2**20
# Texts whose shingles are made at once while pairs are verified.
_SHINGLED_AT_ONCE = 256

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
        return replace(self, duplicates=between(self.duplicates, first, last))

    def part(self, kept: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """(who stays, with `cluster` and `split`; the rejections of copies) of rows of `taken.KEPT_SCHEMA`."""
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
        return staying, rejections(rows.filter(pl.col("rule").is_not_null()))


def clusters_of(kept: pl.DataFrame, duplicates: pl.DataFrame) -> pl.DataFrame:
    """`kept` (at least `ordinal`, `content_hash`) with `cluster` and what `duplicates` says; alone: its own cluster."""
    joined = kept.join(duplicates, on="ordinal", how="left", maintain_order="left")
    return joined.with_columns(
        cluster=pl.coalesce("cluster", "content_hash"),
        representative=pl.coalesce("representative", "ordinal"),
        copy_of=pl.coalesce("copy_of", "ordinal"),
    )


class DecideWorker:
    """Decides about the whole corpus, out of what the first pass left on disk."""

    def __init__(
        self, recipe: DataRecipe, seed: int, taken: Segments, work: Path, stop_if_asked: Callable[[], None]
    ) -> None:
        self._recipe = recipe
        self._seed = seed
        self._taken = taken
        self._work = work
        self._stop_if_asked = stop_if_asked

    def __call__(self, numbers: Sequence[int]) -> Decisions:
        from nexus_llm.data.duplicates.find import SCHEMA, find_duplicates

        frames = find_duplicates(
            (self._signed(number) for number in numbers),
            lambda ordinals: self._shingles(numbers, ordinals),
            work=self._work,
            jaccard=self._recipe.near_duplicates.jaccard,
            memory_bytes=_MEMORY_BYTES,
            advance=lambda _: self._stop_if_asked(),
        )
        duplicates = self._named(pl.concat([pl.DataFrame(schema=SCHEMA), *frames]), numbers)
        borders = self._borders(numbers, duplicates)
        return Decisions(duplicates, borders, self._recipe.near_duplicates.keep == "all", self._seed)

    def _signed(self, number: int) -> Signed:
        from nexus_llm.data.duplicates.find import Signed

        rows = self._taken.kept(number, ["ordinal", "content_hash", "characters", "band_keys"])
        return Signed.of(rows)

    def _shingles(
        self, numbers: Sequence[int], ordinals: npt.NDArray[np.uint64]
    ) -> Iterator[tuple[int, minhash.Hashes]]:
        """The shingle set of each document in `ordinals`, which ascend."""
        from nexus_llm.data.duplicates import minhash

        words = self._recipe.near_duplicates.shingle_words
        for number in numbers:
            places = self._taken.kept(number, ["ordinal"])["ordinal"]
            wanted = ordinals[np.searchsorted(ordinals, places[0]) : np.searchsorted(ordinals, places[-1], "right")]
            if not len(wanted):
                continue
            self._stop_if_asked()
            rows = self._taken.kept(number, ["ordinal", "text"]).filter(pl.col("ordinal").is_in(wanted.tolist()))
            for part in rows.iter_slices(_SHINGLED_AT_ONCE):
                hashes, offsets = minhash.shingle_sets(part["text"], words=words)
                for place, ordinal in enumerate(part["ordinal"]):
                    yield ordinal, hashes[offsets[place] : offsets[place + 1]]

    def _named(self, duplicates: pl.DataFrame, numbers: Sequence[int]) -> pl.DataFrame:
        """The table with the ids of the documents that others repeat."""
        wanted = pl.concat([duplicates["representative"], duplicates["copy_of"]]).unique().sort()
        found = [pl.DataFrame(schema={"ordinal": pl.UInt64, "id": pl.String})]
        for number in numbers if len(wanted) else ():
            rows = self._taken.kept(number, ["ordinal", "id"]).join(wanted.to_frame("ordinal"), on="ordinal")
            # Lists, because a column that was taken out of a mapped file keeps all of it in memory.
            found.append(pl.DataFrame(rows.to_dict(as_series=False), schema=found[0].schema))
        names = pl.concat(found)
        return (
            duplicates.join(names.rename({"id": "representative_id"}), left_on="representative", right_on="ordinal")
            .join(names.rename({"id": "copy_of_id"}), left_on="copy_of", right_on="ordinal")
            .sort("ordinal")
            .select(pl.col(name).cast(kind) for name, kind in DUPLICATES_SCHEMA.items())
        )

    def _borders(self, numbers: Sequence[int], duplicates: pl.DataFrame) -> Borders:
        """Where the held-out splits begin and end among the numbers of all clusters."""
        count, lowest, highest = 0, np.empty(0), np.empty(0)
        for number in numbers:
            kept = self._taken.kept(number, ["ordinal", "content_hash"])
            rows = clusters_of(kept, between(duplicates, kept["ordinal"][0], kept["ordinal"][-1]))
            is_first = (rows["representative"] == rows["ordinal"]) & (rows["copy_of"] == rows["ordinal"])
            found = cluster_numbers(rows["cluster"].filter(is_first), seed=self._seed).to_numpy()
            count += len(found)
            lowest = np.sort(np.concatenate([lowest, found]))[:BORDER_CLUSTERS]
            highest = np.sort(np.concatenate([highest, found]))[-BORDER_CLUSTERS:]
        return split_borders(count, lowest.tolist(), highest.tolist(), self._recipe.split)


def do_not_stop() -> None:
    """Nobody asks a worker process to stop: it is ended."""


def between(duplicates: pl.DataFrame, first: int, last: int) -> pl.DataFrame:
    """The rows with ordinals from `first` to `last`, in a table that is sorted by them."""
    start = duplicates["ordinal"].search_sorted(first, side="left")
    return duplicates.slice(start, duplicates["ordinal"].search_sorted(last, side="right") - start)

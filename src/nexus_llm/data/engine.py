"""The embedded engine: passes over tasks in worker processes, with what grows with the corpus on disk.

    take     task → kept and rejected rows                 parallel; a finished task is never done again
    decide   band keys of all tasks → duplicates, borders  one process, spilled
    encode   kept rows → token arrays of each split        parallel; a finished task is never done again
    write    token arrays → shards                         parallel

Nothing that comes out depends on the number of workers or on where a task ends.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from nexus_llm.data.blocks import Block
from nexus_llm.data.decide import DUPLICATES_SCHEMA, Decisions, clusters_of
from nexus_llm.data.intake import BrokenRecord, Tools, take
from nexus_llm.data.segments import Segments, Summary, summary_of
from nexus_llm.data.tasks import Task, records
from nexus_llm.data.workers import run_all

if TYPE_CHECKING:
    from nexus_llm.ports import Progress

# Of the one process that compares documents; the rest of the engine needs about as much again.
_DECIDE_MEMORY_BYTES = 150 * 2**20
# Texts whose shingles are made at once while pairs are verified.
_SHINGLED_AT_ONCE = 256


@dataclass(frozen=True)
class Engine:
    """Where the passes work, and with what."""

    tools: Tools
    seed: int
    work: Path
    workers: int
    progress: Progress
    stop_if_asked: Callable[[], None]

    @property
    def taken(self) -> Segments:
        """Results of the first pass."""
        return Segments(self.work / "taken")

    def take(self, tasks: Iterable[Task]) -> Iterator[Summary]:
        """The first pass: a summary a task, in order."""
        self.taken.folder.mkdir(parents=True, exist_ok=True)
        limit = self.tools.recipe.max_documents
        if limit is None:
            yield from run_all(
                TakeWorker,
                (self.tools, self.taken),
                tasks,
                workers=self.workers,
                stop_if_asked=self.stop_if_asked,
                finished=lambda task: self.taken.summary(task.number),
            )
            return
        # A trial: how much a task may take depends on those before it, so they go one by one.
        worker = TakeWorker(self.tools, self.taken)
        for task in tasks:
            self.stop_if_asked()
            summary = self.taken.summary(task.number) or worker(replace(task, limit=limit))
            limit -= sum(summary.read.values())
            yield summary
            if limit <= 0:
                return

    def decide(self, summaries: Sequence[Summary]) -> Decisions:
        """What only all documents together can say."""
        # Imported here: the process that hands out tasks needs no compiled kernels until now.
        from nexus_llm.data.duplicates import find_duplicates

        recipe = self.tools.recipe
        numbers = [one.number for one in summaries if one.kept]
        self.progress.start("finding duplicates", total=None, unit="pairs")

        def advance(pairs: int) -> None:
            self.stop_if_asked()
            self.progress.advance(pairs)

        duplicates = find_duplicates(
            (self._signed(number) for number in numbers),
            lambda ordinals: self._shingles(numbers, ordinals),
            work=self.work / "duplicates",
            jaccard=recipe.near_duplicates.jaccard,
            memory_bytes=_DECIDE_MEMORY_BYTES,
            advance=advance,
        )
        duplicates = self._named(duplicates, numbers)
        self.progress.finish(f"{len(duplicates):,} documents are not alone")
        borders = self._borders(numbers, duplicates)
        return Decisions(duplicates, borders, keep_near=recipe.near_duplicates.keep == "all", seed=self.seed)

    def _signed(self, number: int) -> Signed:
        rows = self.taken.kept(number, ["ordinal", "content_hash", "characters", "band_keys"])
        return Signed.of(rows)

    def _shingles(self, numbers: Sequence[int], ordinals: npt.NDArray[np.uint64]) -> Iterator[tuple[int, minhash.Hashes]]:
        """The shingle set of each document in `ordinals`, which ascend."""
        words = self.tools.recipe.near_duplicates.shingle_words
        for number in numbers:
            places = self.taken.kept(number, ["ordinal"])["ordinal"]
            wanted = ordinals[np.searchsorted(ordinals, places[0]) : np.searchsorted(ordinals, places[-1], "right")]
            if not len(wanted):
                continue
            self.stop_if_asked()
            rows = self.taken.kept(number, ["ordinal", "text"]).filter(pl.col("ordinal").is_in(wanted.tolist()))
            for part in rows.iter_slices(_SHINGLED_AT_ONCE):
                hashes, offsets = minhash.shingle_sets(part["text"], words=words)
                for place, ordinal in enumerate(part["ordinal"]):
                    yield ordinal, hashes[offsets[place] : offsets[place + 1]]

    def _named(self, duplicates: pl.DataFrame, numbers: Sequence[int]) -> pl.DataFrame:
        """The table with the ids of the documents that others repeat."""
        wanted = pl.concat([duplicates["representative"], duplicates["copy_of"]]).unique().sort()
        found = [pl.DataFrame(schema={"ordinal": pl.UInt64, "id": pl.String})]
        for number in numbers if len(wanted) else ():
            found.append(self.taken.kept(number, ["ordinal", "id"]).join(wanted.to_frame("ordinal"), on="ordinal"))
        names = pl.concat(found)
        return (
            duplicates.join(names.rename({"id": "representative_id"}), left_on="representative", right_on="ordinal")
            .join(names.rename({"id": "copy_of_id"}), left_on="copy_of", right_on="ordinal")
            .sort("ordinal")
            .select(pl.col(name).cast(kind) for name, kind in DUPLICATES_SCHEMA.items())
        )

    def _borders(self, numbers: Sequence[int], duplicates: pl.DataFrame) -> split.Borders:
        """Where the held-out splits begin and end among the numbers of all clusters."""
        extremes = split.Extremes()
        for number in numbers:
            rows = clusters_of(self.taken.kept(number, ["ordinal", "content_hash"]), duplicates)
            is_first = (rows["representative"] == rows["ordinal"]) & (rows["copy_of"] == rows["ordinal"])
            extremes.add(split.cluster_numbers(rows["cluster"].filter(is_first), seed=self.seed))
        return split.split_borders(extremes, self.tools.recipe.split)


class TakeWorker:
    """The first pass on one task, in a worker process."""

    def __init__(self, tools: Tools, segments: Segments) -> None:
        self._tools = tools
        self._segments = segments

    def __call__(self, task: Task) -> Summary:
        formats: dict[str, Counter[str]] = defaultdict(Counter)
        skipped: dict[str, Counter[str]] = defaultdict(Counter)
        broken: Counter[str] = Counter()
        for piece in task.pieces:
            if isinstance(piece.content, Block):
                skipped[piece.content.source].update(piece.content.skipped)
        taken = take(records(task, formats_seen=formats), self._tools)
        summary = summary_of(task.number, taken, formats=formats, skipped=skipped)
        self._segments.save(summary, taken)
        return summary

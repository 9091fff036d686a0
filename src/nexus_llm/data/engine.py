"""The embedded engine: passes over tasks in worker processes, with what grows with the corpus on disk.

    take     task → kept and rejected rows                 parallel; a finished task is never done again
    decide   band keys of all tasks → duplicates, borders  one process, spilled
    encode   kept rows → token arrays of each split        parallel; a finished task is never done again
    write    token arrays → shards                         parallel

Nothing that comes out depends on the number of workers or on where a task ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from nexus_llm.chat import ChatTokenizer
from nexus_llm.data import minhash, shards, split, tokens
from nexus_llm.data.decide import DUPLICATES_SCHEMA, Decisions, clusters_of
from nexus_llm.data.duplicates import Signed, find_duplicates
from nexus_llm.data.intake import REJECTED_SCHEMA, Tools
from nexus_llm.data.passes import EncodeJob, EncodeResult, EncodeWorker, ShardWorker, TakeWorker
from nexus_llm.data.segments import EncodedSegments, Segments, Summary, rejection_writer
from nexus_llm.data.shards import Shard, WrittenShard
from nexus_llm.data.tasks import Task
from nexus_llm.data.workers import run_all

if TYPE_CHECKING:
    from nexus_llm.data.facts import Facts
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

    def _shingles(
        self, numbers: Sequence[int], ordinals: npt.NDArray[np.uint64]
    ) -> Iterator[tuple[int, minhash.Hashes]]:
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
        count, lowest, highest = 0, np.empty(0), np.empty(0)
        for number in numbers:
            rows = clusters_of(self.taken.kept(number, ["ordinal", "content_hash"]), duplicates)
            is_first = (rows["representative"] == rows["ordinal"]) & (rows["copy_of"] == rows["ordinal"])
            found = split.cluster_numbers(rows["cluster"].filter(is_first), seed=self.seed).to_numpy()
            count += len(found)
            lowest = np.sort(np.concatenate([lowest, found]))[: split.BORDER_CLUSTERS]
            highest = np.sort(np.concatenate([highest, found]))[-split.BORDER_CLUSTERS :]
        return split.split_borders(count, lowest.tolist(), highest.tolist(), self.tools.recipe.split)

    def encode(self, summaries: Sequence[Summary], decisions: Decisions, model_folder: Path, facts: Facts) -> list[int]:
        """The second pass: token arrays of every task that keeps something; counts what it sees into `facts`. Gives the
        numbers of those tasks."""
        kept = [one for one in summaries if one.kept]
        self.progress.start("writing tokens", total=sum(one.kept for one in kept), unit="documents")
        jobs = (EncodeJob(one.number, decisions.about(*self._range(one.number))) for one in kept)
        results = run_all(
            EncodeWorker,
            (model_folder, self.taken, self.encoded, kept[0].number if kept else 0),
            jobs,
            workers=self.workers,
            stop_if_asked=self.stop_if_asked,
            finished=lambda job: EncodeResult() if tokens.is_saved(self.encoded.block(job.number)) else None,
        )
        for one, result in zip(kept, results, strict=True):
            rows = self.encoded.documents(one.number)
            facts.add_encoded(rows, self.encoded.rejected(one.number), result)
            self.progress.advance(one.kept)
        self.progress.finish(f"{sum(facts.tokens.values()):,} tokens")
        return [one.number for one in kept]

    def write(
        self, numbers: Sequence[int], epochs: Mapping[str, float], model_folder: Path, folder: Path
    ) -> list[tuple[Shard, WrittenShard]]:
        """The shards of all splits, in `folder`."""
        plan = shards.plan_shards(
            ((number, tokens.load_sizes(self.encoded.block(number))) for number in numbers),
            shard_tokens=self.tools.recipe.shard_tokens,
        )
        self.progress.start("writing shards", total=len(plan), unit="shards")
        (self.work / "shards").mkdir(parents=True, exist_ok=True)
        worker = (
            self.encoded,
            self.work / "shards",
            tokens.token_type(ChatTokenizer.load(model_folder).vocabulary_size),
            dict(epochs),
            self.seed,
        )
        written = []
        for one in run_all(
            ShardWorker, worker, plan, workers=min(self.workers, len(plan)), stop_if_asked=self.stop_if_asked
        ):
            written.append(one)
            self.progress.advance(1)
        for shard in plan:
            for name in shard.files:
                (self.work / "shards" / name).rename(folder / name)
        self.progress.finish()
        return list(zip(plan, written, strict=True))

    def write_rejected(self, summaries: Sequence[Summary], path: Path) -> None:
        """All rejections, ordered by ordinal."""
        with path.open("wb") as stream, rejection_writer(stream) as write:
            for one in summaries:
                rows = [pl.DataFrame(schema=REJECTED_SCHEMA)]
                if one.rejected:
                    rows.append(self.taken.rejected(one.number))
                if one.kept:
                    rows.append(self.encoded.rejected(one.number))
                write(pl.concat(rows).sort("ordinal"))

    @property
    def encoded(self) -> EncodedSegments:
        """Results of the second pass."""
        return EncodedSegments(self.work / "encoded")

    def _range(self, number: int) -> tuple[int, int]:
        """The first and last ordinal that a task keeps."""
        ordinals = self.taken.kept(number, ["ordinal"])["ordinal"]
        return ordinals[0], ordinals[-1]

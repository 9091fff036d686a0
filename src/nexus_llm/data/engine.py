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

import polars as pl

from nexus_llm.data.decide import DecideWorker, Decisions, do_not_stop
from nexus_llm.data.passes import EncodeJob, EncodeResult, EncodeWorker, ShardWorker, TakeWorker
from nexus_llm.data.reading.tasks import Task
from nexus_llm.data.segments import EncodedSegments, Segments, Summary, rejection_writer
from nexus_llm.data.taken import REJECTED_SCHEMA, Tools
from nexus_llm.data.tokens import encode as tokens
from nexus_llm.data.tokens import shards
from nexus_llm.data.tokens.shards import Shard, WrittenShard
from nexus_llm.data.workers import Workers

if TYPE_CHECKING:
    from nexus_llm.data.facts import Facts
    from nexus_llm.ports import Progress


@dataclass(frozen=True)
class Engine:
    """Where the passes work, and with what."""

    tools: Tools
    seed: int
    work: Path
    workers: Workers
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
            yield from self.workers.run_all(
                TakeWorker,
                (self.tools, self.taken),
                tasks,
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
        self.progress.start("finding duplicates", total=None, unit="documents")
        # A worker has the compiled kernels already: this process then never needs their memory.
        stop = self.stop_if_asked if self.workers.count == 1 else do_not_stop
        arguments = (self.tools.recipe, self.seed, self.taken, self.work / "duplicates", stop)
        numbers = [one.number for one in summaries if one.kept]
        (decisions,) = self.workers.run_all(DecideWorker, arguments, [numbers])
        self.progress.finish(f"{len(decisions.duplicates):,} documents are not alone")
        return decisions

    def encode(self, summaries: Sequence[Summary], decisions: Decisions, model_folder: Path, facts: Facts) -> list[int]:
        """The second pass: token arrays of every task that keeps something; counts what it sees into `facts`. Gives the
        numbers of those tasks."""
        kept = [one for one in summaries if one.kept]
        self.progress.start("writing tokens", total=sum(one.kept for one in kept), unit="documents")
        jobs = (EncodeJob(one.number, decisions.about(*self._range(one.number))) for one in kept)
        results = self.workers.run_all(
            EncodeWorker,
            (model_folder, self.taken, self.encoded, kept[0].number if kept else 0),
            jobs,
            finished=lambda job: EncodeResult() if tokens.is_saved(self.encoded.block(job.number)) else None,
        )
        for one, result in zip(kept, results, strict=True):
            rows = self.encoded.documents(one.number)
            facts.add_encoded(rows, self.encoded.rejected(one.number), result)
            self.progress.advance(one.kept)
        self.progress.finish(f"{sum(facts.tokens.values()):,} tokens")
        return [one.number for one in kept]

    def write(
        self, numbers: Sequence[int], epochs: Mapping[str, float], folder: Path
    ) -> list[tuple[Shard, WrittenShard]]:
        """The shards of all splits, in `folder`."""
        plan = shards.plan_shards(
            ((number, tokens.load_sizes(self.encoded.block(number))) for number in numbers),
            shard_tokens=self.tools.recipe.shard_tokens,
        )
        self.progress.start("writing shards", total=len(plan), unit="shards")
        (self.work / "shards").mkdir(parents=True, exist_ok=True)
        worker = (
            self.taken,
            self.encoded,
            self.work / "shards",
            tokens.saved_type(self.encoded.block(numbers[0])),
            dict(epochs),
            self.seed,
        )
        written = []
        for one in self.workers.run_all(ShardWorker, worker, plan):
            written.append(one)
            self.progress.advance(1)
        for one in written:
            for name in one.files:
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

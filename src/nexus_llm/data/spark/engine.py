"""The engine on Spark: the same passes over the same kinds of files, in executors; the global step as joins.

    take     file groups → kept and rejected rows         `passes.TakeWorker` in mapInArrow
    decide   band keys, hashes → duplicates, borders      Spark joins (`spark_duplicates`)
    encode   kept rows → token arrays                     `passes.EncodeWorker` in mapInArrow
    write    token arrays → shards                        `passes.ShardWorker` in mapInArrow

Executors call the classes that the embedded engine's worker processes call, so a rule exists once and both engines
write the same bytes. A run that was killed does not repeat the tasks that it finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from nexus_llm.data.decide import DUPLICATES_SCHEMA, Decisions
from nexus_llm.data.duplicates import split
from nexus_llm.data.engine import Engine
from nexus_llm.data.passes import EncodeJob
from nexus_llm.data.reading.sources import AtHand
from nexus_llm.data.segments import EncodedSegments, Segments, Summary
from nexus_llm.data.spark.duplicates import Corpus, find_duplicates
from nexus_llm.data.spark.exchange import Exchange
from nexus_llm.data.spark.files import FileGroup, SourceFile, groups
from nexus_llm.data.spark.frames import collected, to_spark
from nexus_llm.data.spark.passes import (
    ENCODED,
    SHARDS,
    TAKEN,
    CountingEncodeWorker,
    ExchangedShardWorker,
    Extremes,
    GroupWorker,
    ReadHashes,
    ReadTexts,
    TakenTask,
    add_facts,
    names_of_encoded,
    names_of_taken,
)
from nexus_llm.data.spark.runner import Watched, run_on_spark
from nexus_llm.data.spark.session import spark_session
from nexus_llm.data.tokens import encode as tokens
from nexus_llm.data.tokens import shards
from nexus_llm.data.tokens.shards import Shard, WrittenShard
from nexus_llm.data.workers import Workers
from nexus_llm.recipe.schema import SparkRecipe

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from nexus_llm.data.facts import Facts
    from nexus_llm.data.taken import Tools
    from nexus_llm.ports import Progress


@contextmanager
def spark_engine(
    *,
    tools: Tools,
    seed: int,
    work: Path,
    progress: Progress,
    stop_if_asked: Callable[[], None],
    at_hand: AtHand,
    settings: SparkRecipe,
) -> Iterator[SparkEngine]:
    """An engine on the running Spark session, or on one of its own that ends with the block.

    `at_hand` must be importable by its name (or a `functools.partial` of such a function).

    Raises:
        MissingExtraError: pyspark is not installed.
        DataError: Spark does not start.
    """
    work = work.absolute()
    with spark_session(settings, work=work / "spark") as session:
        exchange = Exchange(work, settings.exchange and f"{settings.exchange.rstrip('/')}/{work.parent.name}")
        yield SparkEngine(
            tools,
            seed,
            work,
            Workers(1, folder=work, stop_if_asked=stop_if_asked),
            progress,
            stop_if_asked,
            session,
            exchange,
            at_hand,
            settings.partitions,
        )
        exchange.clear()  # not after an error: the next run continues with what lies there


@dataclass(frozen=True)
class SparkEngine(Engine):
    """Where the passes work, and with what; `workers` is not used, Spark knows its cores."""

    session: SparkSession
    exchange: Exchange
    """Its folder is `work`."""
    at_hand: AtHand
    """How an executor gets a source file on its disk."""
    partitions: int
    """Pieces of every shuffle, and the least number of tasks of a pass over many items."""
    _ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Task → first and last ordinal that it kept."""
    _sizes: dict[int, Mapping[str, np.ndarray]] = field(default_factory=dict)
    """Task → split → tokens of each document; 4 bytes a document of the whole corpus."""

    @property
    def taken(self) -> Segments:
        """Results of the first pass; not the embedded engine's, whose tasks have other borders."""
        return Segments(self.exchange.place / TAKEN)

    @property
    def encoded(self) -> EncodedSegments:
        """Results of the second pass."""
        return EncodedSegments(self.exchange.place / ENCODED)

    def take_files(self, files: Iterable[SourceFile]) -> list[Summary]:
        """The first pass over all files: a summary a task, in the order of ordinals."""
        limit = self.tools.recipe.max_documents
        # A trial: how much may be taken depends on what came before, so one executor takes all of it.
        items = list(groups(files)) if limit is None else [FileGroup(0, tuple(files))]
        arguments = (self.tools, self.exchange, self.at_hand, limit)
        found: list[list[TakenTask]] = self._run(GroupWorker, arguments, items, lambda _: None)
        tasks = sorted((task for group in found for task in group), key=lambda task: task.summary.number)
        self._ranges.update({task.summary.number: (task.first, task.last) for task in tasks if task.summary.kept})
        return [task.summary for task in tasks]

    def decide(self, summaries: Sequence[Summary]) -> Decisions:
        """What only all documents together can say."""
        recipe = self.tools.recipe.near_duplicates
        self.progress.start("finding duplicates", total=None, unit="pairs")
        with Watched(self.session, self.stop_if_asked):
            corpus = self._corpus([one.number for one in summaries if one.kept])
            found = self._keep(find_duplicates(corpus, recipe, keep=self._keep), "duplicates")
            duplicates = collected(self._with_ids(found, corpus)).sort("ordinal")
            borders = self._borders_of(found, corpus)
        self.progress.finish(f"{len(duplicates):,} documents are not alone")
        duplicates = duplicates.select(pl.col(name).cast(kind) for name, kind in DUPLICATES_SCHEMA.items())
        return Decisions(duplicates, borders, keep_near=recipe.keep == "all", seed=self.seed)

    def encode(self, summaries: Sequence[Summary], decisions: Decisions, model_folder: Path, facts: Facts) -> list[int]:
        """The second pass, as the embedded engine's; executors count what they write."""
        numbers = [one.number for one in summaries if one.kept]
        jobs = [EncodeJob(number, decisions.about(*self._ranges[number])) for number in numbers]
        self.progress.start("writing tokens", total=len(jobs), unit="tasks")
        arguments = (self.exchange, model_folder, numbers[0] if numbers else 0, tuple(facts.sources))
        for number, task in zip(
            numbers, self._run(CountingEncodeWorker, arguments, jobs, self.progress.advance), strict=True
        ):
            add_facts(facts, task.facts)
            self._sizes[number] = task.sizes
        self.exchange.fetch(*(names_of_encoded(number)[0] for number in numbers))
        self.progress.finish(f"{sum(facts.tokens.values()):,} tokens")
        return numbers

    def write(
        self, numbers: Sequence[int], epochs: Mapping[str, float], folder: Path
    ) -> list[tuple[Shard, WrittenShard]]:
        """The shards of all splits, in `folder`."""
        sizes = (
            (number, {name: one.astype(np.int64) for name, one in self._sizes[number].items()}) for number in numbers
        )
        plan = shards.plan_shards(sizes, shard_tokens=self.tools.recipe.shard_tokens)
        self.progress.start("writing shards", total=len(plan), unit="shards")
        self.exchange.fetch(*names_of_encoded(numbers[0]))
        dtype = tokens.saved_type(self.encoded.block(numbers[0]))
        written = self._run(
            ExchangedShardWorker, (self.exchange, dtype, dict(epochs), self.seed), plan, self.progress.advance
        )
        for one in written:
            for name in one.files:
                self.exchange.fetch(f"{SHARDS}/{name}")
                (self.exchange.place / SHARDS / name).rename(folder / name)
        self.progress.finish()
        return list(zip(plan, written, strict=True))

    def write_rejected(self, summaries: Sequence[Summary], path: Path) -> None:
        """All rejections, ordered by ordinal."""
        self.exchange.fetch(*(names_of_taken(one.number)[1] for one in summaries if one.rejected))
        super().write_rejected(summaries, path)

    def _run(
        self, make_worker: type, arguments: tuple[object, ...], items: Sequence[Any], advance: Callable[[int], None]
    ) -> list[Any]:
        return run_on_spark(
            self.session,
            make_worker,
            arguments,
            items,
            partitions=max(self.partitions, len(items) // 4),
            stop_if_asked=self.stop_if_asked,
            advance=advance,
        )

    def _corpus(self, numbers: Sequence[int]) -> Corpus:
        from pyspark.sql import functions as sql

        tasks = to_spark(self.session, pl.DataFrame({"task": pl.Series(numbers, dtype=pl.Int64)}), rows_a_piece=1)

        def rows(columns: tuple[str, ...], schema: str) -> DataFrame:
            return tasks.mapInArrow(ReadHashes(self.exchange, columns), f"ordinal bigint, {schema}, task bigint")

        def texts(wanted: DataFrame) -> DataFrame:
            by_task = wanted.groupBy("task").agg(sql.collect_list("ordinal").alias("ordinals"))
            return by_task.mapInArrow(ReadTexts(self.exchange), "ordinal bigint, text string")

        return Corpus(
            hashes=rows(("content_hash", "characters"), "content_hash string, characters bigint"),
            band_keys=rows(("band_keys",), "band_keys array<bigint>").drop("task"),
            ids=rows(("id",), "id string").drop("task"),
            texts=texts,
        )

    def _with_ids(self, duplicates: DataFrame, corpus: Corpus) -> DataFrame:
        """The duplicates with the ids of the documents that they repeat."""
        wanted = duplicates.selectExpr("explode(array(representative, copy_of)) AS ordinal").distinct()
        names = self._keep(corpus.ids.join(wanted, "ordinal"), "names")
        for column in ("representative", "copy_of"):
            known = names.withColumnsRenamed({"ordinal": column, "id": f"{column}_id"})
            duplicates = duplicates.join(known, column)
        return duplicates.select(*DUPLICATES_SCHEMA)

    def _borders_of(self, duplicates: DataFrame, corpus: Corpus) -> split.Borders:
        """Where the held-out splits begin and end among the numbers of all clusters."""
        alone = corpus.hashes.join(duplicates.select("ordinal"), "ordinal", "left_anti")
        clusters = duplicates.filter("ordinal = representative").select("cluster")
        names = clusters.unionByName(alone.selectExpr("content_hash AS cluster"))
        rows = names.mapInArrow(
            Extremes(self.seed), "count bigint, lowest array<double>, highest array<double>"
        ).collect()
        lowest = [number for row in rows for number in row["lowest"]]
        highest = [number for row in rows for number in row["highest"]]
        return split.split_borders(
            sum(row["count"] for row in rows),
            sorted(lowest)[: split.BORDER_CLUSTERS],
            sorted(highest)[-split.BORDER_CLUSTERS :],
            self.tools.recipe.split,
        )

    def _keep(self, frame: DataFrame, name: str) -> DataFrame:
        url = self.exchange.url(f"spark/{name}")
        frame.write.mode("overwrite").parquet(url)
        return self.session.read.schema(frame.schema).parquet(url)

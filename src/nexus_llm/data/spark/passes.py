"""What Spark's executors do: the embedded engine's workers, with files fetched before and offered behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from nexus_llm.data.duplicates import split
from nexus_llm.data.facts import Facts, SourceFacts
from nexus_llm.data.passes import EncodeJob, EncodeResult, EncodeWorker, ShardWorker, TakeWorker
from nexus_llm.data.reading.sources import AtHand
from nexus_llm.data.segments import EncodedSegments, Segments, Summary
from nexus_llm.data.spark.exchange import Exchange
from nexus_llm.data.spark.files import FileGroup, tasks_of
from nexus_llm.data.taken import Tools
from nexus_llm.data.tokens import encode as tokens
from nexus_llm.data.tokens.shards import Shard, WrittenShard

TAKEN = "spark-taken"
ENCODED = "spark-encoded"
SHARDS = "shards"

# Rows of text that cross to Java at once.
_TEXT_ROWS = 64


@dataclass(frozen=True, slots=True)
class TakenTask:
    """A task of the first pass and the ordinals that it kept."""

    summary: Summary
    first: int
    last: int


@dataclass(frozen=True)
class EncodedTask:
    """A task of the second pass: its counts, and the tokens of each document by split."""

    facts: Facts
    sizes: dict[str, npt.NDArray[np.uint32]]


class GroupWorker:
    """The first pass on one group of files."""

    def __init__(self, tools: Tools, exchange: Exchange, at_hand: AtHand, limit: int | None) -> None:
        """`limit` is how many records may be taken of everything, which is one group then; None takes all."""
        self._segments = Segments(exchange.place / TAKEN)
        self._take = TakeWorker(tools, self._segments)
        self._exchange = exchange
        self._at_hand = at_hand
        self._limit = limit

    def __call__(self, group: FileGroup) -> list[TakenTask]:
        self._segments.folder.mkdir(parents=True, exist_ok=True)
        left = self._limit
        done = []
        for task in tasks_of(group, self._at_hand, self._exchange.place / "fetched"):
            self._exchange.fetch(*names_of_taken(task.number))
            summary = self._segments.summary(task.number) or self._take(replace(task, limit=left))
            done.append(self._with_range(summary))
            self._exchange.offer(f"{TAKEN}/{task.number:07d}.*")
            if left is not None:
                left -= sum(summary.read.values())
                if left <= 0:
                    break
        return done

    def _with_range(self, summary: Summary) -> TakenTask:
        if not summary.kept:
            return TakenTask(summary, 0, -1)
        ordinals = self._segments.kept(summary.number, ["ordinal"])["ordinal"]
        return TakenTask(summary, ordinals[0], ordinals[-1])


class CountingEncodeWorker:
    """The second pass on one task, with its counts: the driver need not read what executors wrote."""

    def __init__(self, exchange: Exchange, model_folder: Path, probed: int, sources: Sequence[str]) -> None:
        self._exchange = exchange
        self._encoded = EncodedSegments(exchange.place / ENCODED)
        self._sources = tuple(sources)
        with exchange.at_hand(_kept(probed)):
            self._encode = EncodeWorker(model_folder, Segments(exchange.place / TAKEN), self._encoded, probed)

    def __call__(self, job: EncodeJob) -> EncodedTask:
        self._exchange.fetch(*names_of_encoded(job.number))
        result = EncodeResult()
        if not tokens.is_saved(self._encoded.block(job.number)):
            with self._exchange.at_hand(_kept(job.number)):
                result = self._encode(job)
        facts = Facts({name: SourceFacts() for name in self._sources})
        facts.add_encoded(self._encoded.documents(job.number), self._encoded.rejected(job.number), result)
        sizes = tokens.load_sizes(self._encoded.block(job.number))
        self._exchange.offer(*names_of_encoded(job.number))
        return EncodedTask(facts, {name: tokens_of.astype(np.uint32) for name, tokens_of in sizes.items()})


class ExchangedShardWorker:
    """The last pass: one shard."""

    def __init__(self, exchange: Exchange, dtype: Any, epochs: Mapping[str, float], seed: int) -> None:
        self._exchange = exchange
        self._folder = exchange.place / SHARDS
        taken, encoded = Segments(exchange.place / TAKEN), EncodedSegments(exchange.place / ENCODED)
        self._write = ShardWorker(taken, encoded, self._folder, dtype, epochs, seed)

    def __call__(self, shard: Shard) -> WrittenShard:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Of a shard of 25 million tokens these are about 25 tasks, 300 MB.
        blocks = sorted(
            {name for piece in shard.pieces for name in (*names_of_encoded(piece.block), _kept(piece.block))}
        )
        with self._exchange.at_hand(*blocks):
            written = self._write(shard)
        self._exchange.offer(f"{SHARDS}/{shard.name}.*")
        return written


@dataclass(frozen=True)
class ReadHashes:
    """mapInArrow: rows of `task` in, the kept documents of those tasks out, with some columns besides `ordinal`."""

    exchange: Exchange
    columns: tuple[str, ...]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        segments = Segments(self.exchange.place / TAKEN)
        for batch in batches:
            for task in batch.column("task").to_pylist():
                with self.exchange.at_hand(_kept(task)):
                    rows = segments.kept(task, ["ordinal", *self.columns])
                yield from for_spark(rows.with_columns(task=pl.lit(task, pl.Int64)))


@dataclass(frozen=True)
class ReadTexts:
    """mapInArrow: rows of `task` and `ordinals` in, `ordinal` and `text` of those documents out."""

    exchange: Exchange

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        segments = Segments(self.exchange.place / TAKEN)
        for batch in batches:
            for task, ordinals in zip(batch.column("task").to_pylist(), batch.column("ordinals"), strict=True):
                wanted = pl.Series(ordinals.values, dtype=pl.Int64)
                with self.exchange.at_hand(_kept(task)):
                    rows = segments.kept(task, ["ordinal", "text"])
                rows = rows.filter(pl.col("ordinal").cast(pl.Int64).is_in(wanted.implode()))
                for part in rows.iter_slices(_TEXT_ROWS):
                    yield from for_spark(part)


@dataclass(frozen=True)
class Extremes:
    """mapInArrow: rows of `cluster` in; how many there are, and the lowest and highest of their numbers out."""

    seed: int

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        count, lowest, highest = 0, np.empty(0), np.empty(0)
        for batch in batches:
            numbers = split.cluster_numbers(pl.Series(batch.column("cluster")), seed=self.seed).to_numpy()
            count += len(numbers)
            lowest = np.sort(np.concatenate([lowest, numbers]))[: split.BORDER_CLUSTERS]
            highest = np.sort(np.concatenate([highest, numbers]))[-split.BORDER_CLUSTERS :]
        yield pa.RecordBatch.from_pydict(
            {"count": [count], "lowest": [lowest.tolist()], "highest": [highest.tolist()]},
            schema=pa.schema(
                [("count", pa.int64()), ("lowest", pa.list_(pa.float64())), ("highest", pa.list_(pa.float64()))]
            ),
        )


def for_spark(rows: pl.DataFrame) -> Iterator[pa.RecordBatch]:
    """Rows as Arrow batches of types that Spark 3.5 knows: no unsigned numbers, no large strings, no fixed lists."""
    columns: dict[str, pa.Array] = {}
    for column in rows:
        values = column.rechunk()
        if isinstance(values.dtype, pl.Array):
            width = values.dtype.shape[0]
            flat = values.reshape((-1,)).reinterpret(signed=True).to_arrow()
            bounds = pa.array(np.arange(0, (len(rows) + 1) * width, width), pa.int32())
            columns[column.name] = pa.ListArray.from_arrays(bounds, flat)
        elif values.dtype == pl.String:
            columns[column.name] = values.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
        elif values.dtype.is_integer():
            columns[column.name] = values.cast(pl.Int64).to_arrow()
        else:
            columns[column.name] = values.to_arrow()
    yield pa.RecordBatch.from_pydict(columns)


def add_facts(total: Any, part: Any) -> None:
    """Adds the counts in `part` to those in `total`, field by field; both are `Facts` or `SourceFacts`."""
    for field in fields(part):
        ours, theirs = getattr(total, field.name), getattr(part, field.name)
        if isinstance(theirs, Counter | set):
            ours.update(theirs)
        elif isinstance(theirs, dict):
            for name, value in theirs.items():
                if is_dataclass(value):
                    add_facts(ours[name], value)
        elif isinstance(theirs, list):
            ours[:] = [a + b for a, b in zip(ours, theirs, strict=True)]
        elif isinstance(theirs, int):
            setattr(total, field.name, ours + theirs)


def names_of_taken(number: int) -> tuple[str, ...]:
    """Files of a task of the first pass, below the exchange's folder."""
    return tuple(f"{TAKEN}/{number:07d}.{ending}" for ending in ("kept.arrow", "rejected.arrow", "json"))


def names_of_encoded(number: int) -> tuple[str, ...]:
    """Files and folders of a task of the second pass; the one that says "done" is the last."""
    return f"{ENCODED}/{number:07d}.rejected.arrow", f"{ENCODED}/{number:07d}"


def _kept(number: int) -> str:
    return names_of_taken(number)[0]

"""What worker processes do: one class a pass, made once in each process and called with one task at a time."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from nexus_llm.chat import ChatTokenizer
from nexus_llm.data.decide import Decisions
from nexus_llm.data.reading.blocks import Block
from nexus_llm.data.reading.tasks import Task, records
from nexus_llm.data.segments import EncodedSegments, Segments, Summary, replace_file, summary_of
from nexus_llm.data.taken import REJECTED_SCHEMA, Tools, rejections
from nexus_llm.data.tokens import encode as tokens
from nexus_llm.data.tokens import fast_tokenizers, mix, shards

# Documents of the corpus on which a fast tokenizer must repeat the reference before it is taken.
_PROBES = 64


class TakeWorker:
    """The first pass on one task, in a worker process."""

    def __init__(self, tools: Tools, segments: Segments) -> None:
        self._tools = tools
        self._segments = segments

    def __call__(self, task: Task) -> Summary:
        # Compiled code: the process that only hands out work never needs it.
        from nexus_llm.data.intake import take

        formats: dict[str, Counter[str]] = defaultdict(Counter)
        skipped: dict[str, Counter[str]] = defaultdict(Counter)
        source_of: dict[str, str] = {}
        for piece in task.pieces:
            if isinstance(piece.content, Block):
                skipped[piece.content.source].update(piece.content.skipped)
                source_of[piece.content.origin] = piece.content.source
        taken = take(records(task, formats_seen=formats), self._tools)
        broken = Counter(source_of[one.file] for one in taken.broken)
        summary = summary_of(task.number, taken, formats=formats, skipped=skipped, broken_sources=broken)
        self._segments.save(summary, taken)
        return summary


@dataclass(frozen=True)
class EncodeJob:
    """One task of the second pass."""

    number: int
    decisions: Decisions
    """About its documents alone."""


@dataclass(frozen=True)
class EncodeResult:
    """How it was done; empty where an earlier run did it."""

    backend: str = ""
    """The tokenizer."""
    differences: int = 0
    """Sampled documents on which it and the reference differed, so that the reference did the task again."""


class EncodeWorker:
    """The second pass on one task: who stays is encoded, who does not is listed."""

    def __init__(self, model_folder: Path, taken: Segments, encoded: EncodedSegments, probed: int) -> None:
        self._taken = taken
        self._encoded = encoded
        self._tokenizer = ChatTokenizer.load(model_folder)
        probes = taken.kept(probed, ["text"])["text"].head(_PROBES).to_list()
        self._encoder = fast_tokenizers.choose(self._tokenizer, probes)

    def __call__(self, job: EncodeJob) -> EncodeResult:
        staying, repeated = job.decisions.part(self._taken.kept(job.number))
        block = tokens.encode_block(staying, self._encoder, self._tokenizer)
        self._encoded.save_rejected(job.number, pl.concat([repeated, refusals(staying, block)]))
        # The block last: its folder says that the task is done.
        tokens.save_block(block, self._encoded.block(job.number))
        return EncodeResult(self._encoder.name, block.differences)


class ShardWorker:
    """The last pass: one shard out of encoded blocks."""

    def __init__(
        self,
        taken: Segments,
        encoded: EncodedSegments,
        folder: Path,
        dtype: Any,
        epochs: Mapping[str, float],
        seed: int,
    ) -> None:
        self._taken = taken
        self._encoded = encoded
        self._folder = folder
        self._dtype = dtype
        self._epochs = epochs
        self._seed = seed

    def __call__(self, shard: shards.Shard) -> shards.WrittenShard:
        counts = self._folder / f"{shard.name}.json"
        if (done := self._written(counts)) is not None:
            return done
        written = shards.write_shard(
            self._folder,
            shard,
            block=self._block,
            dtype=self._dtype,
            repeats=lambda rows: mix.repeats(rows["id"], rows["source"], epochs=self._epochs, seed=self._seed),
        )
        checksums = {name: tokens.checksum(self._folder / name) for name in written.files}
        replace_file(counts, json.dumps({**asdict(written), "checksums": checksums}).encode())
        return written

    def _written(self, counts: Path) -> shards.WrittenShard | None:
        """What an earlier run wrote, if it is all there: a power cut may have spoiled it."""
        try:
            values = json.loads(counts.read_bytes())
            if any(tokens.checksum(self._folder / name) != value for name, value in values["checksums"].items()):
                return None
        except (OSError, ValueError):
            return None
        return shards.WrittenShard(tuple(values["files"]), values["sources"])

    def _block(self, number: int) -> tokens.EncodedBlock:
        texts = self._taken.kept(number, ["ordinal", "text", "messages"])
        return tokens.load_block(self._encoded.block(number), texts)


def refusals(staying: pl.DataFrame, block: tokens.EncodedBlock) -> pl.DataFrame:
    """Rejections of the conversations that the chat template refuses."""
    if not block.refused:
        return pl.DataFrame(schema=REJECTED_SCHEMA)
    reasons = pl.DataFrame(
        [(one.ordinal, one.rule, one.error) for one in block.refused],
        schema={"ordinal": pl.UInt64, "rule": pl.String, "reason": pl.String},
        orient="row",
    )
    rows = staying.join(reasons, on="ordinal", how="inner", maintain_order="left")
    return rejections(rows.with_columns(value=pl.lit(None, pl.Float64)))

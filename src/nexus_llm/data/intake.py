"""What happens to records one batch at a time: judged, cleaned, fingerprinted, and counted when they are not kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from nexus_llm.data import duplicates, minhash
from nexus_llm.data.clean import clean_document
from nexus_llm.data.quality import Limits, judge
from nexus_llm.data.readers import BrokenRecord
from nexus_llm.data.rows import SCHEMA, frame_of
from nexus_llm.records import Document

# A batch ends at whichever comes first, so that a few huge records do not fill the memory.
_BATCH_RECORDS = 512
_BATCH_CHARACTERS = 16_000_000
_EXCERPT_CHARACTERS = 200

REJECTED_SCHEMA = {
    "id": pl.String,
    "source": pl.String,
    "origin": pl.String,
    "reason": pl.String,
    "rule": pl.String,
    "value": pl.Float64,
    "excerpt": pl.String,
}


@dataclass
class Intake:
    """Everything that was read so far: what is kept, what is not and why."""

    limits: Limits
    shingle_words: int
    read: int = 0
    """Usable records read, kept or not."""
    broken: list[BrokenRecord] = field(default_factory=list)
    _kept: list[pl.DataFrame] = field(default_factory=list)
    _rejected: list[pl.DataFrame] = field(default_factory=list)
    _hashes: list[str] = field(default_factory=list)
    _signatures: list[minhash.Signatures] = field(default_factory=list)

    def take(self, records: Iterable[Document | BrokenRecord]) -> Iterator[int]:
        """Works through records in batches; yields how many each batch had."""
        for batch in _batches(records):
            documents = [one for one in batch if isinstance(one, Document)]
            self.broken += [one for one in batch if isinstance(one, BrokenRecord)]
            self.read += len(documents)
            self._judge(documents)
            yield len(batch)

    @property
    def documents(self) -> pl.DataFrame:
        """Kept documents in the order they were read; columns of `rows.SCHEMA`."""
        return pl.concat([pl.DataFrame(schema=SCHEMA), *self._kept])

    @property
    def rejected(self) -> pl.DataFrame:
        """Rejected documents in the order they were read; columns of REJECTED_SCHEMA."""
        return pl.concat([pl.DataFrame(schema=REJECTED_SCHEMA), *self._rejected])

    @property
    def content_hashes(self) -> list[str]:
        """One a kept document."""
        return self._hashes

    @property
    def signatures(self) -> minhash.Signatures:
        """One row a kept document."""
        return np.concatenate([minhash.signatures([]), *self._signatures])

    def _judge(self, documents: list[Document]) -> None:
        verdicts = judge((one.text for one in documents), self.limits)
        passed = verdicts["rule"].is_null()
        frame = frame_of(documents)
        if not passed.all():
            self._rejected.append(rejections(pl.concat([frame, verdicts], how="horizontal").filter(~passed)))
        kept = [clean_document(one) for one, is_good in zip(documents, passed, strict=True) if is_good]
        rows = frame_of(kept)
        self._kept.append(rows)
        self._hashes += [
            duplicates.content_hash(messages or text) for text, messages in rows.select("text", "messages").iter_rows()
        ]
        self._signatures.append(
            minhash.signatures(minhash.shingles(one.text, words=self.shingle_words) for one in kept)
        )


def rejections(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of REJECTED_SCHEMA from documents with their `reason`, `rule` and `value`."""
    excerpt = pl.col("text").str.replace_all(r"\s+", " ").str.strip_chars().str.slice(0, _EXCERPT_CHARACTERS)
    return frame.with_columns(excerpt=excerpt).select(pl.col(name).cast(kind) for name, kind in REJECTED_SCHEMA.items())


def _batches(records: Iterable[Document | BrokenRecord]) -> Iterator[list[Document | BrokenRecord]]:
    batch: list[Document | BrokenRecord] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += len(record.text) if isinstance(record, Document) else 0
        if len(batch) >= _BATCH_RECORDS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch

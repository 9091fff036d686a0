"""What a task's records became, on disk between two passes: `kept`, `rejected`, and a summary that is written last.

A summary that exists means that the task is done, so that a killed run goes on behind it.
"""

from __future__ import annotations

import contextlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from nexus_llm.data.reading.blocks import BrokenRecord
from nexus_llm.data.taken import REJECTED_SCHEMA, Taken
from nexus_llm.data.tokens import encode as tokens

# Of rejected.parquet.
_ROW_GROUP_ROWS = 10_000


@dataclass(frozen=True)
class Summary:
    """Counts of one task."""

    number: int
    kept: int
    read: dict[str, int]
    """Source → usable records."""
    rejected: dict[str, dict[str, int]]
    """Source → rule → documents."""
    formats: dict[str, dict[str, int]]
    """Source → layout of rows → records."""
    skipped: dict[str, dict[str, int]]
    """Source → declared type → records that are no text."""
    personal: dict[str, int]
    contaminated: dict[str, int]
    broken: list[BrokenRecord] = field(default_factory=list)
    broken_sources: dict[str, int] = field(default_factory=dict)
    """Source → broken records."""
    checksums: dict[str, int] = field(default_factory=dict)
    """File of the task → its `checksum`."""


@dataclass(frozen=True, slots=True)
class Segments:
    """The folder that holds them."""

    folder: Path

    def summary(self, number: int) -> Summary | None:
        """Counts of a finished task whose files are what it wrote; None for one that is to be done."""
        try:
            values = json.loads(self._path(number, "json").read_bytes())
            if any(tokens.checksum(self.folder / name) != value for name, value in values["checksums"].items()):
                return None
        except (OSError, ValueError):
            return None
        values["broken"] = [BrokenRecord(**one) for one in values["broken"]]
        return Summary(**values)

    def save(self, summary: Summary, taken: Taken) -> None:
        """Keeps a task's rows, then its summary. `summary` finds what a power cut spoiled."""
        checksums = {}
        for name, rows in (("kept", taken.kept), ("rejected", taken.rejected)):
            if len(rows):
                path, content = self._path(summary.number, f"{name}.arrow"), _ipc(rows)
                replace_file(path, content)
                checksums[path.name] = zlib.crc32(content)
        text = json.dumps(asdict(replace(summary, checksums=checksums)), ensure_ascii=False)
        replace_file(self._path(summary.number, "json"), text.encode())

    def kept(self, number: int, columns: list[str] | None = None) -> pl.DataFrame:
        """Rows of `taken.KEPT_SCHEMA`; only for tasks that kept some."""
        return tokens.read_mapped(self._path(number, "kept.arrow"), columns)

    def rejected(self, number: int) -> pl.DataFrame:
        """Rows of `taken.REJECTED_SCHEMA`; only for tasks that rejected some."""
        return tokens.read_mapped(self._path(number, "rejected.arrow"))

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:07d}.{ending}"


@dataclass(frozen=True, slots=True)
class EncodedSegments:
    """The folder of the second pass: encoded blocks, and who was found to repeat others or was refused."""

    folder: Path

    def block(self, number: int) -> Path:
        """The folder of a task's `tokens.EncodedBlock`; it exists when the task is done."""
        return self.folder / f"{number:07d}"

    def save_rejected(self, number: int, rows: pl.DataFrame) -> None:
        """Keeps rows of `taken.REJECTED_SCHEMA`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._rejected(number), _ipc(rows.sort("ordinal")))

    def rejected(self, number: int) -> pl.DataFrame:
        """Rows of `taken.REJECTED_SCHEMA`."""
        return tokens.read_mapped(self._rejected(number))

    def documents(self, number: int) -> pl.DataFrame:
        """`split`, `source`, `language`, `characters` and `tokens` of each document that stays."""
        path = self.block(number) / "documents.arrow"
        return tokens.read_mapped(path, ["split", "source", "language", "characters", "tokens"])

    def _rejected(self, number: int) -> Path:
        return self.folder / f"{number:07d}.rejected.arrow"


@contextlib.contextmanager
def rejection_writer(stream: BinaryIO) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Takes rows of `taken.REJECTED_SCHEMA`, and writes them in row groups of a fixed size: same rows, same bytes."""
    import pyarrow.parquet

    pending = pl.DataFrame(schema=REJECTED_SCHEMA)

    def write(rows: pl.DataFrame, least: int = _ROW_GROUP_ROWS) -> None:
        nonlocal pending
        pending = pl.concat([pending, rows])
        while len(pending) >= least and len(pending):
            group = pending.head(_ROW_GROUP_ROWS).rechunk()
            writer.write_table(group.to_arrow(compat_level=pl.CompatLevel.oldest()), row_group_size=_ROW_GROUP_ROWS)
            pending = pending.slice(len(group))

    schema = pending.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    with pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        yield write
        write(pl.DataFrame(schema=REJECTED_SCHEMA), least=1)


def _ipc(rows: pl.DataFrame) -> memoryview:
    """The rows as the bytes of a file that is read once or twice more and thrown away: Arrow's, not parquet's."""
    buffer = io.BytesIO()
    rows.write_ipc(buffer, compression="uncompressed")
    return buffer.getbuffer()


def replace_file(path: Path, content: Any) -> None:
    """Puts bytes at `path` such that a killed process leaves the whole file or none."""
    partial = path.with_name(f".{path.name}.partial")
    # Not through a library's own writer: there, a full disk becomes an error without a number.
    partial.write_bytes(content)
    partial.replace(path)


def summary_of(
    number: int,
    taken: Taken,
    *,
    formats: Mapping[str, Counter[str]],
    skipped: Mapping[str, Counter[str]],
    broken_sources: Mapping[str, int],
) -> Summary:
    """The counts of a task."""
    rejected: dict[str, dict[str, int]] = {}
    for source, rule, count in taken.rejected.group_by("source", "rule").len().sort("source", "rule").iter_rows():
        rejected.setdefault(source, {})[rule] = count
    return Summary(
        number=number,
        kept=len(taken.kept),
        read=dict(taken.read),
        rejected=rejected,
        formats={source: dict(counts) for source, counts in formats.items()},
        skipped={source: dict(counts) for source, counts in skipped.items()},
        personal=dict(taken.personal),
        contaminated=dict(taken.contaminated),
        broken=taken.broken,
        broken_sources=dict(broken_sources),
    )

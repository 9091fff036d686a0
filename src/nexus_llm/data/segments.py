"""What a task's records became, on disk between two passes: `kept`, `rejected`, and a summary that is written last.

A summary that exists means that the task is done, so that a killed run goes on behind it.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from nexus_llm.data.blocks import BrokenRecord
from nexus_llm.data.intake import Taken


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


@dataclass(frozen=True, slots=True)
class Segments:
    """The folder that holds them."""

    folder: Path

    def summary(self, number: int) -> Summary | None:
        """Counts of a finished task, None for one that is not."""
        path = self._path(number, "json")
        if not path.exists():
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
        values["broken"] = [BrokenRecord(**one) for one in values["broken"]]
        return Summary(**values)

    def save(self, summary: Summary, taken: Taken) -> None:
        """Keeps a task's rows, then its summary."""
        for name, rows in (("kept", taken.kept), ("rejected", taken.rejected)):
            if len(rows):
                buffer = io.BytesIO()
                rows.write_parquet(buffer, compression="lz4", statistics=False)
                write_durably(self._path(summary.number, f"{name}.parquet"), buffer.getbuffer())
        text = json.dumps(asdict(summary), ensure_ascii=False)
        write_durably(self._path(summary.number, "json"), text.encode())

    def kept(self, number: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Rows of `intake.KEPT_SCHEMA`; only for tasks that kept some."""
        return pl.read_parquet(self._path(number, "kept.parquet"), columns=columns, glob=False)

    def rejected(self, number: int) -> pl.DataFrame:
        """Rows of `intake.REJECTED_SCHEMA`; only for tasks that rejected some."""
        return pl.read_parquet(self._path(number, "rejected.parquet"), glob=False)

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:07d}.{ending}"


def write_durably(path: Path, content: Any) -> None:
    """Puts bytes at `path` such that after a crash the file is whole or absent."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as stream:
        # Not through a library's own writer: there, a full disk becomes an error without a number.
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
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

"""Recorded arrivals: the two public formats of traces, as seconds since the first request and token counts.

- Azure's (github.com/Azure/AzurePublicDataset, 2023): CSV with `TIMESTAMP,ContextTokens,GeneratedTokens`.
- Mooncake's (github.com/kvcache-ai/Mooncake, FAST25 traces): JSON lines with `timestamp` in milliseconds,
  `input_length`, `output_length`, and `hash_ids`, the names of the prompt's blocks of 512 tokens.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import orjson

from nexus_llm.errors import DataError

AZURE_HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOST_TOKENS = 10_000_000  # of a request; beyond it a file is broken
TRACE_BLOCK_TOKENS = 512  # Mooncake's README, read 2026-11


@dataclass(frozen=True, slots=True)
class TraceRow:
    at_seconds: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


def read_trace(path: Path, *, limit: int | None = None) -> list[TraceRow]:
    """The first `limit` rows, their times since the earliest of them, in the order of time.

    Raises:
        DataError: no such file, another format, or a broken row (named with its line).
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(itertools.islice(_rows(path, lines), limit))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__})",
            fix="give a trace in Azure's CSV format or in Mooncake's JSON lines",
        ) from error
    start = min((row.at_seconds for row in rows), default=0.0)
    moved = [TraceRow(row.at_seconds - start, row.input_tokens, row.output_tokens, row.blocks) for row in rows]
    return sorted(moved, key=lambda row: row.at_seconds)


def _rows(path: Path, lines: Iterable[str]) -> Iterator[TraceRow]:
    found = iter(lines)
    first = next(found, "")
    if first.lstrip().startswith("{"):
        numbered = enumerate(([line] for line in itertools.chain([first], found) if line.strip()), 1)
        parse: Callable[[list[str]], TraceRow] = _mooncake
    elif tuple(first.strip().split(",")) == AZURE_HEADER:
        numbered, parse = enumerate((row for row in csv.reader(found) if row), 2), _azure
    else:
        raise DataError(
            f"{path}:1 is neither the header {','.join(AZURE_HEADER)} nor a JSON object",
            fix="give a trace in Azure's CSV format or in Mooncake's JSON lines",
        )
    for number, row in numbered:
        try:
            yield parse(row)
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise DataError(
                f"{path}:{number} is no request ({type(error).__name__}: {error})", fix="repair the row or remove it"
            ) from error


def _azure(row: list[str]) -> TraceRow:
    when, given, generated = row
    return TraceRow(datetime.fromisoformat(when).timestamp(), _tokens(given), _tokens(generated))


def _tokens(value: str | int) -> int:
    count = int(value)
    if not 0 <= count <= MOST_TOKENS:
        raise ValueError(f"{count} tokens")
    return count


def _mooncake(line: list[str]) -> TraceRow:
    row = orjson.loads(line[0])
    return TraceRow(
        float(row["timestamp"]) / 1000,
        _tokens(row["input_length"]),
        _tokens(row["output_length"]),
        tuple(int(block) for block in row.get("hash_ids") or ()),
    )

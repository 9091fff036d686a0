"""`nexus data convert`: rows of one layout written in another."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nexus_llm.cli.console import SignalInterrupt, print_json
from nexus_llm.cli.options import AsJson, DryRun
from nexus_llm.errors import DataError, UsageError

if TYPE_CHECKING:
    from nexus_llm.data.reading.blocks import BrokenRecord
    from nexus_llm.data.reading.chat_conversion import ConvertedRow

Target = Literal["messages", "prompt-completion", "alpaca", "sharegpt", "preference", "text"]
_SHOWN_CHARACTERS = 160
_SHOWN_BROKEN = 3


@dataclass
class _Outcome:
    """What became of the rows."""

    found: Counter[str] = field(default_factory=Counter)
    written: int = 0
    lost_answers: int = 0
    skipped: list[BrokenRecord] = field(default_factory=list)
    example: Any = None


def register(data: typer.Typer) -> None:
    """Adds the verb to the group `nexus data`."""
    data.command("convert")(convert)


def convert(
    source: Annotated[Path, typer.Argument(help="A file of any kind that nexus reads.", metavar="IN")],
    to: Annotated[Target, typer.Option("--to", help="The layout of the new rows.")],
    out: Annotated[Path, typer.Option("--out", help="The new file, one JSON object a line.", metavar="FILE.jsonl")],
    text_field: Annotated[str, typer.Option(help="The field with running text.")] = "text",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many rows.")] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out rows that cannot be converted, and count them.")
    ] = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Write a data set in another layout: chat rows, preferences, or plain text out of pages and papers."""
    SignalInterrupt().install()
    _check_paths(source, out)
    from nexus_llm.data.reading.chat_conversion import converted_records
    from nexus_llm.storage import atomically

    records = converted_records(source, origin=str(source), target=to, text_field=text_field)
    outcome = _Outcome()
    with contextlib.nullcontext() if dry_run else atomically(out) as stream:
        for row in _usable(records, outcome, limit=limit, skip_broken=skip_broken):
            if outcome.example is None:
                outcome.example = _shortened(row.row)
                _show_first(row, outcome.example, to)
            outcome.found[row.found] += 1
            outcome.written += 1
            outcome.lost_answers += row.loses_answer
            if stream is not None:
                stream.write(row.line)
        if not outcome.written:
            raise DataError(f"{source}: no row that can be converted", fix="check the path, --text-field and --to")
    _tell(source, out, to, outcome, as_json=as_json, dry_run=dry_run)


def _check_paths(source: Path, out: Path) -> None:
    from nexus_llm.data.reading.readers import ENDINGS, format_of

    if not source.is_file():
        what = "is a folder" if source.is_dir() else "does not exist"
        raise UsageError(f"{source} {what}", fix="name one file to convert")
    if format_of(source.name) is None:
        raise UsageError(f"{source}: nobody here reads this kind of file", fix=f"known endings: {ENDINGS}")
    if out.suffix != ".jsonl":
        raise UsageError(f"--out {out}: the new file holds one JSON object a line", fix="let its name end with .jsonl")
    if out.exists() and (out.is_dir() or out.samefile(source)):
        raise UsageError(f"--out {out} {'is a folder' if out.is_dir() else 'is the file that is read'}",
                         fix="choose another name")  # fmt: skip


def _usable(
    records: Iterator[ConvertedRow | BrokenRecord], outcome: _Outcome, *, limit: int | None, skip_broken: bool
) -> Iterator[ConvertedRow]:
    from nexus_llm.data.reading.blocks import BrokenRecord

    for record in records:
        if limit is not None and outcome.written >= limit:
            return
        if not isinstance(record, BrokenRecord):
            yield record
        elif skip_broken:
            outcome.skipped.append(record)
        else:
            raise DataError(
                f"{record.file}:{record.line}: {record.error}",
                fix="mend the row, choose another --to or --text-field, or leave such rows out with --skip-broken",
            )


def _show_first(row: ConvertedRow, example: Any, to: str) -> None:
    print(f"detected: {row.found}; the first row as {to}:", file=sys.stderr)
    print(json.dumps(example, ensure_ascii=False, indent=2), file=sys.stderr, flush=True)


def _shortened(value: Any) -> Any:
    """The value with long texts cut, to be shown."""
    if isinstance(value, str):
        return value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}…"
    if isinstance(value, dict):
        return {str(name): _shortened(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(one) for one in value]
    return value if isinstance(value, int | float | bool | None) else str(value)


def _tell(source: Path, out: Path, to: str, outcome: _Outcome, *, as_json: bool, dry_run: bool) -> None:
    skipped = [{"line": one.line, "error": one.error} for one in outcome.skipped]
    if as_json:
        print_json({"in": str(source), "out": None if dry_run else str(out), "to": to, "found": dict(outcome.found),
                    "written": outcome.written, "rejected_answers_left_out": outcome.lost_answers,
                    "skipped": len(skipped), "first_skipped": skipped[:_SHOWN_BROKEN],
                    "example": outcome.example})  # fmt: skip
        return
    for one in skipped[:_SHOWN_BROKEN]:
        print(f"left out: {source}:{one['line']}: {one['error']}", file=sys.stderr)
    found = ", ".join(f"{count:,} {name}" for name, count in outcome.found.most_common())
    left_out = f", {len(skipped):,} left out" if skipped else ""
    answers = f", without {outcome.lost_answers:,} rejected answers" if outcome.lost_answers else ""
    where = "nothing written (--dry-run)" if dry_run else f"→ {out}"
    print(f"{outcome.written:,} rows ({found}) as {to}{answers}{left_out} {where}")

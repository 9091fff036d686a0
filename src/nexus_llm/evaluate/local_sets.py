"""Public benchmarks from local files: which files a task's splits are, and their rows as the hub would give them.

The mapping is data: `local_sets.yaml`. Reads files; knows no harness.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml

from nexus_llm.errors import DataError, UsageError

_MAPPING = "local_sets.yaml"
_ENDINGS = (".jsonl", ".parquet", ".csv")
# Fields of benchmarks are longer than csv's default of 131,072 characters allows for.
_LONGEST_FIELD = 1 << 30


@dataclass(frozen=True, slots=True)
class LocalSplit:
    """One split of one task."""

    files: tuple[Path, ...]
    columns: tuple[str, ...] = ()
    """Of a file without a header, or instead of the one that it has."""
    has_header: bool = False
    """The first line of a file with `columns` is no row."""
    fields: Mapping[str, str] | None = None
    """Field → Jinja expression over the row; None takes rows as they are."""

    @property
    def missing(self) -> Path | None:
        """The first of its files that is not there."""
        return next((one for one in self.files if not one.is_file()), None)


@cache
def mapping() -> dict[str, Any]:
    """`local_sets.yaml`: `sets`, `groups`, `scored_groups`, `answer_tokens`, `only_generated` and `needs`."""
    text = resources.files("nexus_llm.evaluate").joinpath(_MAPPING).read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def split_of(task: str, split: str, folder: Path) -> LocalSplit:
    """Where a split of a task is looked for below the folder of data sets; nobody says that it is there."""
    described, stands_for = _described(task)
    places = [folder / task / f"{split}{ending}" for ending in _ENDINGS]
    plain = next((one for one in places if one.is_file()), None)
    if plain or split not in described:
        return LocalSplit((plain or places[0],))
    values = described[split]
    return LocalSplit(
        tuple(folder / one.format(stands_for) for one in values["files"]),
        tuple(values.get("columns", ())),
        bool(values.get("header")),
        values.get("fields"),
    )


def rows_of(split: LocalSplit) -> list[dict[str, Any]]:
    """The rows, in the files' order.

    Raises:
        DataError: a file is missing, is not what its ending says, or a row lacks what the mapping reads.
    """
    if (missing := split.missing) is not None:
        raise DataError(f"{missing} is not there", fix="put the split there, or see docs/evaluation-benchmarks.md")
    given = [(f"{path}:{number}", row) for path in split.files for number, row in _read(path, split)]
    if not given:
        raise DataError(f"{split.files[0]} holds no rows", fix="put the whole split there")
    if split.fields is None:
        return [row for _, row in given]
    wanted = {name: _environment().compile_expression(text, False) for name, text in split.fields.items()}
    return [_fields(wanted, place, row) for place, row in given]


def tasks_of(names: Sequence[str], folder: Path | None) -> tuple[list[str], dict[str, list[str]]]:
    """The tasks that the names stand for, each once, and group → those of its tasks whose rows are not here.

    Raises:
        DataError: of a group nothing is here.
        UsageError: no task is named.
    """
    groups: dict[str, list[str]] = mapping()["groups"]
    tasks: list[str] = []
    absent: dict[str, list[str]] = {}
    for name in names:
        members = groups.get(name)
        if members is None or folder is None:
            tasks += members or [name]
            continue
        here = [one for one in members if _is_here(one, folder)]
        absent[name] = [one for one in members if one not in here]
        if not here:
            raise DataError(
                f"{folder} holds no set of {name}",
                fix=f"put one there: {split_of(members[0], 'test', folder).files[0]}",
            )
        tasks += here
    if not tasks:
        raise UsageError("no task is named", fix="--tasks hellaswag,arc_easy")
    return list(dict.fromkeys(tasks)), {name: missing for name, missing in absent.items() if missing}


def scored_groups(names: Sequence[str]) -> list[str]:
    """Those of the names that are groups with a score of their own."""
    return [one for one in dict.fromkeys(names) if one in mapping()["scored_groups"]]


def files_of(names: Sequence[str], folder: Path) -> list[Path]:
    """The files in the folder of data sets that belong to the tasks that the names stand for, whatever their split.

    Raises:
        DataError, UsageError: a task has none; or see `tasks_of`.
    """
    found: set[Path] = set()
    for task in tasks_of(names, folder)[0]:
        plain = [one for one in (folder / task).glob("*") if one.suffix in _ENDINGS]
        described = [path for split in _described(task)[0] for path in split_of(task, split, folder).files]
        here = {one for one in (*plain, *described) if one.is_file()}
        if not here:
            raise DataError(
                f"{folder} holds no set of {task}",
                fix=f"put it there: {split_of(task, 'test', folder).files[0]} (docs/evaluation-benchmarks.md)",
            )
        found |= here
    return sorted(found)


def size_of(task: str, folder: Path) -> tuple[int, int]:
    """About how many items, and characters, the part of a set has that a model is asked; 0 where it is not here."""
    splits = ("test", "validation", *_described(task)[0], *(one.stem for one in (folder / task).glob("*")))
    found = next((one for one in (split_of(task, split, folder) for split in splits) if one.missing is None), None)
    items, characters = 0, 0
    for path in found.files if found else ():
        if path.suffix == ".parquet":
            from pyarrow import parquet

            about = parquet.read_metadata(path)
            groups = [about.row_group(number) for number in range(about.num_row_groups)]
            items, characters = items + about.num_rows, characters + sum(one.total_byte_size for one in groups)
        else:
            text = path.read_bytes()
            items, characters = items + len(text.splitlines()), characters + len(text)
    return items, characters


def _is_here(task: str, folder: Path) -> bool:
    """Whether there is something to judge a model on; examples alone (`train`, `dev`) are not."""
    return any(split_of(task, split, folder).missing is None for split in ("test", "validation"))


def _described(task: str) -> tuple[dict[str, Any], str]:
    sets: dict[str, Any] = mapping()["sets"]
    if task in sets:
        return sets[task], ""
    for pattern, described in sets.items():
        start = pattern.removesuffix("*")
        if start != pattern and task.startswith(start):
            return described, task.removeprefix(start)
    return {}, ""


def _read(path: Path, split: LocalSplit) -> list[tuple[int, dict[str, Any]]]:
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return list(enumerate(parquet.read_table(path).to_pylist(), start=1))
        with path.open(encoding="utf-8-sig", newline="") as lines:
            if path.suffix in (".csv", ".tsv"):
                csv.field_size_limit(_LONGEST_FIELD)
                # A tab-separated file quotes nothing: its sentences have quotation marks of their own.
                kind: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
                if split.has_header:
                    next(lines, None)
                return list(enumerate(csv.DictReader(lines, fieldnames=split.columns or None, **kind), start=1))
            return [(number, _object(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}", fix="mend the file, or fetch it again") from error


def _object(line: str) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("a line is no JSON object")
    return row


def _fields(wanted: Mapping[str, Any], place: str, row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = {name: value(**row) for name, value in wanted.items()}
        for name, value in found.items():
            if isinstance(value, jinja2.Undefined):
                raise LookupError(f"nothing gives {name}")
        return found
    except (jinja2.UndefinedError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{place} has other fields than this set: {error}", fix="mend that line of the set") from error


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - no HTML
    environment.filters["common_start"] = common_start
    return environment


def common_start(texts: Sequence[str]) -> str:
    """The words with which all texts begin, with the space behind them.

    >>> common_start(["the trophy fell, so the trophy", "the trophy fell, so the suitcase"])
    'the trophy fell, so the '
    """
    # Letter by letter is what is meant: the last whole word is looked for behind it.
    start, space, _ = os.path.commonprefix(list(texts)).rpartition(" ")  # noqa: RUF071
    return start + space

"""What became of each record: reads the files of a finished data artifact, and nothing else.

{split}-{shard}.documents.parquet   row i = document i of the shard with that name
rejected.parquet                    every record that was read and not kept: rule, reason, value, excerpt
quarantine.jsonl                    every record that could not be read: file, line, error

Shards are scanned one after the other, columns as needed, so that memory does not grow with the corpus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from nexus_llm.errors import DataError

DUPLICATE_RULES = ("exact_duplicate", "near_duplicate")
PERSONAL_DATA_RULE = "pii"
ERASED_RULE = "erased"
UNSHOWN_RULES = (PERSONAL_DATA_RULE, ERASED_RULE)
"""Rules whose excerpts are never shown: what they took out is what nobody should read."""

_DOCUMENTS = ".documents.parquet"
_KEPT_COLUMNS = ("ordinal", "id", "source", "origin", "language", "cluster", "tokens")
_MIN_PREFIX_DIGITS = 4
_MOST_MATCHES = 50
# A reason names the record that stays by its id: 32 hex digits (see rows.document_id).
_NAMED_ID = r"\b([0-9a-f]{32})\b"
_LINE = ":[0-9]+$"

State = Literal["kept", "rejected", "quarantined"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kept document lies in the artifact."""

    split: str
    shard: str
    """Start of the shard's file names, such as `train-00000`."""
    row: int
    """Number of the document in the shard, from 0."""
    tokens: int
    repeats: int
    """How often one pass over the split reads it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record and what became of it. What does not apply to its state is None."""

    state: State
    origin: str
    """`path:line`, `path`, or a dotted Python name."""
    ordinal: int
    """Place in the total order of all records; 0 for a quarantined one, which has none."""
    id: str | None = None
    source: str | None = None
    language: str | None = None
    cluster: str | None = None
    place: Place | None = None
    rule: str | None = None
    reason: str | None = None
    value: float | None = None
    excerpt: str | None = None
    """Start of the text of a rejected record; None where the rule is one of UNSHOWN_RULES."""
    error: str | None = None
    """Why a quarantined record could not be read."""


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """One document as the trainer reads it."""

    token_ids: npt.NDArray[Any]
    """uint16 or uint32, (tokens,)."""
    loss_mask: npt.NDArray[np.bool_]
    """(tokens,): which of them are learned."""
    is_conversation: bool


def find(folder: Path, name: str) -> list[Record]:
    """Records that `name` means, in the order of all records: at most 50, none where it is unknown.

    `name` is an id, an origin, the start of an id (4 hex digits or more), the end of an origin's path, or a file
    without a line. The first of these that fits anything decides.

    Raises:
        DataError: the folder is no data artifact of this version.
    """
    column = pl.col("origin")
    attempts = [((pl.col("id") == name) | (column == name), lambda origin: origin == name)]
    if re.fullmatch(rf"[0-9a-fA-F]{{{_MIN_PREFIX_DIGITS},32}}", name):
        attempts.append((pl.col("id").str.starts_with(name.lower()), lambda _: False))
    attempts.append((column.str.ends_with(f"/{name}"), lambda origin: origin.endswith(f"/{name}")))
    file = column.str.replace(_LINE, "")
    attempts.append(
        (
            (file != column) & ((file == name) | file.str.ends_with(f"/{name}")),
            lambda origin: f"/{re.sub(_LINE, '', origin)}".endswith(f"/{name}"),
        )
    )
    for condition, fits in attempts:
        found = [
            *_kept(folder, condition),
            *_rejected(folder, condition, most=_MOST_MATCHES),
            *_quarantined(folder, fits),
        ]
        if found:
            return sorted(found, key=lambda one: (one.ordinal, one.origin))[:_MOST_MATCHES]
    return []


def same_text(folder: Path, records: Iterable[Record]) -> list[Record]:
    """The other records with the same or nearly the same text as any of `records`, in the order of all records.

    Follows clusters, and the ids that duplicates' reasons name, until nothing new is found: were only the kept copy
    taken away, the next build would keep one of the others.
    """
    start = {one.id for one in records if one.id}
    names, clusters = set(start), {one.cluster for one in records if one.cluster}
    names |= {target for one in records if (target := duplicate_of(one))}
    found: dict[str, Record] = {}
    while True:
        before = len(names), len(clusters)
        wanted = sorted(names)
        repeats_one = pl.col("rule").is_in(DUPLICATE_RULES) & pl.col("reason").str.extract(_NAMED_ID).is_in(wanted)
        kept = _kept(folder, pl.col("id").is_in(wanted) | pl.col("cluster").is_in(sorted(clusters)), most=None)
        rejected = _rejected(folder, pl.col("id").is_in(wanted) | repeats_one, most=None)
        for one in (*kept, *rejected):
            found[str(one.id)] = one
            names.add(str(one.id))
            if one.cluster:
                clusters.add(one.cluster)
            if named := duplicate_of(one):
                names.add(named)
        if before == (len(names), len(clusters)):
            return sorted((one for one in found.values() if one.id not in start), key=lambda one: one.ordinal)


def duplicate_of(record: Record) -> str | None:
    """The id of the record that a rejected duplicate repeats; None for every other record."""
    if record.rule not in DUPLICATE_RULES:
        return None
    named = re.search(_NAMED_ID, record.reason or "")
    return named[1] if named else None


def locate(folder: Path, ids: Iterable[str]) -> list[Record]:
    """The kept and rejected records with these ids, in the order of all records."""
    condition = pl.col("id").is_in(sorted(set(ids)))
    found = [*_kept(folder, condition, most=None), *_rejected(folder, condition, most=None)]
    return sorted(found, key=lambda one: one.ordinal)


def first_kept(folder: Path, split: str, count: int) -> list[Record]:
    """The first `count` documents of a split, in the order of its shards."""
    found: list[Record] = []
    for path in _shards(folder):
        if path.name.startswith(f"{split}-") and len(found) < count:
            found += _rows_of(path, pl.lit(value=True), most=count - len(found))
    return found


def shard_sizes(folder: Path) -> dict[str, int]:
    """Shard → number of its documents, by name.

    Raises:
        DataError: the folder is no data artifact of this version.
    """
    counted = {path: pl.scan_parquet(path, glob=False).select(pl.len()).collect().item() for path in _shards(folder)}
    return {path.name.removesuffix(_DOCUMENTS): int(count) for path, count in counted.items()}


def of_shard(folder: Path, shard: str) -> list[Record]:
    """All documents of one shard, in its order."""
    return _rows_of(folder / f"{shard}{_DOCUMENTS}", pl.lit(value=True), most=None)


def rule_counts(folder: Path) -> dict[str, int]:
    """Rejected records per rule, most first."""
    counts = _rejections(folder).group_by("rule").len().collect(engine="streaming")
    return dict(sorted(counts.rows(), key=lambda row: (-row[1], row[0])))


def rejected_by(folder: Path, rule: str, count: int) -> list[Record]:
    """`count` records that one rule rejected, spread evenly over all that it rejected."""
    rows = _rejections(folder).filter(pl.col("rule") == rule)
    total = int(rows.select(pl.len()).collect(engine="streaming").item())
    picked = sorted({index * total // count for index in range(count)}) if total else []
    frame = rows.with_row_index("place").filter(pl.col("place").is_in(picked)).drop("place").collect()
    return [_rejected_record(row) for row in frame.iter_rows(named=True)]


def nearest_origins(folder: Path, name: str, *, count: int = 5) -> list[str]:
    """Origins that look most like `name`: other lines of the same file first, then similar file names."""
    import difflib

    path, line = _divided(name)
    file_name = path.rsplit("/", 1)[-1]
    near = _kept(folder, pl.col("origin").str.contains(file_name, literal=True), most=1_000)
    near += _rejected(folder, pl.col("origin").str.contains(file_name, literal=True), most=1_000)
    same_file = [one.origin for one in near if _divided(one.origin)[0].rsplit("/", 1)[-1] == file_name]
    if same_file:
        return sorted(set(same_file), key=lambda one: (abs(_divided(one)[1] - line), one))[:count]
    files: set[str] = set()
    documents = (pl.scan_parquet(path, glob=False) for path in _shards(folder))
    for rows in (*documents, _rejections(folder)):
        file = pl.col("origin").str.replace(_LINE, "")
        files |= set(rows.select(file.unique()).head(20_000).collect(engine="streaming").to_series())
    by_name = {one.rsplit("/", 1)[-1]: one for one in sorted(files, reverse=True)}
    return [by_name[one] for one in difflib.get_close_matches(file_name, sorted(by_name), n=count, cutoff=0.6)]


def encoded(folder: Path, place: Place) -> EncodedDocument:
    """Tokens and loss mask of one document, as the trainer maps them.

    Raises:
        DataError: the shard is not complete.
    """
    try:
        offsets = np.load(folder / f"{place.shard}.offsets.npy", mmap_mode="r")
        begin, end = int(offsets[place.row]), int(offsets[place.row + 1])
        token_ids, mask = (
            np.array(np.load(folder / f"{place.shard}.{name}.npy", mmap_mode="r")[begin:end])
            for name in ("tokens", "loss_mask")
        )
        conversations = np.load(folder / f"{place.shard}.is_conversation.npy", mmap_mode="r")
        return EncodedDocument(token_ids, mask, bool(conversations[place.row]))
    except (OSError, IndexError, ValueError) as error:
        raise DataError(
            f"{folder}/{place.shard} cannot be read at row {place.row} ({error})",
            fix="nexus show the artifact names altered files; delete the folder and run nexus data again",
        ) from error


def spans(loss_mask: npt.NDArray[np.bool_]) -> list[tuple[int, int, bool]]:
    """(first token, token behind the last, is learned) of each run of equal values.

    >>> spans(np.array([False, True, True]))
    [(0, 1, False), (1, 3, True)]
    """
    if not len(loss_mask):
        return []
    borders = [0, *(np.flatnonzero(loss_mask[1:] != loss_mask[:-1]) + 1).tolist(), len(loss_mask)]
    return [(begin, end, bool(loss_mask[begin])) for begin, end in pairwise(borders)]


def _shards(folder: Path) -> list[Path]:
    found = sorted(folder.glob(f"*-*{_DOCUMENTS}"))
    if not found:
        raise DataError(
            f"{folder} has no file that ends in {_DOCUMENTS}: it is no data artifact, or of an older version",
            fix="run nexus data RECIPE again",
        )
    return found


def _kept(folder: Path, condition: pl.Expr, *, most: int | None = _MOST_MATCHES) -> list[Record]:
    found: list[Record] = []
    for path in _shards(folder):
        if most is None or len(found) < most:
            found += _rows_of(path, condition, most=None if most is None else most - len(found))
    return found


def _rows_of(path: Path, condition: pl.Expr, *, most: int | None) -> list[Record]:
    rows = pl.scan_parquet(path, row_index_name="row", glob=False).filter(condition).select("row", *_KEPT_COLUMNS)
    frame = (rows if most is None else rows.head(most)).collect(engine="streaming")
    if frame.is_empty():
        return []
    shard = path.name.removesuffix(_DOCUMENTS)
    repeats = np.load(path.with_name(f"{shard}.repeats.npy"), mmap_mode="r")
    return [_kept_record(row, shard, int(repeats[row["row"]])) for row in frame.iter_rows(named=True)]


def _kept_record(row: dict[str, Any], shard: str, repeats: int) -> Record:
    place = Place(shard.rsplit("-", 1)[0], shard, row["row"], row["tokens"], repeats)
    values = {name: row[name] for name in ("ordinal", "id", "source", "origin", "language", "cluster")}
    return Record("kept", place=place, **values)


def _rejections(folder: Path) -> pl.LazyFrame:
    path = folder / "rejected.parquet"
    if not path.exists():
        raise DataError(
            f"{folder} has no rejected.parquet, so it is no data artifact", fix="run nexus data RECIPE again"
        )
    return pl.scan_parquet(path, glob=False)


def _rejected(folder: Path, condition: pl.Expr, *, most: int | None) -> list[Record]:
    rows = _rejections(folder).filter(condition)
    frame = (rows if most is None else rows.head(most)).collect(engine="streaming")
    return [_rejected_record(row) for row in frame.iter_rows(named=True)]


def _rejected_record(row: dict[str, Any]) -> Record:
    values = {name: row[name] for name in ("ordinal", "id", "source", "origin", "rule", "reason", "value")}
    return Record("rejected", excerpt=None if row["rule"] in UNSHOWN_RULES else row["excerpt"], **values)


def _quarantined(folder: Path, fits: Callable[[str], bool]) -> Iterator[Record]:
    path = folder / "quarantine.jsonl"
    if not path.exists():
        return
    found = 0
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            origin = f"{row['file']}:{row['line']}"
            if fits(origin):
                yield Record("quarantined", origin, 0, error=row["error"])
                found += 1
            if found == _MOST_MATCHES:
                return


def _divided(origin: str) -> tuple[str, int]:
    """(path, line) of an origin; line 0 where it names none."""
    path, colon, line = origin.rpartition(":")
    return (path, int(line)) if colon and line.isdecimal() else (origin, 0)

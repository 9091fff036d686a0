"""The data stage: sources in; token shards, their documents, and a reason for every document that vanished out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from nexus_llm import storage
from nexus_llm.artifacts import Artifact, Draft, Estimate, Stage, file_sha256
from nexus_llm.chat import ChatTokenizer
from nexus_llm.data import duplicates, minhash, python_docs, tokens
from nexus_llm.data.intake import REJECTED_SCHEMA, Intake, rejections
from nexus_llm.data.readers import BrokenRecord, format_of, read_file
from nexus_llm.data.rows import documents_in
from nexus_llm.data.split import splits
from nexus_llm.errors import DataError, TryAgainError
from nexus_llm.ports import Ports
from nexus_llm.recipe import DataRecipe, FilesSource, Recipe, Source
from nexus_llm.records import SPLITS, Document

_ENDINGS = "jsonl, parquet, txt, md (jsonl, txt and md also as .gz or .zst)"
_PYTHON_DOCS_BYTES = 2_000_000  # CPython 3.11: 1.93 million characters
# Row groups of a fixed size, so that the same rows give the same bytes.
_ROW_GROUP_ROWS = 10_000
_PROGRESS_STEP = 256


@dataclass
class _SourceCount:
    """What one source gave."""

    files: int = 0
    read: int = 0
    broken: int = 0


def _recipe_part(recipe: Recipe) -> dict[str, Any]:
    return {"data": recipe.data.model_dump(mode="json"), "seed": recipe.seed}


def _outside_inputs(recipe: Recipe, ports: Ports) -> dict[str, str]:  # noqa: ARG001 - the port of every stage
    hashes: dict[str, str] = {}
    for source in recipe.data.sources:
        if isinstance(source, FilesSource):
            for file in _usable_files(source):
                hashes[file.location] = f"sha256:{_sha256(file.location)}"
        else:
            hashes[source.name] = f"sha256:{python_docs.fingerprint(python_docs.standard_library())}"
    return hashes


def _run(recipe: Recipe, inputs: Mapping[str, Artifact], draft: Draft, ports: Ports) -> Artifact:
    tokenizer = ChatTokenizer.load(inputs["model"].folder)
    with storage.explained(str(draft.folder)):
        intake, counts = _read_sources(recipe.data, draft.work, ports)
        kept, repeated = _without_duplicates(intake, recipe.data, ports)
        chosen = splits(kept["cluster"], recipe.data.split, seed=recipe.seed)
        _check_enough(chosen.values(), recipe.data, intake)
        kept = kept.with_columns(split=pl.col("cluster").replace_strict(dict(chosen), return_dtype=pl.String))
        facts, refused = _write_splits(kept, tokenizer, recipe.data, draft.folder, ports)
        rejected = pl.concat([intake.rejected, repeated, refused])
        _write_parquet(rejected, draft.folder / "rejected.parquet")
        _write_quarantine(intake.broken, draft.folder / "quarantine.jsonl")
    return draft.finish(facts={**facts, **_funnel(intake, rejected, counts, recipe.data)})


def _estimate(recipe: Recipe) -> Estimate:
    size = 0
    for source in recipe.data.sources:
        files = storage.list_files(source.path) if isinstance(source, FilesSource) else []
        size += sum(file.size for file in files if format_of(file.location)) if files else _PYTHON_DOCS_BYTES
    # 1.9 MB took 6 s and 9.2 MB took 15 s with HF tokenizers on 2 cores of an AMD EPYC, 2026-11.
    return Estimate(seconds=4 + size / 750_000, memory_bytes=400 * 2**20 + 6 * size)


def _usable_files(source: FilesSource) -> list[storage.FileInfo]:
    """The files of a source that somebody here can read.

    Raises:
        DataError: there is nothing at its path, or nothing with a known ending.
    """
    files = storage.list_files(source.path)
    if not files:
        is_there = "://" not in source.path and Path(source.path).expanduser().exists()
        raise DataError(
            f"source {source.name!r}: {source.path} {'is an empty folder' if is_there else 'does not exist'}",
            fix=f"put text files there ({_ENDINGS}), or correct data.sources' path; "
            "it is relative to the folder that nexus runs in",
        )
    usable = [file for file in files if format_of(file.location)]
    if not usable:
        raise DataError(
            f"source {source.name!r}: {source.path} has no file that can be read, "
            f"only {_listed(_unknown_endings(files))}",
            fix=f"known endings: {_ENDINGS}",
        )
    return usable


def _read_sources(recipe: DataRecipe, work: Path, ports: Ports) -> tuple[Intake, dict[str, _SourceCount]]:
    """Everything that the sources hold, judged and cleaned, up to `max_documents` records."""
    intake = Intake(recipe.quality, shingle_words=recipe.near_duplicates.shingle_words)
    counts: dict[str, _SourceCount] = {}
    for source in recipe.sources:
        count = counts[source.name] = _SourceCount()
        read, broken = intake.read, len(intake.broken)
        left = None if recipe.max_documents is None else recipe.max_documents - intake.read
        for _ in intake.take(islice(_records(source, work, ports, count), left)):
            _stop_if_asked(ports, "reading the text")
            ports.progress.advance(0, f"{intake.read:,} documents")
        ports.progress.finish(f"{intake.read - read:,} documents")
        count.read, count.broken = intake.read - read, len(intake.broken) - broken
        if isinstance(source, FilesSource):
            _check_broken(intake.broken[broken:], count, source)
    return intake, counts


def _records(source: Source, work: Path, ports: Ports, count: _SourceCount) -> Iterator[Document | BrokenRecord]:
    if isinstance(source, FilesSource):
        files = _usable_files(source)
        ports.progress.start(f"reading {source.name}", total=sum(file.size for file in files), unit="B")
        for file in files:
            yield from _file_records(file.location, source, work)
            count.files += 1
            ports.progress.advance(file.size)
        return
    library = python_docs.standard_library()
    paths = python_docs.source_files(library)
    ports.progress.start(f"reading {source.name}", total=len(paths), unit="files")
    for path in paths:
        yield from python_docs.documents_of(library, path, source=source.name)
        count.files += 1
        ports.progress.advance(1)


def _file_records(location: str, source: FilesSource, work: Path) -> Iterator[Document | BrokenRecord]:
    """Records of one file, which is fetched first where it is not on this disk."""
    path = Path(location).expanduser()
    is_remote = "://" in location
    if is_remote:
        path = storage.copy_to(location, work / "fetched" / Path(location).name)
    with storage.explained(location):
        yield from read_file(path, origin=location, source=source.name, text_field=source.text_field)
    if is_remote:
        path.unlink()


def _check_broken(broken: list[BrokenRecord], count: _SourceCount, source: FilesSource) -> None:
    records = count.read + count.broken
    if records and count.broken / records > source.max_broken_share:
        first = broken[0]
        raise DataError(
            f"{first.file}:{first.line}: {first.error}; {count.broken:,} of the {records:,} records in source "
            f"{source.name!r} are broken, more than max_broken_share {source.max_broken_share:g}",
            fix="mend the files, or raise max_broken_share of that source to set broken records aside",
        )


def _without_duplicates(intake: Intake, recipe: DataRecipe, ports: Ports) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Kept documents with their `cluster`, and the rejections of their duplicates."""
    documents = intake.documents
    texts, words = documents["text"], recipe.near_duplicates.shingle_words

    def shingles_of(index: int) -> minhash.Hashes:
        return minhash.shingles(texts[index], words=words)

    ports.progress.start("finding duplicates", total=None, unit="pairs")
    pairs = duplicates.similar_pairs(
        intake.signatures, shingles_of, min_jaccard=recipe.near_duplicates.jaccard, checked=ports.progress.advance
    )
    clustered = duplicates.cluster(intake.content_hashes, texts.str.len_chars().to_list(), pairs)
    keep_all = recipe.near_duplicates.keep == "all"
    reasons = [_repetition(index, one, documents["id"], keep_all) for index, one in enumerate(clustered)]
    values = [
        minhash.jaccard(shingles_of(index), shingles_of(one.representative)) if reason else None
        for index, (one, reason) in enumerate(zip(clustered, reasons, strict=True))
    ]
    documents = documents.with_columns(
        cluster=pl.Series([one.cluster for one in clustered], dtype=pl.String),
        reason=pl.Series([reason and reason[1] for reason in reasons], dtype=pl.String),
        rule=pl.Series([reason and reason[0] for reason in reasons], dtype=pl.String),
        value=pl.Series(values, dtype=pl.Float64),
    )
    repeated = rejections(documents.filter(pl.col("rule").is_not_null()))
    ports.progress.finish(f"{len(repeated):,} duplicates")
    return documents.filter(pl.col("rule").is_null()).drop("reason", "rule", "value"), repeated


def _repetition(index: int, one: duplicates.Clustered, ids: pl.Series, keep_all: bool) -> tuple[str, str] | None:
    """(rule, reason) for a document that repeats another, None for one that stays."""
    if one.copy_of != index:
        return "exact_duplicate", f"equal to {ids[one.copy_of]}"
    if one.representative != index and not keep_all:
        return "near_duplicate", f"nearly equal to {ids[one.representative]}"
    return None


def _check_enough(chosen: Any, recipe: DataRecipe, intake: Intake) -> None:
    """Something must be left to learn from and, where asked for, to hold out."""
    found = Counter(chosen)
    if not found:
        reasons = _listed(dict(intake.rejected["rule"].value_counts().rows()))
        places = ", ".join(source.path if isinstance(source, FilesSource) else source.name for source in recipe.sources)
        raise DataError(
            f"{places}: not one usable document is left of {intake.read:,} that were read"
            + (f" (rejected: {reasons})" if reasons else ""),
            fix="check the path and text_field of data.sources, or relax data.quality",
        )
    wanted = {"validation": recipe.split.validation_share, "test": recipe.split.test_share, "train": 1.0}
    if any(share and not found[split] for split, share in wanted.items()):
        raise DataError(
            f"only {found.total()} different documents are left, too few to train on some and hold others out",
            fix="give at least 3 documents: split long files (jsonl holds one document a line), or relax data.quality",
        )


def _write_splits(
    kept: pl.DataFrame, tokenizer: ChatTokenizer, recipe: DataRecipe, folder: Path, ports: Ports
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Shards and documents of every split; gives their counts, and conversations that the template refuses."""
    facts: dict[str, dict[str, int]] = {"documents": {}, "tokens": {}, "characters": {}, "shards": {}}
    refused: list[tokens.RefusedDocument] = []
    ports.progress.start("writing tokens", total=len(kept), unit="documents")
    for split in SPLITS:
        rows = kept.filter(split=split).drop("split")
        writer = tokens.ShardWriter(
            folder, split, tokens.token_type(tokenizer.vocabulary_size), shard_tokens=recipe.shard_tokens
        )
        for number, one in enumerate(tokens.encode(list(documents_in(rows)), tokenizer), start=1):
            if isinstance(one, tokens.RefusedDocument):
                refused.append(one)
            else:
                writer.add(one)
            ports.progress.advance(1)
            if number % _PROGRESS_STEP == 0:
                _stop_if_asked(ports, "writing tokens")
        writer.close()
        rows = rows.filter(~pl.col("id").is_in([one.id for one in refused]))
        _write_parquet(rows, folder / f"{split}.parquet")
        facts["documents"][split] = len(rows)
        facts["tokens"][split] = writer.tokens
        facts["characters"][split] = int(rows["text"].str.len_chars().sum())
        facts["shards"][split] = writer.shards
    ports.progress.finish(f"{sum(facts['tokens'].values()):,} tokens")
    if refused and not facts["documents"]["train"]:
        raise DataError(
            f"the model's chat template refuses every conversation; the first: {refused[0].error}",
            fix="check the order and roles of the messages, or choose a model with another template",
        )
    return facts, _template_rejections(kept, refused)


def _template_rejections(kept: pl.DataFrame, refused: list[tokens.RefusedDocument]) -> pl.DataFrame:
    reasons = {one.id: one.error for one in refused}
    rows = kept.filter(pl.col("id").is_in(list(reasons)))
    if rows.is_empty():
        return pl.DataFrame(schema=REJECTED_SCHEMA)
    return rejections(
        rows.with_columns(
            reason=pl.col("id").replace_strict(reasons, return_dtype=pl.String),
            rule=pl.lit("chat_template"),
            value=pl.lit(None),
        )
    )


def _funnel(
    intake: Intake, rejected: pl.DataFrame, counts: dict[str, _SourceCount], recipe: DataRecipe
) -> dict[str, Any]:
    """Counts that add up: read = kept + rejected + duplicates; broken records are on top of what was read."""
    rules = dict(sorted(rejected["rule"].value_counts().rows()))
    unknown = {
        source.name: _unknown_endings(storage.list_files(source.path))
        for source in recipe.sources
        if isinstance(source, FilesSource)
    }
    return {
        "read": intake.read,
        "kept": intake.read - len(rejected),
        "duplicates": {"exact": rules.pop("exact_duplicate", 0), "near": rules.pop("near_duplicate", 0)},
        "rejected": rules,
        "quarantined": len(intake.broken),
        "sources": {
            name: {**asdict(count), "unknown_endings": unknown.get(name, {})} for name, count in counts.items()
        },
    }


def _unknown_endings(files: list[storage.FileInfo]) -> dict[str, int]:
    """Ending → number of files that nobody here reads, sorted by ending."""
    endings = Counter(Path(file.location).suffix or "no ending" for file in files if not format_of(file.location))
    return dict(sorted(endings.items()))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))


def _sha256(location: str) -> str:
    if "://" not in location:
        with storage.explained(location):
            return file_sha256(Path(location).expanduser())
    import hashlib

    with storage.open_binary(location) as stream:
        total = hashlib.sha256()
        while chunk := stream.read(2**20):
            total.update(chunk)
        return total.hexdigest()


def _write_parquet(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(path, row_group_size=_ROW_GROUP_ROWS)


def _write_quarantine(broken: list[BrokenRecord], path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for one in broken:
            stream.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")


def _stop_if_asked(ports: Ports, doing: str) -> None:
    if reason := ports.interrupt.requested():
        raise TryAgainError(f"stopped by {reason} while {doing}", fix="run the same command again")


STAGE = Stage(
    kind="data",
    version=1,
    needs=("model",),
    recipe_part=_recipe_part,
    outside_inputs=_outside_inputs,
    run=_run,
    estimate=_estimate,
)

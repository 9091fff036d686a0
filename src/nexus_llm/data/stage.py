"""The data stage: sources in; token shards, their documents, and a reason for every document that vanished out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nexus_llm import storage
from nexus_llm.artifacts import Artifact, Draft, Estimate, Stage, file_sha256
from nexus_llm.data.looking import erasure
from nexus_llm.data.reading import python_docs, sources
from nexus_llm.data.reading.readers import ENDINGS, format_of
from nexus_llm.errors import DataError, TryAgainError
from nexus_llm.ports import Ports
from nexus_llm.recipe import DataRecipe, FilesSource, PythonDocsSource, Recipe, Source

if TYPE_CHECKING:
    from nexus_llm.data.engine import Engine
    from nexus_llm.data.facts import Facts
    from nexus_llm.data.segments import Summary
    from nexus_llm.data.taken import Tools

_PYTHON_DOCS_BYTES = 2_000_000  # CPython 3.11: 1.93 million characters
# Below this size, starting worker processes takes longer than they save.
_SMALL_CORPUS_BYTES = 24 * 2**20
# Disk for one byte of text: its cleaned copy, token ids and masks twice, the documents beside the shards.
_DISK_SHARE = 2.7
# Engines that are services: they make the same files, which are then brought here.
_ELSEWHERE = ("glue", "emr-serverless", "batch")
# Fields that say who does the work, not what comes out.
_NOT_IN_KEY = {"engine", "workers", "spark", "aws"}


def _recipe_part(recipe: Recipe) -> dict[str, Any]:
    return {"data": recipe.data.model_dump(mode="json", exclude=_NOT_IN_KEY), "seed": recipe.seed}


def _outside_inputs(recipe: Recipe, ports: Ports) -> dict[str, str]:  # noqa: ARG001 - the port of every stage
    hashes: dict[str, str] = {}
    for source in recipe.data.sources:
        if isinstance(source, PythonDocsSource):
            hashes[source.name] = f"sha256:{python_docs.fingerprint(python_docs.standard_library())}"
        else:
            hashes.update({file.location: _fingerprint(file) for file in _usable_files(source)})
    for path in _other_paths(recipe.data):
        files = storage.list_files(path)
        if not files:
            raise DataError(f"{path} does not exist", fix="correct the path in the recipe's data section")
        hashes.update({file.location: _fingerprint(file) for file in files})
    if recipe.data.language.identify:
        from nexus_llm.data.judging import language

        model = language.model_path()
        hashes[model.name] = f"sha256:{file_sha256(model)}"
    return hashes


def _run(recipe: Recipe, inputs: Mapping[str, Artifact], draft: Draft, ports: Ports) -> Artifact:
    from nexus_llm.data import enough
    from nexus_llm.data.facts import missing_documents

    if recipe.data.engine in _ELSEWHERE:
        return draft.finish(facts=ports.data_service.make(recipe, draft.folder.name, draft.folder))
    model_folder = inputs["model"].folder
    files = {source.name: _files_of(source) for source in recipe.data.sources}
    locations = {name: [file.location for file in group] for name, group in files.items()}
    with storage.explained(str(draft.folder)), _engine(recipe, files, draft.work, ports) as engine:
        facts = _new_facts(recipe.data, files)
        if (index := engine.tools.evaluation_index) is not None:
            facts.unchecked, facts.common_runs = dict(index.unchecked), index.ignored
        _check_disk(files, draft.work)
        enough.check_template(recipe.data, locations, facts, model_folder)
        summaries = _take(engine, recipe.data, files, facts, draft.work, ports)
        enough.check_template(recipe.data, locations, facts, model_folder)
        decisions = engine.decide(summaries)
        encoded = engine.encode(summaries, decisions, model_folder, facts)
        enough.check_left(facts, recipe.data, engine, encoded, model_folder)
        facts.set_epochs(recipe.data.sources)
        facts.add_written(engine.write(encoded, facts.epochs, draft.folder))
        engine.write_rejected(summaries, draft.folder / "rejected.parquet")
        _write_quarantine(summaries, draft.folder / "quarantine.jsonl")
        found = facts.to_json()
        assert missing_documents(found) == 0, found
        _write_report(found, draft.folder)
    return draft.finish(facts=found)


@contextlib.contextmanager
def _engine(
    recipe: Recipe, files: Mapping[str, Sequence[storage.FileInfo]], work: Path, ports: Ports
) -> Iterator[Engine]:
    """Who does the work, as `data.engine` says."""

    def stop_if_asked() -> None:
        _stop_if_asked(ports)

    if recipe.data.engine == "spark":
        from nexus_llm.data.spark.engine import spark_engine

        with spark_engine(
            tools=_tools(recipe.data, work),
            seed=recipe.seed,
            work=work,
            progress=ports.progress,
            stop_if_asked=stop_if_asked,
            at_hand=at_hand,
            settings=recipe.data.spark,
        ) as engine:
            yield engine
        return
    from nexus_llm.data.engine import Engine
    from nexus_llm.data.workers import Workers

    count = _worker_count(recipe.data, files)
    with Workers(count, folder=work, stop_if_asked=stop_if_asked) as workers:
        workers.start("nexus_llm.data.intake")
        yield Engine(_tools(recipe.data, work), recipe.seed, work, workers, ports.progress, stop_if_asked)


def _estimate(recipe: Recipe) -> Estimate:
    size = 0
    for source in recipe.data.sources:
        files = storage.list_files(source.path) if isinstance(source, FilesSource) else []
        size += sum(file.size for file in files if format_of(file.location)) if files else _PYTHON_DOCS_BYTES
    # Start-up, and the rate of one core of an AMD EPYC, 2026-11 (benchmarks/data.py).
    return Estimate(seconds=8 + size / 10_000_000 / (os.cpu_count() or 1), memory_bytes=900 * 2**20)


def _check_disk(files: Mapping[str, Sequence[storage.FileInfo]], work: Path) -> None:
    """Refuses a large corpus that cannot fit, before hours are spent on it."""
    size = sum(file.size for group in files.values() for file in group)
    needed, free = size * _DISK_SHARE, shutil.disk_usage(work).free
    if size > _SMALL_CORPUS_BYTES and free + _done_bytes(work) < needed:
        raise DataError(
            f"{work} has {free / 1e9:.1f} GB free, and {size / 1e9:.1f} GB of text need about {needed / 1e9:.1f} GB",
            fix="free some space, or run in a folder on a larger disk; the same command continues",
        )


def _done_bytes(work: Path) -> int:
    """What an earlier run has written."""
    return sum(path.stat().st_size for path in work.rglob("*") if path.is_file())


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
            fix=f"put text files there ({ENDINGS}), or correct data.sources' path; "
            "it is relative to the folder that nexus runs in",
        )
    usable = [file for file in files if source.format or format_of(file.location)]
    if not usable:
        raise DataError(
            f"source {source.name!r}: {source.path} has no file that can be read, "
            f"only {_listed(_unknown_endings(files))}",
            fix=f"known endings: {ENDINGS}; or name the format: data.sources' `format`",
        )
    return usable


def _files_of(source: Source) -> list[storage.FileInfo]:
    """What a source consists of, in the order in which it is read; modules of the standard library for python-docs."""
    if isinstance(source, FilesSource):
        return _usable_files(source)
    library = python_docs.standard_library()
    return [
        storage.FileInfo(path.as_posix(), (library / path).stat().st_size) for path in python_docs.source_files(library)
    ]


def _other_paths(recipe: DataRecipe) -> list[str]:
    """Files besides the sources that decide what comes out."""
    paths = [recipe.block.domains_path, recipe.block.urls_path, recipe.erase_path]
    return [path for path in paths if path] + [one.path for one in recipe.decontaminate]


def _tools(recipe: DataRecipe, work: Path) -> Tools:
    """Everything that judging needs, read once."""
    from nexus_llm.data.judging import block_lists, decontaminate, language, rules
    from nexus_llm.data.taken import Tools

    block = recipe.block
    spec = rules.load_spec()
    # A rule's name that is none is refused here, before anything is read.
    rules.asked_rules(spec, recipe.quality.families, recipe.quality.limits())
    return Tools(
        recipe=recipe,
        spec=spec,
        language_model=language.load(language.model_path()) if recipe.language.identify else None,
        blocked=block_lists.load(
            domains=_bytes(block.domains_path), urls=_bytes(block.urls_path), licenses=block.licenses
        )
        if block.domains_path or block.urls_path or block.licenses
        else None,
        evaluation_index=decontaminate.build_index(
            {one.name: _evaluation_items(one.path, work) for one in recipe.decontaminate}
        )
        if recipe.decontaminate
        else None,
        erased_ids=frozenset(_erased(recipe.erase_path)),
    )


def _erased(path: str | None) -> Mapping[str, str]:
    """Ids of the records to forget."""
    return erasure.parse(_bytes(path).decode(), place=path) if path else {}


def _bytes(path: str | None) -> bytes:
    return storage.read_bytes(path) if path else b""


def _evaluation_items(path: str, work: Path) -> Iterator[tuple[str, str]]:
    from nexus_llm.data.judging.decontaminate import items_of

    for file in storage.list_files(path):
        if format_of(file.location):
            with at_hand(file.location, work) as local:
                yield from items_of(local, origin=file.location)


def _worker_count(recipe: DataRecipe, files: Mapping[str, Sequence[storage.FileInfo]]) -> int:
    if recipe.workers is not None:
        return recipe.workers
    size = sum(file.size for group in files.values() for file in group)
    return 1 if size < _SMALL_CORPUS_BYTES else os.cpu_count() or 1


def _new_facts(recipe: DataRecipe, files: Mapping[str, Sequence[storage.FileInfo]]) -> Facts:
    from nexus_llm.data.facts import Facts, SourceFacts

    facts = Facts({name: SourceFacts(files=len(group)) for name, group in files.items()})
    for source in recipe.sources:
        if isinstance(source, FilesSource) and not source.format:
            facts.sources[source.name].unknown_endings = _unknown_endings(storage.list_files(source.path))
    return facts


def _take(
    engine: Engine,
    recipe: DataRecipe,
    files: Mapping[str, Sequence[storage.FileInfo]],
    facts: Facts,
    work: Path,
    ports: Ports,
) -> list[Summary]:
    """The first pass over all sources."""
    from nexus_llm.data.workers import is_compiled

    total = sum(file.size for group in files.values() for file in group)
    first = "" if is_compiled() else " (the first time, compiling takes half a minute)"
    ports.progress.start(f"reading the text{first}", total=total, unit="B")
    summaries = []
    for summary in _taken(engine, recipe, files, work, ports):
        facts.add_taken(summary)
        summaries.append(summary)
    ports.progress.finish(f"{sum(one.read for one in facts.sources.values()):,} documents")
    for source in recipe.sources:
        if isinstance(source, FilesSource):
            _check_broken(source, facts, summaries)
    return summaries


def _taken(
    engine: Engine, recipe: DataRecipe, files: Mapping[str, Sequence[storage.FileInfo]], work: Path, ports: Ports
) -> Iterable[Summary]:
    if recipe.engine == "spark":
        # Executors read the files themselves.
        from nexus_llm.data.spark.engine import SparkEngine
        from nexus_llm.data.spark.files import source_files

        assert isinstance(engine, SparkEngine)
        return engine.take_files(source_files(recipe.sources, files))
    from nexus_llm.data.reading.tasks import tasks

    return engine.take(tasks(sources.pieces(recipe.sources, files, at_hand, work, ports.progress.advance)))


@contextlib.contextmanager
def at_hand(location: str, work: Path) -> Iterator[Path]:
    """A local path of a file, which is fetched first where it is not on this disk."""
    if "://" not in location:
        yield Path(location).expanduser()
        return
    path = storage.copy_to(location, work / "fetched" / Path(location).name)
    yield path
    path.unlink()


def _check_broken(source: FilesSource, facts: Facts, summaries: Sequence[Summary]) -> None:
    """Refuses a source with too many broken records, naming the first."""
    one = facts.sources[source.name]
    records = one.read + one.broken
    if not records or one.broken / records <= source.max_broken_share:
        return
    names = {file.location for file in _usable_files(source)}
    first = next(broken for summary in summaries for broken in summary.broken if broken.file in names)
    raise DataError(
        f"{first.file}:{first.line}: {first.error}; {one.broken:,} of the {records:,} records in source "
        f"{source.name!r} are broken, more than max_broken_share {source.max_broken_share:g}",
        fix="mend the files, or raise max_broken_share of that source to set broken records aside",
    )


def _unknown_endings(files: Sequence[storage.FileInfo]) -> dict[str, int]:
    """Ending → number of files that nobody here reads, sorted by ending."""
    endings = Counter(Path(file.location).suffix or "no ending" for file in files if not format_of(file.location))
    return dict(sorted(endings.items()))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()) if number)


def _fingerprint(file: storage.FileInfo) -> str:
    """What changes when the file's content does: its sha256, or what the object store says of it."""
    if file.etag:
        return f"etag:{file.etag}"
    if "://" not in file.location:
        with storage.explained(file.location):
            return f"sha256:{file_sha256(Path(file.location).expanduser())}"
    with storage.open_binary(file.location) as stream:
        return f"sha256:{hashlib.file_digest(cast(Any, stream), 'sha256').hexdigest()}"


def _write_quarantine(summaries: Sequence[Summary], path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for summary in summaries:
            for one in summary.broken:
                stream.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")


def _write_report(facts: Mapping[str, Any], folder: Path) -> None:
    import polars as pl

    from nexus_llm.data.looking import report

    shown = report.examples(pl.scan_parquet(folder / "rejected.parquet", glob=False))
    page = report.page(facts, shown, "Where the text came from, and what became of it")
    (folder / "report.html").write_text(page, encoding="utf-8")


def _stop_if_asked(ports: Ports) -> None:
    if reason := ports.interrupt.requested():
        raise TryAgainError(f"stopped by {reason} in the data stage", fix="run the same command again: it continues")


STAGE = Stage(
    kind="data",
    version=5,
    needs=("model",),
    recipe_part=_recipe_part,
    outside_inputs=_outside_inputs,
    run=_run,
    estimate=_estimate,
)

"""A recipe's own text, or the first of it, into the data bucket of a rehearsal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.cloud.data_uploads import upload_file
from nexus_llm.data.reading import python_docs
from nexus_llm.errors import UsageError
from nexus_llm.recipe import FilesSource, PythonDocsSource, Recipe, Source

MOST_BYTES = 2**20
"""Of each source: enough for every stage, and a Spark on two cores is soon through."""
_BY_LINES = (".jsonl", ".csv", ".txt", ".md")


def put_sources(recipe: Recipe, prefix: str, folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The recipe's sources as they lie below `prefix` now, and what of each was taken; `folder` is for what is cut.

    Raises:
        UsageError: a source lies in a bucket of the real AWS, or is empty.
    """
    placed, taken = [], {}
    for source in recipe.data.sources:
        url = f"{prefix}/{source.name}/"
        count = size = 0
        for path in _beginning(source, folder / source.name):
            upload_file(path, f"{url}{count:04d}-{path.name}")
            count, size = count + 1, size + path.stat().st_size
        if not count:
            raise UsageError(f"source {source.name!r} holds no file", fix="correct its path in the recipe")
        kept = source.model_dump(mode="json") if isinstance(source, FilesSource) else {"name": source.name}
        placed.append({**kept, "type": "files", "path": url})
        taken[source.name] = f"{count} files, {size / 1e6:.1f} MB"
    return placed, taken


def _beginning(source: Source, folder: Path) -> Iterator[Path]:
    """Local files with the first of a source."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(source, PythonDocsSource):
        yield _python_docs(source.name, folder / "documents.jsonl")
        return
    if "://" in source.path:
        raise UsageError(
            f"source {source.name!r} lies at {source.path}, which no rehearsal can read",
            fix="--set data.sources.0.path=FOLDER with some files of it",
        )
    left = MOST_BYTES
    for file in storage.list_files(source.path):
        path = Path(file.location)
        if file.size > left and path.suffix in _BY_LINES:
            (folder / path.name).write_bytes(_whole_lines(path, left))
            yield folder / path.name
            return
        yield path
        left -= file.size
        if left <= 0:
            return


def _python_docs(name: str, target: Path) -> Path:
    library = python_docs.standard_library()
    with target.open("w", encoding="utf-8") as stream:
        for path in python_docs.source_files(library):
            for document in python_docs.documents_of(library, path, source=name):
                stream.write(json.dumps({"text": document.text, "origin": document.origin}) + "\n")
            if stream.tell() >= MOST_BYTES:
                break
    return target


def _whole_lines(path: Path, most: int) -> bytes:
    with path.open("rb") as stream:
        content = stream.read(most)
    return content[: content.rfind(b"\n") + 1] or content

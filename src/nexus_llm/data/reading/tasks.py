"""What a worker is given at once: pieces of files, about a block's worth, whose records have a place among all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nexus_llm.data.reading import python_docs
from nexus_llm.data.reading.blocks import BLOCK_BYTES, Block, BrokenRecord, ReadSettings
from nexus_llm.data.reading.readers import records_of
from nexus_llm.records import Document

# ordinal = file index << 40 | record number: room for 16 million files of a million million records.
_RECORD_BITS = 40


@dataclass(frozen=True, slots=True)
class PythonModule:
    """One file of this Python's standard library, relative to it."""

    path: Path
    source: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Some records of one file."""

    file_index: int
    """The file's place among all files of all sources, from 0."""
    content: Block | PythonModule
    settings: ReadSettings


@dataclass(frozen=True, slots=True)
class Task:
    """Neighbouring pieces; task after task they give every record in the order of ordinals."""

    number: int
    pieces: tuple[Piece, ...]
    limit: int | None = None
    """Usable records to take at most."""


def tasks(pieces: Iterable[Piece]) -> Iterator[Task]:
    """Pieces in groups of about BLOCK_BYTES, so that ten thousand small files are not ten thousand tasks."""
    group: list[Piece] = []
    size = number = 0
    for piece in pieces:
        group.append(piece)
        # A module's docstrings are a few kilobytes.
        size += len(piece.content.payload) if isinstance(piece.content, Block) else 16_384
        if size >= BLOCK_BYTES:
            yield Task(number, tuple(group))
            group, size, number = [], 0, number + 1
    if group:
        yield Task(number, tuple(group))


def records(task: Task, *, formats_seen: Mapping[str, Counter[str]]) -> Iterator[tuple[int, Document | BrokenRecord]]:
    """(ordinal, record) of every record of a task, ascending. `formats_seen` counts each source's layouts of rows."""
    left = task.limit
    for piece in task.pieces:
        for number, record in _records_of(piece, formats_seen[piece.content.source]):
            if left == 0:
                return
            if left is not None and isinstance(record, Document):
                left -= 1
            yield ordinal(piece.file_index, number), record


def ordinal(file_index: int, number: int) -> int:
    """The place among all records of record `number` (from 1) of a file."""
    return file_index << _RECORD_BITS | number


def _records_of(piece: Piece, formats_seen: Counter[str]) -> Iterator[tuple[int, Document | BrokenRecord]]:
    if isinstance(piece.content, Block):
        return records_of(piece.content, piece.settings, formats_seen=formats_seen)
    library = python_docs.standard_library()
    return enumerate(python_docs.documents_of(library, piece.content.path, source=piece.content.source), start=1)

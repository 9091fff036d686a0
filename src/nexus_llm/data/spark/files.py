"""Source files as work for Spark's executors: each takes its share of a corpus without the driver reading any of it.

Small files go to one executor together; a large one goes to several, each of which reads all of it (fast: nothing is
parsed) and takes its share of the blocks. Neither changes what comes out, because every record's ordinal says its
file and its place in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nexus_llm.data.reading.blocks import BLOCK_BYTES, Block, ReadSettings
from nexus_llm.data.reading.readers import blocks_of
from nexus_llm.data.reading.sources import AtHand, SizedFile
from nexus_llm.data.reading.tasks import Piece, PythonModule, Task, tasks
from nexus_llm.recipe import FilesSource, PythonDocsSource, Source

# Several executors share a file above this size. Reading without parsing is 30 times as fast as the first pass, so
# eight readers of one file cost a quarter more than one, and end eight times as early.
SHARED_FILE_BYTES = 256 * 2**20
MAX_PARTS = 8
# Blocks in a row that one executor takes of a shared file.
_RUN_BLOCKS = 8
# number of a task = number of its group << 24 | place in the group: room for 16 million blocks a group.
_PLACE_BITS = 24


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of one source."""

    index: int
    """Its place among all files of all sources, from 0."""
    location: str
    size: int
    source: str
    settings: ReadSettings = field(default_factory=ReadSettings)
    format: str | None = None
    """None: its ending says it."""
    is_python_module: bool = False
    """`location` is relative to the standard library."""


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Neighbouring files, or a share of one."""

    number: int
    """Groups in the order of numbers give all records in the order of ordinals, but for parts of one file."""
    files: tuple[SourceFile, ...]
    part: int = 0
    parts: int = 1


def source_files(sources: Iterable[Source], files: Mapping[str, Sequence[SizedFile]]) -> Iterator[SourceFile]:
    """All files of all sources in the order in which they are numbered; `files` are given by the source's name."""
    index = 0
    for source in sources:
        kind: dict[str, Any] = {"is_python_module": isinstance(source, PythonDocsSource)}
        if isinstance(source, FilesSource):
            settings = ReadSettings(text_field=source.text_field, chat_format=source.chat_format)
            kind |= {"settings": settings, "format": source.format}
        for file in files[source.name]:
            yield SourceFile(index, file.location, file.size, source.name, **kind)
            index += 1


def groups(files: Iterable[SourceFile], *, shared_file_bytes: int = SHARED_FILE_BYTES) -> Iterator[FileGroup]:
    """Files in groups of about a block's bytes, large ones in parts."""
    pending: list[SourceFile] = []
    size = number = 0
    for file in files:
        parts = min(MAX_PARTS, 1 + file.size // shared_file_bytes)
        if pending and (parts > 1 or size + file.size > BLOCK_BYTES):
            yield FileGroup(number, tuple(pending))
            pending, size, number = [], 0, number + 1
        if parts > 1:
            yield from (FileGroup(number, (file,), part, parts) for part in range(parts))
            number += 1
        else:
            pending.append(file)
            size += file.size
    if pending:
        yield FileGroup(number, tuple(pending))


def tasks_of(group: FileGroup, at_hand: AtHand, folder: Path) -> Iterator[Task]:
    """The tasks of one group."""
    # A folder of its own: files of one name, or parts of one file, may be fetched at the same time.
    pieces = (piece for file in group.files for piece in _pieces(file, at_hand, folder / f"{file.index}-{group.part}"))
    if group.parts == 1:
        for task in tasks(pieces):
            yield replace(task, number=group.number << _PLACE_BITS | task.number)
        return
    for piece in pieces:
        place = piece.content.number if isinstance(piece.content, Block) else 0
        if place // _RUN_BLOCKS % group.parts == group.part:
            yield Task(group.number << _PLACE_BITS | place, (piece,))


def _pieces(file: SourceFile, at_hand: AtHand, folder: Path) -> Iterator[Piece]:
    if file.is_python_module:
        yield Piece(file.index, PythonModule(Path(file.location), file.source), file.settings)
        return
    with at_hand(file.location, folder) as path:
        for block in blocks_of(path, origin=file.location, source=file.source, format=file.format):
            yield Piece(file.index, block, file.settings)

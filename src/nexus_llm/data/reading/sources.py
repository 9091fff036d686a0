"""The files of all sources, in order, cut into pieces for tasks; a bucket's files come while others are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from nexus_llm.data.reading.blocks import ReadSettings
from nexus_llm.data.reading.readers import blocks_of
from nexus_llm.data.reading.tasks import Piece, PythonModule
from nexus_llm.recipe import FilesSource, PythonDocsSource, Source

# Files on their way here while one is read; so many lie on the disk at once.
_FETCHED_AHEAD = 4

AtHand = Callable[[str, Path], AbstractContextManager[Path]]
"""Gives a local path of a file while it is needed; may use a folder for it."""


class SizedFile(Protocol):
    """One file: where it is and its size in bytes; `storage.FileInfo` is one."""

    @property
    def location(self) -> str: ...
    @property
    def size(self) -> int: ...


def pieces(
    sources: Sequence[Source],
    files: Mapping[str, Sequence[SizedFile]],
    at_hand: AtHand,
    work: Path,
    advance: Callable[[int], None],
) -> Iterator[Piece]:
    """Every file of every source as pieces, in the order of `sources` and of `files`. `advance` hears of bytes read."""
    index = 0
    for source in sources:
        if isinstance(source, PythonDocsSource):
            for file in files[source.name]:
                yield Piece(index, PythonModule(Path(file.location), source.name), ReadSettings())
                advance(file.size)
                index += 1
            continue
        local = _all_at_hand([file.location for file in files[source.name]], at_hand, work)
        for file, path in zip(files[source.name], local, strict=True):
            yield from _file_pieces(file, path, source, index, advance)
            index += 1


def _file_pieces(
    file: SizedFile, path: Path, source: FilesSource, index: int, advance: Callable[[int], None]
) -> Iterator[Piece]:
    settings = ReadSettings(text_field=source.text_field, chat_format=source.chat_format)
    left = file.size
    for block in blocks_of(path, origin=file.location, source=source.name, format=source.format):
        yield Piece(index, block, settings)
        # Compressed files hold more than their size: the bar waits at their end.
        step = min(left, len(block.payload))
        left -= step
        advance(step)
    advance(left)


def _all_at_hand(locations: Sequence[str], at_hand: AtHand, work: Path) -> Iterator[Path]:
    """A local path of each location, usable until the next one is asked for."""
    if not any("://" in location for location in locations):
        for location in locations:
            with at_hand(location, work) as path:
                yield path
        return
    with ThreadPoolExecutor(_FETCHED_AHEAD) as pool:
        coming: deque[tuple[AbstractContextManager[Path], Future[Path]]] = deque()
        for number, location in enumerate(locations):
            file = at_hand(location, work / f"{number:06d}")
            coming.append((file, pool.submit(file.__enter__)))
            if len(coming) > _FETCHED_AHEAD:
                yield from _when_here(*coming.popleft())
        while coming:
            yield from _when_here(*coming.popleft())


def _when_here(file: AbstractContextManager[Path], path: Future[Path]) -> Iterator[Path]:
    yield path.result()
    file.__exit__(None, None, None)

"""A file on its way: `NAME.part`, a note of which version its bytes are of, and their hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from nexus_llm.artifacts import file_sha256
from nexus_llm.data.catalogue.download import (
    PIECE_BYTES,
    FetchedFile,
    PartialFile,
    RemoteFile,
    WantedFile,
    mismatch,
    parse_partial,
    partial_document,
)
from nexus_llm.errors import DataError
from nexus_llm.storage import sync_folder, write_atomically


class GrowingFile:
    """`NAME.part` with its version and hash; what an earlier process left is taken up if it is of the same URL."""

    def __init__(self, folder: Path, wanted: WantedFile, on_bytes: Callable[[int], None]) -> None:
        self.wanted = wanted
        self.state: PartialFile | None = None
        self.sha256 = wanted.sha256
        self.have = self.received = 0
        self._target = folder / wanted.name
        self._part = folder / f"{wanted.name}.part"
        self._note = folder / f"{wanted.name}.part.json"
        self._on_bytes = on_bytes
        self._hash = hashlib.sha256()
        self._stream: IO[bytes] | None = None
        self._is_pieced = False
        self._load()

    def _load(self) -> None:
        state = parse_partial(self._note.read_bytes()) if self._note.exists() else None
        if state is None or state.url != self.wanted.url:
            return  # bytes of unknown origin are not continued
        self.state = state
        if self._part.exists():
            with self._part.open("rb") as stream:
                while piece := stream.read(PIECE_BYTES):
                    self._hash.update(piece)
                    self.have += len(piece)
            self._is_pieced = self.have > 0
            self._on_bytes(self.have)

    def is_whole_already(self) -> bool:
        """Whether a crash came between the last rename and the receipt."""
        if not self._target.exists():
            return False
        size = self._target.stat().st_size
        if self.state is None or self._part.exists() or self.state.size not in (None, size):
            raise DataError(
                f"{self._target} is there already, and not from {self.wanted.url}", fix="move it, or fetch elsewhere"
            )
        return True

    def restart(self, remote: RemoteFile | None) -> None:
        """Throws away what is here; `remote` is the version that comes now."""
        self.close()
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self._on_bytes(-self.have)
        self.have, self._hash, self._is_pieced, self.state = 0, hashlib.sha256(), False, None
        if remote is not None:
            self.state = PartialFile(self.wanted.url, remote.size, remote.etag, remote.last_modified)
            write_atomically(self._note, partial_document(self.state))

    def write(self, piece: bytes) -> None:
        """Appends bytes of the version that `restart` named."""
        if self._stream is None:
            self._stream = self._part.open("ab")
        self._stream.write(piece)
        self._hash.update(piece)
        self.have += len(piece)
        self.received += len(piece)
        self._on_bytes(len(piece))

    def close(self) -> None:
        """After this, every byte that was counted is in the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def mark_pieced(self) -> None:
        """Notes that what comes now continues bytes of an earlier answer."""
        self._is_pieced = self.have > 0

    def is_worth_another_try(self) -> bool:
        """Whether a wrong hash may come from gluing two versions together: then all of it is fetched anew."""
        if not (self._is_pieced and self._mismatch(self._hash.hexdigest(), self.have)):
            return False
        self.restart(None)
        return True

    def finish(self) -> FetchedFile:
        """Verifies, syncs and renames.

        Raises:
            DataError: size or hash is wrong; the file is kept as `NAME.bad`.
        """
        self.close()
        is_renamed = self._target.exists()
        place = self._target if is_renamed else self._part
        place.touch()  # an empty file has no piece
        found = file_sha256(place) if is_renamed else self._hash.hexdigest()
        size = place.stat().st_size
        if wrong := self._mismatch(found, size):
            bad = self._target.with_name(f"{self.wanted.name}.bad")
            place.replace(bad)
            self._note.unlink(missing_ok=True)
            raise DataError(f"{self.wanted.url} arrived with {wrong}", fix=f"look at {bad}, and ask who publishes it")
        if not is_renamed:
            with place.open("rb") as stream:
                os.fsync(stream.fileno())
            place.replace(self._target)
            sync_folder(self._target.parent)
        etag = self.state.etag if self.state else None
        return FetchedFile(self.wanted.name, self.wanted.url, size, found, etag, self.wanted.licence)

    def _mismatch(self, sha256: str, size: int) -> str | None:
        return mismatch(size=size, sha256=sha256, wanted_size=self.wanted.size, wanted_sha256=self.sha256)


def forget_partial(folder: Path, name: str) -> None:
    """Removes the note of a finished file's version: its receipt is written."""
    (folder / f"{name}.part.json").unlink(missing_ok=True)

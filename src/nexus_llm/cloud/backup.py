"""Backups of one machine's work: runs, finished artifacts, MLflow's registry, the database of keys and usage.

    TO/files/3f/3f2a9c…                    a file's content by its sha256, once however many backups hold it
    TO/backups/2026-11-22T19-30-05Z.json   what one backup holds; written last: without it, it never happened

`TO` is a folder or a bucket. A second backup copies what is new, and an interrupted one goes on. Every file that comes
back is compared with its hash. Base models stay out: they lie in the cache and can be pulled again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nexus_llm
from nexus_llm.artifacts import ArtifactStore, file_sha256
from nexus_llm.cloud.database_copies import CopiedDatabase
from nexus_llm.cloud.stored_files import upload_stored, write_stored
from nexus_llm.cloud.trackers import DATABASE
from nexus_llm.errors import StorageError, TryAgainError, UsageError
from nexus_llm.ports import Interrupt, Progress
from nexus_llm.storage import FileInfo, copy_to, explained, filesystem_of, list_files, read_bytes, write_atomically

_OWN_ROADS = tuple(f"runs/{DATABASE}{end}" for end in ("", "-wal", "-shm", "-journal"))


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a backup: its path below the root, permissions, size and sha256."""

    path: str
    mode: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredDatabase:
    """A database's copy: which kind of database it came from, size and sha256."""

    kind: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Backup:
    """What one backup holds."""

    made: str
    """UTC, `2026-11-22T19-30-05Z`: nothing that was written after this moment is in it."""
    files: tuple[StoredFile, ...]
    databases: Mapping[str, StoredDatabase]
    """`keys`, `registry`."""
    version: str = nexus_llm.__version__

    @property
    def size(self) -> int:
        """Bytes of all that comes back."""
        return sum(one.bytes for one in _contents(self))

    @classmethod
    def from_json(cls, text: bytes) -> Backup:
        """The backup that `text` tells of."""
        values: dict[str, Any] = json.loads(text)
        return cls(
            values["made"],
            tuple(StoredFile(**one) for one in values["files"]),
            {name: StoredDatabase(**one) for name, one in values["databases"].items()},
            values["version"],
        )


class BackupStore:
    """The backups in one folder or bucket."""

    def __init__(self, place: str, *, progress: Progress, interrupt: Interrupt) -> None:
        """`place` is a path or `s3://BUCKET/PREFIX`."""
        self.place = place.rstrip("/")
        self._progress, self._interrupt = progress, interrupt

    def names(self) -> list[str]:
        """The moments of all backups, oldest first."""
        found = list_files(f"{self.place}/backups")
        return [one.location.rpartition("/")[2].removesuffix(".json") for one in found]

    def find(self, made: str | None = None) -> Backup:
        """The newest backup, or the one of that moment."""
        names = self.names()
        if not names or (made is not None and made not in names):
            raise StorageError(
                f"{self.place} holds no backup{f' of {made}' if names else ''}",
                fix=f"it has: {', '.join(names)}" if names else f"nexus backup --to {self.place} makes one",
            )
        return Backup.from_json(read_bytes(f"{self.place}/backups/{made or names[-1]}.json"))

    def make(self, root: Path, databases: Mapping[str, CopiedDatabase], *, now: str) -> Backup:
        """Copies what lies below `root` and the databases, as they are from `now` (`2026-11-22T19-30-05Z`) on.

        Raises:
            StorageError: something cannot be read or written.
            TryAgainError: somebody asked to stop; what was copied is not copied again.
        """
        root = root.resolve()
        self._make_private()
        known = {one.location.rpartition("/")[2]: one.size for one in list_files(f"{self.place}/files")}
        with tempfile.TemporaryDirectory(prefix="nexus-backup-") as scratch:
            dumps = {name: self._dumped(one, known, Path(scratch) / name) for name, one in databases.items()}
            found = list(_worth_keeping(root))
            self._progress.start("backing up", total=sum(one.size for one in found), unit="bytes")
            files = []
            for path in (Path(one.location) for one in found):
                self._stop_if_asked()
                copy = Path(scratch) / "file"
                with explained(str(path)):
                    # What may grow while it is read is copied first; an artifact's files never change.
                    taken = Path(shutil.copyfile(path, copy)) if path.is_relative_to(root / "runs") else path
                    mode = path.stat().st_mode & 0o777
                entry = self._stored(taken, known)
                files.append(StoredFile(path.relative_to(root).as_posix(), mode, *entry))
                self._progress.advance(entry[0])
        made = Backup(now, tuple(files), dumps)
        self._write_index(made)
        self._progress.finish(f"{self.place}, {now}")
        return made

    def put_back(self, backup: Backup, root: Path, databases: Mapping[str, CopiedDatabase], *, overwrite: bool) -> int:
        """Brings everything back below `root` and into the databases; gives how many files were not there already.

        Raises:
            UsageError: files or tables of another content are there, and `overwrite` does not allow it; nothing was
                changed.
            StorageError: the backup is damaged, or something cannot be written.
            TryAgainError: somebody asked to stop; what came back is not fetched again.
        """
        wanted = [one for one in backup.files if not _is_there(root / one.path, one)]
        taken = [str(root / one.path) for one in wanted if (root / one.path).exists()]
        taken += [f"the database of {name}" for name, one in databases.items() if not one.is_empty()]
        if taken and not overwrite:
            more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
            raise UsageError(
                f"{taken[0]}{more} would be replaced by what the backup holds", fix="another --root, or --overwrite"
            )
        self._progress.start("restoring", total=sum(one.bytes for one in wanted), unit="bytes")
        for one in wanted:
            self._stop_if_asked()
            self._fetch(one, root / one.path)
            (root / one.path).chmod(one.mode)
            self._progress.advance(one.bytes)
        with tempfile.TemporaryDirectory(prefix="nexus-restore-") as scratch:
            for name, database in databases.items():
                self._fetch(backup.databases[name], Path(scratch) / name)
                database.load(Path(scratch) / name)
        self._progress.finish(f"{len(wanted):,} files")
        return len(wanted)

    def keep(self, count: int) -> int:
        """Removes all but the newest `count` backups and what only they hold; gives how many files went."""
        names = self.names()
        for name in names[:-count]:
            self._remove(f"{self.place}/backups/{name}.json")
        held = {one.sha256 for name in names[-count:] for one in _contents(self.find(name))}
        left = [one for one in list_files(f"{self.place}/files") if one.location.rpartition("/")[2] not in held]
        for one in left:
            self._remove(one.location)
        return len(left)

    def _dumped(self, database: CopiedDatabase, known: dict[str, int], target: Path) -> StoredDatabase:
        database.dump(target)
        entry = self._stored(target, known)
        target.unlink()
        return StoredDatabase(database.kind, *entry)

    def _stored(self, path: Path, known: dict[str, int]) -> tuple[int, str]:
        """Size and sha256 of a file whose content is in the store from now on."""
        with explained(str(path)):
            size, sha256 = path.stat().st_size, file_sha256(path)
        if known.get(sha256) != size:  # absent, or cut off by a kill
            url = self._content(sha256)
            if "://" not in url:
                Path(url).parent.mkdir(parents=True, exist_ok=True)
            upload_stored(path, url)
            known[sha256] = size
        return size, sha256

    def _fetch(self, one: StoredFile | StoredDatabase, target: Path) -> None:
        partial = copy_to(self._content(one.sha256), target.with_name(f".{target.name}.partial"))
        if file_sha256(partial) != one.sha256:
            partial.unlink()
            raise StorageError(
                f"{self._content(one.sha256)} is damaged: its bytes have another hash",
                fix="bring an earlier version of that object back, or restore an earlier backup: --made",
            )
        partial.replace(target)

    def _content(self, sha256: str) -> str:
        return f"{self.place}/files/{sha256[:2]}/{sha256}"

    def _write_index(self, made: Backup) -> None:
        url, text = f"{self.place}/backups/{made.made}.json", json.dumps(asdict(made), indent=1) + "\n"
        if "://" in url:
            write_stored(url, text.encode())
        else:
            write_atomically(Path(url), text.encode())

    def _make_private(self) -> None:
        if "://" not in self.place:
            with explained(self.place):
                Path(self.place, "backups").mkdir(mode=0o700, parents=True, exist_ok=True)
                Path(self.place).chmod(0o700)

    def _remove(self, url: str) -> None:
        filesystem, path = filesystem_of(url)
        with explained(url):
            filesystem.rm_file(path)

    def _stop_if_asked(self) -> None:
        if reason := self._interrupt.requested():
            raise TryAgainError(f"stopped by {reason}", fix="the same command continues")


def databases_of(
    root: Path, keys: str | None, registry: str | None, password: Callable[[], str] | None
) -> dict[str, CopiedDatabase]:
    """The databases that are meant: that of keys at a URL, and MLflow's at another or in the runs.

    An MLflow server is none: its database is copied where that runs.
    """
    own = root / "runs" / DATABASE
    if registry is None and own.exists():
        registry = str(own)
    if registry is not None and registry.startswith(("http://", "https://")):
        registry = None
    found = {"keys": CopiedDatabase(keys, password)} if keys else {}
    return found | ({"registry": CopiedDatabase(registry)} if registry else {})


def _worth_keeping(root: Path) -> Iterator[FileInfo]:
    """Files of runs and of finished artifacts, sorted; databases go their own way."""
    runs = list_files(str(root / "runs"))
    yield from (one for one in runs if Path(one.location).relative_to(root).as_posix() not in _OWN_ROADS)
    for artifact in ArtifactStore(root / "artifacts").all():
        yield from list_files(str(artifact.folder))


def _is_there(path: Path, one: StoredFile) -> bool:
    return path.is_file() and path.stat().st_size == one.bytes and file_sha256(path) == one.sha256


def _contents(backup: Backup) -> tuple[StoredFile | StoredDatabase, ...]:
    return (*backup.files, *backup.databases.values())

"""Files on a disk or in a bucket behind six verbs: list, read, open, copy, write, remove.

A location is a path or any URL that fsspec knows (`s3://` needs the `[aws]` extra, `memory://` serves tests).
Every refusal of the operating system becomes a StorageError with a remedy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nexus_llm.errors import MissingExtraError, StorageError


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file: its location and size in bytes."""

    location: str
    size: int
    etag: str = ""
    """What an object store says of the content: changes when it does. Empty on a disk."""


def list_files(location: str) -> list[FileInfo]:
    """All files at `location`, sorted by name: a file, a folder (searched at any depth), or a glob pattern.

    Hidden files and folders (a leading dot) are left out, as a shell does. An absent location gives an empty list.
    """
    filesystem, path = filesystem_of(location)
    with explained(location):
        if any(character in path for character in "*?["):
            found = filesystem.glob(path, detail=True)
        elif filesystem.isdir(path) and "://" not in location:
            found = {name: filesystem.info(name) for name in _files_below(path)}
        elif filesystem.isdir(path):
            found = filesystem.find(path, detail=True)
        elif filesystem.exists(path):
            found = {path: filesystem.info(path)}
        else:
            found = {}
    base = path.split("*")[0]
    infos = [
        FileInfo(_unresolve(location, name), _size(name, info), str(info.get("ETag") or "").strip('"'))
        for name, info in found.items()
        if (info["type"] == "file" or (info.get("islink") and Path(name).is_file()))
        and not _is_hidden(name.removeprefix(base))
    ]
    return sorted(infos, key=lambda info: info.location)


def read_bytes(location: str) -> bytes:
    """The whole content of a file.

    Raises:
        StorageError: it is absent or may not be read.
    """
    with open_binary(location) as stream:
        return stream.read()


@contextlib.contextmanager
def open_binary(location: str) -> Iterator[IO[bytes]]:
    """A readable, seekable stream of a file's bytes."""
    filesystem, path = filesystem_of(location)
    with explained(location), filesystem.open(path, "rb") as stream:
        yield stream


def copy_to(location: str, target: Path) -> Path:
    """Copies one file to a local path and returns that path."""
    filesystem, path = filesystem_of(location)
    target.parent.mkdir(parents=True, exist_ok=True)
    with explained(location):
        filesystem.get_file(path, str(target))
    return target


def write_atomically(target: Path, content: bytes) -> None:
    """Puts `content` at `target` so that a reader, or a power cut, sees the old file or the whole new one."""
    with atomically(target) as stream:
        stream.write(content)


@contextlib.contextmanager
def atomically(target: Path) -> Iterator[IO[bytes]]:
    """A stream whose content is at `target`, whole, when the block ends well, and nowhere before or otherwise."""
    if target.is_dir():
        raise StorageError(f"{target} is a folder, not a file", fix="name a file in it")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with explained(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut (POSIX asks for an fsync of the folder itself)."""
    sync(folder)


def sync(path: Path) -> None:
    """Waits until a file, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Deletes a folder and all in it; absent is fine."""
    with explained(str(folder)):
        if folder.exists():
            shutil.rmtree(folder)


@contextlib.contextmanager
def explained(place: str) -> Iterator[None]:
    """Turns the operating system's refusals inside the block into StorageErrors that name `place`."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or place)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"no space left on the disk while writing {where}", fix="free some space; the same command continues"
            ) from error
        if isinstance(error, PermissionError):
            raise StorageError(f"not allowed to use {where}", fix=_permission(where, error)) from error
        if isinstance(error, FileNotFoundError):
            raise StorageError(f"{where} does not exist", fix="check the path for a typing mistake") from error
        raise


def _permission(where: str, error: PermissionError) -> str:
    """What to do about a refusal; a bucket's names the action, but where it has no words (HEAD requests)."""
    if named := re.search(r"perform: (?P<action>[a-z0-9-]+:\w+)", f"{error} {error.__cause__}"):
        return f"give the caller the action {named['action']}"
    if where.startswith("s3://"):
        return (
            "give the caller s3:ListBucket, s3:GetObject and kms:Decrypt, to write also s3:PutObject and "
            "kms:GenerateDataKey: the bucket does not say which is missing"
        )
    return "check the owner and mode of the path"


def _files_below(folder: str) -> Iterator[str]:
    """Every file below a folder of this machine. Links are followed, each folder once: a cycle of links ends.

    fsspec's own search leaves out links to files, and with them the whole cache of a model hub.

    Raises:
        OSError: a folder may not be read; silence would make the corpus smaller.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        files = (Path(here, name) for name in sorted(names))
        yield from (str(file) for file in files if file.exists())


def _size(name: str, info: dict[str, Any]) -> int:
    """Bytes of a file; of a link's target, not of the link."""
    return Path(name).stat().st_size if info.get("islink") else int(info["size"] or 0)


def filesystem_of(location: str) -> tuple[Any, str]:
    """The fsspec file system of a location, and the path in it.

    Raises:
        MissingExtraError: its driver is not installed.
        StorageError: the scheme is unknown.
    """
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(os.path.expanduser(location))  # noqa: PTH111 - may be a URL
    except ImportError as error:
        raise MissingExtraError.for_extra("aws", location.split("://", maxsplit=1)[0] + "fs") from error
    except ValueError as error:
        raise StorageError(
            f"{location} is not a path or a URL of a known kind ({error})", fix="use a local path or s3://bucket/prefix"
        ) from error
    return filesystem, path


def _unresolve(location: str, name: str) -> str:
    """The name that fsspec gives back, with the protocol that the caller used."""
    if "://" in location:
        return f"{location.split('://', maxsplit=1)[0]}://{name.lstrip('/')}"
    return os.path.relpath(name) if not os.path.isabs(os.path.expanduser(location)) else name  # noqa: PTH111,PTH117


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)

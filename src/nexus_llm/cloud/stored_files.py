"""Files in a bucket (or any other place that fsspec knows) as a host to fetch from, and a place to fetch to."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nexus_llm.data.catalogue.download import PIECE_BYTES, Answer, Remote, RemoteFile, TransientError
from nexus_llm.errors import DataError, StorageError
from nexus_llm.storage import explained, filesystem_of

_RANGE = re.compile(r"bytes=(\d+)-")


class StoredRemote:
    """The `nexus_llm.data.catalogue.download.Remote` of buckets. It answers as an HTTP host would, ranges included."""

    def describe(self, url: str) -> RemoteFile:
        filesystem, path = filesystem_of(url)
        try:
            found = filesystem.info(path)
        except FileNotFoundError as error:
            raise DataError(f"{url} does not exist", fix="check the bucket and the key") from error
        except PermissionError as error:
            raise DataError(f"{url} is not given to this user", fix="check the AWS credentials and policy") from error
        # A bucket's ETag names the version; elsewhere the time of writing does.
        version = found.get("ETag") or found.get("created") or found.get("mtime")
        size = int(found["size"])
        return RemoteFile(size, f'"{str(version).strip(chr(34))}-{size}"' if version else None, None)

    @contextlib.contextmanager
    def open(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        remote = self.describe(url)
        assert remote.size is not None
        filesystem, path = filesystem_of(url)
        wanted = _RANGE.fullmatch(headers.get("range", ""))
        first = int(wanted[1]) if wanted and headers.get("if-range") in (None, remote.etag) else 0
        found = {"etag": remote.etag or "", "content-length": str(remote.size - first)}
        if first > remote.size or (first and first == remote.size):
            yield _StoredAnswer(416, found, None)
            return
        if first:
            found["content-range"] = f"bytes {first}-{remote.size - 1}/{remote.size}"
        with filesystem.open(path, "rb", block_size=8 * PIECE_BYTES) as stream:
            stream.seek(first)
            yield _StoredAnswer(206 if first else 200, found, stream)


@dataclass(frozen=True, slots=True)
class _StoredAnswer:
    status: int
    headers: Mapping[str, str]
    stream: IO[bytes] | None

    def pieces(self) -> Iterator[bytes]:
        while self.stream is not None:
            try:
                piece = self.stream.read(PIECE_BYTES)
            except OSError as error:  # what the drivers make of a broken line
                raise TransientError(f"{type(error).__name__}: {error}") from error
            if not piece:
                return
            yield piece


def list_stored(url: str) -> list[str]:
    """The URLs of all files below a bucket's prefix, or of the one file, sorted."""
    filesystem, path = filesystem_of(url)
    with explained(url):
        names = filesystem.find(path)
    scheme = url.split("://", maxsplit=1)[0]
    found = sorted(f"{scheme}://{name.lstrip('/')}" for name in names)
    if not found:
        raise DataError(f"{url} holds no file", fix="check the bucket and the prefix")
    return found


def read_stored(url: str) -> bytes | None:
    """A file's content, or None where there is no such file."""
    filesystem, path = filesystem_of(url)
    with explained(url):
        return bytes(filesystem.cat_file(path)) if filesystem.exists(path) else None


def write_stored(url: str, content: bytes) -> None:
    """Replaces a file's content; in a bucket a reader sees the old or the new."""
    filesystem, path = filesystem_of(url)
    with explained(url):
        filesystem.pipe_file(path, content)


def upload_stored(local: Path, url: str) -> None:
    """Uploads a file (in parts where the store knows parts: memory stays bounded) and compares sizes.

    Raises:
        StorageError: the store refuses, or says another size afterwards.
    """
    filesystem, path = filesystem_of(url)
    with explained(url):
        filesystem.put_file(str(local), path)
        filesystem.invalidate_cache()
        found = int(filesystem.info(path)["size"])
    if found != local.stat().st_size:
        raise StorageError(f"{url} has {found} bytes after uploading {local.stat().st_size}", fix="run it again")


def stored_size(url: str) -> int | None:
    """Bytes of a file, or None where there is none."""
    filesystem, path = filesystem_of(url)
    with explained(url):
        return int(filesystem.info(path)["size"]) if filesystem.exists(path) else None


class RemoteByScheme:
    """The `nexus_llm.data.catalogue.download.Remote` that hands each URL to its kind of host."""

    def __init__(self, http: Remote, stored: Remote) -> None:
        self._http = http
        self._stored = stored

    def describe(self, url: str) -> RemoteFile:
        return self._of(url).describe(url)

    def open(self, url: str, headers: Mapping[str, str]) -> contextlib.AbstractContextManager[Answer]:
        return self._of(url).open(url, headers)

    def _of(self, url: str) -> Remote:
        return self._http if url.startswith(("http://", "https://")) else self._stored

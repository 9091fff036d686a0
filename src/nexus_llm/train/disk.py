"""What training asks of a disk: flushed files, refusals that a user understands, and one process a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from nexus_llm.errors import StorageError, TrainingError

LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def explained(place: Path) -> Iterator[None]:
    """Turns a full or forbidding disk inside the block into a StorageError that names the file, or else `place`."""
    try:
        yield
    except OSError as error:
        where = error.filename or place
        if error.errno in _FULL:
            raise StorageError(
                f"no space left on the disk while writing {where} ({error.strerror})",
                fix="free some space; the same command continues after the newest whole checkpoint",
            ) from error
        if error.errno in _FORBIDDEN:
            raise StorageError(
                f"{where} cannot be written ({error.strerror})",
                fix="check the owner and mode of the folder, and that its disk is not mounted read-only",
            ) from error
        raise


def flush(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderLock:
    """Holds a folder for this process until `release`; the kernel releases it when the process dies, however it dies.

    The process's number stands in the file for those who are refused; an old number in it means nothing.
    """

    def __init__(self, folder: Path) -> None:
        """Takes the folder.

        Raises:
            TrainingError: another process holds it.
            StorageError: the folder cannot be written.
        """
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._stream = (folder / LOCK).open("a+", encoding="utf-8")
            try:
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._stream.seek(0)
                holder = self._stream.read().strip() or "unknown"
                self._stream.close()
                raise TrainingError(
                    f"process {holder} is training in {folder} at this moment",
                    fix="wait for it, or stop it, then run the same command again",
                ) from error
            self._stream.truncate(0)
            self._stream.write(f"{os.getpid()}\n")
            self._stream.flush()

    def release(self) -> None:
        """Gives the folder back; again is fine."""
        self._stream.close()

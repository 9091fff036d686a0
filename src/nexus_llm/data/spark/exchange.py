"""Where executors put what the next pass needs: one folder that all of them see, or a bucket with local copies.

Passes read and write files below one folder. Where all machines share it, nothing has to be moved. Where they do not
(Glue, EMR Serverless), what a pass made is moved to the bucket at its end, and fetched from there before the next
pass reads it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_llm.errors import MissingExtraError


@dataclass(frozen=True)
class Exchange:
    """The folder, and the bucket behind it. Can be pickled."""

    folder: Path
    """Absolute. Shared by all machines where there is no bucket; else any folder for local copies."""
    bucket: str | None = None
    """`s3://bucket/prefix`, or any URL that fsspec knows; None where all machines share the folder."""

    @property
    def place(self) -> Path:
        """Where this process reads and writes."""
        # Processes of one machine must not drop copies that others still read.
        return self.folder / f"process-{os.getpid()}" if self.bucket else self.folder

    def offer(self, *names: str) -> None:
        """Moves what the patterns match, below the folder, to the bucket; what says "done" (.json) goes last."""
        if self.bucket is None:
            return
        found = sorted(
            {path for name in names for path in self.place.glob(name)}, key=lambda path: path.suffix == ".json"
        )
        files, base = self._remote()
        for path in found:
            target = f"{base}/{path.relative_to(self.place).as_posix()}"
            if path.is_dir():
                # One by one: a folder put over an existing one would land inside of it.
                for file in sorted(path.iterdir()):
                    files.makedirs(target, exist_ok=True)
                    files.put_file(str(file), f"{target}/{file.name}")
                shutil.rmtree(path)
            else:
                files.makedirs(target.rpartition("/")[0], exist_ok=True)
                files.put_file(str(path), target)
                path.unlink()

    def fetch(self, *names: str) -> None:
        """Brings files, or folders of files, to the folder; absent ones stay absent."""
        if self.bucket is None:
            return
        files, base = self._remote()
        for name in names:
            source, target = f"{base}/{name}", self.place / name
            if target.exists() or not files.exists(source):
                continue
            partial = target.with_name(f".{target.name}.fetched")
            partial.parent.mkdir(parents=True, exist_ok=True)
            if files.isdir(source):
                partial.mkdir(exist_ok=True)
                for file in files.find(source):
                    files.get_file(file, str(partial / file.rpartition("/")[2]))
            else:
                files.get_file(source, str(partial))
            partial.replace(target)

    @contextmanager
    def at_hand(self, *names: str) -> Iterator[None]:
        """A block in which these files or folders can be read."""
        self.fetch(*names)
        try:
            yield
        finally:
            self.forget(*names)

    def forget(self, *names: str) -> None:
        """Drops local copies."""
        if self.bucket is None:
            return
        for name in names:
            path = self.place / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Empties the bucket's part, and the local copies of this process."""
        if self.bucket is None:
            return
        files, base = self._remote()
        if files.exists(base):
            files.rm(base, recursive=True)
        shutil.rmtree(self.place, ignore_errors=True)

    def url(self, name: str) -> str:
        """Where Spark itself can keep something under this name."""
        return f"{self.bucket.rstrip('/')}/{name}" if self.bucket else (self.folder / name).as_uri()

    def _remote(self) -> tuple[Any, str]:
        import fsspec

        try:
            files, base = fsspec.core.url_to_fs(self.bucket)
        except ImportError as error:
            raise MissingExtraError.for_extra("aws", "s3fs") from error
        return files, base.rstrip("/")

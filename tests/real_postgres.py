"""A real PostgreSQL for tests: started on a free loopback port, gone with its data at the end."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import pytest

START_SECONDS = 30.0


@dataclass
class RealPostgres:
    """A server that can be stopped and started again."""

    binaries: Path
    folder: Path
    port: int
    user: str | None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://nexus@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Returns when it answers."""
        options = ["-D", str(self.folder / "data"), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", *options, "-c", "fsync=off"], stdout=log, stderr=log, user=self.user
            )
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run([self.binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it at once, and every connection with it."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT: PostgreSQL's immediate shutdown
            self.process.wait(20)
            self.process = None


@contextlib.contextmanager
def real_postgres() -> Iterator[RealPostgres]:
    """A server with an empty database; the test is skipped where there is no PostgreSQL."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql, or pip install pgserver (Python < 3.13)")
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="nexus-pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-U", "nexus", "-A", "trust", "-N", "--locale=C", "-EUTF8"],
            check=True, capture_output=True, user=user, cwd=folder,
        )  # fmt: skip
        server = RealPostgres(binaries, folder, _free_port(), user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path | None:
    if found := shutil.which("postgres"):
        beside = Path(found).resolve().parent
        if (beside / "initdb").exists():
            return beside
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1].parent
    spec = util.find_spec("pgserver")
    bundled = Path(spec.origin).parent / "pginstall" / "bin" if spec is not None and spec.origin else None
    return bundled if bundled is not None and bundled.is_dir() else None


def _user() -> str | None:
    """PostgreSQL refuses to run as root: somebody else, then."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

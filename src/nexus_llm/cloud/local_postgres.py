"""A real PostgreSQL on a free loopback port, for drills and tests: started in seconds, gone with its data."""

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

from nexus_llm.errors import ServingError

INSTALL = "apt-get install postgresql, or pip install pgserver (Python < 3.13)"
START_SECONDS = 30.0


@dataclass
class LocalPostgres:
    """A server that can be stopped, started again, and lost."""

    binaries: Path
    folder: Path
    port: int
    user: str | None
    """Who runs it, where this process may not; None: this user."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of its database; nobody needs a password."""
        return f"postgresql+psycopg://nexus@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Returns when it answers."""
        options = ["-D", str(self.folder / "data"), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", *options, "-c", "fsync=off"], stdout=log, stderr=log, user=self.user
            )
        deadline = time.monotonic() + START_SECONDS
        asked = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(asked, check=False).returncode:
            if time.monotonic() > deadline or self.process.poll() is not None:
                said = (self.folder / "log").read_text(errors="replace").splitlines()[-1:]
                raise ServingError(f"PostgreSQL does not start: {' '.join(said)}", fix=f"try {self.binaries} by hand")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it at once, and every connection with it."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT: PostgreSQL's immediate shutdown
            self.process.wait(20)
            self.process = None

    def lose(self) -> None:
        """What the loss of its machine does: another, empty one answers at the same address."""
        self.stop()
        shutil.rmtree(self.folder / "data")
        self.initialise()
        self.start()

    def initialise(self) -> None:
        """Makes an empty database."""
        options = ["-U", "nexus", "-A", "trust", "-N", "--locale=C", "-EUTF8"]
        subprocess.run(
            [self.binaries / "initdb", "-D", self.folder / "data", *options],
            check=True, capture_output=True, user=self.user, cwd=self.folder,
        )  # fmt: skip


@contextlib.contextmanager
def local_postgres() -> Iterator[LocalPostgres | None]:
    """A server with an empty database until the block ends; None where no PostgreSQL is installed."""
    binaries = _binaries()
    if binaries is None:
        yield None
        return
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="nexus-pg-"))
    server = LocalPostgres(binaries, folder, _free_port(), user)
    try:
        if user is not None:
            shutil.chown(folder, user)
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def postgres_program(name: str) -> Path | None:
    """Where `pg_dump` and its like are: on the PATH, or where Debian and pgserver put them; None where they are not."""
    if found := shutil.which(name):
        return Path(found)
    binaries = _binaries()
    return binaries / name if binaries is not None and (binaries / name).exists() else None


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

"""Whole databases as one file, and back: SQLite by its own online backup, PostgreSQL by pg_dump and pg_restore.

Either copies one moment of a database that is in use, and either puts all of it back or nothing. Sources: SQLite
documentation, "SQLite Backup API"; PostgreSQL 17 documentation, "pg_dump", "pg_restore" (read 2026-11).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nexus_llm.cloud.local_postgres import postgres_program
from nexus_llm.errors import MissingExtraError, StorageError, UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

Kind = Literal["sqlite", "postgresql"]


@dataclass(frozen=True)
class CopiedDatabase:
    """One database, of keys or of MLflow."""

    url: str
    """A path or `sqlite:///PATH`, or `postgresql://…`."""
    password: Callable[[], str] | None = field(default=None, repr=False)
    """Asked for each connection to PostgreSQL, where passwords expire; None: the URL's, or the environment's."""

    @property
    def kind(self) -> Kind:
        """Which of the two it is."""
        name = self._parsed().get_backend_name()
        if name == "sqlite" and self._parsed().database not in (None, "", ":memory:"):
            return "sqlite"
        if name == "postgresql":
            return "postgresql"
        shown = self._parsed().render_as_string(hide_password=True)
        raise UsageError(f"{shown} can be neither copied nor put back", fix="name an SQLite file or postgresql://…")

    def is_empty(self) -> bool:
        """Whether it has no table yet; a file that is not there is empty."""
        from sqlalchemy import create_engine, exc, inspect

        if self.kind == "sqlite" and not self._file().exists():
            return True
        url = self._parsed()
        if self.kind == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
            url = url.set(password=self.password()) if self.password is not None else url
        try:
            engine = create_engine(url, hide_parameters=True)
        except ModuleNotFoundError as error:
            raise MissingExtraError.for_extra("postgres", error.name or "psycopg") from error
        try:
            return not inspect(engine).get_table_names()
        except exc.DBAPIError as error:
            shown = url.render_as_string(hide_password=True)
            raise StorageError(f"{shown} does not answer ({type(error.orig).__name__})", fix="is it there?") from error
        finally:
            engine.dispose()

    def dump(self, target: Path) -> None:
        """Writes it to one file that only this user can read."""
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
        if self.kind == "sqlite":
            if not self._file().exists():
                raise StorageError(f"{self._file()} does not exist", fix="check the path for a typing mistake")
            _copied(self._file(), target)
        else:
            self._run("pg_dump", "--format=custom", f"--file={target}")

    def load(self, source: Path) -> None:
        """Replaces all that it holds by what `dump` wrote, or nothing where that fails."""
        if self.kind == "sqlite":
            target = self._file()
            target.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
            _copied(source, target)
        else:
            self._run("pg_restore", "--clean", "--if-exists", "--single-transaction", "--exit-on-error", str(source))

    def _run(self, program: str, *arguments: str) -> None:
        found = postgres_program(program)
        if found is None:
            raise StorageError(f"{program} is not installed", fix="apt-get install postgresql-client, of its version")
        url = self._parsed()
        secret = self.password() if self.password is not None else url.password
        # libpq takes the password from the environment: on the command line every user of the machine could read it.
        place = url.set(drivername="postgresql", password=None).render_as_string()
        environment = {**os.environ, **({"PGPASSWORD": str(secret)} if secret else {})}
        command = (str(found), "--no-owner", "--no-privileges", "--no-password", f"--dbname={place}", *arguments)
        _checked(command, environment, place=place)

    def _parsed(self) -> URL:
        try:
            from sqlalchemy.engine import make_url
            from sqlalchemy.exc import ArgumentError
        except ImportError as error:
            raise MissingExtraError.for_extra("serve", "sqlalchemy") from error
        try:
            return make_url(self.url if "://" in self.url else f"sqlite:///{self.url}")
        except ArgumentError:
            raise UsageError("the database is no URL", fix="for example sqlite:///keys.db") from None

    def _file(self) -> Path:
        return Path(str(self._parsed().database))


def _copied(source: Path, target: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
            old.backup(new)
    except sqlite3.Error as error:
        raise StorageError(
            f"{source} cannot be copied to {target} ({error})", fix="stop who holds it; the same command again"
        ) from error


def _checked(command: Sequence[str], environment: Mapping[str, str], *, place: str) -> None:
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no word"])[0]
        raise StorageError(
            f"{Path(command[0]).name} of {place}: {said}",
            fix="is it there, may this user use it, and is the program at least as new as the server?",
        )

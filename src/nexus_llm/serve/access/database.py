"""The database behind keys and limits: SQLite for one machine, PostgreSQL for several. Blocking, and never for long.

Every wait is bounded by `WAIT_SECONDS`: for a connection, for a lock, for an answer from a host that has gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, insert, select, text
from sqlalchemy.engine import URL, make_url

from nexus_llm.errors import MissingExtraError, ServingError, UsageError
from nexus_llm.serve.access.tables import METADATA, SCHEMA_VERSION, schema

log = logging.getLogger("nexus_llm.serve.access")

WAIT_SECONDS = 2.0
CONNECTIONS = 8
_POOL: dict[str, Any] = {
    "pool_size": CONNECTIONS, "max_overflow": 0, "pool_timeout": WAIT_SECONDS, "hide_parameters": True,
}  # fmt: skip
_MAKE_TABLES_LOCK = 0x6E657875  # any number that nobody else locks: "nexu"


class DatabaseDownError(Exception):
    """The database did not do what it was asked in time: gone, locked, full, or broken. Nothing was changed."""


class Database:
    """Connections to one database that has our tables."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that changes nothing.

        Raises:
            DatabaseDownError: it cannot be had in time.
        """
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at the end of the block, and undone by an exception.

        Raises:
            DatabaseDownError: it cannot be had or committed in time.
            sqlalchemy.exc.IntegrityError: the block broke a rule of a table.
        """
        with _translated(), self._engine.connect().execution_options(is_writing=True) as connection, connection.begin():
            yield connection

    def now(self, connection: Connection) -> float:
        """Seconds since 1970 by the clock that all replicas share: the database's host's."""
        if self.is_sqlite:
            return time.time()
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def close(self) -> None:
        self._engine.dispose()


def open_database(given: str, *, password: Callable[[], str] | None = None) -> Database:
    """A database by its URL or, for SQLite, its path; the tables are made where there are none.

    `password` is asked for each new connection to PostgreSQL: passwords that expire after minutes need that.

    Raises:
        UsageError: it is of a kind that we do not use.
        MissingExtraError: its driver is not installed.
        ServingError: it cannot be reached, or another version of this program made its tables.
    """
    url = database_url(given)
    shown = url.render_as_string(hide_password=True)
    engine = _engine(url)
    if password is not None:
        event.listen(engine, "do_connect", partial(_log_in, password))
    database = Database(engine)
    try:
        with database.writing() as connection:
            if not database.is_sqlite:
                # Two replicas that start together would both find no tables.
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MAKE_TABLES_LOCK})"))
            METADATA.create_all(connection)
            version = connection.execute(select(schema.c.version)).scalar()
            if version is None:
                connection.execute(insert(schema).values(version=SCHEMA_VERSION))
    except (DatabaseDownError, exc.IntegrityError) as error:
        database.close()
        raise ServingError(
            f"the database {shown} cannot be used ({error})",
            fix="check that it is there, that it is not locked, and that this user may write to it",
        ) from error
    if version not in (None, SCHEMA_VERSION):
        database.close()
        raise ServingError(
            f"the database {shown} has tables of version {version}, and this program uses version {SCHEMA_VERSION}",
            fix="use the version of nexus-llm-platform that made it, or a new database",
        )
    return database


def database_url(given: str) -> URL:
    """What a user named, with the driver that we use. Without `://` it is the path of an SQLite file.

    >>> str(database_url("keys.db"))
    'sqlite:///keys.db'

    Raises:
        UsageError: it is no URL, or not of SQLite or PostgreSQL.
    """
    try:
        url = make_url(given if "://" in given else f"sqlite:///{given}")
    except (exc.ArgumentError, ValueError):
        raise UsageError("the database is no URL", fix="for example sqlite:///keys.db") from None
    if url.get_backend_name() == "postgresql" and url.drivername in ("postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+pysqlite") and url.database and url.database != ":memory:":
        return url
    raise UsageError(
        f"{url.drivername}://… is no database for keys",
        fix="use sqlite:///keys.db (one machine) or postgresql+psycopg://user@host/name (several)",
    )


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    milliseconds = round(WAIT_SECONDS * 1_000)
    try:
        return create_engine(
            url,
            **_POOL,
            pool_pre_ping=True,  # else the first request after a restart of PostgreSQL on each connection fails
            connect_args={
                "connect_timeout": max(2, round(WAIT_SECONDS)),  # libpq takes 1 for 2
                "tcp_user_timeout": milliseconds,
                "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
                f"-c idle_in_transaction_session_timeout={3 * milliseconds}",
            },
        )
    except ModuleNotFoundError as error:
        raise MissingExtraError.for_extra("postgres", "psycopg") from error


def _log_in(password: Callable[[], str], _dialect: Any, _record: Any, _arguments: Any, named: dict[str, Any]) -> None:
    named["password"] = password()


def _sqlite_engine(url: URL) -> Engine:
    assert url.database is not None
    _make_private(Path(url.database))
    engine = create_engine(url, **_POOL, connect_args={"timeout": WAIT_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # sqlite3 would begin transactions when it thinks fit; we say when and how (see `begin`).
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
        connection.execute("PRAGMA synchronous=NORMAL")  # no fsync each time: a power cut may lose the last second

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A lock taken at the first write could not be had after another writer came between, however long one waits.
        is_writing = connection.get_execution_options().get("is_writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")

    return engine


def _make_private(path: Path) -> None:
    """Makes an empty file that only this user can read: SQLite gives its side files the same permissions."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise ServingError(
            f"the database {path} cannot be written ({error.strerror})", fix="name a file in a folder of yours"
        ) from error


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except exc.IntegrityError:
        raise
    except (exc.DBAPIError, exc.TimeoutError) as error:
        # The type only: a driver's words may hold addresses, users and values.
        cause = getattr(error, "orig", None) or error
        raise DatabaseDownError(type(cause).__name__) from error

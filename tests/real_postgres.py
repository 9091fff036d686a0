"""The product's own local PostgreSQL, for tests: skipped where none is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from nexus_llm.cloud.local_postgres import INSTALL, LocalPostgres, local_postgres


@contextlib.contextmanager
def real_postgres() -> Iterator[LocalPostgres]:
    """A server with an empty database."""
    with local_postgres() as server:
        if server is None:
            pytest.skip(f"no PostgreSQL: {INSTALL}")
        yield server

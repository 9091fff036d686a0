"""The one Spark session of the tests that need one: its Java takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from spark_here import spark_here


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The running session, which the stage finds and uses; tests that take it are of one xdist_group."""
    with spark_here(tmp_path_factory.mktemp("spark")) as session:
        yield session

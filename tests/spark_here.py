"""A Spark of our own for tests: local, two cores, small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.recipe.schema import SparkRecipe

# What pays off over hours costs more than it gives on a hundred rows: a third of the CPU seconds of these tests.
QUICK = {"spark.sql.codegen.wholeStage": "false", "spark.sql.adaptive.enabled": "false"}


@contextmanager
def spark_here(work: Path) -> Iterator[Any]:
    """A session whose files lie below `work`; skips where the spark extra is not installed."""
    pytest.importorskip("pyspark", reason="needs the spark extra: pip install 'nexus-llm-platform[spark]'")
    from nexus_llm.data.spark.session import spark_session

    with spark_session(SparkRecipe(master="local[2]", memory="768m", partitions=2), work=work) as session:
        for name, value in QUICK.items():
            session.conf.set(name, value)
        yield session

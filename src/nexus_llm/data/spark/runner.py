"""The same function on many items in Spark's executors: what `workers.run_all` does on one machine.

Items and results cross as pickled rows of `mapInArrow`; they are small, because text stays in files that the passes
read and write themselves. An error of ours inside an executor comes back as what it was.
"""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pyarrow as pa

from nexus_llm import errors
from nexus_llm.errors import DataError, NexusError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_SECONDS = 0.5
# Stands before an error of ours in the text of Spark's exception, which is all that crosses from Python to Python.
_MARK = "nexus-error:"
_MARKED = re.compile(_MARK + r"([A-Za-z0-9+/=]+)")

# The last worker of this executor process, by the hash of what it was made from: tools are loaded once, not per task.
_last_worker: tuple[str, Any] | None = None


def run_on_spark(
    session: SparkSession,
    make_worker: Callable[..., Callable[[Item], Result]],
    arguments: tuple[Any, ...],
    items: Sequence[Item],
    *,
    partitions: int,
    stop_if_asked: Callable[[], None],
    advance: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """`make_worker(*arguments)(item)` for each item, in the order of items. `advance` hears of
    more items that are done.

    `make_worker` must be importable by its name, and everything must be possible to pickle. `stop_if_asked` is called
    twice a second and raises to cancel the job.

    Raises:
        NexusError, OSError: what a worker raised.
        DataError: Spark gave up for another reason.
    """
    if not items:
        return []
    rows = [(place, pickle.dumps(item)) for place, item in enumerate(items)]
    slices = min(len(rows), partitions)
    sent = session.createDataFrame(
        session.sparkContext.parallelize(rows, slices), "place bigint, content binary"
    ).mapInArrow(_Calls(pickle.dumps((make_worker, arguments))), "place bigint, content binary")
    weights = [len(rows) // slices + (part < len(rows) % slices) for part in range(slices)]
    told = 0

    def tell(tasks: int) -> None:
        nonlocal told
        # Spark says how many tasks are finished, not which: they have the same number of items, but for one.
        if (finished := sum(weights[:tasks])) > told:
            advance(finished - told)
            told = finished

    with Watched(session, stop_if_asked, tell):
        done = {row.place: row.content for row in sent.collect()}
    tell(slices)
    return [cast(Result, pickle.loads(done[place])) for place in range(len(rows))]  # noqa: S301 - our own executors'


class Watched:
    """A block that runs Spark jobs: they are cancelled when `stop_if_asked` raises, and their errors become ours."""

    def __init__(
        self, session: SparkSession, stop_if_asked: Callable[[], None], progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self._context = session.sparkContext
        self._group = f"nexus-{id(self)}"
        self._stop_if_asked = stop_if_asked
        self._progress = progress
        self._is_over = threading.Event()
        self._stopped: BaseException | None = None
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> None:
        self._stop_if_asked()
        self._context.setJobGroup(self._group, "nexus", interruptOnCancel=True)
        self._thread.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._is_over.set()
        self._thread.join()
        if self._stopped is not None:
            raise self._stopped from None
        if error is not None and type(error).__module__.split(".")[0] in ("pyspark", "py4j"):
            raise error_of(str(error)) from error

    def _poll(self) -> None:
        while not self._is_over.wait(_POLL_SECONDS):
            try:
                self._stop_if_asked()
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for the job
                self._stopped = error
                self._context.cancelJobGroup(self._group)
                return
            self._progress(self._finished_tasks())

    def _finished_tasks(self) -> int:
        tracker = self._context.statusTracker()
        stages = [stage for job in tracker.getActiveJobsIds() for stage in tracker.getJobInfo(job).stageIds]
        infos = [tracker.getStageInfo(stage) for stage in stages]
        return sum(info.numCompletedTasks for info in infos if info is not None)


def error_of(text: str) -> BaseException:
    """The error of ours inside the text of Spark's exception, or a DataError with its last words."""
    if found := _MARKED.search(text):
        values = json.loads(base64.b64decode(found[1]))
        if values["kind"] == "OSError":
            return OSError(values["errno"], values["what"], values["file"])
        kind = getattr(errors, values["kind"], DataError)
        return cast(NexusError, kind(values["what"], fix=values["fix"]))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[0] if lines else text)
    return DataError(f"Spark gave up ({reason})", fix="read Spark's log; run the same command again: it continues")


@dataclass(frozen=True)
class _Calls:
    """Arrow batches of pickled items in, of pickled results out."""

    packed: bytes
    """The function that makes a worker, and its arguments."""

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for place, content in zip(batch.column("place"), batch.column("content"), strict=True):
                try:
                    result = _worker(self.packed)(pickle.loads(content.as_py()))  # noqa: S301 - from our driver
                except (NexusError, OSError) as error:
                    raise RuntimeError(marked(error)) from error
                yield pa.RecordBatch.from_arrays(
                    [pa.array([place.as_py()], pa.int64()), pa.array([pickle.dumps(result)], pa.binary())],
                    names=["place", "content"],
                )


def marked(error: NexusError | OSError) -> str:
    """An error as text from which `error_of` makes it again."""
    if isinstance(error, NexusError):
        values: dict[str, Any] = {"kind": type(error).__name__, "what": error.what, "fix": error.fix}
    else:
        file = str(error.filename) if error.filename else None
        values = {"kind": "OSError", "errno": error.errno, "what": str(error.strerror or error), "file": file}
    return _MARK + base64.b64encode(json.dumps(values).encode()).decode()


def _worker(packed: bytes) -> Callable[[Any], Any]:
    global _last_worker  # noqa: PLW0603 - the one thing that an executor process keeps
    name = hashlib.sha256(packed).hexdigest()
    if _last_worker is None or _last_worker[0] != name:
        make_worker, arguments = pickle.loads(packed)  # noqa: S301 - from our driver
        _last_worker = (name, make_worker(*arguments))
    return cast("Callable[[Any], Any]", _last_worker[1])

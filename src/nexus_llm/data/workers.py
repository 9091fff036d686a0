"""Worker processes: the same function on many items, results in order, a bounded number of items under way."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from nexus_llm.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_SECONDS = 0.2
# Items that wait beside those being worked on: one, so that no worker is idle while the reader reads.
_WAITING = 1

# Set once, in a worker process, by its initializer.
_worker: Callable[[Any], Any] | None = None


def run_all(
    make_worker: Callable[..., Callable[[Item], Result]],
    arguments: tuple[Any, ...],
    items: Iterable[Item],
    *,
    workers: int,
    stop_if_asked: Callable[[], None],
    finished: Callable[[Item], Result | None] = lambda _: None,
) -> Iterator[Result]:
    """`make_worker(*arguments)(item)` for each item, in the order of items.

    One worker works in this process; more get a process each, in which `make_worker` runs once. `stop_if_asked` is
    called between results and raises to end the work: what is under way is finished, what waits is dropped.
    `finished` gives the result of an item that an earlier run has done, or None.

    Raises:
        DataError: a worker process died.
    """
    if workers == 1:
        call: Callable[[Item], Result] | None = None
        for item in items:
            stop_if_asked()
            result = finished(item)
            if result is None:
                call = call or make_worker(*arguments)
                result = call(item)
            yield result
        return
    # As bytes, so that a worker can limit its threads before anything that starts threads is imported.
    packed = pickle.dumps((make_worker, arguments))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (packed,))
    try:
        under_way: deque[Future[Result] | Result] = deque()
        for item in items:
            result = finished(item)
            under_way.append(pool.submit(_call, item) if result is None else result)
            if len(under_way) > workers + _WAITING:
                yield _result(under_way.popleft(), stop_if_asked)
        while under_way:
            yield _result(under_way.popleft(), stop_if_asked)
    except BrokenProcessPool as error:
        stop_if_asked()
        raise DataError(
            "a worker process of the data stage died (killed, or out of memory)",
            fix="run the same command again: finished blocks are kept; with less memory, --set data.workers=1",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[Result] | Result, stop_if_asked: Callable[[], None]) -> Result:
    while isinstance(future, Future):
        stop_if_asked()
        try:
            return future.result(timeout=_POLL_SECONDS)
        except FutureTimeoutError:
            if future.done():
                raise
    return future


def _start(packed: bytes) -> None:
    global _worker  # noqa: PLW0603 - the one thing that a worker process keeps
    # The reading process decides when to stop; Ctrl-C and a service manager's signal reach the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # One process a core: threads inside would only fight over it.
    os.environ.update(dict.fromkeys(("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"), "1"))
    make_worker, arguments = pickle.loads(packed)  # noqa: S301 - our own bytes, from the process that started us
    _worker = make_worker(*arguments)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(item: Any) -> Any:
    assert _worker is not None
    return _worker(item)

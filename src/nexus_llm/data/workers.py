"""Worker processes that live for one run: a pass's function on many items, results in order, few items under way."""

from __future__ import annotations

import ctypes
import gc
import importlib
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
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from nexus_llm.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_SECONDS = 0.2
# Items that wait beside those being worked on: one, so that no worker is idle while the reader reads.
_WAITING = 1

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # <malloc.h> of glibc


class Workers:
    """Processes to hand work to; with a count of 1, this process does it itself.

    A context manager: leaving it ends the processes, at once where an error leaves it. What they write must therefore
    appear whole or not at all. They also end when this process is killed.
    """

    def __init__(self, count: int, *, folder: Path, stop_if_asked: Callable[[], None]) -> None:
        """`folder` is for what a pass gives to each process; `stop_if_asked` is called now and then, and raises."""
        self.count = count
        self._folder = folder
        self._stop_if_asked = stop_if_asked
        self._passes = 0
        self._pool: ProcessPoolExecutor | None = None
        self._lifeline: Connection | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None and self._lifeline is not None:
            # Ends them at once: their own way out takes half a second, and all that they wrote is whole.
            self._lifeline.close()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, module: str) -> None:
        """Starts the processes now: they import `module` while this one still prepares."""
        if self.count > 1:
            pool = self._started()
            for _ in range(self.count):
                pool.submit(_import, module)

    def run_all(
        self,
        make_worker: Callable[..., Callable[[Item], Result]],
        arguments: tuple[Any, ...],
        items: Iterable[Item],
        *,
        finished: Callable[[Item], Result | None] = lambda _: None,
    ) -> Iterator[Result]:
        """`make_worker(*arguments)(item)` for each item, in the order of items; `make_worker` runs once a process.

        `finished` gives the result of an item that an earlier run has done, or None.

        Raises:
            DataError: a worker process died.
        """
        if self.count == 1:
            call: Callable[[Item], Result] | None = None
            for item in items:
                self._stop_if_asked()
                result = finished(item)
                if result is None:
                    call = call or make_worker(*arguments)
                    result = call(item)
                yield result
            return
        pool, given = self._started(), self._given(make_worker, arguments)
        under_way: deque[Future[Result] | Result] = deque()
        try:
            for item in items:
                result = finished(item)
                under_way.append(pool.submit(_call, str(given), item) if result is None else result)
                if len(under_way) > self.count + _WAITING:
                    yield self._result(under_way.popleft())
            while under_way:
                yield self._result(under_way.popleft())
        except BrokenProcessPool as error:
            self._stop_if_asked()
            raise DataError(
                "a worker process of the data stage died (killed, or out of memory)",
                fix="run the same command again: finished blocks are kept; with less memory, --set data.workers=1",
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            theirs, self._lifeline = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(self.count, context, _start, (theirs,))
        return self._pool

    def _given(self, make_worker: Callable[..., Any], arguments: tuple[Any, ...]) -> Path:
        """A file with what each process needs once a pass."""
        self._passes += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"pass-{self._passes}.pickle"
        path.write_bytes(pickle.dumps((make_worker, arguments)))
        return path

    def _result(self, future: Future[Result] | Result) -> Result:
        while isinstance(future, Future):
            self._stop_if_asked()
            try:
                return future.result(timeout=_POLL_SECONDS)
            except FutureTimeoutError:
                if future.done():
                    raise
        return future


def is_compiled() -> bool:
    """Whether an earlier run of this installation has compiled what workers call. (numba keeps it beside the source, or
    where NUMBA_CACHE_DIR says.)"""
    folder = os.environ.get("NUMBA_CACHE_DIR", Path(__file__).parent)
    return any(Path(folder).rglob("text_statistics*.nbc"))


# The pass that a worker process is at, and its function.
_given: str | None = None
_worker: Callable[[Any], Any] | None = None


def _start(lifeline: Connection) -> None:
    # The process that reads decides when to stop; Ctrl-C and a service manager's signal reach the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    # One process a core: threads inside would only fight over it. Nothing that starts threads is imported yet.
    os.environ.update(dict.fromkeys(("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"), "1"))
    _return_freed_memory()
    # Rows come and go by the thousand and none refers to itself: looking for cycles among them is 3 % of the work.
    gc.disable()


def _import(module: str) -> None:
    importlib.import_module(module)  # without its result: a module cannot be sent back


def _return_freed_memory() -> None:
    """Lets the allocators give memory back soon: a pass leaves much, and the next one needs it elsewhere.

    Not at once, and not small ones: 205 MB of text on two workers then take 6 of 28 CPU seconds for the system to hand
    out the same pages again and again (2026-11).
    """
    os.environ.update(_RJEM_MALLOC_CONF="dirty_decay_ms:1000,muzzy_decay_ms:0", ARROW_DEFAULT_MEMORY_POOL="system")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; macOS has none
    if mallopt is not None:
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 4 * 2**20), (_M_TRIM_THRESHOLD, 32 * 2**20)):
            mallopt(option, value)


def _end_with(lifeline: Connection) -> None:
    """Ends this process when the other end of the line is closed, by intent or by a process's death."""
    wait([lifeline])
    os._exit(1)


def _call(given: str, item: Any) -> Any:
    global _given, _worker  # noqa: PLW0603 - the one thing that a worker process keeps
    if given != _given or _worker is None:
        _worker = None  # the pass before it may hold much memory
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
        make_worker, arguments = pickle.loads(Path(given).read_bytes())  # noqa: S301 - written by the process that started us
        _given, _worker = given, make_worker(*arguments)
        gc.freeze()
    result = _worker(item)
    gc.collect(0)  # of what this item left, which is little
    return result

"""Tasks on a few threads, ended cleanly by a signal."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from nexus_llm.errors import NexusError, StorageError, TryAgainError
from nexus_llm.ports import Interrupt

Result = TypeVar("Result")

POLL_SECONDS = 0.1
STOPPING_SECONDS = 2.0  # for workers to reach a safe point; what they wrote is continued in any case


def run_parallel(
    tasks: Sequence[Callable[[], Result]],
    keep: Callable[[Result], None],
    *,
    threads: int,
    interrupt: Interrupt,
    stop: threading.Event,
) -> None:
    """Runs `tasks` in their order on `threads` threads, and hands each result to `keep` on the caller's thread.

    A task that fails does not stop the others, except where all would fail alike (no space, asked to stop). The threads
    are daemons: one that waits for a dead host never keeps the process from ending. `stop` is set when the tasks should
    end; they are expected to look at it.

    Raises:
        TryAgainError: `interrupt` asked to stop.
        NexusError: the first failure of a task, when the others are done.
    """
    waiting: queue.SimpleQueue[Callable[[], Result]] = queue.SimpleQueue()
    finished: queue.SimpleQueue[tuple[bool, Result | BaseException]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)

    def work() -> None:
        while not stop.is_set():
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                finished.put((True, task()))
            except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
                finished.put((False, error))

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(tasks)))]
    for worker in workers:
        worker.start()
    failures: list[NexusError] = []
    try:
        _collect(finished, len(tasks), keep, failures, interrupt)
    except BaseException:
        stop.set()
        for worker in workers:
            worker.join(STOPPING_SECONDS / len(workers))
        _keep_late(finished, keep)
        raise
    if failures:
        raise _summary(failures)


def _collect(
    finished: queue.SimpleQueue[tuple[bool, Result | BaseException]],
    expected: int,
    keep: Callable[[Result], None],
    failures: list[NexusError],
    interrupt: Interrupt,
) -> None:
    """Takes results until all are there, one is fatal, or somebody asks to stop."""
    while expected:
        if reason := interrupt.requested():
            raise TryAgainError(f"stopped by {reason}", fix="the same command continues")
        try:
            is_fine, outcome = finished.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        expected -= 1
        if is_fine:
            keep(outcome)  # type: ignore[arg-type]
        elif isinstance(outcome, NexusError) and not isinstance(outcome, StorageError):
            failures.append(outcome)
        else:
            raise outcome  # type: ignore[misc]


def _keep_late(
    finished: queue.SimpleQueue[tuple[bool, Result | BaseException]], keep: Callable[[Result], None]
) -> None:
    """Results of tasks that ended while the others were told to stop."""
    while True:
        try:
            is_fine, outcome = finished.get_nowait()
        except queue.Empty:
            return
        if is_fine:
            keep(outcome)  # type: ignore[arg-type]


def _summary(failures: list[NexusError]) -> NexusError:
    """One failure for all; a lasting one before one that trying again may heal."""
    first = next((one for one in failures if not isinstance(one, TryAgainError)), failures[0])
    if len(failures) == 1:
        return first
    return type(first)(f"{first.what} (and {len(failures) - 1} more failed; the others are done)", fix=first.fix)

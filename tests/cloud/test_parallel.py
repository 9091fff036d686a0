"""Tasks on threads: all results, one error for many, and an end that loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from nexus_llm.cloud.parallel import run_parallel
from nexus_llm.errors import DataError, StorageError, TryAgainError
from nexus_llm.ports import NeverInterrupted


class AskedOnce:
    """An interrupt that asks when an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def requested(self) -> str | None:
        return "SIGTERM" if self._event.is_set() else None


def fails(error: Exception) -> Callable[[], int]:
    def task() -> int:
        raise error

    return task


def run(tasks: list[Callable[[], int]], threads: int = 2) -> list[int]:
    kept: list[int] = []
    run_parallel(tasks, kept.append, threads=threads, interrupt=NeverInterrupted(), stop=threading.Event())
    return kept


def test_every_task_runs_once() -> None:
    assert sorted(run([lambda number=number: number for number in range(200)], threads=7)) == list(range(200))  # type: ignore[misc]
    assert run([]) == []


def test_failures_become_one_and_a_lasting_one_comes_first() -> None:
    again, broken = TryAgainError("busy", fix="wait"), DataError("broken", fix="mend")
    with pytest.raises(DataError, match=r"broken \(and 1 more failed"):
        run([fails(again), fails(broken), lambda: 1])
    with pytest.raises(TryAgainError, match="busy"):
        run([fails(again)])


@pytest.mark.parametrize("error", [StorageError("full", fix="delete"), ValueError("our own mistake")])
def test_what_would_meet_every_task_ends_all(error: Exception) -> None:
    stop, begun = threading.Event(), list[int]()

    def waits() -> int:
        begun.append(1)
        return int(stop.wait(20))

    with pytest.raises(type(error)):
        run_parallel([fails(error), waits, waits], begun.append, threads=2, interrupt=NeverInterrupted(), stop=stop)
    assert stop.is_set()


def test_a_stop_is_passed_on_and_what_ends_late_is_kept() -> None:
    asked, stop, kept = threading.Event(), threading.Event(), list[str]()

    def slow() -> str:
        asked.set()
        return "late" if stop.wait(20) else "never told"

    tasks = [slow, lambda: "not begun"]
    with pytest.raises(TryAgainError, match="stopped by SIGTERM"):
        run_parallel(tasks, kept.append, threads=1, interrupt=AskedOnce(asked), stop=stop)
    assert kept == ["late"]

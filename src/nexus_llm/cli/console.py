"""What a person at the terminal sees: bars or lines on stderr, results on stdout, and errors in two lines."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from nexus_llm.errors import NexusError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from nexus_llm.ports import Progress

LINE_INTERVAL_SECONDS = 5.0
ASKING_SECONDS = 10.0  # work that has not asked for so long has no safe point near


def console_progress() -> Progress:
    """Bars on a terminal, one line every five seconds elsewhere. Always on stderr."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return BarProgress()
    return LineProgress()


class LineProgress:
    """One line at the start, one per interval, one at the end: for logs and pipes."""

    def __init__(self) -> None:
        self._label = ""
        self._unit = ""
        self._total: float | None = None
        self._done = 0.0
        self._started = self._printed = 0.0

    def start(self, label: str, *, total: float | None, unit: str) -> None:
        self._label, self._unit, self._total, self._done = label, unit, total, 0.0
        self._started = self._printed = time.monotonic()
        of = f" ({_amount(total)} {unit})" if total else ""
        print(f"{label}{of} …", file=sys.stderr, flush=True)

    def advance(self, amount: float, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._printed >= LINE_INTERVAL_SECONDS:
            self._printed = now
            print(f"  {self._label}: {self._state(now)}{'  ' + note if note else ''}", file=sys.stderr, flush=True)

    def finish(self, note: str = "") -> None:
        seconds = time.monotonic() - self._started
        print(f"  {self._label}: done in {seconds:.1f} s{'  ' + note if note else ''}", file=sys.stderr, flush=True)

    def _state(self, now: float) -> str:
        rate = self._done / max(now - self._started, 1e-9)
        if not self._total:
            return f"{_amount(self._done)} {self._unit}, {_amount(rate)}/s"
        left = (self._total - self._done) / rate if rate else 0.0
        share = 100 * self._done / self._total
        return f"{share:.0f} %, {_amount(rate)} {self._unit}/s, {_duration(left)} left"


class BarProgress:
    """A live bar with rate and time left."""

    def __init__(self) -> None:
        self._bars: RichProgress | None = None
        self._task: TaskID | None = None
        self._unit = ""

    def start(self, label: str, *, total: float | None, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

        self._close()
        self._unit = unit
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[rate]:>16}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", style="dim"),
            console=Console(stderr=True),
            refresh_per_second=8,
        )
        self._bars.start()
        self._task = self._bars.add_task(label, total=total, rate="", note="")

    def advance(self, amount: float, note: str = "") -> None:
        if self._bars is None or self._task is None:
            return
        task = self._bars.tasks[self._task]
        elapsed = task.elapsed or 0.0
        rate = f"{_amount((task.completed + amount) / elapsed)} {self._unit}/s" if elapsed > 0.5 else ""
        self._bars.update(self._task, advance=amount, rate=rate, note=note or task.fields["note"])

    def finish(self, note: str = "") -> None:
        if self._bars is not None and self._task is not None:
            task = self._bars.tasks[self._task]
            total = task.total if task.total is not None else 1
            self._bars.update(self._task, total=total, completed=total, note=note or task.fields["note"])
        self._close()

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._task = None


class Stopped(BaseException):
    """A signal ended the work at once. No Exception, so that no library's `except Exception` swallows it."""


class SignalInterrupt:
    """An `Interrupt` fed by SIGINT and SIGTERM.

    Work that asks `requested()` (within the last ten seconds) stops at its next safe point. Any other work is stopped
    at once, and so is all work at the second signal.
    """

    def __init__(self) -> None:
        self._reason: str | None = None
        self._asked_at = -math.inf

    def install(self) -> None:
        """From now on the two signals are ours."""
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

    def requested(self) -> str | None:
        self._asked_at = time.monotonic()
        return self._reason

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._reason is not None or time.monotonic() - self._asked_at > ASKING_SECONDS:
            raise Stopped(signal.Signals(number).name)
        self._reason = signal.Signals(number).name
        print(f"{self._reason}: stopping at the next safe point (again: at once)", file=sys.stderr, flush=True)


def print_json(document: Any) -> None:
    """The one JSON document of a `--json` command."""
    print(json.dumps(document, indent=2, ensure_ascii=False), flush=True)


def print_error(error: NexusError, *, as_json: bool) -> None:
    """Two lines on stderr: what is wrong, and the fix. With `--json` the same as a document on stdout."""
    if as_json:
        try:
            print_json({"error": {"type": type(error).__name__, "what": error.what, "fix": error.fix}})
        except BrokenPipeError:  # who read it has gone; the exit code and stderr still tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(f"error: {error.what}\n  fix: {error.fix}", file=sys.stderr, flush=True)


def agree(question: str, *, unagreed: str, fix: str, yes: bool, as_json: bool) -> None:
    """Returns where somebody agrees, by `--yes` or at the terminal."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise UsageError(unagreed, fix=fix)
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def _amount(value: float | None) -> str:
    if value is None:
        return "?"
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= bound:
            scaled = value / (1e3 if letter == "k" else bound)
            return f"{scaled:.1f} {letter}" if scaled < 100 else f"{scaled:.0f} {letter}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

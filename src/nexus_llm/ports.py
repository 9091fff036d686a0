"""The narrow openings to the outside world. Each has at most three methods; a quiet implementation ships beside it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class Progress(Protocol):
    """Where a stage reports how far it is. The command line draws bars; tests stay silent."""

    def start(self, label: str, *, total: float | None, unit: str) -> None:
        """A new piece of work begins: `total` of `unit`, or None where nobody can know."""

    def advance(self, amount: float, note: str = "") -> None:
        """`amount` more is done; `note` is a short fact worth seeing beside the bar (a loss, a count)."""

    def finish(self, note: str = "") -> None:
        """The piece of work that was started last is complete."""


class Interrupt(Protocol):
    """Asked between units of work: has somebody asked us to stop?"""

    def requested(self) -> str | None:
        """The reason to stop (`SIGTERM`, `SIGINT`, `spot notice`), or None to go on."""


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""


class SilentProgress:
    """A `Progress` that says nothing."""

    def start(self, label: str, *, total: float | None, unit: str) -> None: ...

    def advance(self, amount: float, note: str = "") -> None: ...

    def finish(self, note: str = "") -> None: ...


class NeverInterrupted:
    """An `Interrupt` that never asks to stop."""

    def requested(self) -> str | None:
        return None


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(frozen=True)
class Ports:
    """All openings that a stage may use, handed in by the composition root."""

    progress: Progress = field(default_factory=SilentProgress)
    interrupt: Interrupt = field(default_factory=NeverInterrupted)
    clock: Clock = field(default_factory=SystemClock)
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "nexus-llm")
    """Folder for what is fetched once and shared by all runs: base models."""

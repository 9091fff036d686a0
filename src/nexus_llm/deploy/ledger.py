"""What was begun and what was finished, written down before and after: a killed run cannot lose it.

One JSON object a line. An `intent` is on the disk before terraform starts, so that after `kill -9`, a power cut or a
closed laptop it is known which stage is half made and by whom.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Event(StrEnum):
    """What one line says."""

    INTENT = "intent"
    RUNNING = "running"
    """Terraform has a process id."""
    DONE = "done"
    FAILED = "failed"


class Condition(StrEnum):
    """What the ledger knows of a stage."""

    NOT_MADE = "not made"
    MADE = "made"
    ELSEWHERE = "made elsewhere"
    """There is a state, and this ledger did not write it: another machine did."""
    HALF_MADE = "half made"
    HALF_TAKEN_DOWN = "half taken down"
    TAKEN_DOWN = "taken down"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line."""

    at: str
    """ISO 8601, UTC."""
    stage: str
    action: str
    """`apply`, `destroy`, or `plan`, which changes nothing but holds a lock."""
    event: Event
    host: str = ""
    process: int = 0
    """Of terraform; 0 while there is none."""
    changes: Mapping[str, int] = field(default_factory=dict)
    """`create`, `delete` … → number of resources that were planned."""
    usd_per_month: float | None = None
    """Standing price after it, as it was shown."""
    error: str = ""


class Ledger:
    """A file of entries that only grows."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, entry: Entry) -> None:
        """Adds a line; it is on the disk when this returns."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({name: value for name, value in asdict(entry).items() if value not in ("", 0, {}, None)})
        before = self._file.read_bytes()[-1:] if self._file.exists() else b"\n"
        with self._file.open("ab") as stream:
            # A line that was torn by a kill must not swallow the next one.
            stream.write((b"" if before in (b"\n", b"") else b"\n") + line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def entries(self) -> list[Entry]:
        """All lines; torn ones are left out."""
        if not self._file.exists():
            return []
        found = (_entry(line) for line in self._file.read_text(encoding="utf-8", errors="replace").splitlines())
        return [one for one in found if one is not None]


def _entry(line: str) -> Entry | None:
    try:
        values: dict[str, Any] = json.loads(line)
        return Entry(**values | {"event": Event(values["event"])})
    except (ValueError, TypeError, KeyError):
        return None


def last(entries: Iterable[Entry], stage: str) -> Entry | None:
    """The latest entry of a stage."""
    return next((one for one in reversed(list(entries)) if one.stage == stage), None)


def condition(entries: Iterable[Entry], stage: str) -> Condition:
    """How far a stage is.

    >>> condition([Entry("2026-11-22T10:00:00Z", "0-state", "apply", Event.INTENT)], "0-state").value
    'half made'
    """
    entry = last([one for one in entries if one.action != "plan"], stage)
    if entry is None:
        return Condition.NOT_MADE
    if entry.event is Event.DONE:
        return Condition.MADE if entry.action == "apply" else Condition.TAKEN_DOWN
    return Condition.HALF_MADE if entry.action == "apply" else Condition.HALF_TAKEN_DOWN

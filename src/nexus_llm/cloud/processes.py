"""A command as a child process that can be killed with all its own children at any moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


class Child:
    """A running command; what it prints goes to a file."""

    def __init__(self, command: Sequence[str], *, log: Path) -> None:
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def kill(self) -> None:
        """`kill -9` for it and all processes below it; returns when it is gone. A finished one is left in peace."""
        if self._process.poll() is None:
            for process in (self._process.pid, *descendants(self._process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self._process.wait()


def descendants(process: int) -> list[int]:
    """Ids of the children, their children and so on, as they are now.

    torchrun gives its workers sessions of their own, so a signal to the process group would miss them.
    """
    parents = _parents()
    found, below = [], [process]
    while below:
        below = [child for child, parent in parents.items() if parent in below]
        found += below
    return found


def _parents() -> dict[int, int]:
    """Id → parent's id of all processes."""
    proc = Path("/proc")
    if not (proc / "self" / "stat").exists():
        listed = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        return {int(pid): int(parent) for pid, parent in (line.split() for line in listed.stdout.splitlines())}
    found = {}
    for entry in os.scandir(proc):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in brackets may hold spaces and brackets; what follows the last one does not.
                fields = (proc / entry.name / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = int(fields[1])
    return found

"""The processes of a training job on one machine: torchrun with a child for each GPU, and how all are asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.2
STOP_FILE_VARIABLE = "NEXUS_STOP_FILE"
"""Names a file; where it exists, the processes of a job save and end."""


class TerminationNotice:
    """A `nexus_llm.ports.Interrupt` that remembers SIGTERM and SIGINT, and lets the work go on to its next safe point.

    The terminal's interrupt ends work at once that has not asked for some seconds; in a container nobody presses keys
    twice, and one step of a large model may take minutes.
    """

    def __init__(self, *, stop_file: Path | None = None) -> None:
        """`stop_file` is one more way to ask: its existence."""
        self._reason: str | None = None
        self._stop_file = stop_file

    def install(self) -> TerminationNotice:
        """From now on the two signals are ours."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        return self

    def requested(self) -> str | None:
        """See `nexus_llm.ports.Interrupt`."""
        if self._reason is None and self._stop_file is not None and self._stop_file.exists():
            self._reason = "SIGTERM"
        return self._reason

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._reason = signal.Signals(number).name


def run_torchrun(
    arguments: Sequence[str],
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stop_file: Path,
    requested: Callable[[], str | None],
) -> int:
    """torchrun's exit code after running `command` (`-m module words`) in its processes.

    When `requested` gives a reason, `stop_file` is made, and the processes end by themselves. torchrun itself is not
    signalled: it would give them 30 seconds, where SageMaker gives 120.
    """
    whole = [sys.executable, "-m", "torch.distributed.run", *arguments, *command]
    process = subprocess.Popen(whole, env={**environment, STOP_FILE_VARIABLE: str(stop_file)}, start_new_session=True)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=POLL_SECONDS)
            if requested():
                stop_file.touch()
    finally:
        if process.poll() is None:
            process.kill()


def start_rehearsed(command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Starts what a container would run, in a process group of its own; all that it prints goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def new_lines(path: Path, process: subprocess.Popen[bytes]) -> Iterator[str | None]:
    """Whole lines as a process writes them to a file, None whenever there is none for the moment; ends with it."""
    with path.open("rb") as stream:
        rest = b""
        while True:
            is_over = process.poll() is not None
            piece = stream.read()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", errors="replace")
            if is_over:
                return
            yield None
            time.sleep(POLL_SECONDS)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that `start_rehearsed` made, and its children, if it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

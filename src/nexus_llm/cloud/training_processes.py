"""The processes of a training job on one machine: torchrun with a child for each GPU, and how all are asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from nexus_llm.errors import NexusError
from nexus_llm.train.distributed.launch import outcome

POLL_SECONDS = 0.2
REMEMBERED_LINES = 200


class TerminationNotice:
    """A `nexus_llm.ports.Interrupt` that remembers SIGTERM and SIGINT, and lets the work go on to its next safe point.

    The terminal's interrupt ends work at once that has not asked for some seconds; in a container nobody presses keys
    twice, and one step of a large model may take minutes.
    """

    def __init__(self) -> None:
        self._reason: str | None = None

    def install(self) -> TerminationNotice:
        """From now on the two signals are ours."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        return self

    def requested(self) -> str | None:
        return self._reason

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._reason = signal.Signals(number).name


def run_torchrun(
    command: Sequence[str], *, environment: Mapping[str, str], log_folder: Path, requested: Callable[[], str | None]
) -> NexusError | None:
    """Runs what `nexus_llm.train.distributed.launch.launch` made; gives what ended it, None for success.

    As soon as `requested` gives a reason, torchrun gets one SIGTERM, which it passes on to its processes.
    """
    process = subprocess.Popen(
        list(command),
        env=dict(environment),
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    last: deque[str] = deque(maxlen=REMEMBERED_LINES)
    teller = threading.Thread(target=_tell_on, args=(process, last), daemon=True)
    teller.start()
    is_told = False
    try:
        while process.poll() is None:
            if not is_told and requested():
                process.send_signal(signal.SIGTERM)
                is_told = True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
    finally:
        end_group(process)
    teller.join(5)
    return outcome(process.returncode, log_folder, "".join(last))


def _tell_on(process: subprocess.Popen[str], last: deque[str]) -> None:
    """Passes on what a process says on stderr, and remembers the end of it."""
    for line in process.stderr or ():
        last.append(line)
        sys.stderr.write(line)
        sys.stderr.flush()


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


def end_group(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Kills a process that leads its own group, and its children, if it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

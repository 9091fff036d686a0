"""torchrun's command line, and what to make of its end."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nexus_llm.errors import NexusError, TrainingError, TryAgainError, UsageError

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""The variable in which torchrun names a rank's own file for its last words."""
# SageMaker sends SIGKILL 120 s after SIGTERM, EC2 takes a spot machine 120 s after its notice (AWS docs, 2026-11).
SHUTDOWN_SECONDS = 100


def launch(
    argv: Sequence[str],
    *,
    processes: int,
    machines: int = 1,
    machine: int = 0,
    address: str | None = None,
    port: int = 29500,
    log_folder: Path | None = None,
    shutdown_seconds: int = SHUTDOWN_SECONDS,
    python: str = sys.executable,
) -> list[str]:
    """The command that starts `argv` in `processes` processes on this machine, number `machine` of `machines`.

    `argv` is a script with its arguments, or `-m`, a module and its arguments. `address` is a name of machine 0 that
    all others can reach. Every machine runs the command with its own number. torchrun stops all when one fails, passes
    SIGTERM on and waits `shutdown_seconds` for the checkpoint; it starts nothing again, because the same command does.
    Ranks leave their last words below `log_folder`, for `outcome`; it must be empty.

    Raises:
        UsageError: numbers below 1, or several machines without an address.

    >>> launch(["-m", "nexus_llm.cli", "train"], processes=2, python="python")[:6]
    ['python', '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    """
    if not argv or processes < 1 or not 0 <= machine < machines:
        raise UsageError(
            f"cannot launch {processes} processes on machine {machine} of {machines}",
            fix="give at least 1 process, and machines numbered from 0",
        )
    if machines > 1 and not address:
        raise UsageError(
            f"{machines} machines need the address of the first of them",
            fix="name a host that all machines can reach",
        )
    meeting = ["--standalone"]
    if machines > 1:
        meeting = ["--nnodes", str(machines), "--node-rank", str(machine)]
        meeting += ["--master-addr", str(address), "--master-port", str(port)]
    command = [python, "-m", "torch.distributed.run", *meeting, "--nproc-per-node", str(processes)]
    command += ["--max-restarts", "0", "--shutdown-timeout", str(shutdown_seconds)]
    if log_folder is not None:
        command += ["--log-dir", str(log_folder)]
    return [*command, *argv]


def leave_last_words(error: NexusError, environment: Mapping[str, str]) -> None:
    """Writes what ended this rank where torchrun and `outcome` find it; without torchrun, nothing."""
    if path := environment.get(ERROR_FILE):
        extra = {"what": error.what, "fix": error.fix, "exit_code": error.exit_code, "timestamp": str(int(time.time()))}
        words = {"message": {"message": f"{error.what}: {error.fix}", "extraInfo": extra}}
        Path(path).write_text(json.dumps(words), encoding="utf-8")


def end_rank(exit_code: int) -> NoReturn:
    """Ends this process at once, its own files written, without the interpreter's long goodbye.

    Where DDP held a Gloo group, its threads outlive it. One that gives back a tensor while the interpreter ends aborts
    the process ("terminate called without an active exception"; pytorch/pytorch pull request 179291, 2026-04), and
    torchrun would call a run failed that has succeeded.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def outcome(return_code: int, log_folder: Path, standard_error: str = "") -> NexusError | None:
    """What ended a launched run: None for success, else the error of the rank that failed first.

    All ranks that were asked to stop say so, and the answer is a TryAgainError. A rank that was killed says nothing:
    then torchrun's report in `standard_error` names it.
    """
    if return_code == 0:
        return None
    words = [_extra(path) for path in sorted(log_folder.glob("**/error.json"))]
    told = [one for one in words if "what" in one]
    real = [one for one in told if one["exit_code"] != TryAgainError.exit_code and "lost contact" not in one["what"]]
    killed = re.search(r"rank\s*:\s*(\d+).*?exitcode\s*:\s*(-\d+)", standard_error, re.DOTALL)
    if real:
        return _rebuilt(real[0])
    if told and all(one["exit_code"] == TryAgainError.exit_code for one in told):
        return _rebuilt(told[0])
    if killed:
        return TrainingError(
            f"process {killed[1]} was ended by signal {-int(killed[2])}, and the others were stopped",
            fix="signal 9 often means that memory ran out; the same command continues from the last checkpoint",
        )
    crashes = re.findall(r"^\[rank\d+\]: (\w[\w.]*(?:Error|Exception|Interrupt).*)$", standard_error, re.MULTILINE)
    reason = f"a process failed: {crashes[0]}" if crashes else "no process said why"
    return TrainingError(
        told[0]["what"] if told else f"torchrun ended with {return_code}; {reason}",
        fix=told[0]["fix"] if told else "read the output above; the same command continues from the last checkpoint",
    )


def _rebuilt(words: Mapping[str, Any]) -> NexusError:
    kind = TryAgainError if words["exit_code"] == TryAgainError.exit_code else TrainingError
    return kind(words["what"], fix=words["fix"])


def _extra(path: Path) -> dict[str, Any]:
    try:
        message = json.loads(path.read_text(encoding="utf-8"))["message"]
        return dict(message["extraInfo"])
    except (OSError, ValueError, KeyError, TypeError):  # half-written by a rank that died over it
        return {}

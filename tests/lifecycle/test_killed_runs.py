"""A run that is killed anywhere and started again makes the same artifacts, to the bit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from command_line import QUICKSTART, SMALL, Run, nexus, settings

pytestmark = [pytest.mark.lifecycle, pytest.mark.timeout(900), pytest.mark.xdist_group("killed")]

Moment = Callable[[Path], bool]


def unfinished(kind: str, pattern: str) -> Moment:
    """True while an artifact of that kind has no manifest but a file like `pattern`."""

    def reached(root: Path) -> bool:
        return any(
            fnmatch(name, pattern)
            for folder in root.glob(f"artifacts/{kind}/*")
            if folder.is_dir() and not (folder / "manifest.json").exists()
            for _, folders, files in os.walk(folder)  # not `rglob`: folders come and go while it looks
            for name in (*folders, *files)
        )

    return reached


MOMENTS: dict[str, tuple[Moment, signal.Signals, int]] = {
    "data, while it writes": (unfinished("data", "*.npy"), signal.SIGKILL, -signal.SIGKILL),
    "train, between checkpoints": (unfinished("train", "step-*"), signal.SIGTERM, 75),
    "train, in the middle of a checkpoint": (unfinished("train", ".partial-*"), signal.SIGKILL, -signal.SIGKILL),
    "package, while it writes": (unfinished("package", "*.safetensors"), signal.SIGKILL, -signal.SIGKILL),
}
"""When the run is ended, by which signal, and how it ends then. Killing at random moments is tested in `train/`."""


def start_and_end(root: Path, moment: Moment, by: signal.Signals) -> tuple[int, str]:
    """Exit code and last words of a run that was still going when the moment came, and was ended in it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nexus_llm.cli", "run", str(QUICKSTART), *settings(SMALL)],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not moment(root):
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself, which its exit code tells
            if by is signal.SIGKILL:
                os.killpg(process.pid, by)  # workers, too
            else:
                process.send_signal(by)
        _, said = process.communicate(timeout=120)
        return process.returncode, said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_run_ended_in_every_stage_gives_the_ids_of_an_undisturbed_run(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for name, (moment, by, code) in MOMENTS.items():
        ended, said = start_and_end(tmp_path, moment, by)
        assert ended == code, f"{name}: {said[-2000:]}"
        if by is signal.SIGTERM:
            assert "the same command continues at the next step" in said
    done = nexus("run", str(QUICKSTART), "--json", *settings(SMALL), cwd=tmp_path)
    assert done.returncode in (0, 3, 4), done.stderr
    undisturbed: Run = request.getfixturevalue("small_run")  # only now: another process has made it meanwhile
    assert {row["stage"]: row["id"] for row in done.json["stages"]} == undisturbed.ids

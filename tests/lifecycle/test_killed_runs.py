"""A run that is killed anywhere and started again makes the same artifacts, to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import QUICKSTART, SMALL, Run, nexus, settings

pytestmark = [pytest.mark.lifecycle, pytest.mark.timeout(900), pytest.mark.xdist_group("killed")]

Moment = Callable[[Path], bool]


def unfinished(kind: str, pattern: str) -> Moment:
    """True while an artifact of that kind has no manifest but a file like `pattern`."""

    def reached(root: Path) -> bool:
        return any(
            next(folder.rglob(pattern), None) is not None
            for folder in root.glob(f"artifacts/{kind}/*")
            if folder.is_dir() and not (folder / "manifest.json").exists()
        )

    return reached


MOMENTS: dict[str, Moment] = {
    "data, while it works": unfinished("data", "work"),
    "data, while it writes": unfinished("data", "*.npy"),
    "train, before the first checkpoint": unfinished("train", "work"),
    "train, between checkpoints": unfinished("train", "step-*"),
    "train, in the middle of a checkpoint": unfinished("train", ".partial-*"),
    "package, while it writes": unfinished("package", "*.safetensors"),
}


def start_and_kill(root: Path, moment: Moment) -> bool:
    """True where the run was still going when the moment came, and was killed in it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nexus_llm.cli", "run", str(QUICKSTART), *settings(SMALL)],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None:
            if moment(root):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.002)
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_run_killed_in_every_stage_gives_the_ids_of_an_undisturbed_run(tmp_path: Path, small_run: Run) -> None:
    for name, moment in MOMENTS.items():
        assert start_and_kill(tmp_path, moment), f"the run ended before: {name}"
    done = nexus("run", str(QUICKSTART), "--json", *settings(SMALL), cwd=tmp_path)
    assert done.returncode in (0, 3, 4), done.stderr
    assert {row["stage"]: row["id"] for row in done.json["stages"]} == small_run.ids


def test_a_run_stopped_by_sigterm_while_training_says_so_and_continues(tmp_path: Path, small_run: Run) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nexus_llm.cli", "run", str(QUICKSTART), *settings(SMALL)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    reached = unfinished("train", "step-*")
    while process.poll() is None and not reached(tmp_path):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "the same command continues at the next step" in errors
    done = nexus("train", str(QUICKSTART), "--json", *settings(SMALL), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ids = {row["stage"]: row["id"] for row in done.json["stages"]}
    assert ids["train"] == small_run.ids["train"]

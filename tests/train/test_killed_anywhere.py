"""kill -9 at twenty moments of one run, some in the middle of a checkpoint: nothing of the result changes."""

from __future__ import annotations

import glob
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from bigram_training import KILLED_RECIPE, run_to_be_killed
from killable_process import start_process
from nexus_llm.train.checkpoint import find, saved_steps

KILLS = 20
PATIENCE_SECONDS = 120


def kill_when(process: ForkServerProcess, is_time: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.is_alive() and not is_time() and time.monotonic() < deadline:
        time.sleep(0.0002)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == -signal.SIGKILL, "it came to its end before the kill"


def moment(checkpoints: Path, chance: random.Random) -> tuple[str, Callable[[], bool]]:
    """A random moment: a few steps on, in the middle of a save, or between the rename and what follows it."""
    done = max(saved_steps(checkpoints), default=0)
    later = done + chance.randrange(0, 14)

    def is_writing() -> bool:
        passed = max(saved_steps(checkpoints), default=0) >= later
        # A folder may be renamed while it is looked at: iglob takes that for nothing there, Path.glob raises.
        return passed and any(glob.iglob(".partial-*/*", root_dir=checkpoints, include_hidden=True))  # noqa: PTH207

    def has_just_renamed() -> bool:
        return max(saved_steps(checkpoints), default=0) > later

    kinds = {"in a save": is_writing, "after a rename": has_just_renamed}
    name = chance.choice(sorted(kinds))
    return name, kinds[name]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start_process(run_to_be_killed, folder)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0
    return (folder / "result").read_text()


def test_twenty_kills_at_random_moments_change_nothing(tmp_path, undisturbed):
    assert "to_step=198" in undisturbed  # it goes back once, and skips what cannot be used
    checkpoints, chance, kinds = tmp_path / "checkpoints", random.Random(11), []
    for _ in range(KILLS):
        name, is_time = moment(checkpoints, chance)
        kill_when(start_process(run_to_be_killed, tmp_path), is_time)
        kinds.append(name)
        assert not (tmp_path / "result").exists()
    assert set(kinds) == {"in a save", "after a rename"}
    # Each file of a checkpoint damaged in turn, beside whole ones.
    newest = find(checkpoints, max(saved_steps(checkpoints)))
    assert newest is None or newest.step < KILLED_RECIPE.max_steps
    for name in ("state.json", "tensors.safetensors"):
        file = checkpoints / f"step-{max(saved_steps(checkpoints)):08d}" / name
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        kill_when(start_process(run_to_be_killed, tmp_path), moment(checkpoints, chance)[1])
    process = start_process(run_to_be_killed, tmp_path)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0
    assert (tmp_path / "result").read_text() == undisturbed

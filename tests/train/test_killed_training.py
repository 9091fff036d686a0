"""Nothing that happens to the process or to its newest checkpoint changes what comes out."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

import train_stage_process
from killable_process import start_process
from nexus_llm.artifacts import Artifact, load
from nexus_llm.recipe import Recipe
from train_stage_process import make_inputs

RECIPE = Recipe.model_validate(
    {
        "name": "killed",
        "train": {
            "max_length": 32,
            "max_steps": 300,
            "save_steps": 5,
            "eval_steps": 100,
            "lora_r": 4,
            "lora_dropout": 0.1,
        },
    }
)
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    make_inputs(root)
    return root


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(inputs, root, dirs_exist_ok=True)
    return finish(root)


@pytest.fixture
def root(inputs: Path, tmp_path: Path) -> Path:
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    return tmp_path


def start(root: Path) -> ForkServerProcess:
    return start_process(train_stage_process.run_as_process, root, RECIPE)


def stop_when(root: Path, reached: Callable[[Path], bool], number: signal.Signals) -> int | None:
    """Sends a signal to a fresh process as soon as its checkpoint folder looks as asked; gives its exit code."""
    process = start(root)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.is_alive() and time.monotonic() < deadline:
        if any(reached(folder) for folder in root.glob("artifacts/train/*/work/checkpoints")):
            os.kill(process.pid or 0, number)
            break
        time.sleep(0.0002)  # a checkpoint of this size is written in a few milliseconds
    process.join(PATIENCE_SECONDS)
    return process.exitcode


def newest(folder: Path) -> int:
    """Step of the newest checkpoint."""
    return max((int(path.name[5:]) for path in folder.glob("step-*")), default=0)


def finish(root: Path) -> Artifact:
    process = start(root)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0
    (manifest,) = root.glob("artifacts/train/*/manifest.json")
    return load(manifest.parent)


def assert_continues_to(undisturbed: Artifact, root: Path) -> Artifact:
    made = finish(root)
    assert made.id == undisturbed.id
    for fact in ("weights_sha256", "validation_losses", "first_loss", "last_loss", "tokens"):
        assert made.manifest.facts[fact] == undisturbed.manifest.facts[fact]
    return made


def test_kills_between_and_in_the_middle_of_checkpoints_change_nothing(root, undisturbed):
    def passed(step: int) -> Callable[[Path], bool]:
        return lambda folder: newest(folder) >= step

    def writing_after(step: int) -> Callable[[Path], bool]:
        return lambda folder: newest(folder) >= step and any(folder.glob(".partial-step-*"))

    for reached in (passed(10), writing_after(40), writing_after(90), passed(150), writing_after(200)):
        assert stop_when(root, reached, signal.SIGKILL) == -signal.SIGKILL
        assert not list(root.glob("artifacts/train/*/manifest.json"))
    assert_continues_to(undisturbed, root)


def cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut_off, flip_a_bit])
def test_a_damaged_newest_checkpoint_costs_some_steps_and_nothing_else(root, undisturbed, damage):
    stop_when(root, lambda folder: newest(folder) >= 50, signal.SIGKILL)
    (folder,) = root.glob("artifacts/train/*/work/checkpoints")
    step = newest(folder)
    file = folder / f"step-{step:08d}" / "tensors.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    made = assert_continues_to(undisturbed, root)
    (broken,) = made.manifest.facts["broken_checkpoints"]
    assert broken["name"] == f"step-{step:08d}"
    assert "tensors.safetensors" in broken["reason"]


def test_sigterm_saves_exits_75_and_the_same_command_continues(root, undisturbed):
    assert stop_when(root, lambda folder: newest(folder) >= 20, signal.SIGTERM) == 75
    assert_continues_to(undisturbed, root)

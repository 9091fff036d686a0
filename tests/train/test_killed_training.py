"""Nothing that happens to the process or to its newest checkpoint changes what comes out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import train_stage_process
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
    printed, complaint = start(root).communicate(timeout=PATIENCE_SECONDS)
    assert printed, complaint
    return made_in(root)


@pytest.fixture
def root(inputs: Path, tmp_path: Path) -> Path:
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    return tmp_path


def made_in(root: Path) -> Artifact:
    (manifest,) = root.glob("artifacts/train/*/manifest.json")
    return load(manifest.parent)


def start(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, train_stage_process.__file__, str(root), RECIPE.model_dump_json()]
    # The model is so small that a second thread would only wait for the first.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop_when(root: Path, reached: Callable[[Path], bool], number: signal.Signals) -> subprocess.Popen[str]:
    """Sends a signal to a fresh process as soon as its checkpoint folder looks as asked."""
    process = start(root)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if any(reached(folder) for folder in root.glob("artifacts/train/*/work/checkpoints")):
            process.send_signal(number)
            break
        time.sleep(0.0002)  # a checkpoint of this size is written in a few milliseconds
    process.communicate(timeout=PATIENCE_SECONDS)
    return process


def newest(folder: Path) -> int:
    """Step of the newest checkpoint."""
    return max((int(path.name[5:]) for path in folder.glob("step-*")), default=0)


def assert_continues_to(undisturbed: Artifact, root: Path) -> Artifact:
    process = start(root)
    printed, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, complaint
    assert printed.strip() == undisturbed.id
    made = made_in(root)
    assert made.manifest.facts["weights_sha256"] == undisturbed.manifest.facts["weights_sha256"]
    assert made.manifest.facts["validation_losses"] == undisturbed.manifest.facts["validation_losses"]
    return made


def test_kills_between_and_in_the_middle_of_checkpoints_change_nothing(root, undisturbed):
    def passed(step: int) -> Callable[[Path], bool]:
        return lambda folder: newest(folder) >= step

    def writing_after(step: int) -> Callable[[Path], bool]:
        return lambda folder: newest(folder) >= step and any(folder.glob(".partial-step-*"))

    for reached in (passed(10), writing_after(40), writing_after(90), passed(150), writing_after(200)):
        assert stop_when(root, reached, signal.SIGKILL).returncode == -signal.SIGKILL
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
    process = stop_when(root, lambda folder: newest(folder) >= 20, signal.SIGTERM)
    assert process.returncode == 75
    assert_continues_to(undisturbed, root)

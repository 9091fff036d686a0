"""`train.launcher: container-rehearsal`: the train image's entry point on this machine, in a tree like SageMaker's.

What runs is the very program that runs in the cloud, with the same files around it: a mistake in the recipe, in the
channels or in the environment shows here in seconds instead of there after ten minutes. `half_synced` makes what an
interrupted copy to S3 leaves, so that a test can start a job from it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.cloud.metrics_progress import MetricsProgress
from nexus_llm.cloud.training_processes import end_group, new_lines, start_rehearsed
from nexus_llm.cloud.training_result import adopt
from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.ports import Interrupt, Progress
from nexus_llm.recipe import Recipe, recipe_yaml
from nexus_llm.train.container import RECIPE_FILE, ROOT, secret_names

ROOT_VARIABLE = "NEXUS_OPT_ML"
TERMINATION_SECONDS = 120  # between SIGTERM and SIGKILL, as in SageMaker
TREE, LOG = "opt-ml", "container.log"


def make_tree(
    root: Path,
    recipe: Recipe,
    inputs: Mapping[str, Path],
    *,
    hyperparameters: Mapping[str, str] | None = None,
    hosts: Sequence[str] = ("algo-1",),
    current_host: str = "algo-1",
) -> Path:
    """The tree that SageMaker's agent would make of a job, below `root`; gives `root`.

    `inputs` maps channels to folders of artifacts, which are linked, not copied. What an earlier start left in
    `checkpoints` stays; `model` and `output` are emptied, as on a new machine.
    """
    for name in ("model", "output", "input"):
        storage.remove(root / name)
    for name in ("model", "output/data", "input/config", "input/data/recipe", "checkpoints"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "input" / "data" / "recipe" / RECIPE_FILE).write_text(recipe_yaml(recipe), encoding="utf-8")
    for name, folder in inputs.items():
        (root / "input" / "data" / name).symlink_to(folder.resolve(), target_is_directory=True)
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    config = {
        "hyperparameters": dict(hyperparameters or {}),
        "inputdataconfig": dict.fromkeys(("recipe", *inputs), channel),
        "resourceconfig": {"current_host": current_host, "hosts": sorted(hosts), "network_interface_name": "lo"},
        "checkpointconfig": {"LocalPath": str(ROOT / "checkpoints")},
    }
    for name, value in config.items():
        (root / "input" / "config" / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return root


def start(root: Path, command: Sequence[str], *, job: str = "rehearsal") -> subprocess.Popen[bytes]:
    """The container's process on a tree; its output goes to `container.log` beside the tree.

    It gets this environment without its secrets: the job's own would not be there either.
    """
    environment = {name: value for name, value in os.environ.items() if name not in secret_names(os.environ)}
    environment |= {ROOT_VARIABLE: str(root), "TRAINING_JOB_NAME": job, "PYTHONUNBUFFERED": "1"}
    return start_rehearsed(command, environment=environment, log=root.with_name(LOG))


def half_synced(checkpoints: Path, target: Path) -> list[str]:
    """Copies a checkpoint folder as an interrupted copy to S3 and back would have brought it; gives what is missing.

    S3's files are whole or absent, and come and go one by one, so: the newest checkpoint lacks one file, one that was
    being written has arrived cut off, of one that was removed a file is still there, and logs are as they were earlier.
    """
    storage.remove(target)
    shutil.copytree(checkpoints, target)
    missing: list[str] = []
    for folder in sorted({path.parent for path in target.rglob("step-*") if path.is_dir()}):
        if folder.name == "quarantine":
            continue
        steps = sorted(path for path in folder.glob("step-*") if path.is_dir())
        newest = steps[-1]
        files = sorted(path for path in newest.rglob("*") if path.is_file())
        number = int(newest.name.removeprefix("step-"))
        for half, name in ((f".partial-step-{number + 1:08d}", files[-1].name), ("step-00000000", files[0].name)):
            (folder / half).mkdir(exist_ok=True)
            content = files[-1].read_bytes()
            (folder / half / name).write_bytes(content[: len(content) // 2])
        files[-1].unlink()
        missing.append(str(files[-1].relative_to(target)))
    for log in target.rglob("*.jsonl"):
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[: len(lines) // 2]))
    return missing


@dataclass(frozen=True)
class RehearsalTrainService:
    """A `nexus_llm.ports.TrainService` on this machine."""

    command: Sequence[str]
    """What the image's entry point runs."""
    progress: Progress
    interrupt: Interrupt
    monotonic: Callable[[], float] = time.monotonic
    termination_seconds: float = TERMINATION_SECONDS

    def train(self, recipe: Recipe, inputs: Mapping[str, Path], key: str, folder: Path) -> dict[str, Any]:
        """See `nexus_llm.ports.TrainService`. The tree lies in `folder/work`, so that the same command continues."""
        root = make_tree(folder / "work" / TREE, recipe, inputs)
        log = root.with_name(LOG)
        log.unlink(missing_ok=True)
        shown = MetricsProgress(self.progress, label="rehearsing the container", total=recipe.train.max_steps)
        process = start(root, self.command)
        try:
            asked = self._follow(process, log, shown)
        finally:
            end_group(process)
        if process.returncode == 75 or (asked and process.returncode):
            raise TryAgainError(
                f"the rehearsed container was stopped by {asked or 'a signal'}; its checkpoints are in {root}",
                fix="the same command continues",
            )
        if process.returncode:
            raise TrainingError(_reason(process.returncode, root, shown), fix=f"read the container's output: {log}")
        manifest = adopt(root / "model", folder, key=key, made_by="the rehearsed container")
        shown.finish()
        return manifest.facts

    def _follow(self, process: subprocess.Popen[bytes], log: Path, shown: MetricsProgress) -> str | None:
        """Why it was asked to stop, if it was; returns when it has ended."""
        asked: str | None = None
        deadline = float("inf")
        for line in new_lines(log, process):
            if line is not None:
                shown.line(line)
            elif asked is None and (asked := self.interrupt.requested()):
                process.send_signal(signal.SIGTERM)
                deadline = self.monotonic() + self.termination_seconds
            elif self.monotonic() > deadline:
                end_group(process)
        return asked


def _reason(code: int, root: Path, shown: MetricsProgress) -> str:
    failure = root / "output" / "failure"
    if failure.exists():
        return f"the rehearsed container failed: {failure.read_text(encoding='utf-8').partition(chr(10))[0]}"
    last = shown.other_lines[-1] if shown.other_lines else "it printed nothing"
    return f"the rehearsed container ended with code {code} and gave no reason ({last})"

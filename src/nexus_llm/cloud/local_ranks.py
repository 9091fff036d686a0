"""Several processes on this machine train one model: torchrun, and what its processes are told and leave behind."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.cloud.training_processes import run_torchrun
from nexus_llm.errors import RecipeError
from nexus_llm.ports import Interrupt, Progress
from nexus_llm.recipe import Recipe
from nexus_llm.train.distributed.launch import launch

JOB, FACTS = "ranks.json", "facts.json"


@dataclass(frozen=True)
class RankJob:
    """What each process needs to know."""

    recipe: dict[str, Any]
    inputs: dict[str, str]
    """Kind → folder of a finished artifact."""
    folder: str
    """The result comes here."""
    work: str
    """Checkpoints lie here, and process 0 leaves FACTS."""

    @classmethod
    def read(cls, path: Path) -> RankJob:
        """What `LocalRanks` wrote."""
        return cls(**json.loads(path.read_bytes()))


@dataclass(frozen=True)
class LocalRanks:
    """A `nexus_llm.ports.TrainService` that starts `train.distributed.num_processes` processes here."""

    argv: Sequence[str]
    """Arguments of Python that run one process; the path of a RankJob follows."""
    progress: Progress
    interrupt: Interrupt

    def train(self, recipe: Recipe, inputs: Mapping[str, Path], key: str, folder: Path) -> dict[str, Any]:  # noqa: ARG002
        """See `nexus_llm.ports.TrainService`."""
        distributed = recipe.train.distributed
        if distributed.num_machines > 1:
            raise RecipeError(
                f"train.distributed.num_machines is {distributed.num_machines}, and train.launcher local starts "
                "processes on this machine alone",
                fix="--on sagemaker, or set num_machines to 1",
            )
        work = folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        facts, job = work / FACTS, work / JOB
        facts.unlink(missing_ok=True)
        told = RankJob(
            recipe.model_dump(mode="json"),
            {kind: str(path.resolve()) for kind, path in inputs.items()},
            str(folder.resolve()),
            str(work.resolve()),
        )
        storage.write_atomically(job, json.dumps(vars(told)).encode())
        self.progress.start(f"training in {distributed.num_processes} processes", total=None, unit="")
        with tempfile.TemporaryDirectory(prefix="nexus-") as logs:
            command = launch([*self.argv, str(job)], processes=distributed.num_processes, log_folder=Path(logs))
            # torchrun would give each process one thread, and say so in four lines.
            threads = max(1, (os.cpu_count() or 1) // distributed.num_processes)
            environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
            error = run_torchrun(
                command, environment=environment, log_folder=Path(logs), requested=self.interrupt.requested
            )
        if error:
            raise error
        self.progress.finish()
        return dict(json.loads(facts.read_bytes()))

"""The train stage on a tiny model, in this process or in one of its own."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from nexus_llm.artifacts import Artifact, ArtifactStore, artifact_key
from nexus_llm.errors import NexusError
from nexus_llm.ports import Interrupt, Ports
from nexus_llm.recipe import Recipe
from nexus_llm.train.stage import STAGE, recipe_part
from tiny_training import make_model, make_shard, write_shard


class Signalled:
    """An `Interrupt` that remembers SIGTERM."""

    def __init__(self) -> None:
        self._name: str | None = None
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, _frame: Any) -> None:
        self._name = signal.Signals(number).name

    def requested(self) -> str | None:
        return self._name


def make_inputs(root: Path) -> None:
    """A tiny model and tiny shards as finished artifacts."""
    store = ArtifactStore(root / "artifacts")
    for kind in ("model", "data"):
        with store.draft(kind, kind, stage_version=1, recipe={}, inputs={}) as draft:
            if kind == "model":
                make_model(draft.folder)
            else:
                write_shard(draft.folder, "train", make_shard([40, 12, 30, 25, 9, 31, 60, 18] * 3))
                write_shard(draft.folder, "validation", make_shard([20, 33], seed=6))
            draft.finish(facts={})


def run_stage(root: Path, recipe: Recipe, *, interrupt: Interrupt | None = None) -> Artifact:
    """Makes the train artifact of `recipe`, or goes on with it."""
    store = ArtifactStore(root / "artifacts")
    inputs = {artifact.kind: artifact for artifact in store.all() if artifact.kind in STAGE.needs}
    part = recipe_part(recipe)
    key = artifact_key("train", stage_version=1, recipe=part, inputs={name: made.key for name, made in inputs.items()})
    ids = {name: made.id for name, made in inputs.items()}
    ports = Ports(interrupt=interrupt) if interrupt else Ports()
    with store.draft("train", key, stage_version=1, recipe=part, inputs=ids) as draft:
        return STAGE.run(recipe, inputs, draft, ports)


def run_as_process(root: Path, recipe: Recipe) -> None:
    """`run_stage` as the command line would: SIGTERM asks to stop, an error becomes its exit code."""
    import torch

    torch.set_num_threads(1)  # the model is so small that a second thread would only wait for the first
    try:
        run_stage(root, recipe, interrupt=Signalled())
    except NexusError as error:
        sys.exit(error.exit_code)

"""Which data artifact a command means: that of a run, of a recipe, or any that the user names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_llm.errors import ArtifactError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.pipeline import Workspace

RunName = Annotated[
    str | None, typer.Option("--run", help="A run folder or its name; else the latest run.", metavar="RUN")
]
ArtifactName = Annotated[
    str | None,
    typer.Option("--artifact", help="A data artifact's folder, kind/key, or the start of its id.", metavar="PATH"),
]


def data_artifact(name: str | None, place: Workspace) -> Artifact:
    """The data artifact that `name` (as `nexus show` takes it) is or was made from; None means the latest run's."""
    from nexus_llm.artifacts import load
    from nexus_llm.pipeline.lineage import find_artifact, lineage

    found = find_artifact(name or _latest_run(place), place)
    for ancestor in lineage(found, place):
        if ancestor.kind == "data":
            return load(Path(ancestor.path))
    raise ArtifactError(f"{name} was made from no data artifact that is here", fix="nexus data RECIPE makes one")


def artifact_of_recipe(path: Path, place: Workspace) -> Artifact:
    """The data artifact that a recipe makes."""
    from nexus_llm.cli.options import ports
    from nexus_llm.pipeline import plan, stages
    from nexus_llm.recipe import load_recipe

    planned = plan(load_recipe(path), place, ports(), line=stages(until="data"))[-1]
    if planned.artifact is None:
        raise ArtifactError(f"the text of {path} is not tokenised yet", fix=f"nexus data {path}")
    return planned.artifact


def model_folder(data: Artifact, place: Workspace) -> Path:
    """The folder of the model whose tokenizer wrote the tokens."""
    wanted = data.manifest.inputs.get("model")
    for artifact in place.all_artifacts():
        if artifact.id == wanted:
            return artifact.folder
    raise ArtifactError(
        f"the model {wanted} whose tokenizer wrote {data.folder} is no longer here",
        fix="nexus model pull it again; the recipe names it in model.base",
    )


def _latest_run(place: Workspace) -> str:
    runs = place.root / "runs"
    records = [path for path in runs.glob("*/artifacts.json") if "data" in json.loads(path.read_text(encoding="utf-8"))]
    if not records:
        raise ArtifactError(
            f"{runs} holds no run that has read its text yet", fix="nexus data RECIPE, or name one with --run or --root"
        )
    latest = max(records, key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
    return str(latest.parent)

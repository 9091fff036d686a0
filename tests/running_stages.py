"""One stage at a time, without the line around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nexus_llm.artifacts import Artifact, ArtifactStore, Manifest, Stage, artifact_key
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe


def folder_as_artifact(kind: str, folder: Path) -> Artifact:
    """A folder that passes for a finished artifact."""
    manifest = Manifest(kind=kind, key=kind, id=f"{kind}-id", inputs={}, recipe={}, files=(), facts={})
    return Artifact(folder, manifest)


def run_stage(
    stage: Stage, recipe: Recipe, inputs: Mapping[str, Artifact], root: Path, ports: Ports | None = None
) -> Artifact:
    """What the stage makes below `root`."""
    ports = ports or Ports()
    outside = stage.outside_inputs(recipe, ports)
    part = stage.recipe_part(recipe)
    key = artifact_key(stage.kind, stage_version=stage.version, recipe=part, inputs=outside)
    with ArtifactStore(root).draft(stage.kind, key, stage_version=stage.version, recipe=part, inputs=outside) as draft:
        return stage.run(recipe, inputs, draft, ports)

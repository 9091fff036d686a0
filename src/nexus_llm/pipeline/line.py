"""Plans and runs the stages in order, and skips what is already made.

model ─► data ─► train ─► package ─► evaluate
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.artifacts import MANIFEST, Artifact, ArtifactStore, Estimate, Stage, artifact_key, load
from nexus_llm.errors import UsageError
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe, recipe_yaml


def stages(*, until: str | None = None) -> tuple[Stage, ...]:
    """All stages in the order in which they run, or those up to and including the kind `until`.

    Raises:
        UsageError: there is no stage of that kind.
    """
    from nexus_llm.data.stage import STAGE as DATA
    from nexus_llm.evaluate.stage import evaluate_stage
    from nexus_llm.model.stage import STAGE as MODEL
    from nexus_llm.package.stage import STAGE as PACKAGE
    from nexus_llm.pipeline.contamination import overlaps
    from nexus_llm.train.stage import STAGE as TRAIN

    line = (MODEL, DATA, TRAIN, PACKAGE, evaluate_stage(overlaps=overlaps))
    kinds = [stage.kind for stage in line]
    if until is None:
        return line
    if until not in kinds:
        raise UsageError(f"{until} is not a stage", fix=f"use one of: {', '.join(kinds)}")
    return line[: kinds.index(until) + 1]


@dataclass(frozen=True)
class Workspace:
    """Where runs and artifacts lie. Base models are shared by all workspaces of a user, so they lie in the cache."""

    root: Path
    cache: Path

    def run_folder(self, recipe: Recipe) -> Path:
        return self.root / "runs" / recipe.name

    def store(self, kind: str) -> ArtifactStore:
        return ArtifactStore((self.cache if kind == "model" else self.root) / "artifacts")

    def all_artifacts(self) -> list[Artifact]:
        """Every finished artifact that this workspace can see."""
        here = ArtifactStore(self.root / "artifacts").all()
        shared = ArtifactStore(self.cache / "artifacts").all()
        return here + [artifact for artifact in shared if artifact.folder not in {one.folder for one in here}]


@dataclass(frozen=True)
class PlannedStage:
    """What a stage would do: its key is known, its artifact may exist already."""

    stage: Stage
    key: str
    folder: Path
    outside: dict[str, str]
    artifact: Artifact | None
    estimate: Estimate


@dataclass(frozen=True)
class StageResult:
    """One stage of a finished run, in the shape that `run --json` prints."""

    stage: str
    key: str
    id: str
    path: str
    seconds: float
    skipped: bool


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run: Path
    stages: tuple[StageResult, ...]
    artifacts: dict[str, Artifact]

    @property
    def gate(self) -> dict[str, Any] | None:
        """The evaluation's verdict and comparisons; None where the run ended before it."""
        evaluated = self.artifacts.get("evaluate")
        return evaluated.manifest.facts["gate"] if evaluated else None


def plan(recipe: Recipe, workspace: Workspace, ports: Ports, *, line: tuple[Stage, ...]) -> list[PlannedStage]:
    """Every stage with its key, and the artifact where one exists. Reads sources, makes nothing.

    A key hashes its inputs' keys, so that the whole plan is known before anything runs; whether an artifact may be
    reused is decided by its inputs' ids.
    """
    planned: list[PlannedStage] = []
    keys: dict[str, str] = {}
    ids: dict[str, str] = {}
    for stage in line:
        outside = stage.outside_inputs(recipe, ports)
        inputs = {name: keys[name] for name in stage.needs} | outside
        part = stage.recipe_part(recipe)
        key = artifact_key(stage.kind, stage_version=stage.version, recipe=part, inputs=inputs)
        store = workspace.store(stage.kind)
        artifact = None
        if all(name in ids for name in stage.needs):
            artifact = store.find(stage.kind, key, inputs={name: ids[name] for name in stage.needs} | outside)
            if artifact:
                ids[stage.kind] = artifact.id
        keys[stage.kind] = key
        planned.append(
            PlannedStage(stage, key, store.folder(stage.kind, key), outside, artifact, stage.estimate(recipe))
        )
    return planned


def execute(
    recipe: Recipe,
    workspace: Workspace,
    ports: Ports,
    *,
    line: tuple[Stage, ...],
    provenance: Mapping[str, Any],
) -> RunResult:
    """Makes every artifact of the line that is not there yet.

    Raises:
        NexusError: a stage failed. What was finished stays, and the same call continues behind it.
    """
    run = workspace.run_folder(recipe)
    storage.write_atomically(run / "recipe.resolved.yaml", recipe_yaml(recipe).encode())
    made: dict[str, Artifact] = {}
    results: list[StageResult] = []
    for step in plan(recipe, workspace, ports, line=line):
        started = ports.clock.monotonic()
        artifact, skipped = _make(step, recipe, workspace, ports, made, provenance)
        made[step.stage.kind] = artifact
        seconds = round(ports.clock.monotonic() - started, 3)
        results.append(StageResult(step.stage.kind, artifact.key, artifact.id, str(artifact.folder), seconds, skipped))
        _record(run, recipe, results)
    return RunResult(run, tuple(results), made)


def _make(
    step: PlannedStage,
    recipe: Recipe,
    workspace: Workspace,
    ports: Ports,
    made: Mapping[str, Artifact],
    provenance: Mapping[str, Any],
) -> tuple[Artifact, bool]:
    """The artifact, and whether it was there already."""
    stage = step.stage
    ids = {name: made[name].id for name in stage.needs} | step.outside
    if step.artifact and step.artifact.manifest.inputs == ids:
        return step.artifact, True
    store = workspace.store(stage.kind)
    if not step.artifact and (found := store.find(stage.kind, step.key, inputs=ids)):
        return found, True  # made by a run of another recipe since the plan was drawn
    with store.draft(
        stage.kind,
        step.key,
        stage_version=stage.version,
        recipe=stage.recipe_part(recipe),
        inputs=ids,
        provenance=dict(provenance),
    ) as draft:
        return stage.run(recipe, made, draft, ports), False


def _record(run: Path, recipe: Recipe, results: list[StageResult]) -> None:
    """Keeps the run folder true after every stage, so that an interrupted run can be read too."""
    rows = {result.stage: {"key": result.key, "id": result.id, "path": result.path} for result in results}
    rows |= _later_stages(run, recipe, rows)
    storage.write_atomically(run / "artifacts.json", (json.dumps(rows, indent=2) + "\n").encode())
    event = {"time": round(time.time(), 3), "event": "stage.finished", **asdict(results[-1])}
    with storage.explained(str(run)), (run / "events.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(event) + "\n")


def _later_stages(run: Path, recipe: Recipe, rows: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """What an earlier run made of these artifacts by the same recipe: `nexus data` must not unmake its model."""
    path = run / "artifacts.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept: dict[str, dict[str, str]] = {}
    for kind, row in earlier.items():
        if kind in rows or not (Path(row["path"]) / MANIFEST).exists():
            continue
        manifest = load(Path(row["path"])).manifest
        known = {name: one["id"] for name, one in (rows | kept).items()}
        fits = all(known.get(name, used) == used for name, used in manifest.inputs.items())
        if fits and _is_part(manifest.recipe, recipe.model_dump(mode="json")):
            kept[kind] = row
    return kept


def _is_part(part: object, whole: object) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and _is_part(value, whole[name]) for name, value in part.items())
    return part == whole

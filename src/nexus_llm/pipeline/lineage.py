"""Walks artifacts back to the files they came from, and names what differs between two of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_llm.artifacts import MANIFEST, Artifact, changed_fields, load
from nexus_llm.errors import ArtifactError
from nexus_llm.pipeline.line import Workspace


@dataclass(frozen=True)
class Ancestor:
    """One node of a lineage: an artifact, or a file from outside."""

    depth: int
    role: str
    """The name under which the node below used it."""
    id: str
    kind: str
    """The artifact's kind, or `file`."""
    path: str


@dataclass(frozen=True)
class Difference:
    """One field or fact in which two artifacts differ."""

    artifact: str
    """Kind of the artifact, here or further up the line, in which it stands."""
    field: str
    before: Any
    after: Any


def find_artifact(name: str, workspace: Workspace) -> Artifact:
    """The artifact that a user means: a folder, a run (its last stage), `kind/key`, or the start of an id or key.

    Raises:
        ArtifactError: none or several match.
    """
    folder = Path(name)
    if (folder / MANIFEST).exists():
        return load(folder)
    run = folder if (folder / "artifacts.json").exists() else workspace.root / "runs" / name
    if (run / "artifacts.json").exists():
        return load(Path(list(json.loads((run / "artifacts.json").read_text(encoding="utf-8")).values())[-1]["path"]))
    everything = workspace.all_artifacts()
    found = [
        one
        for one in everything
        if f"{one.kind}/{one.key}" == name or (len(name) >= 4 and (one.id.startswith(name) or one.key.startswith(name)))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(f"{one.kind}/{one.key}" for one in found)
        raise ArtifactError(f"{name} fits {len(found)} artifacts: {listed}", fix="write more digits, or kind/key")
    raise ArtifactError(
        f"{name} is no artifact here ({len(everything)} known)",
        fix="give a run (runs/NAME), an artifact's folder, or an id from: nexus show runs/NAME",
    )


def lineage(artifact: Artifact, workspace: Workspace) -> list[Ancestor]:
    """The artifact and all that it was made from, depth first, down to files from outside.

    An artifact that several others used is listed under each, but its own inputs only once.
    """
    by_id = {one.id: one for one in workspace.all_artifacts()} | {artifact.id: artifact}
    rows: list[Ancestor] = []
    expanded: set[str] = set()

    def visit(role: str, node_id: str, depth: int) -> None:
        node = by_id.get(node_id)
        if node is None:
            rows.append(Ancestor(depth, role, node_id, "file" if ":" in node_id else "missing", role))
            return
        rows.append(Ancestor(depth, role, node.id, node.kind, str(node.folder)))
        if node.id not in expanded:
            expanded.add(node.id)
            for name, parent in sorted(node.manifest.inputs.items()):
                visit(name, parent, depth + 1)

    visit(artifact.kind, artifact.id, 0)
    return rows


def runs_with(artifact: Artifact, workspace: Workspace) -> list[Path]:
    """Folders of the runs that made or used this artifact, sorted."""
    return [
        record.parent
        for record in sorted((workspace.root / "runs").glob("*/artifacts.json"))
        if json.loads(record.read_text(encoding="utf-8")).get(artifact.kind, {}).get("id") == artifact.id
    ]


def differences(before: Artifact, after: Artifact, workspace: Workspace) -> list[Difference]:
    """Recipe fields, outside files and facts in which two artifacts differ, along the whole line behind them.

    Raises:
        ArtifactError: they are of different kinds.
    """
    if before.kind != after.kind:
        raise ArtifactError(
            f"{before.kind}/{before.key} and {after.kind}/{after.key} are of different kinds",
            fix="compare two artifacts of one kind, or two runs",
        )
    by_id = {one.id: one for one in workspace.all_artifacts()}
    rows: list[Difference] = []
    seen: set[tuple[str, str]] = set()

    def compare(left: Artifact, right: Artifact) -> None:
        if left.id == right.id or (left.id, right.id) in seen:
            return
        seen.add((left.id, right.id))
        for name in sorted(left.manifest.inputs.keys() | right.manifest.inputs.keys()):
            mine, other = left.manifest.inputs.get(name), right.manifest.inputs.get(name)
            if mine == other:
                continue
            if mine in by_id and other in by_id:
                compare(by_id[mine], by_id[other])
            else:
                rows.append(Difference(left.kind, f"inputs.{name}", mine, other))
        for part in ("recipe", "facts"):
            changed = changed_fields(getattr(left.manifest, part), getattr(right.manifest, part), part)
            rows.extend(Difference(left.kind, *row) for row in changed)

    compare(before, after)
    return rows

"""`nexus show`, `lineage`, `diff` and `doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, Root, cache_folder, workspace

Name = Annotated[
    str, typer.Argument(help="A run, an artifact's folder, kind/key, or the start of an id.", metavar="NAME")
]


def register(app: typer.Typer) -> None:
    """Adds the verbs to the command line."""
    app.command("show")(show)
    app.command("lineage")(lineage)
    app.command("diff")(diff)
    app.command("doctor")(doctor)


def show(name: Name, as_json: AsJson = False, root: Root = Path()) -> int:
    """What an artifact is: its files, facts, inputs and origin. Exit 1 where files were altered."""
    from nexus_llm.artifacts import altered_files
    from nexus_llm.pipeline.lineage import find_artifact

    artifact = find_artifact(name, workspace(root))
    altered = altered_files(artifact)
    if as_json:
        print_json({"path": str(artifact.folder), "altered_files": altered, **asdict(artifact.manifest)})
        return 1 if altered else 0
    manifest = artifact.manifest
    print(f"{manifest.kind} {manifest.id}  (key {manifest.key})\n{artifact.folder}")
    _print_tree("inputs", manifest.inputs)
    _print_tree("facts", manifest.facts)
    _print_tree("recipe", manifest.recipe)
    _print_tree("provenance", {k: v for k, v in manifest.provenance.items() if v is not None})
    print("files")
    for entry in manifest.files:
        state = "  ALTERED" if entry.path in altered else ""
        print(f"  {entry.path:<40} {entry.bytes:>12,} bytes  sha256 {entry.sha256[:12]}…{state}")
    return 1 if altered else 0


def lineage(name: Name, as_json: AsJson = False, root: Root = Path()) -> int:
    """Everything an artifact was made from, back to the files from outside."""
    from nexus_llm.pipeline.lineage import as_rows, find_artifact
    from nexus_llm.pipeline.lineage import lineage as trace

    place = workspace(root)
    rows = trace(find_artifact(name, place), place)
    if as_json:
        print_json({"lineage": as_rows(rows)})
        return 0
    for row in rows:
        print(f"{'  ' * row.depth}{row.role}  {row.id}  {row.path if row.kind != 'file' else ''}".rstrip())
    return 0


def diff(before: Name, after: Name, as_json: AsJson = False, root: Root = Path()) -> int:
    """The recipe fields and facts in which two runs or artifacts differ, along the whole line behind them."""
    from nexus_llm.pipeline.lineage import as_rows, differences, find_artifact

    place = workspace(root)
    left, right = find_artifact(before, place), find_artifact(after, place)
    rows = differences(left, right, place)
    if as_json:
        print_json({"before": left.id, "after": right.id, "differences": as_rows(rows)})
        return 0
    for row in rows:
        print(f"{row.artifact:<10} {row.field}: {_short(row.before)} → {_short(row.after)}")
    if not rows:
        print("no difference")
    return 0


def doctor(as_json: AsJson = False) -> int:
    """What this machine offers: cores, memory, disk, extras. Exit 1 where a default recipe would not run."""
    import importlib.util
    import shutil

    from nexus_llm.cloud.local import available_cores, library_versions, memory_bytes, processor_name

    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    extras = {"train": "torch", "eval": "transformers", "serve": "openvino_genai"}
    facts: dict[str, Any] = {
        "processor": processor_name(),
        "cores": available_cores(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "free_disk_gib": round(shutil.disk_usage(existing).free / 2**30, 1),
        "cache": str(cache),
        "extras": {name: importlib.util.find_spec(module) is not None for name, module in extras.items()},
        "libraries": library_versions(),
    }
    problems = [
        f"the extra [{name}] is missing: pip install 'nexus-llm-platform[{name}]'"
        for name, is_there in facts["extras"].items()
        if not is_there
    ]
    if facts["memory_gib"] < 6:
        problems.append(f"{facts['memory_gib']} GiB of memory: the quickstart needs about 4 GiB free")
    if facts["free_disk_gib"] < 4:
        problems.append(f"{facts['free_disk_gib']} GiB of disk free: the quickstart needs about 4 GiB")
    if as_json:
        print_json({**facts, "problems": problems})
    else:
        _print_tree("machine", facts)
        print("\n".join(f"problem: {problem}" for problem in problems) or "ready")
    return 1 if problems else 0


def _print_tree(title: str, values: dict[str, Any], indent: int = 0) -> None:
    print(f"{'  ' * indent}{title}")
    for name, value in values.items():
        if isinstance(value, dict) and value:
            _print_tree(name, value, indent + 1)
        else:
            print(f"{'  ' * (indent + 1)}{name}: {_short(value)}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "…"

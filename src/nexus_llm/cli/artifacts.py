"""`nexus show`, `lineage`, `diff` and `doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.data_records import printable
from nexus_llm.cli.options import AsJson, Root, cache_folder, workspace
from nexus_llm.cli.service_lineage import Logs

Name = Annotated[
    str, typer.Argument(help="A run, an artifact's folder, kind/key, or the start of an id.", metavar="NAME")
]

_SHOWN_SHARDS = 5


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


def lineage(
    name: Annotated[
        str,
        typer.Argument(help="As for nexus show; or an answer: its x-nexus-receipt, or its x-request-id with --log."),
    ],
    log: Logs = [],  # noqa: B006 - typer reads the default, nobody changes it
    shard: Annotated[str | None, typer.Option("--shard", help="Also the records of this shard: train-00000.")] = None,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Everything that an artifact, or the model behind an answer, was made from: back to shards, records, files."""
    from nexus_llm.cli.service_lineage import answer_named, deployed, records_of, registered_as, shards_of
    from nexus_llm.pipeline.lineage import find_artifact, runs_with
    from nexus_llm.pipeline.lineage import lineage as trace

    place = workspace(root)
    answer, artifact = answer_named(name, log, place) or ({}, find_artifact(name, place))
    rows = trace(artifact, place)
    shards = shards_of(rows)
    told: dict[str, Any] = {"lineage": list(map(asdict, rows)), "shards": shards}
    if answer:
        runs = [str(one) for one in runs_with(artifact, place)]
        told |= {"answer": answer, "runs": runs, "registered": registered_as([artifact.id], root)}
        told["deployed"] = deployed({artifact.key}, root)
    if shard is not None:
        told["records"] = records_of(rows, shard)
    if as_json:
        print_json(told)
        return 0
    if answer:
        print("answer    ", "  ".join(str(value) for value in answer.values() if value))
        print("run       ", ", ".join(told["runs"]) or "none here")
        names = [f"{one['name']}@{one['version']} {' '.join(one['aliases'])}".strip() for one in told["registered"]]
        print("registered", ", ".join(names) or "no")
        print("deployed  ", ", ".join(f"{one['model']} on {one['platform']}" for one in told["deployed"]) or "nowhere")
    for row in rows:
        print(f"{'  ' * row.depth}{row.role}  {row.id}  {row.path if row.kind != 'file' else ''}".rstrip())
        mine = [one for one in shards if one["data"] == row.id]
        for one in mine[:_SHOWN_SHARDS]:
            print(f"{'  ' * (row.depth + 1)}shard  {one['shard']}  {one['records']:,} records")
        if len(mine) > _SHOWN_SHARDS:
            print(f"{'  ' * (row.depth + 1)}… and {len(mine) - _SHOWN_SHARDS:,} more shards (--json lists all)")
    for record in told.get("records", ()):
        print(f"record  {record['shard']} row {record['row']}  {record['id']}  {printable(record['origin'])}")
    return 0


def diff(before: Name, after: Name, as_json: AsJson = False, root: Root = Path()) -> int:
    """The recipe fields and facts in which two runs or artifacts differ, along the whole line behind them."""
    from nexus_llm.pipeline.lineage import differences, find_artifact

    place = workspace(root)
    left, right = find_artifact(before, place), find_artifact(after, place)
    rows = differences(left, right, place)
    if as_json:
        print_json({"before": left.id, "after": right.id, "differences": list(map(asdict, rows))})
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

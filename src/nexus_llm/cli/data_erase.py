"""`nexus data erase`: keeps records out of every later build, and lists all that was made of them so far."""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import agree, print_json
from nexus_llm.cli.data_artifact import ArtifactName, RunName, data_artifact
from nexus_llm.cli.options import AsJson, KeysDatabase, Root, command_line, ports, workspace
from nexus_llm.cli.service_lineage import Logs
from nexus_llm.errors import DataError, UsageError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.data.looking.inspect import Record
    from nexus_llm.pipeline import Workspace

_DEFAULT_LIST = "erased.txt"
_LISTED_RECORDS = 20
_CANNOT = (
    "Trained weights keep what they learned: retrain the models listed, or delete them.",
    "The sources still hold the text: take it out there too. An id names a place (path and line), so a source whose "
    "lines move needs its ids looked up again.",
    "The artifacts listed, and copies or backups of them elsewhere, hold the text until they are deleted.",
)


@dataclass(frozen=True)
class _Reach:
    """Everything in the workspace that holds the records, or was made from what holds them."""

    asked: list[Record]
    same_text: list[Record]
    data: list[dict[str, Any]]
    """Data artifacts: path, id, and the shards and rows that hold the text."""
    made_from_it: list[dict[str, Any]]
    """Artifacts made from those: kind, id, path."""
    unfinished: list[str]
    """Folders that an interrupted stage left; nobody can say whether they hold it."""


def register(group: typer.Typer) -> None:
    """Adds the command to `nexus data`."""
    group.command("erase")(erase)


def erase(
    names: Annotated[list[str], typer.Argument(help="Ids of records, or their path:line.", metavar="ID...")],
    run: RunName = None,
    artifact: ArtifactName = None,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the list, behind the id.")] = "",
    only: Annotated[bool, typer.Option("--only", help="Leave other records with the same text alone.")] = False,
    list_path: Annotated[
        Path | None, typer.Option("--list", help="The erasure list; else the recipe's, else erased.txt.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the data artifact again at once.")] = False,
    log: Logs = [],  # noqa: B006 - typer reads the default, nobody changes it
    server: Annotated[
        list[str], typer.Option("--server", help="A gateway to ask what it serves; several times.", metavar="URL")
    ] = [],  # noqa: B006
    database: KeysDatabase = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what holds the records; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Keep records out of later builds. Lists the shards, models, deployments and answers that rest on them."""
    from nexus_llm.pipeline.lineage import runs_with

    place = workspace(root)
    found = data_artifact(artifact or run, place)
    target = list_path or _list_of(found, place)
    runs = runs_with(found, place)
    if rebuild and not runs:
        raise UsageError(f"no run here uses {found.folder}, so none can be rebuilt", fix="leave out --rebuild")
    reach = _reach(names, found, place, only=only)
    ids = [str(one.id) for one in (*reach.asked, *reach.same_text)]
    document = _document(reach, ids, target, runs, dry_run=dry_run) | _in_service(reach, root, log, server, database)
    if not as_json:
        _print(document, reach)
    if not dry_run:
        would, fix = f"this would add {len(ids):,} ids to {target}", "say so with --yes, or look with --dry-run"
        agree(f"Add {len(ids):,} ids to {target}?", unagreed=would, fix=fix, yes=yes, as_json=as_json)
        document["added"] = _append(target, dict.fromkeys(ids, reason))
        if rebuild:
            document["rebuilt"] = _rebuild(_meant(run, runs), target, place)
    if as_json:
        print_json(document)
    elif not dry_run:
        print(f"\n{document['added']:,} ids added to {target}")
        if rebuild:
            print(f"rebuilt  {document['rebuilt']['id']}  {document['rebuilt']['path']}")
    return 0


def _reach(names: list[str], found: Artifact, place: Workspace, *, only: bool) -> _Reach:
    """Finds the records in the named artifact, then their ids in every other one."""
    from nexus_llm.data.looking import erasure, inspect

    asked = list({one.id: one for one in (_the_one(found.folder, name) for name in names)}.values())
    same = [] if only else inspect.same_text(found.folder, asked)
    ids = {str(one.id) for one in (*asked, *same)}
    everything = place.all_artifacts()
    holders: list[dict[str, Any]] = []
    for one in everything:
        if one.kind == "data" and (rows := _held(one, ids, is_named=one.id == found.id)):
            holders.append({"id": one.id, "path": str(one.folder), "records": rows})
    by_id = {one.id: one for one in everything}
    made = erasure.made_from(
        {one.id: one.manifest.inputs.values() for one in everything}, [row["id"] for row in holders]
    )
    return _Reach(
        asked,
        same,
        holders,
        [{"kind": by_id[one].kind, "id": one, "path": str(by_id[one].folder)} for one in made],
        _unfinished(place),
    )


def _in_service(
    reach: _Reach, root: Path, logs: list[Path], servers: list[str], database: str | None
) -> dict[str, Any]:
    """Names, deployments, servers, answers and counts of use that rest on what was reached."""
    from nexus_llm.cli import service_lineage as service

    affected = {row["id"] for row in (*reach.data, *reach.made_from_it)}
    keys = {Path(row["path"]).name for row in reach.made_from_it if row["kind"] == "package"}
    told = {
        "registered": service.registered_as(affected, root),
        "deployed": service.deployed(keys, root),
        "served": service.served(affected, servers),
        "answers": service.answers_by(affected, logs),
    }
    names = {str(row.get("model", row.get("name"))) for rows in told.values() for row in rows}
    return {**told, "usage": service.usage_of(names, database)}


def _the_one(folder: Path, name: str) -> Record:
    from nexus_llm.data.looking import inspect

    records = inspect.find(folder, name)
    if len(records) == 1 and records[0].id:
        return records[0]
    if not records:
        raise DataError(f"{folder} has no record {name}", fix=f"nexus data why {name} names similar ones")
    if len(records) == 1:
        raise DataError(
            f"{name} could not be read, so it is in no shard and has no id", fix="mend or delete it in its source"
        )
    raise UsageError(f"{name} fits {len(records)} records of {folder}", fix=f"nexus data why {name} lists their ids")


def _held(artifact: Artifact, ids: set[str], *, is_named: bool) -> list[dict[str, Any]]:
    """Where the text of these records stands in an artifact: shard rows, and excerpts of rejected records."""
    from nexus_llm.data.looking import inspect

    try:
        records = inspect.locate(artifact.folder, ids)
    except DataError:
        if is_named:
            raise
        print(f"{artifact.folder} is of an older version and was not searched", file=sys.stderr)
        return []
    return [
        {"id": one.id, "state": one.state, **(asdict(one.place) if one.place else {"rule": one.rule})}
        for one in records
        if one.place or one.rule != inspect.ERASED_RULE
    ]


def _unfinished(place: Workspace) -> list[str]:
    """Artifact folders without a manifest, base models apart."""
    folders = sorted((place.root / "artifacts").glob("*/*/"))
    return [
        str(folder) for folder in folders if folder.parent.name != "model" and not (folder / "manifest.json").exists()
    ]


def _document(reach: _Reach, ids: list[str], target: Path, runs: list[Path], *, dry_run: bool) -> dict[str, Any]:
    folders = [row["path"] for row in (*reach.data, *reach.made_from_it)]
    return {
        "records": [asdict(one) for one in reach.asked],
        "same_text": [asdict(one) for one in reach.same_text],
        "ids": ids,
        "list": str(target),
        "recipe": f"data.erase_path: {target}",
        "data": reach.data,
        "made_from_it": reach.made_from_it,
        "unfinished": reach.unfinished,
        "rebuild": [_command("run", run, target) for run in runs],
        "delete": [f"rm -r {shlex.quote(folder)}" for folder in folders],
        "cannot": list(_CANNOT),
        "dry_run": dry_run,
        "added": 0,
        "rebuilt": None,
    }


def _command(verb: str, run: Path, target: Path) -> str:
    recipe = shlex.quote(str(run / "recipe.resolved.yaml"))
    return f"nexus {verb} {recipe} --set {shlex.quote(f'data.erase_path={target}')}"


def _print(document: dict[str, Any], reach: _Reach) -> None:
    from nexus_llm.cli.data_records import printable

    for title, records in (("asked for", reach.asked), ("the same or nearly the same text", reach.same_text)):
        if records:
            print(f"{title} ({len(records):,})")
        for one in records[:_LISTED_RECORDS]:
            where = f"{one.place.shard} row {one.place.row}" if one.place else f"rejected by {one.rule}"
            print(f"  {one.id}  {where:<28} {printable(one.origin)}")
        if len(records) > _LISTED_RECORDS:
            print(f"  … and {len(records) - _LISTED_RECORDS:,} more (--json lists all)")
    print("held by")
    for row in document["data"]:
        shards = sorted({one["shard"] for one in row["records"] if "shard" in one})
        print(f"  data       {row['id']}  {row['path']}  {', '.join(shards) or 'excerpts only'}")
    print("made from it: retrain or delete" if document["made_from_it"] else "nothing was made from it")
    for row in document["made_from_it"]:
        print(f"  {row['kind']:<10} {row['id']}  {row['path']}")
    _print_service(document)
    for folder in document["unfinished"]:
        print(f"  unfinished, may hold it: {folder}")
    print("then rebuild, with this in the recipe:", document["recipe"])
    for command in document["rebuild"]:
        print(f"  {command}")
    print("and delete what holds it")
    for command in document["delete"]:
        print(f"  {command}")
    print("what this cannot do")
    for sentence in document["cannot"]:
        print(f"  {sentence}")


def _print_service(document: dict[str, Any]) -> None:
    for one in document["registered"]:
        print(f"  registered  {one['name']}@{one['version']} {' '.join(one['aliases'])}".rstrip())
    for one in document["deployed"]:
        print(f"  deployed    {one['model']} on {one['platform']} ({one['key']})")
    for one in document["served"]:
        print(f"  served      {one['model']} at {one['server']}")
    for one in document["answers"]:
        count = len(one["request_ids"])
        print(
            f"  answered    {count:,} requests to {one['model']}, {one['first']} to {one['last']} (--json: their ids)"
        )
    for one in document["usage"]:
        print(f"  used        {one['requests']:,} requests to models called {one['model']}, by the keys' database")


def _append(target: Path, reasons: dict[str, str]) -> int:
    """Adds ids to the list in one step; gives how many were new."""
    from nexus_llm import storage
    from nexus_llm.data.looking import erasure

    with storage.explained(str(target)), _locked(target):
        before = target.read_text(encoding="utf-8") if target.exists() else ""
        after = erasure.appended(before, reasons, place=str(target))
        if after != before:
            storage.write_atomically(target, after.encode())
    return len(erasure.parse(after, place=str(target))) - len(erasure.parse(before, place=str(target)))


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Two commands at once would each write the list without the other's ids."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _list_of(found: Artifact, place: Workspace) -> Path:
    named = found.manifest.recipe.get("data", {}).get("erase_path")
    return Path(named) if named else place.root / _DEFAULT_LIST


def _meant(name: str | None, runs: list[Path]) -> Path:
    """The run that the user named, else the latest of those that use the artifact."""
    named = [run for run in runs if name and run.name == Path(name).name]
    return named[0] if named else max(runs, key=lambda run: (run / "artifacts.json").stat().st_mtime_ns)


def _rebuild(run: Path, target: Path, place: Workspace) -> dict[str, Any]:
    """Makes the data artifact of a run again, as `nexus data` would."""
    from nexus_llm.cloud.local import provenance
    from nexus_llm.pipeline import execute, stages
    from nexus_llm.recipe import load_recipe

    recipe = load_recipe(run / "recipe.resolved.yaml", overrides=(f"data.erase_path={target}",))
    result = execute(recipe, place, ports(), line=stages(until="data"), provenance=provenance(command_line()))
    return asdict(result.stages[-1])

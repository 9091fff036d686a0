"""`nexus backup`, `nexus restore`: the work of one machine into a folder or a bucket, and back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, DryRun, KeysDatabase, Root, ports
from nexus_llm.errors import UsageError

if TYPE_CHECKING:
    from nexus_llm.cloud.backup import BackupStore
    from nexus_llm.cloud.database_copies import CopiedDatabase

RegistryDatabase = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="NEXUS_REGISTRY",
        help="MLflow's database: a file, sqlite:///… or postgresql://… [default: runs/mlflow.db].",
        metavar="URL",
    ),
]


_OPTIONS = {"keys": "database", "registry": "registry"}


def backup(
    to: Annotated[str, typer.Option("--to", help="A folder, or s3://BUCKET/PREFIX.", metavar="PLACE")],
    database: KeysDatabase = None,
    registry: RegistryDatabase = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Afterwards remove all but so many backups.")] = None,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Copy runs, finished artifacts, the registry and the keys' database, all as of now. Only what is new is moved."""
    from datetime import UTC, datetime

    now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    store = _store(to)
    made = store.make(root, _databases(root, database, registry), now=now)
    removed = store.keep(keep) if keep else 0
    facts = {"to": to, "made": made.made, "files": len(made.files), "bytes": made.size, "removed_files": removed}
    if as_json:
        print_json({**facts, "databases": {name: one.kind for name, one in made.databases.items()}})
        return 0
    copied = " and ".join(f"the {one.kind} database of {name}" for name, one in made.databases.items()) or "no database"
    print(f"{made.made}: {len(made.files):,} files and {copied}, {made.size / 1e6:,.1f} MB in {to}")
    return 0


def restore(
    source: Annotated[str, typer.Argument(help="A folder, or s3://BUCKET/PREFIX.", metavar="PLACE")],
    made: Annotated[str | None, typer.Option(help="Which backup, by its moment [default: the newest].")] = None,
    database: KeysDatabase = None,
    registry: RegistryDatabase = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files and tables that are there.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Bring a backup back; every file is compared with its hash.

    A registry names the folders of its models: give the same --root. Refuses to replace anything unless told to. After
    an interruption the same command goes on.
    """
    from nexus_llm.cloud.trackers import DATABASE

    store = _store(source)
    found = store.find(made)
    if "registry" in found.databases and registry is None:
        registry = str(root / "runs" / DATABASE)
    kinds = {name: one.kind for name, one in found.databases.items()}
    facts = {"from": source, "made": found.made, "files": len(found.files), "bytes": found.size, "databases": kinds}
    if not dry_run:
        databases = _databases(root, database, registry)
        _refuse_others(kinds, databases)
        facts["fetched"] = store.put_back(found, root, databases, overwrite=overwrite)
    if as_json:
        print_json({**facts, "dry_run": dry_run})
    else:
        said = "would come back" if dry_run else "came back"
        held = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"
        print(f"{found.made}: {len(found.files):,} files, {found.size / 1e6:,.1f} MB {said}; databases: {held}")
    return 0


def _refuse_others(kinds: dict[str, str], databases: dict[str, CopiedDatabase]) -> None:
    """Raises UsageError where a database of the backup has no place, or one of another kind."""
    for name, one in databases.items():
        if kinds.get(name) != one.kind:
            raise UsageError(
                f"the backup holds {kinds.get(name, 'nothing')} of {name}, and --{_OPTIONS[name]} is {one.kind}",
                fix="name a database of that kind, or none; --dry-run tells what the backup holds",
            )
    if left := sorted(kinds.keys() - databases.keys()):
        raise UsageError(
            f"the backup also holds the database of {left[0]}", fix=f"say where: --{_OPTIONS[left[0]]} URL"
        )


def _store(place: str) -> BackupStore:
    from nexus_llm.cloud.backup import BackupStore

    openings = ports()
    return BackupStore(place, progress=openings.progress, interrupt=openings.interrupt)


def _databases(root: Path, keys: str | None, registry: str | None) -> dict[str, CopiedDatabase]:
    from nexus_llm.cli.keys import database_password
    from nexus_llm.cloud.backup import databases_of

    if registry is not None and registry.startswith(("http://", "https://")):
        print(f"{registry} is a server: copy its database where that runs, or name it by --registry", file=sys.stderr)
    return databases_of(root, keys, registry, database_password(keys) if keys else None)

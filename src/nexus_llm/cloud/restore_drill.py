"""A restore drill: work is written and backed up, machine and buckets are lost, all is brought back and compared.

The commands are the user's own, as processes. The database is a real PostgreSQL where there is one; buckets are an
emulator's, or those that `infra/` made there. It never runs on an account: it begins by deleting.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

from nexus_llm.artifacts import Artifact, ArtifactStore, altered_files, file_sha256, load
from nexus_llm.cloud.data_uploads import upload_artifact
from nexus_llm.cloud.local_postgres import INSTALL, LocalPostgres
from nexus_llm.cloud.registry import ModelRegistry
from nexus_llm.cloud.trackers import DATABASE
from nexus_llm.deploy.ledger import Entry, Event, Ledger
from nexus_llm.errors import StorageError
from nexus_llm.ports import Progress
from nexus_llm.storage import list_files

LIMIT_SECONDS = 300.0
"""Within which a restore has to be over."""
VERSIONS_SECONDS = 1.0
"""S3 tells the times of versions in whole seconds: what is closer than this cannot be told apart."""
_KEYS, _DAYS, _LATE = 10, 20, 10
_ALIAS, _NAME = "champion", "drill"
_GARBAGE = b"not what was here"


@dataclass(frozen=True)
class Ground:
    """Where a drill happens, and with what."""

    folder: Path
    """Empty; all of it is lost on the way."""
    s3: Any
    """boto3's client."""
    models_bucket: str
    state_bucket: str
    """Both keep versions."""
    backups: str
    """`s3://BUCKET/PREFIX`, elsewhere than those two."""
    postgres: LocalPostgres | None
    nexus: Sequence[str] = (sys.executable, "-m", "nexus_llm.cli")
    megabytes: int = 32
    """Of the package that is lost."""
    has_registry: bool = util.find_spec("mlflow") is not None
    """Whether a model is registered: MLflow takes ten seconds to make its tables."""

    @property
    def database(self) -> str:
        """Of keys and usage."""
        return self.postgres.url if self.postgres else str(self.folder / "keys.db")


@dataclass
class _Seen:
    """Everything that is compared: name → what identifies its content."""

    files: dict[str, str]
    keys: dict[str, str]
    registry: dict[str, str]
    models: dict[str, str]
    states: dict[str, str]
    registered: str = ""
    """Id of the package that the alias names."""
    altered: list[str] = field(default_factory=list)


def restore_drill(ground: Ground, progress: Progress) -> dict[str, Any]:
    """What was lost, what came back, how long it took (`rto_seconds`) and how much was newer than its copy
    (`rpo_seconds`), for each system.
    """
    started = time.monotonic()
    progress.start("restore drill", total=5, unit="steps")
    package = _write(ground)
    progress.advance(1, "written")
    before = _look(ground, package.folder)
    copied_at = time.monotonic()
    backup = _nexus(ground, "backup", "--to", ground.backups)
    backup_seconds = time.monotonic() - copied_at
    progress.advance(1, "backed up")
    late = _write_late(ground)
    kept = _bucket(ground.s3, ground.models_bucket)
    moment = datetime.now(UTC).isoformat()
    time.sleep(VERSIONS_SECONDS)
    lost_at = time.monotonic()
    _lose(ground)
    progress.advance(1, "lost")
    seconds = {"machine": _timed(lambda: _nexus(ground, "restore", ground.backups))}
    for bucket in (ground.models_bucket, ground.state_bucket):
        rewind = partial(_run, ground, "aws", "rewind", f"s3://{bucket}", "--to", moment, "--yes")
        seconds[bucket] = _timed(rewind)
    progress.advance(1, "restored")
    after = _look(ground, package.folder)
    before.models = kept
    rto = time.monotonic() - lost_at
    progress.finish(f"{rto:.0f} s")
    systems = _systems(ground, before, after, seconds, rpo=lost_at - copied_at, late=late)
    not_run = [f"PostgreSQL is not installed, keys were kept in SQLite ({INSTALL})"] if not ground.postgres else []
    not_run += ["no model was registered: MLflow is not installed, or was left out"] if not ground.has_registry else []
    return {
        "holds": rto < LIMIT_SECONDS and all(one["equal"] for one in systems),
        "seconds": round(time.monotonic() - started, 1),
        "backup_seconds": round(backup_seconds, 2),
        "rto_seconds": round(rto, 2),
        "limit_seconds": LIMIT_SECONDS,
        "bytes": backup["bytes"],
        "systems": systems,
        "not_run": not_run,
    }


def make_buckets(s3: Any, names: Iterable[str], region: str) -> None:
    """Buckets that keep versions, as infra/ makes them."""
    for name in names:
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


def _write(ground: Ground) -> Artifact:
    """A package in a run, registered and in its bucket; keys that were used; states and the ledger of a platform."""
    from nexus_llm.serve.access.database import open_database
    from nexus_llm.serve.access.ledger import Admitted, Outcome
    from nexus_llm.serve.access.ledger import Ledger as Usage
    from nexus_llm.serve.access.limits import Prices

    root = ground.folder
    # A block that repeats: random bytes of this size would cost seconds, and nothing here compresses.
    block = hashlib.sha256(b"drill").digest() * 32_768
    with ArtifactStore(root / "artifacts").draft(
        "package", "d" * 16, stage_version=1, recipe={"name": _NAME}, inputs={}
    ) as draft:
        (draft.folder / "model.safetensors").write_bytes(block * ground.megabytes)
        package = draft.finish(facts={})
    run = root / "runs" / _NAME
    run.mkdir(parents=True)
    row = {"key": package.key, "id": package.id, "path": str(package.folder)}
    (run / "artifacts.json").write_text(json.dumps({"package": row}), encoding="utf-8")
    if ground.has_registry:
        registry = ModelRegistry(None, runs=root / "runs")
        registry.promote(_NAME, package, verdict="pass", card="# A drill")
        registry.point(_NAME, _ALIAS, "1")
    opened = open_database(ground.database)
    usage, day = Usage(opened, Prices(1.0, 2.0)), 86_400
    for identity in _make_keys(opened, "app", _KEYS):
        usage.record(
            [Outcome(Admitted(identity, _NAME, 20_000 * day + number * day), 900, 300, True) for number in range(_DAYS)]
        )
    opened.close()
    ledger = Ledger(root / "runs" / "aws" / _NAME / "ledger.jsonl")
    ledger.write(Entry(datetime.now(UTC).isoformat(), "0-state", "apply", Event.DONE, changes={"create": 9}))
    upload_artifact(package, f"s3://{ground.models_bucket}")
    for serial in (1, 2):
        state = json.dumps({"version": 4, "serial": serial, "resources": []}).encode()
        ground.s3.put_object(Bucket=ground.state_bucket, Key="drill.tfstate", Body=state)
    return package


def _write_late(ground: Ground) -> int:
    """What the backup cannot hold: a file and keys; and an object, whose versions can. Gives the number of keys."""
    from nexus_llm.serve.access.database import open_database

    (ground.folder / "runs" / "late.json").write_text("{}", encoding="utf-8")
    opened = open_database(ground.database)
    made = _make_keys(opened, "late", _LATE)
    opened.close()
    ground.s3.put_object(Bucket=ground.models_bucket, Key="late", Body=b"written after the backup")
    return len(made)


def _make_keys(opened: Any, name: str, count: int) -> list[str]:
    from nexus_llm.serve.access.key_store import create_key

    return [create_key(opened, f"{name} {number}")[1].id for number in range(count)]


def _lose(ground: Ground) -> None:
    """The machine's disk, the database's machine, every object, and the states' content."""
    shutil.rmtree(ground.folder)
    ground.folder.mkdir()
    if ground.postgres:
        ground.postgres.lose()
    for number, key in enumerate(_bucket(ground.s3, ground.models_bucket)):
        if number == 0:
            ground.s3.put_object(Bucket=ground.models_bucket, Key=key, Body=_GARBAGE)
        else:
            ground.s3.delete_object(Bucket=ground.models_bucket, Key=key)
    for key in _bucket(ground.s3, ground.state_bucket):
        ground.s3.put_object(Bucket=ground.state_bucket, Key=key, Body=_GARBAGE)


def _look(ground: Ground, package: Path) -> _Seen:
    own = ground.folder / "runs" / DATABASE
    paths = (Path(one.location) for one in list_files(str(ground.folder)))
    databases = (own.name, "keys.db")
    seen = _Seen(
        {str(one): file_sha256(one) for one in paths if not one.name.startswith(databases)},
        _tables(ground.database),
        _tables(str(own)) if own.exists() else {},
        _bucket(ground.s3, ground.models_bucket),
        _bucket(ground.s3, ground.state_bucket),
        altered=altered_files(load(package)),
    )
    if own.exists():
        seen.registered = ModelRegistry(None, runs=own.parent).find(_NAME, _ALIAS).artifact
    return seen


def _tables(url: str) -> dict[str, str]:
    """Table → number of its rows and sha256 of all of them, in whatever order they lie."""
    from sqlalchemy import MetaData, create_engine

    engine = create_engine(url if "://" in url else f"sqlite:///{url}")
    try:
        metadata = MetaData()
        metadata.reflect(engine)
        found = {}
        with engine.connect() as connection:
            for table in metadata.sorted_tables:
                rows = sorted(repr(tuple(row)) for row in connection.execute(table.select()))
                found[table.name] = f"{len(rows)} {hashlib.sha256(chr(10).join(rows).encode()).hexdigest()}"
        return found
    finally:
        engine.dispose()


def _bucket(s3: Any, bucket: str) -> dict[str, str]:
    """Key → sha256 of each object as it is now."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
    return {key: hashlib.sha256(s3.get_object(Bucket=bucket, Key=key)["Body"].read()).hexdigest() for key in keys}


def _systems(
    ground: Ground, before: _Seen, after: _Seen, seconds: Mapping[str, float], *, rpo: float, late: int
) -> list[dict[str, Any]]:
    """A row a system; `compared` counts what had to be equal."""
    rows = sum(int(one.split()[0]) for one in before.keys.values())
    kind = "PostgreSQL" if ground.postgres else "SQLite"
    machine, objects = "nexus backup, nexus restore", "S3 versions, nexus aws rewind"
    told: list[tuple[str, str, float, float, int, str, bool]] = [
        ("runs, artifacts, ledger", machine, rpo, seconds["machine"], 1,
         f"{len(before.files)} files by sha256, the package by its manifest",
         before.files == after.files and not after.altered),
        (f"keys and usage ({kind})", machine, rpo, seconds["machine"], late,
         f"{len(before.keys)} tables, {rows} rows by count and sha256", before.keys == after.keys),
        ("models bucket", objects, VERSIONS_SECONDS, seconds[ground.models_bucket], 0,
         f"{len(before.models)} objects by sha256", before.models == after.models),
        ("Terraform states", objects, VERSIONS_SECONDS, seconds[ground.state_bucket], 0,
         f"{len(before.states)} objects by sha256", before.states == after.states),
    ]  # fmt: skip
    if before.registry:
        same = before.registry == after.registry and before.registered == after.registered
        told.insert(1, ("registry (MLflow on SQLite)", machine, rpo, seconds["machine"], 0,
                        f"{len(before.registry)} tables by count and sha256, the alias", same))  # fmt: skip
    names = ("name", "by", "rpo_seconds", "rto_seconds", "lost", "compared", "equal")
    return [dict(zip(names, (*one[:2], round(one[2], 2), round(one[3], 2), *one[4:]), strict=True)) for one in told]


def _nexus(ground: Ground, verb: str, *arguments: str) -> dict[str, Any]:
    return _run(ground, verb, *arguments, "--root", str(ground.folder), "--database", ground.database)


def _run(ground: Ground, *arguments: str) -> dict[str, Any]:
    """What a command of ours prints as JSON."""
    done = subprocess.run([*ground.nexus, *arguments, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise StorageError(f"nexus {' '.join(arguments)} ended with {done.returncode}: {said}", fix="run it by hand")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started

"""A machine's work into a folder and back: what is kept, what is refused, what goes on after an interruption."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from data_artifacts import write_artifact
from nexus_llm.cli import run_command
from nexus_llm.cloud.backup import BackupStore
from nexus_llm.cloud.bucket_versions import plan_rewind, rewind
from nexus_llm.cloud.database_copies import CopiedDatabase
from nexus_llm.errors import StorageError, TryAgainError, UsageError
from nexus_llm.ports import Interrupt, NeverInterrupted, SilentProgress
from real_postgres import real_postgres

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class After:
    """Somebody who asks to stop after a number of files."""

    def __init__(self, files: int) -> None:
        self._left = files

    def requested(self) -> str | None:
        self._left -= 1
        return "SIGINT" if self._left < 0 else None


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A root with a run, an artifact, an unfinished one, and a database that is in use."""
    root = tmp_path / "work"

    def fill(folder: Path) -> dict[str, Any]:
        (folder / "model.safetensors").write_bytes(b"weights" * 1_000)
        return {}

    write_artifact(root, "package", {}, key="aaaa", files=fill)
    unfinished = root / "artifacts" / "train" / "bbbb" / "work"
    unfinished.mkdir(parents=True)
    (unfinished / "step-1").write_text("half")
    run = root / "runs" / "one"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text("{}\n")
    (run / "private.jsonl").write_text("{}\n")
    (run / "private.jsonl").chmod(0o600)
    opened = sqlite3.connect(root / "keys.db")
    opened.execute("PRAGMA journal_mode=WAL")
    opened.execute("CREATE TABLE keys (id TEXT)")
    opened.execute("INSERT INTO keys VALUES ('first')")
    opened.commit()
    yield root
    opened.close()


def store(place: Path, interrupt: Interrupt | None = None) -> BackupStore:
    return BackupStore(str(place), progress=SilentProgress(), interrupt=interrupt or NeverInterrupted())


def keys(root: Path) -> dict[str, CopiedDatabase]:
    return {"keys": CopiedDatabase(str(root / "keys.db"))}


def ids(root: Path) -> list[str]:
    with sqlite3.connect(root / "keys.db") as opened:
        return [row[0] for row in opened.execute("SELECT id FROM keys ORDER BY id")]


def test_all_comes_back_as_it_was_and_what_never_happened_does_not(work: Path, tmp_path: Path) -> None:
    place, new = tmp_path / "backups", tmp_path / "new"
    made = store(place).make(work, keys(work), now="2026-11-22T12-00-00Z")
    assert sorted(one.path for one in made.files) == [
        "artifacts/package/aaaa/manifest.json", "artifacts/package/aaaa/model.safetensors",
        "runs/one/events.jsonl", "runs/one/private.jsonl",
    ]  # fmt: skip
    assert store(place).put_back(store(place).find(), new, keys(new), overwrite=False) == 4
    for one in made.files:
        assert (new / one.path).read_bytes() == (work / one.path).read_bytes()
    assert (new / "runs/one/private.jsonl").stat().st_mode & 0o777 == 0o600
    assert ids(new) == ["first"]
    assert (new / "keys.db").stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700


def test_a_second_backup_moves_only_what_is_new_and_keeping_one_removes_what_only_the_other_held(
    work: Path, tmp_path: Path
) -> None:
    place = tmp_path / "backups"
    store(place).make(work, keys(work), now="2026-11-22T12-00-00Z")
    before = {path: path.stat().st_ino for path in place.glob("files/*/*")}
    with sqlite3.connect(work / "keys.db") as opened:
        opened.execute("INSERT INTO keys VALUES ('second')")
    (work / "runs/one/events.jsonl").write_text("{}\n{}\n")
    store(place).make(work, keys(work), now="2026-11-22T13-00-00Z")
    after = {path: path.stat().st_ino for path in place.glob("files/*/*")}
    assert len(after) == len(before) + 2
    assert before.items() <= after.items()
    old, new = tmp_path / "old", tmp_path / "new"
    store(place).put_back(store(place).find("2026-11-22T12-00-00Z"), old, keys(old), overwrite=False)
    assert ids(old) == ["first"]
    assert store(place).keep(1) == 1  # the first database; the first events are also the private file's bytes
    assert store(place).names() == ["2026-11-22T13-00-00Z"]
    store(place).put_back(store(place).find(), new, keys(new), overwrite=False)
    assert ids(new) == ["first", "second"]


def test_what_was_cut_off_never_happened_and_the_same_command_goes_on(work: Path, tmp_path: Path) -> None:
    place, new = tmp_path / "backups", tmp_path / "new"
    with pytest.raises(TryAgainError):
        store(place, After(3)).make(work, {}, now="2026-11-22T12-00-00Z")
    with pytest.raises(StorageError, match="holds no backup"):
        store(place).find()
    half = next(path for path in place.glob("files/*/*") if path.stat().st_size > 5)
    half.write_bytes(b"half")  # as a kill in the middle of a copy leaves it
    backup = store(place).make(work, {}, now="2026-11-22T12-00-00Z")
    with pytest.raises(TryAgainError):
        store(place, After(1)).put_back(backup, new, {}, overwrite=False)
    assert store(place).put_back(backup, new, {}, overwrite=False) == 3
    assert store(place).put_back(backup, new, {}, overwrite=False) == 0


def test_a_damaged_copy_is_told_and_does_not_reach_the_work(work: Path, tmp_path: Path) -> None:
    place, new = tmp_path / "backups", tmp_path / "new"
    backup = store(place).make(work, {}, now="2026-11-22T12-00-00Z")
    weights = next(path for path in place.glob("files/*/*") if path.stat().st_size == 7_000)
    weights.write_bytes(b"Weights" * 1_000)
    with pytest.raises(StorageError, match="is damaged"):
        store(place).put_back(backup, new, {}, overwrite=False)
    assert not (new / "artifacts/package/aaaa/model.safetensors").exists()


def test_nothing_of_another_content_is_replaced_unasked(work: Path, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    backup = store(place).make(work, keys(work), now="2026-11-22T12-00-00Z")
    (work / "runs/one/events.jsonl").write_text("newer\n")
    with pytest.raises(UsageError, match="and 1 more would be replaced"):
        store(place).put_back(backup, work, keys(work), overwrite=False)
    assert (work / "runs/one/events.jsonl").read_text() == "newer\n"
    store(place).put_back(backup, work, keys(work), overwrite=True)
    assert (work / "runs/one/events.jsonl").read_text() == "{}\n"


def test_a_backup_with_keys_wants_to_know_where_they_go(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, database = str(tmp_path / "backups"), str(work / "keys.db")
    assert run_command(["backup", "--to", place, "--database", database, "--root", str(work), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["databases"] == {"keys": "sqlite"}
    new = str(tmp_path / "new")
    assert run_command(["restore", place, "--root", new]) == 2
    assert "say where: --database URL" in capsys.readouterr().err
    assert run_command(["restore", place, "--root", new, "--database", "postgresql://u:hunter2@h/d"]) == 2
    told = capsys.readouterr().err
    assert "holds sqlite of keys" in told
    assert "hunter2" not in told
    assert run_command(["restore", place, "--root", new, "--dry-run"]) == 0
    assert not Path(new).exists()
    shutil.rmtree(work / "runs")
    assert run_command(["restore", place, "--root", str(work), "--database", database]) == 2
    assert run_command(["restore", place, "--root", str(work), "--database", database, "--overwrite"]) == 0
    assert (work / "runs/one/events.jsonl").exists()


def test_an_mlflow_server_is_told_to_be_backed_up_where_it_runs(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "backups")
    assert run_command(["backup", "--to", place, "--root", str(work), "--registry", "http://m:5000", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["databases"] == {}
    assert "http://m:5000 is a server" in told.err


def test_a_registry_on_postgresql_is_lost_with_its_machine_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow", reason="needs the extra: pip install 'nexus-llm-platform[track]'")
    from nexus_llm.cloud.registry import ModelRegistry

    def fill(folder: Path) -> dict[str, Any]:
        (folder / "model.safetensors").write_bytes(b"weights")
        return {}

    root, place = tmp_path / "work", str(tmp_path / "backups")
    package = write_artifact(root, "package", {}, key="aaaa", files=fill)
    with real_postgres() as server:
        words = ["--registry", server.url, "--root", str(root), "--json"]
        registry = ModelRegistry(server.url, runs=root / "runs")
        registry.promote("support", package, verdict="pass", card="# A card")
        registry.point("support", "champion", "1")
        assert run_command(["backup", "--to", place, *words]) == 0
        assert json.loads(capsys.readouterr().out)["databases"] == {"registry": "postgresql"}
        registry.point("support", "late", "1")
        shutil.rmtree(root)
        server.lose()
        assert CopiedDatabase(server.url).is_empty()
        assert run_command(["restore", place, *words]) == 0
        assert run_command(["model", "show", "support@champion", *words]) == 0
        shown = json.loads(capsys.readouterr().out.partition("}\n")[2])["registered"]
        assert (shown["artifact"], shown["aliases"]) == (package.id, ["champion"])
        assert run_command(["restore", place, *words]) == 2
        assert "the database of registry would be replaced" in capsys.readouterr().err


class Bucket:
    """S3's answers about one bucket: (key, version, minutes after noon, is it a delete marker), newest first."""

    def __init__(self, *entries: tuple[str, str, int, bool], versioning: str | None = "Enabled") -> None:
        self._entries, self._versioning = entries, versioning
        self.done: list[tuple[str, str, str]] = []

    def get_bucket_versioning(self, **_: str) -> dict[str, str]:
        return {"Status": self._versioning} if self._versioning else {}

    def get_paginator(self, _: str) -> Bucket:
        return self

    def paginate(self, **_: str) -> Iterator[dict[str, Any]]:
        latest: set[str] = set()
        for key, version, minutes, is_marker in self._entries:
            told = {"Key": key, "VersionId": version, "LastModified": NOON + timedelta(minutes=minutes)}
            yield {"DeleteMarkers" if is_marker else "Versions": [told | {"IsLatest": key not in latest}]}
            latest.add(key)

    def delete_object(self, *, Key: str, VersionId: str, **_: str) -> None:
        self.done.append(("delete", Key, VersionId))

    def copy(self, source: dict[str, str], _bucket: str, key: str) -> None:
        self.done.append(("copy", key, source["VersionId"]))


def test_objects_go_back_to_a_moment_and_newer_ones_stay() -> None:
    bucket = Bucket(
        ("deleted", "m2", 9, True), ("deleted", "m1", 8, True), ("deleted", "v1", -5, False),
        ("overwritten", "v3", 9, False), ("overwritten", "v2", -1, False), ("overwritten", "v1", -5, False),
        ("both", "m1", 9, True), ("both", "v2", 8, False), ("both", "v1", -5, False),
        ("untouched", "v1", -5, False),
        ("new", "v1", 5, False),
        ("gone before", "m1", -1, True), ("gone before", "v1", -5, False),
    )  # fmt: skip
    planned = plan_rewind(bucket, "b", "", moment=NOON)
    assert [(one.key, one.change) for one in planned] == [
        ("both", "put back"), ("deleted", "undeleted"), ("new", "newer, left alone"), ("overwritten", "put back"),
    ]  # fmt: skip
    rewind(bucket, "b", planned)
    assert bucket.done == [
        ("copy", "both", "v1"), ("delete", "deleted", "m2"), ("delete", "deleted", "m1"), ("copy", "overwritten", "v2"),
    ]  # fmt: skip


def test_a_bucket_without_versions_is_told() -> None:
    with pytest.raises(StorageError, match="keeps no versions"):
        plan_rewind(Bucket(versioning=None), "b", "", moment=NOON)


@pytest.mark.xdist_group("emulated")
def test_the_drill_loses_everything_and_brings_all_but_the_latest_back(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("moto", reason="needs the extra: pip install 'nexus-llm-platform[rehearse]'")
    assert run_command(["aws", "drill", "restore", "--megabytes", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["holds"]
    assert {one["name"].partition(" (")[0]: one["lost"] for one in told["systems"]} | {"registry": 0} == {
        "runs, artifacts, ledger": 1, "registry": 0, "keys and usage": 10, "models bucket": 0, "Terraform states": 0,
    }  # fmt: skip
    assert all(one["equal"] for one in told["systems"])
    if told["not_run"]:
        pytest.skip("; ".join(told["not_run"]))

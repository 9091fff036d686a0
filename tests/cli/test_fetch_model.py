"""The first container of a serving task: a model comes whole and unaltered, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus_llm.artifacts import MANIFEST, ArtifactStore, altered_files, load
from nexus_llm.cli.fetch_model import run


@pytest.fixture
def package(tmp_path: Path) -> Path:
    store = ArtifactStore(tmp_path / "bucket")
    with store.draft("package", "1a2b", stage_version=1, recipe={}, inputs={}) as draft:
        (draft.folder / "config.json").write_text("{}")
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "weights.bin").write_bytes(bytes(range(256)) * 100)
        draft.finish(facts={})
    return store.folder("package", "1a2b")


def test_a_model_arrives_with_its_manifest(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([package.as_uri() + "/", str(tmp_path / "model")]) == 0
    arrived = load(tmp_path / "model")
    assert altered_files(arrived) == []
    assert arrived.id == load(package).id
    assert capsys.readouterr().err.startswith("fetched 2 files, 0.0 MB in ")


def test_an_altered_file_is_refused_and_no_manifest_arrives(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / "deep" / "weights.bin").write_bytes(b"other")
    assert run([package.as_uri(), str(tmp_path / "model")]) == 1
    assert "deep/weights.bin is not the file that was packaged" in capsys.readouterr().err
    assert not (tmp_path / "model" / MANIFEST).exists()


@pytest.mark.parametrize("missing", ["deep/weights.bin", MANIFEST])
def test_a_missing_file_is_refused(package: Path, tmp_path: Path, missing: str) -> None:
    (package / missing).unlink()
    assert run([package.as_uri(), str(tmp_path / "model")]) == 1
    assert not (tmp_path / "model" / MANIFEST).exists()


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped"])
def test_a_manifest_cannot_write_outside_the_folder(
    package: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((package / MANIFEST).read_text())
    manifest["files"][0]["path"] = name
    (package / MANIFEST).write_text(json.dumps(manifest))
    assert run([package.as_uri(), str(tmp_path / "model")]) == 1
    assert "outside its folder" in capsys.readouterr().err


def test_a_wrong_call_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["s3://bucket"]) == 2
    assert "fix: fetch_model s3://BUCKET/package/KEY FOLDER" in capsys.readouterr().err

"""Packages under names, versions and aliases, in a real MLflow registry on SQLite, by the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.artifacts import Artifact, ArtifactStore
from nexus_llm.cli import run_command
from nexus_llm.cli.serve import find_model
from nexus_llm.errors import ArtifactError, UsageError

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")

PACKAGE = {
    "merge": {"method": "none"},
    "formats": {},
    "template_parity": {"conversations": 12, "equal_to": ["the packaged folder"]},
    "equivalence": {"not_measured": "package.equivalence.tokens is 0"},
}
MODEL = {"base": "tiny", "source": "hf:o/t@1", "license": "mit", "parameters": 10, "context_tokens": 128}
COMPARISON = {
    "name": "domain",
    "base_perplexity": 16.4,
    "tuned_perplexity": 12.5,
    "change": -0.24,
    "low": -0.27,
    "high": -0.21,
    "confidence": 0.95,
    "documents": 48,
    "verdict": "pass",
}


def make(
    root: Path, kind: str, key: str, facts: dict[str, Any], inputs: dict[str, str], files: dict[str, str]
) -> Artifact:
    recipe = {"name": "mine"}
    with ArtifactStore(root / "artifacts").draft(kind, key, stage_version=1, recipe=recipe, inputs=inputs) as draft:
        for name, content in files.items():
            (draft.folder / name).write_text(content)
        return draft.finish(facts=facts)


def make_run(root: Path, *, verdict: str | None = "pass", key: str = "1" * 16, **files: str) -> Artifact:
    """`runs/mine` with a package, and its evaluation unless there is no verdict."""
    model = make(root, "model", key, MODEL, {}, {})
    content = {"model.safetensors": key, **files}
    package = make(root, "package", key, PACKAGE, {"model": model.id}, content)
    made = {"package": package}
    if verdict is not None:
        gate = {"verdict": verdict, "comparisons": [COMPARISON]}
        made["evaluate"] = make(root, "evaluate", key, {"gate": gate}, {"package": package.id}, {"report.json": key})
    run = root / "runs" / "mine"
    run.mkdir(parents=True, exist_ok=True)
    (run / "artifacts.json").write_text(json.dumps({kind: {"path": str(one.folder)} for kind, one in made.items()}))
    return package


@pytest.fixture
def root(tmp_path: Path, empty_registry: Path) -> Path:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_registry, tmp_path / "runs")
    return tmp_path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NEXUS_REGISTRY", raising=False)


def nexus(root: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """Exit code, and the document on stdout (or the words of the error)."""
    code = run_command(["model", *words, "--root", str(root), "--json"])
    told = capsys.readouterr()
    return code, json.loads(told.out) if told.out.strip() else told.err


def test_a_package_gets_a_name_a_version_and_aliases(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(root)
    code, made = nexus(root, "promote", "mine", "--alias", "champion", capsys=capsys)
    assert (code, made["name"], made["version"], made["aliases"]) == (0, "mine", 1, ["champion"])
    assert (made["artifact"], made["verdict"], made["is_signed"]) == (first.id, "pass", False)
    # The same package again is the same version; another one is the next.
    assert nexus(root, "promote", "mine", capsys=capsys)[1]["version"] == 1
    second = make_run(root, key="2" * 16)
    assert nexus(root, "promote", "mine", capsys=capsys)[1]["version"] == 2
    listed = nexus(root, "list", capsys=capsys)[1]["registered"]
    assert [(one["version"], one["artifact"], one["aliases"]) for one in listed] == [
        (2, second.id, []),
        (1, first.id, ["champion"]),
    ]
    assert nexus(root, "alias", "mine@2", "champion", capsys=capsys)[1]["aliases"] == ["champion"]
    assert nexus(root, "show", "mine@champion", capsys=capsys)[1]["id"] == second.id
    assert nexus(root, "show", "mine@1", capsys=capsys)[1]["id"] == first.id
    assert find_model("mine@champion", root=root).folder == second.folder
    assert find_model("mine@champion", root=root).name == "mine"


def test_the_card_in_the_registry_tells_metrics_with_intervals_and_costs(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(root)
    assert run_command(["model", "show", "mine", "--root", str(root)]) == 0
    card = capsys.readouterr().out
    assert "The gate says **pass**." in card
    assert "| domain | 16.40 → 12.50 | -24.0% (-27.0% to -21.0% at 95%) | 48 | pass |" in card
    assert "| package | 0 |" in card


@pytest.mark.parametrize(("verdict", "code"), [("fail", 3), ("inconclusive", 4), (None, 1)])
def test_what_did_not_pass_is_promoted_only_knowingly(
    root: Path, capsys: pytest.CaptureFixture[str], verdict: str | None, code: int
) -> None:
    make_run(root, verdict=verdict)
    refused, told = nexus(root, "promote", "mine", capsys=capsys)
    assert (refused, "--unproven" in str(told)) == (code, True)
    done, made = nexus(root, "promote", "mine", "--unproven", capsys=capsys)
    assert (done, made["verdict"]) == (0, verdict)


def test_altered_and_pickled_files_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = make_run(root)
    (package.folder / "model.safetensors").write_text("another")
    code, told = nexus(root, "promote", "mine", capsys=capsys)
    assert (code, "is not the file that was packaged" in str(told)) == (1, True)
    make_run(root, key="3" * 16, **{"pytorch_model.bin": "x"})
    code, told = nexus(root, "promote", "mine", capsys=capsys)
    assert (code, "only safetensors are registered" in str(told)) == (1, True)
    # A package that was altered later is not served under its name either.
    good = make_run(root, key="4" * 16)
    assert nexus(root, "promote", "mine", "--alias", "live", capsys=capsys)[0] == 0
    (good.folder / "model.safetensors").write_text("another")
    with pytest.raises(ArtifactError, match="is not the file that was packaged"):
        find_model("mine@live", root=root)


def test_what_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nexus(tmp_path, "list", capsys=capsys)[1] == {"models": [], "registered": []}
    assert not (tmp_path / "runs").exists()  # looking makes no database
    code, told = nexus(tmp_path, "show", "nobody@champion", capsys=capsys)
    assert (code, "nobody@champion is not in the registry" in str(told)) == (1, True)
    make_run(tmp_path)
    nexus(tmp_path, "promote", "mine", capsys=capsys)
    code, told = nexus(tmp_path, "alias", "mine", "7", capsys=capsys)
    assert (code, "7 cannot be an alias" in str(told)) == (UsageError.exit_code, True)


def write_keys(folder: Path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private, public = folder / "key.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signature_holds_for_exactly_these_files(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cryptography")
    (root / "a").mkdir()
    (root / "b").mkdir()
    (private, public), (_, others) = write_keys(root / "a"), write_keys(root / "b")
    package = make_run(root)
    code, told = nexus(root, "promote", "mine", "--sign-key", str(public), capsys=capsys)
    assert (code, "is no private Ed25519 key" in str(told)) == (UsageError.exit_code, True)
    code, made = nexus(root, "promote", "mine", "--sign-key", str(private), capsys=capsys)
    assert (code, made["is_signed"]) == (0, True)

    def verified(key: Path) -> tuple[int, Any]:
        return nexus(root, "show", "mine@1", "--verify-key", str(key), capsys=capsys)

    assert verified(public)[0] == 0
    assert "is not the signature of" in str(verified(others)[1])
    manifest = package.folder / "manifest.json"
    signed = manifest.read_bytes()
    manifest.write_bytes(signed.replace(b'"equal_to"', b'"equalled"'))
    assert "is not the signature of" in str(verified(public)[1])
    manifest.write_bytes(signed)
    (package.folder / "model.safetensors").write_text("2" * 16)  # of the same size
    assert "is not the file that was signed" in str(verified(public)[1])
    (package.folder / "manifest.json.sig").unlink()
    assert "has no signature" in str(verified(public)[1])

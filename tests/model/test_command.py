"""`nexus model` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus_llm.cli import run_command
from tiny_model import write_tiny_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_pulled_model_is_listed_with_where_it_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_tiny_model(tmp_path / "tiny"))
    assert run_command(["model", "pull", folder, "--json"]) == 0
    pulled = json.loads(capsys.readouterr().out)
    assert pulled["skipped"] is False
    assert (Path(pulled["path"]) / "model.safetensors").exists()
    assert run_command(["model", "pull", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pulled | {"skipped": True}
    assert run_command(["model", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["models"]
    assert listed == [{name: value for name, value in pulled.items() if name != "skipped"}]
    assert run_command(["model", "list"]) == 0
    assert pulled["id"] in capsys.readouterr().out


def test_nothing_to_list_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["model", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": [], "registered": []}


def test_an_unknown_name_is_two_lines_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["model", "pull", "smolm2-135m-instruct"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    what, fix = printed.err.splitlines()
    assert "'smolm2-135m-instruct'" in what
    assert "smollm2-135m-instruct" in fix

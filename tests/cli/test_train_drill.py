"""`nexus train drill` on a tiny model, through the real command line; and the group around it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nexus_llm import cli
from tiny_model import write_tiny_model

RECIPE = """
name: tiny
seed: 3
model: {{base: {model}}}
data:
  sources: [{{type: files, path: {text}}}]
  workers: 1
  language: {{identify: false}}
train: {{max_length: 32, max_steps: 40, save_steps: 20, lora_r: 4, lora_dropout: 0.1, eval_steps: 5, dtype: float32}}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "model")
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnoprstu", k=draw.randint(3, 8))) for _ in range(400)]
    texts = [" ".join(draw.choices(words, k=45)).capitalize() + "." for _ in range(60)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(model=tmp_path / "model", text=tmp_path / "text.jsonl"))
    return path


@pytest.mark.lifecycle  # six starts of a process that imports torch
@pytest.mark.timeout(900)
def test_a_recipe_survives_its_drill_and_its_run_folder_is_not_touched(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the model is so small that a second thread would only wait
    code = cli.run_command(["train", "drill", str(recipe), "--kills", "3", "--steps", "12", "--seed", "5", "--json"])
    out, err = capsys.readouterr()
    document: dict[str, Any] = json.loads(out)
    assert code == 0, document
    assert document["equal"]
    assert document["steps"] == 12
    assert "12 steps instead of 40" in err
    assert len(document["kills"]) == 3
    assert {one["planned"]["moment"] for one in document["kills"]} == {
        "within a step",
        "between steps",
        "while a checkpoint is written",
    }
    assert any(one["half_written"] for one in document["kills"])
    (corrupted,) = (one for one in document["kills"] if one["corrupted"])
    assert len(corrupted["set_aside"]) == 1
    assert corrupted["continued_from"] < corrupted["whole"][-1]
    assert [one["what"] for one in document["comparison"]] == [
        "weights",
        "optimizer state",
        "order of the data",
        "loss and gradient norm of each step",
    ]
    assert document["folder"] is None
    assert list((tmp_path / "runs").iterdir()) == []
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        (["dril"], "dril is neither a recipe file nor a command of nexus train", "did you mean: nexus train drill"),
        (["no.yaml"], "no.yaml cannot be read", "check the path"),
        (["drill", "no.yaml"], "no.yaml cannot be read", "check the path"),
        (["drill", "tiny.yaml", "--kills", "0"], "--kills", "nexus train drill --help"),
        (["drill", "tiny.yaml", "--set", "train.max_stepz=3"], "max_stepz", "max_steps"),
    ],
)
def test_a_mistake_is_a_usage_error_before_anything_runs(
    arguments: list[str], what: str, fix: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run_command(["train", *arguments]) == 2
    first, second = capsys.readouterr().err.strip().splitlines()
    assert what in first
    assert fix in second
    assert not (recipe.parent / "runs").exists()


def test_help_names_the_recipe_and_the_drill(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["train", "--help"]) == 0
    group = capsys.readouterr().out
    assert "RECIPE | COMMAND" in group
    assert "drill" in group
    assert cli.run_command(["train", "recipe.yaml", "--help"]) == 0
    assert "--dry-run" in capsys.readouterr().out


def test_a_shell_can_complete_the_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_NEXUS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "nexus train dr")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        cli.app([], prog_name="nexus", complete_var="_NEXUS_COMPLETE")
    assert "drill" in capsys.readouterr().out


@pytest.mark.lifecycle
def test_a_failing_process_is_told_in_its_own_words_and_its_log_is_kept(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["--set", "train.target_modules=[nowhere]"]
    assert cli.run_command(["train", "drill", str(recipe), *overrides]) == 1
    err = capsys.readouterr().err
    assert "training ended with exit code 1: error:" in err
    assert "nowhere" in err
    (log,) = (tmp_path / "runs").glob(".drill-tiny-*/undisturbed/output.log")
    assert str(log) in err

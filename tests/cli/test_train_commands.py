"""`nexus train RECIPE` on a tiny model: planned, made to fit, in two processes, from preferences, told to a tracker."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from command_line import nexus
from nexus_llm import cli
from tiny_model import write_tiny_model

RECIPE = """
name: tiny
seed: 3
model: {{base: {model}}}
data:
  sources: [{{type: files, path: {text}}}]
  workers: 1
  quality: {{families: []}}
  language: {{identify: false}}
train: {{max_length: 64, max_steps: 6, per_device_train_batch_size: 4, lora_r: 4, eval_steps: 3, dtype: float32}}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "model")
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnoprstu", k=draw.randint(3, 8))) for _ in range(400)]
    lines = []
    for _ in range(80):
        prompt, good, bad = (" ".join(draw.choices(words, k=size)) for size in (4, 3, 3))
        lines.append(json.dumps({"prompt": prompt, "chosen": good, "rejected": bad}))
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(model=tmp_path / "model", text=tmp_path / "text.jsonl"))
    return path


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, str]:
    """(exit code, what --json printed, stderr)."""
    code = cli.run_command(["train", *arguments, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def facts_and_rows(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Of the one train artifact there."""
    (made,) = (folder / "artifacts" / "train").glob("*/manifest.json")
    rows = [json.loads(line) for line in (made.parent / "metrics.jsonl").read_text().splitlines()]
    return json.loads(made.read_bytes())["facts"], rows


def test_a_plan_shows_memory_and_a_measured_speed_and_trains_nothing(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document, _ = run(str(recipe), "--plan", capsys=capsys)
    assert code == 0
    assert document["fits"]
    assert sum(part["bytes"] for part in document["parts"]) == document["device_bytes"] > 0
    assert document["tokens_per_second"] > 0
    assert document["seconds"] == pytest.approx(document["tokens"] / document["tokens_per_second"], abs=1)
    assert not (tmp_path / "artifacts" / "train").exists()


def test_what_cannot_fit_is_refused_with_the_knob_that_helps_and_fit_turns_it(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexus_llm.train import measure

    _, document, _ = run(str(recipe), "--plan", "--set", "train.per_device_train_batch_size=1", capsys=capsys)
    there = measure.Available(document["device_bytes"] + 100_000, "a small machine")
    monkeypatch.setattr(measure, "available_memory", lambda *_, **__: there)
    code, _, err = run(str(recipe), capsys=capsys)
    assert code == 1
    assert "error: training needs" in err
    assert "set train.per_device_train_batch_size to 1, train.gradient_accumulation_steps to 4 (or --fit)" in err
    assert not list(tmp_path.glob("artifacts/train/*/manifest.json"))
    code, document, _ = run(str(recipe), "--fit", capsys=capsys)
    assert code == 0
    assert facts_and_rows(tmp_path)[0]["steps"] == 6


@pytest.mark.lifecycle  # processes that import torch
def test_two_processes_go_the_way_of_one(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(str(recipe), capsys=capsys)
    assert code == 0, err
    _, expected = facts_and_rows(tmp_path)
    two = ("strategy=ddp", "num_processes=2")
    changes = [word for one in two for word in ("--set", f"train.distributed.{one}")]
    together = tmp_path / "together"
    together.mkdir()
    done = nexus("train", str(recipe), *changes, "--set", "train.per_device_train_batch_size=2", "--json", cwd=together)
    assert done.returncode == 0, done.stderr
    assert [stage["stage"] for stage in done.json["stages"]] == ["model", "data", "train"]
    _, rows = facts_and_rows(together)
    assert [row["rows_sha256"] for row in rows] == [row["rows_sha256"] for row in expected]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=1e-3)
    assert "Setting OMP_NUM_THREADS" not in done.stderr


def test_preferences_are_learned_and_told_to_a_tracker(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("objective=dpo", "max_length=128", "learning_rate=0.01", "max_steps=12", "tracking.tensorboard=true")
    words = [word for one in changes for word in ("--set", f"train.{one}")]
    code, _, err = run(str(recipe), *words, capsys=capsys)
    assert code == 0, err
    facts, rows = facts_and_rows(tmp_path)
    assert facts["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert facts["last_loss"] < 0.65
    assert list((tmp_path / "runs").rglob("*tfevents*"))
    assert len(rows) == 12

"""`nexus gate`, `nexus evaluate compare` and `nexus evaluate glue`, through the real command line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nexus_llm import cli
from nexus_llm.artifacts import ArtifactStore
from nexus_llm.evaluate.results import ItemResult, TaskResult, write_result
from nexus_llm.records import CompleterFacts
from tiny_model import write_tiny_model


def result(folder: Path, right: int, *, task: str = "sst2", few_shot: int = 0) -> None:
    items = tuple(ItemResult(str(place), {"accuracy": float(place < right)}) for place in range(400))
    who = CompleterFacts(model=folder.name, road="scripted")
    write_result(folder / task, TaskResult(task, "1", "accuracy", "abc", few_shot, who, items))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_folders_of_results_are_compared_task_by_task(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task in ("sst2", "mrpc"):
        result(here / "a", 200, task=task)
        result(here / "b", 230 if task == "sst2" else 200, task=task)
    assert cli.run_command(["evaluate", "compare", "a", "b", "--max-regression", "0.02", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in found["comparisons"]}
    assert found["verdict"] == "pass"
    assert rows["sst2"]["change"] == pytest.approx(0.075)
    assert rows["sst2"]["low"] > 0.04
    assert rows["mrpc"]["low"] == pytest.approx(-0.0095, abs=0.0005)
    assert cli.run_command(["evaluate", "compare", "a", "b"]) == 0
    out = capsys.readouterr().out
    assert "sst2     max_regression accuracy 0.500 → 0.575  +0.075" in out
    assert out.endswith("verdict  inconclusive\n")


def test_results_that_were_measured_differently_are_not_compared(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result(here / "a", 200)
    result(here / "b", 230, few_shot=5)
    assert cli.run_command(["evaluate", "compare", "a", "b"]) == 1
    assert "few_shot 0 against 5" in capsys.readouterr().err
    result(here / "c", 200)
    result(here / "c", 200, task="mrpc")
    assert cli.run_command(["evaluate", "compare", "a", "c"]) == 1
    assert "mrpc has a result in c and none in a" in capsys.readouterr().err
    assert cli.run_command(["evaluate", "compare", "a", "cache"]) == 1
    assert "cache has no result.json" in capsys.readouterr().err


def evaluation(folder: Path, verdict: str) -> Path:
    row = {"name": "sst2", "rule": "max_regression", "metric": "accuracy", "verdict": verdict, "reason": "because"}
    gate = {"verdict": verdict, "comparisons": [row | {"base_score": 0.5, "tuned_score": 0.6, "change": 0.1}]}
    store = ArtifactStore(folder)
    with store.draft("evaluate", verdict, stage_version=1, recipe={}, inputs={}) as draft:
        return draft.finish(facts={"gate": gate}).folder


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 3), ("inconclusive", 4)])
def test_the_gate_tells_ci_by_its_exit_code_and_in_junit(
    here: Path, capsys: pytest.CaptureFixture[str], verdict: str, code: int
) -> None:
    junitparser = pytest.importorskip("junitparser", reason="needs the [dev] extra")
    folder = evaluation(here, verdict)
    assert cli.run_command(["gate", str(folder), "--junit", "ci/gate.xml", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["verdict"] == verdict
    suite = next(iter(junitparser.JUnitXml.fromfile("ci/gate.xml")))
    assert (suite.tests, suite.failures, suite.errors) == (1, int(code == 3), int(code == 4))


def test_a_recipe_that_was_not_evaluated_as_it_stands_has_no_verdict(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "text.txt").write_text("words")
    (here / "tiny.yaml").write_text(
        "name: tiny\nmodel: {base: model}\ndata: {sources: [{type: files, path: text.txt}]}\n"
    )
    write_tiny_model(here / "model")
    assert cli.run_command(["gate", "tiny.yaml"]) == 1
    error = capsys.readouterr().err
    assert "tiny.yaml was not evaluated as it stands" in error
    assert "nexus evaluate tiny.yaml" in error
    assert cli.run_command(["gate", "tiny", "--set", "seed=3"]) == 2


def _sst2(folder: Path) -> None:
    draw = random.Random(3)
    words = ["".join(draw.choices("abcdefghijklmnoprstu", k=draw.randint(3, 8))) for _ in range(200)]
    (folder / "sst2").mkdir(parents=True)
    for split, count in (("train", 60), ("validation", 6)):
        rows = [{"sentence": " ".join(draw.choices(words, k=12)), "label": place % 2} for place in range(count)]
        (folder / "sst2" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_glue_is_measured_by_training_and_a_second_call_trains_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="needs the [train] extra")
    write_tiny_model(here / "model", max_position_embeddings=512)
    _sst2(here / "sets")
    words = ["evaluate", "glue", "--finetune", "--datasets", "sets", "--epochs", "1", str(here / "model"), "--json"]
    found: list[Any] = []
    for _ in range(2):
        assert cli.run_command(words) == 0
        told = capsys.readouterr()
        found.append(json.loads(told.out))
    assert "not measured: rte (sets/rte/train.jsonl is not there)" in told.err
    assert "asking" not in told.err  # the second time
    assert found[0] == found[1]
    row = found[0]["tasks"][0]
    assert (row["task"], row["items"], row["train_rows"]) == ("sst2", 6, 60)
    assert found[0]["average"] == row["score"]
    assert found[0]["not_measured"] == ["cola", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
    lines = (Path(row["result"]) / "items.jsonl").read_text().splitlines()
    assert [json.loads(line)["wanted"] for line in lines] == ["negative", "positive"] * 3
    split = here / "sets/sst2/validation.jsonl"
    split.write_text(split.read_text().replace('"label": 0', '"label": 1'))  # mended: judged anew, and nothing asked
    assert cli.run_command(words) == 0
    told = capsys.readouterr()
    lines = (Path(json.loads(told.out)["tasks"][0]["result"]) / "items.jsonl").read_text().splitlines()
    assert [json.loads(line)["wanted"] for line in lines] == ["positive"] * 6


def test_glue_tells_hours_before_it_trains_and_refuses_what_it_cannot_measure(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sst2(here / "sets")
    words = ["evaluate", "glue", "--datasets", "sets", "smollm2-135m-instruct"]
    assert cli.run_command([*words, "--finetune", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(row["task"], row["train_rows"], row["epochs"]) for row in plan["tasks"]] == [("sst2", 60, 2)]
    assert 0.01 < plan["estimated_hours"] < 1
    assert not (here / "runs").exists()
    assert cli.run_command(words) == 2
    assert "add --finetune" in capsys.readouterr().err
    assert cli.run_command([*words, "--finetune", "--tasks", "sst3"]) == 2
    assert cli.run_command([*words, "--finetune", "--tasks", "rte"]) == 1
    assert "rte: sets/rte/train.jsonl is not there" in capsys.readouterr().err

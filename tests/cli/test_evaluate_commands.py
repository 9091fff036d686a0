"""The commands that ask a model, in this process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer

from nexus_llm.cli import evaluate_measures, evaluate_tasks, run_command
from nexus_llm.cli.evaluate_asked import tell
from nexus_llm.errors import NexusError
from nexus_llm.evaluate.summary import Summary
from nexus_llm.records import CompleterFacts
from tiny_model import write_tiny_model

TASK = """
task: capitals
prompt: "{{ country }}?"
scorer: {type: exact}
items: [{country: France, target: Paris}, {country: Italy, target: Rome}]
"""


def nexus(*arguments: str) -> Any:
    app = typer.Typer()
    evaluate_tasks.register(app)
    evaluate_measures.register(app)
    return app(list(arguments), standalone_mode=False)


def test_files_are_checked_without_asking_anybody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "capitals.yaml").write_text(TASK)
    assert nexus("tasks", str(tmp_path / "capitals.yaml"), "--dry-run", "--limit", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "tasks": [{"task": "capitals", "scorer": "exact", "items": 1, "of": 2}]
    }
    (tmp_path / "capitals.yaml").write_text(TASK.replace("exact", "exakt"))
    with pytest.raises(NexusError, match=r"capitals.yaml:4: scorer.type is 'exakt'") as caught:
        nexus("tasks", str(tmp_path / "capitals.yaml"), "--dry-run")
    assert caught.value.exit_code == 2


def test_no_command_shows_the_bars_of_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "x")  # so that it is put back
    monkeypatch.delenv("TQDM_DISABLE")
    (tmp_path / "capitals.yaml").write_text(TASK)
    assert run_command(["evaluate", "tasks", str(tmp_path / "capitals.yaml"), "--dry-run"]) == 0
    assert os.environ["TQDM_DISABLE"] == "1"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["tasks", "capitals.yaml"], "nobody is named who shall answer"),
        (["safety", "m", "--suite", "jailbraek"], "--suite jailbraek is not known"),
        (["perplexity", "TINY", "text.txt", "--precision", "float8"], "--precision float8 is not known"),
    ],
)
def test_what_cannot_be_done_is_said_before_a_model_is_loaded(arguments: list[str], what: str, tmp_path: Path) -> None:
    folder = str(write_tiny_model(tmp_path))
    with pytest.raises(NexusError, match=what):
        nexus(*[folder if one == "TINY" else one for one in arguments])


def test_perplexity_is_one_document_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="needs the [eval] extra")
    folder = write_tiny_model(tmp_path / "tiny")
    (tmp_path / "test.txt").write_text("What is it? It is what it is.")
    assert nexus("perplexity", str(folder), str(tmp_path / "test.txt"), "--out", str(tmp_path / "out"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["split"] == "test"
    assert told["documents"] == 1
    assert told["bits_per_byte"] > 0
    assert (tmp_path / "out" / "tiny" / "perplexity" / "test" / "result.json").is_file()


def test_numbers_that_are_none_are_told_as_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = Summary("t", "exact", items=2, errors=2, most_frequent_error="status 429", cut_items=0, few_shot=0)
    facts = CompleterFacts(model="m", road="scripted")
    tell([nothing], facts, tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["results"][0]["scores"] == {}
    tell([nothing], facts, tmp_path, as_json=False)
    assert "t: exact not known, 0 of 2 items scored, 2 without an answer (status 429)" in capsys.readouterr().out

"""`nexus observe` against a real gateway: the report, its page, its history, and the contract."""

from __future__ import annotations

import json
import random
from pathlib import Path

import httpx
import pytest

from data_artifacts import KEPT, write_artifact, write_files
from nexus_llm.chat import ChatTokenizer
from nexus_llm.cli import observe_drift, run_command
from nexus_llm.cli.observe_drift import Texts
from nexus_llm.observe.dashboard import grafana_dashboard
from nexus_llm.observe.objectives import prometheus_rules
from nexus_llm.recipe import ServeRecipe
from nexus_llm.recipe.telemetry import SamplesRecipe
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.model_folder import ServedModel
from running_server import running_server
from tiny_model import write_tiny_model


def prompts(seed: int, count: int, words: int) -> list[str]:
    generator = random.Random(seed)
    known = [
        "the",
        "server",
        "answers",
        "when",
        "a",
        "reader",
        "asks",
        "what",
        "it",
        "costs",
        "to",
        "train",
        "small",
        "models",
        "here",
        "at",
        "night",
    ]
    return [" ".join(generator.choices(known, k=generator.randint(words, 2 * words))) for _ in range(count)]


def test_a_report_tells_of_a_real_gateway_and_compares_with_what_was_trained(
    echo_model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = prompts(0, 500, 8)
    reference = Texts(known, known, [len(one) for one in known], [16] * len(known))
    monkeypatch.setattr(observe_drift, "_reference", lambda _run, _root: reference)
    kept = [json.dumps({"prompts": [one], "answers": [one]}) for one in prompts(1, 450, 24)]
    (tmp_path / "samples-2026-11-22.jsonl").write_text("\n".join(kept))
    history, page = tmp_path / "looks.jsonl", tmp_path / "report.html"
    recipe = ServeRecipe(samples=SamplesRecipe())
    with running_server(echo_model, EngineCommand("fake", {}), recipe=recipe) as server:
        body = {"model": "echo", "prompt": "Say this.", "max_tokens": 4}
        for _ in range(3):
            httpx.post(f"{server.url}/v1/completions", json=body).raise_for_status()
        words = ["observe", "report", server.url, "--run", "here", "--samples", str(tmp_path), "--json"]
        for more in ([], ["--embed"]):  # which asks the gateway, and so counts there
            assert run_command([*words, *more, "--history", str(history), "--report", str(page)]) == 0
            document = json.loads(capsys.readouterr().out)
        assert document["looks"] == len(history.read_text().splitlines()) == 2
        history.write_text('{"time": 0, "values": {}}\n' + history.read_text())
        assert run_command(["observe", "report", server.url, "--history", str(history)]) == 0
        assert len(history.read_text().splitlines()) == 3, "what no window reaches is gone"
        assert "nexus_requests_total" in history.read_text()
        assert "vllm:prompt_tokens_total" not in history.read_text(), (
            "no window asks for it, and a look a minute adds up"
        )
    assert document["usage"]["requests"] == 3
    assert document["usage"]["generated_tokens"] == 12
    assert {one["state"] for one in document["objectives"]} == {"inconclusive"}  # three requests prove nothing
    assert document["latency"]["first_token_seconds"]["p95"] > 0
    verdicts = {(one["what"], one["statistic"]): one["verdict"] for one in document["drift"]}
    assert verdicts["prompts, characters", "ks"] == verdicts["prompts, characters", "psi"] == "drifted"
    assert verdicts["prompts, language", "psi"] in ("steady", "drifted")
    assert verdicts["prompts, tokens of all", "psi"] == "inconclusive"  # three prompts
    assert ("prompts, what they are about", "embedding") in verdicts
    assert known[0] not in page.read_text() + history.read_text()


def test_nobody_at_an_address_and_no_run_are_told_with_a_fix(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["observe", "report", "http://127.0.0.1:9"]) == 1
    assert run_command(["observe", "report", "no-such-run"]) == 2
    assert capsys.readouterr().err.count("fix:") == 2


def test_rules_panels_and_pages_look_at_what_is_emitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = str(Path(__file__).parents[2] / "docs" / "runbooks")
    assert run_command(["observe", "contract", "--runbooks", pages, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["broken"] == []
    assert found["named"] > 100
    assert found["never_looked_at"]["prometheus"] == ["nexus_info"]
    (tmp_path / "wrong.md").write_text("---\nalarms: []\nmetrics: [nexus_renamed_total]\n---\n")
    assert run_command(["observe", "contract", "--runbooks", str(tmp_path)]) == 1
    assert "runbook wrong names nexus_renamed_total, which nothing emits" in capsys.readouterr().out
    good = grafana_dashboard()
    good["panels"][3]["targets"][0]["expr"] = "sum by (colour) (rate(nexus_requests_total[5m]))"
    monkeypatch.setattr("nexus_llm.observe.dashboard.grafana_dashboard", lambda: good)
    assert run_command(["observe", "contract", "--runbooks", pages]) == 1
    assert "colour" in capsys.readouterr().out


def test_rules_and_dashboard_are_documents_that_prometheus_and_grafana_read(capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    assert run_command(["observe", "rules"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == prometheus_rules()
    assert run_command(["observe", "dashboard"]) == 0
    shown = json.loads(capsys.readouterr().out)
    places = {(one["gridPos"]["x"], one["gridPos"]["y"]) for one in shown["panels"]}
    assert len(places) == len(shown["panels"]) > 20
    names = [rule["alert"] for group in prometheus_rules()["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(set(names)) == len(names) == 3 * 2 + 3


def test_a_runs_conversations_are_what_is_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    model = write_artifact(
        tmp_path / "cache", "model", {}, files=lambda folder: {"base": str(write_tiny_model(folder))}
    )
    tokenizer = ChatTokenizer.load(model.folder)
    data = write_artifact(tmp_path, "data", {"model": model.id}, files=lambda folder: write_files(folder, tokenizer))
    found = observe_drift._reference(str(data.folder), tmp_path)
    conversations = [one for name, shard in KEPT.items() if name.startswith("train") for one in shard if one.messages]
    assert len(found.prompts) == len(conversations) > 0
    asked, answered = conversations[0].messages[0]["content"], conversations[0].messages[1]["content"]
    assert asked in found.prompts[0]
    assert answered in found.answers[0]
    assert answered not in found.prompts[0]

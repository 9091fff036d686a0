"""From an answer to its records, and from a record to the names, deployments and answers that rest on it."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from data_artifacts import FIRST, identity, write_artifact, write_files
from nexus_llm.artifacts import Artifact
from nexus_llm.chat import ChatTokenizer
from nexus_llm.cli import run_command
from nexus_llm.cli.service_lineage import deployed
from nexus_llm.deploy.rollout import Plan, Rollout
from nexus_llm.deploy.rollout_driver import RolloutFolder
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.logs import JsonLines
from nexus_llm.serve.model_folder import SamplingDefaults, ServedModel
from nexus_llm.serve.receipt import Receipt, read_receipt
from nexus_llm.serve.telemetry.answered import answered
from nexus_llm.serve.telemetry.record import RequestRecord
from running_server import running_server
from tiny_model import write_tiny_model


@dataclass(frozen=True)
class Service:
    """A workspace whose package was served, and what the server wrote."""

    package: Artifact
    receipt: Receipt
    tokenizer: ChatTokenizer
    log: Path


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NEXUS_REGISTRY", raising=False)

    def write_model(folder: Path) -> dict[str, Any]:
        write_tiny_model(folder)
        return {"base": "tiny"}

    def write_package(folder: Path) -> dict[str, Any]:
        (folder / "model.safetensors").write_bytes(b"weights")
        return {}

    model = write_artifact(Path("cache"), "model", {}, files=write_model)
    tokenizer = ChatTokenizer.load(model.folder)
    data = write_artifact(Path(), "data", {"model": model.id}, files=lambda folder: write_files(folder, tokenizer))
    train = write_artifact(Path(), "train", {"model": model.id, "data": data.id}, key="bbbb")
    inputs = {"train": train.id, "data": data.id}
    package = write_artifact(Path(), "package", inputs, key="aaaa", files=write_package)
    run = Path("runs/one")
    run.mkdir(parents=True)
    rows = {one.kind: {"key": one.key, "id": one.id, "path": str(one.folder)} for one in (model, data, train, package)}
    (run / "artifacts.json").write_text(json.dumps(rows))
    receipt = read_receipt(asdict(package.manifest), engine="openvino", weights=None)
    assert receipt is not None
    other = replace(receipt, artifact="f" * 16)
    lines = [_line("r1", receipt), "engine: hello", _line("r2", other), _line("r3", receipt), _line("r4", None)]
    log = Path("access.jsonl")
    log.write_text("\n".join(lines) + "\n")
    return Service(package, receipt, tokenizer, log)


def _line(request_id: str, receipt: Receipt | None) -> str:
    """The access log's line, as a server writes it."""
    record = RequestRecord(request_id, "POST", model="support", receipt=receipt.header() if receipt else None)
    record.finish(route="/v1/chat/completions", status=200, key_id=None)
    entry = logging.makeLogRecord({"name": "nexus_llm.serve", "msg": "request.answered", "levelname": "INFO"})
    vars(entry).update(record.fields())
    return JsonLines().format(entry)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run_command([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_answer_leads_to_its_model_run_shards_and_records(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, "lineage", "r1", "--log", str(service.log), "--shard", "train-00000")
    assert (found["answer"]["request_id"], found["answer"]["model"]) == ("r1", "support")
    assert found["runs"] == ["runs/one"]
    assert found["deployed"] == []
    kinds = [row["kind"] for row in found["lineage"]]
    assert (kinds[0], set(kinds)) == ("package", {"package", "train", "data", "model"})
    assert {one["shard"]: one["records"] for one in found["shards"]} == {
        "train-00000": 2, "train-00001": 1, "validation-00000": 1, "test-00000": 0,
    }  # fmt: skip
    assert [(one["id"], one["origin"], one["row"]) for one in found["records"]] == [
        (identity("docs/a.jsonl:1"), "docs/a.jsonl:1", 0), (identity("docs/a.jsonl:4"), "docs/a.jsonl:4", 1),
    ]  # fmt: skip
    by_header = told(capsys, "lineage", service.receipt.header())
    assert by_header["lineage"] == found["lineage"]
    assert run_command(["lineage", service.receipt.header()]) == 0
    out = capsys.readouterr().out
    assert "runs/one" in out
    assert "train-00000  2 records" in out
    assert "shards" in told(capsys, "lineage", "package/aaaa")


def test_weights_that_are_not_those_that_answered_are_no_lineage(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = replace(service.receipt, weights="sha256:0000000000000000").header()
    assert run_command(["lineage", forged]) == 1
    assert "does not hold the weights sha256:0000000000000000" in capsys.readouterr().err
    assert run_command(["lineage", "r1"]) == 1  # nobody said in which log
    assert run_command(["lineage", service.receipt.header(), "--shard", "train-00009"]) == 2


def test_erasing_names_the_models_deployments_and_answers_and_no_others(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, key in (("nexus-small", "aaaa"), ("nexus-other", "cccc")):
        place = Path("runs/aws", name)
        place.mkdir(parents=True)
        (place / "serving.json").write_text(json.dumps({"model": {"name": "support", "key": f"package/{key}"}}))
    model = ServedModel(
        name="support",
        weights=Path("none"),
        tokenizer=service.tokenizer,
        context_tokens=500,
        stop_token_ids=(0,),
        sampling=SamplingDefaults(temperature=0.0),
        fingerprint="0",
        receipt=service.receipt,
    )
    with running_server(model, EngineCommand("fake", {})) as server:
        options = ("--server", server.url, "--log", str(service.log), "--dry-run")
        found = told(capsys, "data", "erase", FIRST, *options)
    assert [one["platform"] for one in found["deployed"]] == ["nexus-small"]
    assert [(one["model"], one["artifact"]) for one in found["served"]] == [("support", service.package.id)]
    (answers,) = found["answers"]
    assert (answers["model"], answers["request_ids"]) == ("support", ["r1", "r3"])
    assert found["registered"] == []
    assert run_command(["data", "erase", FIRST, "--log", str(service.log), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "answered    2 requests to support" in out
    assert "deployed    support on nexus-small (package/aaaa)" in out


@pytest.mark.parametrize(
    ("target", "status", "expected"),
    [
        ("ecs", "done", {("bbbb", "0001")}),
        ("ecs", "running", {("aaaa", None), ("bbbb", "0001")}),
        ("ecs", "rolled_back", {("aaaa", None)}),
        ("local", "done", {("bbbb", "0001")}),
        ("local", "rolling_back", {("aaaa", "0001"), ("bbbb", "0001")}),
        ("local", "rolled_back", {("aaaa", "0001")}),
        ("sagemaker", "rolled_back", set()),
    ],
)
def test_a_service_answers_with_what_its_rollouts_left(
    tmp_path: Path, target: str, status: Any, expected: set[tuple[str, str | None]]
) -> None:
    service = "nexus-small-api"
    if target == "ecs":
        place = tmp_path / "runs" / "aws" / "nexus-small"
        place.mkdir(parents=True)
        serving = {"service_name": service, "model": {"name": "support", "key": "package/aaaa"}}
        (place / "serving.json").write_text(json.dumps(serving))
    green = tmp_path / "moved"
    write_artifact(tmp_path, "package", {}, key="bbbb").folder.rename(green)
    plan = Plan(target, service, str(green) if target == "local" else "s3://models/package/bbbb")
    blue = "/models/package/aaaa" if target == "local" else "arn:of-a-definition"
    staged = {"stage": {"blue": blue, "name": "support"}}
    rollout = Rollout("0001", plan, step="bake", status=status, began_at=time.time() + 60, facts=staged)
    RolloutFolder(tmp_path / "runs" / "deploy" / f"{target}-{service}").write(rollout)
    found = deployed({"aaaa", "bbbb"}, tmp_path)
    assert {(Path(one["key"]).name.replace("moved", "bbbb"), one["rollout"]) for one in found} == expected
    assert {one["platform"] for one in found} <= {"nexus-small" if target == "ecs" else service}
    assert deployed({"cccc"}, tmp_path) == []


def test_a_platform_that_was_applied_after_its_rollout_may_answer_with_either(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "aws" / "nexus-small"
    place.mkdir(parents=True)
    rollout = Rollout("0001", Plan("ecs", "api", "s3://models/package/bbbb"), status="done", began_at=time.time() - 60)
    RolloutFolder(tmp_path / "runs" / "deploy" / "ecs-api").write(rollout)
    model = {"name": "support", "key": "package/aaaa"}
    (place / "serving.json").write_text(json.dumps({"service_name": "api", "model": model}))
    assert [one["rollout"] for one in deployed({"aaaa", "bbbb"}, tmp_path)] == [None, "0001"]


def test_erasing_names_registered_versions_and_counts_what_their_names_were_asked(
    service: Service, empty_registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nexus_llm.cloud.registry import ModelRegistry
    from nexus_llm.serve.access.database import open_database
    from nexus_llm.serve.access.ledger import Admitted, Ledger, Outcome
    from nexus_llm.serve.access.limits import Prices

    shutil.copy(empty_registry, "runs")
    registry = ModelRegistry(None, runs=Path("runs"))
    registry.promote("support", service.package, verdict="pass", card="")
    registry.point("support", "champion", "1")
    opened = open_database("keys.db")
    Ledger(opened, Prices(1.0, 1.0)).record([Outcome(Admitted("k", name, 0), 1, 1, True) for name in ("support", "x")])
    opened.close()
    found = told(capsys, "data", "erase", FIRST, "--dry-run", "--database", "keys.db")
    assert found["registered"] == [
        {"name": "support", "version": 1, "aliases": ["champion"], "artifact": service.package.id}
    ]
    assert [(one["model"], one["requests"]) for one in found["usage"]] == [("support", 1)]


def test_a_slow_request_counts_once_and_a_sample_counts() -> None:
    lines = [
        '{"event": "request.answered", "time": "t", "request_id": "r1", "receipt": "a92d; engine=x"}',
        '{"event": "request.slow", "time": "t", "request_id": "r1", "receipt": "a92d; engine=x"}',
        '{"time": "t", "request_id": "r2", "receipt": "a92d", "prompts": ["secret"]}',
        '{"receipt": null, "request_id": "r3"}',
        '"receipt"',
    ]
    found = list(answered(lines))
    assert [(one.request_id, one.artifact) for one in found] == [("r1", "a92d"), ("r2", "a92d")]
    assert "secret" not in repr(found)

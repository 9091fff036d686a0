"""Files that somebody gives to `nexus cost`, broken: two lines, and never an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus_llm import cli

RECIPES = Path(__file__).parents[2] / "recipes"
DOMAIN, FEW = str(RECIPES / "domain-8b-sagemaker.yaml"), ["--quick", "--set", "cost.compare_with=[gpt-4]"]
DEEP = "[" * 200_000
STEP = {
    "fixed_seconds": 0.03,
    "seconds_per_prefill_token": 1e-4,
    "seconds_per_sequence": 1e-3,
    "seconds_per_context_token": 1e-7,
    "provenance": "measured",
    "source": "here",
}
ENGINE = {
    "step_time": STEP,
    "limits": {"kv_cache_tokens": 50_000, "max_sequences": 32, "max_batched_tokens": 512},
    "is_trustworthy": True,
}
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
HEAD = "lineItem/UsageStartDate,lineItem/ProductCode,lineItem/UnblendedCost\n"
USED = {"time": "2026-11-01T10:00:00Z", "key": "a", "model": "m", "input_tokens": 5, "output_tokens": 5}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What is said, in two lines, to a command that cannot be carried out."""

    def told(*words: str) -> str:
        assert cli.run_command(["cost", *words]) in (1, 2)
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:")]
        assert [line.split(":")[0].strip() for line in said] == ["error", "fix"], said
        return said[0]

    return told


def changed(document: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """The document with another value there: `traffic.peak_ratio`."""
    *folders, name = where.split(".")
    found: dict[str, Any] = json.loads(json.dumps(document))
    inner = found
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    return found


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("lock") / "cost.lock"
    assert cli.run_command(["cost", "lock", DOMAIN, "--lock", str(file), *FEW]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("usd_per_month", "abc"),
        ("usd_per_month", float("nan")),
        ("usd_per_month", -1),
        ("tokens_per_second", 0),
        ("tokens_per_second", None),
        ("tolerance_share", -5),
        ("tolerance_share", "x"),
        ("traffic", []),
        ("traffic.peak_ratio", "3"),
        ("traffic.foo", 1),
        ("engines", None),
        ("engines.foo", "x"),
        ("bill", [1]),
        ("bill.alarms", "y"),
        ("prices", []),
        ("prices.ec2", 3),
        ("prices.ec2", {"as_of": "2026-01-01"}),
    ],
)
def test_a_lock_with_a_value_that_none_has_is_refused(refused, locked, where, value):
    Path("cost.lock").write_text(json.dumps(changed(locked, where, value)))
    assert where.rpartition(".")[2] in refused("check", DOMAIN, *FEW)


def test_a_lock_is_held_against_its_own_recipe_and_its_own_way_to_compute(refused, locked):
    Path("cost.lock").write_text(json.dumps(locked))
    assert "'quickstart'" in refused("check", str(RECIPES / "quickstart.yaml"), *FEW)
    few = ["--set", "cost.machines=[g6.xlarge]", "--set", "cost.scaling=null", *FEW[1:]]
    assert "another capacity model (closed form" in refused("check", DOMAIN, *few)
    assert cli.run_command(["cost", "check", DOMAIN, *FEW]) == 0
    free = changed(locked, "prices", {name: {**row, "usd": 0} for name, row in locked["prices"].items()})
    Path("cost.lock").write_text(json.dumps(free))
    assert cli.run_command(["cost", "check", DOMAIN, *FEW]) == 0


@pytest.mark.parametrize("usd", ["nan", "inf", "1e400", "1e308", '"' + "x" * 200_000])
def test_a_bill_with_an_amount_that_none_has_is_refused(refused, usd):
    Path("bill.csv").write_text(f"{HEAD}2026-11-01T00:00:00Z,AmazonEC2,{usd}\n")
    assert "bill.csv:2" in refused("actual", "--cur", "bill.csv")


def test_a_bill_that_excel_has_written_is_read():
    Path("bill.csv").write_text(f"\ufeff{HEAD}2026-11-01T00:00:00Z,AmazonEC2,1.5\n", encoding="utf-8")
    assert cli.run_command(["cost", "actual", "--cur", "bill.csv"]) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("input_tokens", float("inf")), ("input_tokens", 10**400), ("time", "0001-01-01T00:00:00+05:00"), ("key", None)],
)
def test_usage_that_cannot_be_is_refused(refused, name, value):
    Path("bill.csv").write_text(f"{HEAD}2026-11-01T00:00:00Z,AmazonEC2,1\n")
    row = {**USED, name: value}
    if value is None:
        del row[name]
    Path("usage.jsonl").write_text(json.dumps(row))
    assert "usage.jsonl:1" in refused("actual", "--cur", "bill.csv", "--usage", "usage.jsonl")


@pytest.mark.parametrize("changes", [[1], [{}], [{"address": "a", "type": "aws_lb", "change": None}]])
def test_a_terraform_plan_that_is_none_is_refused(refused, changes):
    Path("plan.json").write_text(json.dumps({"resource_changes": changes}))
    assert "resource_changes" in refused("diff", "plan.json")


@pytest.mark.parametrize(
    ("kind", "values", "others"),
    [
        ("aws_instance", {}, {}),
        ("aws_ebs_volume", {"size": "x"}, {}),
        (
            "aws_autoscaling_group",
            {"desired_capacity": 1, "launch_template": [{"name": "t"}]},
            {"aws_launch_template.t": {"name": "t"}},
        ),
        (
            "aws_ecs_service",
            {"launch_type": "FARGATE", "desired_count": 1, "task_definition": "t"},
            {"aws_ecs_task_definition.t": {"family": "t", "cpu": None, "memory": None}, "strange": {}},
        ),
    ],
)
def test_what_is_known_only_when_it_is_applied_is_told_as_not_priced(capsys, kind, values, others):
    rows = [(f"{kind}.one", values), *others.items()]
    changes = [
        {"address": name, "type": name.split(".")[0], "change": {"before": None, "after": after}}
        for name, after in rows
    ]
    Path("plan.json").write_text(json.dumps({"resource_changes": changes}))
    assert cli.run_command(["cost", "diff", "plan.json", "--json"]) == 0
    assert f"{kind}.one" in json.loads(capsys.readouterr().out)["not_priced"]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("step_time.fixed_seconds", "fast"),
        ("step_time.fixed_seconds", None),
        ("step_time.fixed_seconds", float("nan")),
        ("step_time.fixed_seconds", 0),
        ("step_time.seconds_per_sequence", -1),
        ("step_time.provenance", 5),
        ("step_time", {}),
        ("limits.kv_cache_tokens", "x"),
        ("limits.max_sequences", 0),
        ("limits.max_batched_tokens", 0),
        ("limits.batching", "wavy"),
        ("is_trustworthy", "no"),
    ],
)
@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_a_calibration_that_none_is_is_refused(refused, where, value, quick):
    Path("step.json").write_text(json.dumps(changed(ENGINE, where, value)))
    refused("plan", DOMAIN, *FEW[1:], *quick, "--measured", "g6.xlarge=step.json")


@pytest.mark.parametrize("text", ["5", "[]", '"x"', '{"calibration": 5}', '{"calibration": [1]}'])
def test_a_file_that_is_no_calibration_at_all_is_refused(refused, text):
    Path("step.json").write_text(text)
    assert "--measured g6.xlarge=step.json" in refused("plan", DOMAIN, *FEW, "--measured", "g6.xlarge=step.json")


def test_a_calibration_that_a_benchmark_has_stored_is_read():
    Path("step.json").write_text(json.dumps({"date": "2026-11-23", "calibration": ENGINE}))
    words = ["cost", "plan", DOMAIN, *FEW, "--measured", "g6.xlarge=step.json"]
    assert cli.run_command([*words, "--set", "cost.machines=[g6.xlarge]"]) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", -32),
        ("num_attention_heads", "x"),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", float("inf")),
        ("hidden_size", None),
    ],
)
def test_a_model_with_a_size_that_none_has_is_refused(refused, name, value):
    Path("config.json").write_text(json.dumps(CONFIG | {name: value}))
    assert "llama model" in refused("plan", DOMAIN, *FEW, "--set", "cost.model_config_path=config.json")


@pytest.mark.parametrize("report", ["xx", "[1]", '{"gate": null}', '{"gate": {}}', DEEP])
def test_a_run_whose_report_is_broken_is_named(refused, report):
    folder = Path("runs") / "r"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(report)
    assert "report.json" in refused("plan", DOMAIN, *FEW, "--run", "r", "--root", ".")


@pytest.mark.parametrize(
    "words",
    [
        ("check", DOMAIN, *FEW, "--lock", "deep"),
        ("plan", DOMAIN, *FEW, "--measured", "g6.xlarge=deep"),
        ("plan", DOMAIN, *FEW, "--set", "cost.model_config_path=deep"),
        ("diff", "deep"),
        ("actual", "--cur", "bill.csv", "--usage", "deep"),
        ("plan", DOMAIN, *FEW, "--prices", "quote"),
        ("plan", DOMAIN, *FEW, "--report", "."),
        ("lock", DOMAIN, *FEW, "--lock", "."),
        ("plan", DOMAIN, *FEW, "--set", "cost.service.nat_gb=1e308"),
        ("plan", DOMAIN, *FEW, "--set", "cost.currency=EUR", "--set", "cost.currency_per_usd=1e308"),
    ],
)
def test_what_has_no_end_and_what_is_a_folder_are_refused(refused, words):
    Path("deep").write_text(DEEP)
    Path("quote").write_text('"' + "x" * 200_000)
    Path("bill.csv").write_text(f"{HEAD}2026-11-01T00:00:00Z,AmazonEC2,1\n")
    refused(*words)


@pytest.mark.parametrize("tokens", ["-5,5", "5,-5", "123456789012345678901234,5"])
def test_a_trace_whose_requests_cannot_be_is_refused(refused, tokens):
    stamp = "2026-11-01 00:00:0"
    Path("trace.csv").write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{stamp}1,5,5\n{stamp}2,{tokens}\n")
    assert "trace.csv:3" in refused("plan", DOMAIN, *FEW, "--set", "cost.traffic.trace=trace.csv")


def test_requests_longer_than_the_model_s_context_are_refused(refused):
    long = ["--set", "cost.traffic.input_tokens=140000"]
    assert "131,072" in refused("plan", DOMAIN, *FEW, *long)
    assert "8,192" in refused("plan", str(RECIPES / "quickstart.yaml"), *FEW, *long)


def test_training_that_the_job_would_refuse_or_be_ended_in_is_told(refused, capsys):
    words = ["plan", DOMAIN, *FEW, "--set"]
    assert "spot without checkpoints" in refused(*words, "train.sagemaker.checkpoints=false")
    assert cli.run_command(["cost", *words, "train.sagemaker.max_run_hours=2"]) == 0
    assert "max_run_hours ends it after 2" in capsys.readouterr().out


def test_advice_that_does_not_pay_back_in_three_years_says_so(capsys):
    assert cli.run_command(["cost", "plan", DOMAIN, *FEW, "--requests", "48000", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["break_even"]
    assert one["own_usd_3_years"] > one["api_usd_3_years"]
    assert one["words"].endswith("Over 3 years the API costs less in all.")

"""`nexus cost` and `nexus run --budget-usd`, through the real command line in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nexus_llm import cli
from nexus_llm.cli.cost_budget import MeteredProgress, within_budget
from nexus_llm.cli.cost_inputs import price_file
from nexus_llm.errors import BudgetError
from nexus_llm.recipe import load_recipe

DOMAIN = Path(__file__).parents[2] / "recipes" / "domain-8b-sagemaker.yaml"
FEW = ["--quick", "--set", "cost.compare_with=[gpt-4]"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))


def nexus(*words: str) -> int:
    return cli.run_command(list(words))


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_plan_is_one_json_document_with_a_scenario_a_volume(capsys: pytest.CaptureFixture[str]) -> None:
    assert nexus("cost", "plan", str(DOMAIN), "--requests", "100K,1M,10M", "--json", *FEW) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)["scenarios"]
    assert [row["requests_per_month"] for row in rows] == [1e5, 1e6, 1e7]
    costs = [row["usd_per_month"] for row in rows]
    assert costs == sorted(costs)
    assert "days old" in err


def test_a_plan_says_in_words_what_it_rests_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    assert nexus("cost", "plan", str(DOMAIN), "--report", str(page), *FEW) == 0
    out = capsys.readouterr().out
    for words in ("100,000 requests a month", "roofline", "interface endpoints", "quality: not measured", "3 years"):
        assert words in out
    assert "<svg" in page.read_text()


def test_quality_that_was_measured_stands_beside_the_price(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = {"gate": {"verdict": "fail", "comparisons": [{"name": "domain", "change": 0.1, "verdict": "fail"}]}}
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "report.json").write_text(json.dumps(report))
    assert nexus("cost", "plan", str(DOMAIN), "--run", "r", "--json", *FEW) == 0
    assert document(capsys)["quality"]["verdict"] == "fail"


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["--requests", "-5"], 2, "'-5' is no number"),
        (["--requests", "lots"], 2, "'lots' is no number"),
        (["--requests", "9999B"], 1, "more than all people"),
        (["--set", "cost.traffic.output_tokens=-1"], 2, "cost.traffic.output_tokens is -1"),
        (["--set", "cost.region=mars-1"], 1, "mars-1"),
        (["--set", "cost.objective.e2e_seconds=0.1"], 1, "no machine keeps the objective"),
        (["--set", "model.base=hf:acme/unknown-9b"], 1, "size of the model"),
        (["--set", "cost.model_config_path=nowhere.json"], 1, "nowhere.json cannot be read"),
        (["--prices", "nowhere.csv"], 1, "nowhere.csv cannot be read"),
    ],
)
def test_bad_input_ends_in_two_lines(
    words: list[str], code: int, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nexus("cost", "plan", str(DOMAIN), *FEW, *words) == code
    error = capsys.readouterr().err.split("error: ", 1)[1]
    assert what in error.splitlines()[0]
    assert error.splitlines()[1].startswith("  fix: ")


def test_a_lock_holds_until_something_costs_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert nexus("cost", "lock", str(DOMAIN), *FEW) == 0
    assert nexus("cost", "check", str(DOMAIN), *FEW) == 0
    dearer = [*FEW, "--set", "cost.service.nat_gateways=6"]
    capsys.readouterr()
    assert nexus("cost", "check", str(DOMAIN), *dearer) == 5
    assert "bill: NAT gateways +131.40 USD a month" in capsys.readouterr().err
    assert nexus("cost", "check", str(DOMAIN), "--json", *dearer) == 5
    assert document(capsys)["regressions"][0]["figure"] == "usd_per_month"
    Path("bench.json").write_text('{"output_tokens_per_second": 1.0}')
    assert nexus("cost", "check", str(DOMAIN), "--bench", "bench.json", *FEW) == 5
    assert nexus("cost", "check", str(DOMAIN), "--lock", "other.lock", *FEW) == 2


def test_a_terraform_plan_is_priced(capsys: pytest.CaptureFixture[str]) -> None:
    change = {"address": "aws_lb.api", "type": "aws_lb", "mode": "managed", "change": {"before": None, "after": {}}}
    Path("plan.json").write_text(json.dumps({"resource_changes": [change]}))
    assert nexus("cost", "diff", "plan.json", "--json") == 0
    assert document(capsys)["change_usd_per_month"] == 16.43


def test_a_report_of_usage_is_held_against_the_plan_without_asking_aws(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cur.csv").write_text(
        "lineItem/UsageStartDate,lineItem/ProductCode,lineItem/UnblendedCost\n2026-11-01T00:00:00Z,AmazonEC2,30\n"
    )
    assert nexus("cost", "actual", "--cur", "cur.csv", "--recipe", str(DOMAIN), "--quick", "--json") == 0
    found = document(capsys)
    assert (found["usd"], found["planned_usd_per_month"]) == (30.0, 838.85)
    assert nexus("cost", "actual") == 2  # Cost Explorer costs money: only with --yes


def test_the_last_refreshed_table_is_used_and_a_broken_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    price_file().parent.mkdir(parents=True)
    price_file().write_text("half a table\n")
    assert nexus("cost", "plan", str(DOMAIN), *FEW) == 1
    assert "prices.csv: the first line is not" in capsys.readouterr().err


def test_a_run_beyond_its_budget_is_refused_before_it_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert nexus("run", str(DOMAIN), "--budget-usd", "50") == 5
    assert "is planned to cost 100.01 USD, the budget is 50.00" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_aws_itself_ends_a_job_at_its_budget() -> None:
    recipe = load_recipe(DOMAIN)
    capped, planned = within_budget(recipe, 110.0)
    hours = capped.train.sagemaker.max_run_hours
    assert planned.training_usd_per_hour
    assert hours * planned.training_usd_per_hour + planned.data_usd == pytest.approx(110.0)
    assert within_budget(recipe, 1e6)[0].train.sagemaker.max_run_hours == recipe.train.sagemaker.max_run_hours
    with pytest.raises(BudgetError):
        within_budget(recipe, 99.0)


def test_a_run_on_this_machine_costs_nothing_and_is_never_refused() -> None:
    recipe = load_recipe(DOMAIN, overrides=("train.launcher=local", "data.engine=embedded"))
    assert within_budget(recipe, 0.0)[1].planned_usd == 0


def test_the_meter_counts_a_sagemaker_job_and_nothing_else() -> None:
    notes: list[str] = []

    class Shown:
        def start(self, label: str, *, total: float | None, unit: str) -> None: ...

        def advance(self, amount: float, note: str = "") -> None:
            notes.append(note)

        def finish(self, note: str = "") -> None:
            notes.append(note)

    clock = iter((0.0, 1800.0, 3600.0))
    meter = MeteredProgress(Shown(), 8.0, now=lambda: next(clock))
    meter.start("reading", total=None, unit="rows")
    meter.advance(1, "fast")
    meter.start("SageMaker job", total=None, unit="steps")
    meter.advance(1, "training")
    meter.finish()
    assert notes == ["fast", "training, at most 4.00 USD", "at most 8.00 USD"]

"""`nexus cost` and `nexus run --budget-usd`, through the real command line in this process."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nexus_llm import cli
from nexus_llm.cli.cost_budget import budget_of, spending_of
from nexus_llm.cli.cost_inputs import price_file
from nexus_llm.cloud.launcher import JobState, Usage
from nexus_llm.cost.recipe_plan import RunBudget
from nexus_llm.errors import BudgetError, CostError, UsageError
from nexus_llm.recipe import load_recipe
from nexus_llm.serve.access.database import open_database
from nexus_llm.serve.access.ledger import Admitted, Ledger, Outcome
from nexus_llm.serve.access.limits import Prices

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
    for words in (
        "100,000 requests a month",
        "roofline",
        "interface endpoints",
        "quality: not measured",
        "3 years",
        "1,460.0 x 0.410448",
        "price: derived: EC2 on-demand x 1.15",
        "prices: litellm",
        "not on the bill: tax",
    ):
        assert words in out
    shown = page.read_text()
    assert "<svg" in shown
    assert "Infracost test goldens, list prices, 2025-07-01" in shown


def test_what_was_measured_on_a_machine_takes_the_place_of_its_roofline(capsys: pytest.CaptureFixture[str]) -> None:
    step = {"fixed_seconds": 0.03, "seconds_per_prefill_token": 1e-4, "seconds_per_sequence": 1e-3,
            "seconds_per_context_token": 1e-7, "provenance": "measured", "source": "bench of 2026-11-20"}  # fmt: skip
    limits = {"kv_cache_tokens": 50_000, "max_sequences": 32, "max_batched_tokens": 512}
    found = {"step_time": step, "limits": limits, "is_trustworthy": False}
    Path("here.json").write_text(json.dumps(found))
    words = ["cost", "plan", str(DOMAIN), *FEW, "--set", "cost.machines=[g6.xlarge]", "--json"]
    assert nexus(*words, "--measured", "g6.xlarge=here.json") == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)["scenarios"]
    assert (row["throughput_provenance"], row["throughput_source"]) == ("measured", "bench of 2026-11-20")
    assert row["precision"] == "bfloat16"  # float8 was not measured
    assert not [note for note in row["notes"] if "not measured" in note]
    assert "missed its targets" in err
    for wrong in ("here.json", "g6.xlarge=nowhere.json"):
        assert nexus(*words, "--measured", wrong) == 2
    assert nexus(*words, "--measured", "g6.xlrge=here.json") == 1  # no such machine


def test_a_trace_says_when_and_how_much_users_ask(capsys: pytest.CaptureFixture[str]) -> None:
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    told = "lengths of asked.csv, 600 requests of 203 + 52 tokens each"
    one = [*FEW, "--set", "cost.traffic.trace=asked.csv", "--set", "cost.objective.ttft_seconds=0.5", "--json"]
    for second, code in (("{:02}", 0), ("00", 1)):  # one a second; or sixty at the same moment, of whom the last waits
        rows = [f"2026-11-01 00:{n // 60:02}:{second.format(n % 60)},{200 + n % 7},{50 + n % 5}\n" for n in range(600)]
        Path("asked.csv").write_text(head + "".join(rows))
        few = ["--set", "cost.machines=[g6.xlarge]", *[word for word in one if word != "--quick"]]
        assert nexus("cost", "plan", str(DOMAIN), *few) == code
        out, err = capsys.readouterr()
        if code:
            assert "no machine keeps the objective; nearest is g6.xlarge" in err
            continue
        found = json.loads(out)
        assert found["capacity_model"].endswith(f"; arrivals and {told}")
        (row,) = found["scenarios"]
        assert (row["requests_per_month"], round(row["input_tokens"]), row["output_tokens"]) == (1e5, 203, 52)
    assert nexus("cost", "plan", str(DOMAIN), *one) == 0
    assert document(capsys)["capacity_model"].endswith(f"; mean {told}")
    for broken, what in (
        ("2026-11-01,3\n", "asked.csv:2 is no request"),
        (rows[0], "has 1 request(s) within 0 seconds"),
    ):
        Path("asked.csv").write_text(head + broken)
        assert nexus("cost", "plan", str(DOMAIN), *one) == 1
        error = capsys.readouterr().err.splitlines()
        assert what in error[-2]
        assert error[-1].startswith("  fix: ")


def test_quality_that_was_measured_stands_beside_the_price(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    row = {"name": "domain", "base_perplexity": 9.0, "tuned_perplexity": 10.0, "verdict": "fail"}
    report = {"base": "llama", "gate": {"verdict": "fail", "comparisons": [row]}}
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
        (["--set", "cost.machines=[g9.xlarge]"], 1, "'g9.xlarge' is not known"),
        (["--set", "cost.machines=[p5.4xlarge]", "--set", "cost.purchases=[spot]"], 1, "has no price as spot"),
        (["--run", "nowhere"], 2, "nowhere is no evaluated run"),
        (["--prices", "nowhere.csv"], 1, "nowhere.csv cannot be read"),
        (["--set", "cost.traffic.trace=nowhere.csv"], 1, "nowhere.csv cannot be read"),
        (["--set", f"cost.traffic.trace={DOMAIN}"], 1, "yaml:1 is neither the header TIMESTAMP"),
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
    assert (found["usd"], found["planned_usd_per_month"]) == (30.0, 942.49)
    assert nexus("cost", "actual") == 2  # Cost Explorer costs money: only with --yes
    assert nexus("cost", "actual", "--cur", "cur.csv", "--tag", "project=nexus") == 2  # would tell everybody's bill


def test_what_a_gateway_wrote_into_its_database_divides_the_bill(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    day = round(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
    opened = open_database(str(tmp_path / "keys.db"))
    ledger = Ledger(opened, Prices(1.0, 2.0))
    for key, second in (("app", 100), ("app", 200), ("web", 3 * 3600), ("web", -1)):  # the last came the day before
        ledger.record([Outcome(Admitted(key, "small", day + second), 300, 100, is_finished=True)])
    opened.close()
    Path("cur.csv").write_text(
        "lineItem/UsageStartDate,lineItem/ProductCode,lineItem/UnblendedCost\n2026-11-01T00:00:00Z,AmazonEC2,30\n"
    )
    words = ["cost", "actual", "--cur", "cur.csv", "--database", "keys.db", "--report", "page.html"]
    assert nexus(*words, "--recipe", str(DOMAIN), "--quick", "--json") == 0
    found = document(capsys)
    assert [(row["name"], row["requests"], row["usd"]) for row in found["keys"]] == [("app", 2, 20.0), ("web", 1, 10.0)]
    assert found["models"][0]["usd_per_request"] == 10.0
    assert found["idle"] == {"hours": 22, "of_hours": 24, "machine_usd": 27.5}
    assert {one["api"] for one in found["apis"]} == set(load_recipe(DOMAIN).cost.compare_with)
    assert "<svg" in Path("page.html").read_text()
    assert nexus(*words) == 0
    assert "22 of 24 hours had no request: 27.50 USD of machines." in capsys.readouterr().out


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


def test_data_alone_is_not_charged_for_the_training_that_it_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert budget_of(load_recipe(DOMAIN), 5.0, until="data").planned.training_usd == 0
    for words in (["train", "--on", "sagemaker"], ["evaluate"], ["data", "--set", "data.aws.workers=200"]):
        assert nexus(words[0], str(DOMAIN), *words[1:], "--budget-usd", "1") == 5
        assert "the budget is 1.00" in capsys.readouterr().err


def test_a_job_that_runs_already_is_metered_at_the_rate_of_the_recipe_that_started_it() -> None:
    spending = spending_of("training", DOMAIN, 30.0)
    assert spending
    hourly = budget_of(load_recipe(DOMAIN), 1e6).planned.training_usd_per_hour
    state = JobState("InProgress", "waiting", started_at=time.time() - 3600)
    assert spending("training/t", state).words == f"at most {hourly:,.2f} of 30.00 USD"
    assert spending("training/t", replace(state, started_at=time.time() - 36e3)).is_over
    assert spending_of("glue", None, None) is None
    for service, recipe in (("glue", None), ("processing", DOMAIN)):
        with pytest.raises(UsageError, match="costs an hour"):
            spending_of(service, recipe, 30.0)


def test_aws_itself_ends_each_job_at_its_part_of_the_budget() -> None:
    recipe = load_recipe(DOMAIN)
    budget = budget_of(recipe, 110.0)
    planned = budget.planned
    assert planned.data_usd_per_hour
    assert planned.training_usd_per_hour
    data_hours = budget.for_data(recipe).data.aws.max_run_hours
    assert data_hours * planned.data_usd_per_hour + planned.training_usd == pytest.approx(110.0)
    # The data job has cost 5 USD: the training may use what is left.
    budget.billed = lambda state: 5.0
    assert not budget.spending("glue/job/run", JobState("SUCCEEDED", "done")).is_over
    hours = budget.for_training(recipe).train.sagemaker.max_run_hours
    assert hours * planned.training_usd_per_hour + 5.0 == pytest.approx(110.0)
    rich = budget_of(recipe, 1e6)
    assert rich.for_data(recipe).data == recipe.data
    assert rich.for_training(recipe).train == recipe.train
    with pytest.raises(BudgetError):
        budget_of(recipe, 99.0)


def test_the_meter_counts_all_machines_since_the_job_began_and_the_bill_once_it_has_ended() -> None:
    budget = budget_of(load_recipe(DOMAIN), 110.0)
    budget.planned = RunBudget(data_usd=2.0, data_usd_per_hour=8.8, training_usd=98.0, training_usd_per_hour=12.0)
    budget.now = lambda: 7200.0 + 1000.0
    queued = budget.spending("glue/job/run", JobState("STARTING", "waiting"))
    assert queued.words == "at most 0.00 of 110.00 USD"
    running = JobState("RUNNING", "waiting", started_at=1000.0)
    assert budget.spending("glue/job/run", running).words == "at most 17.60 of 110.00 USD"
    # It used fewer workers than it might have: what Glue says counts.
    ended = JobState("SUCCEEDED", "done", started_at=1000.0, usage=(Usage("glue", "dpu", 20.0, "DPU-hour"),))
    assert budget.spending("glue/job/run", ended).words == "at most 8.80 of 110.00 USD"
    assert budget.spending("training/t", running).words == "at most 32.80 of 110.00 USD"
    budget.now = lambda: 9 * 3600.0 + 1000.0
    assert budget.spending("training/t", running).is_over
    with pytest.raises(BudgetError, match="is spent"):
        budget.for_training(load_recipe(DOMAIN))


def test_a_data_job_of_unknown_cost_is_within_no_budget() -> None:
    with pytest.raises(CostError, match=r"cost\.data_gb is 0.*glue"):
        budget_of(load_recipe(DOMAIN, overrides=("cost.data_gb=0",)), 1e6)
    with pytest.raises(CostError, match=r"'R\.9X' is not known"):
        budget_of(load_recipe(DOMAIN, overrides=("data.aws.worker_type=R.9X",)), 1e6)


def test_a_run_on_this_machine_costs_nothing_and_is_never_refused() -> None:
    recipe = load_recipe(DOMAIN, overrides=("train.launcher=local", "data.engine=embedded"))
    budget = budget_of(recipe, 0.0)
    assert budget.planned.planned_usd == 0
    assert budget.for_data(recipe) is budget.for_training(recipe) is recipe

"""Every alarm that Terraform makes looks at what exists, fires once and recovers, and has a page to follow."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexus_llm.cloud.data_submit import plan_of
from nexus_llm.observe.alarms import CompositeAlarm, MetricAlarm, State, composite_holds, history, points
from nexus_llm.observe.contract import broken, shipped
from nexus_llm.observe.metric_math import evaluated
from nexus_llm.observe.objectives import OBJECTIVES, TIERS
from nexus_llm.observe.runbooks import Runbook, read_runbook
from nexus_llm.observe.terraform import composite_alarms, emitted_by, metric_alarms, named_by, resources_of
from nexus_llm.recipe import Recipe
from terraform_here import INFRA, copy_of_infra, mocked

pytestmark = [pytest.mark.xdist_group("infrastructure_plans"), pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
SPENDING = ("aws_budgets_budget", "aws_ce_anomaly_subscription")
# One period's samples of an alarm's metrics, when all is well and when it is not, by the end of the alarm's name.
Samples = dict[str, list[float]]
GOOD_AND_BAD: dict[str, tuple[Samples, Samples]] = {
    "error-rate": (
        {"ErrorCount": [0.0] * 100, "RequestCount": [1.0] * 100},
        {"ErrorCount": [1.0] * 6, "RequestCount": [1.0] * 100},
    ),
    "5xx": (
        {"HTTPCode_ELB_5XX_Count": [], "HTTPCode_Target_5XX_Count": [], "RequestCount": [1.0] * 100},
        {"HTTPCode_ELB_5XX_Count": [1.0] * 3, "HTTPCode_Target_5XX_Count": [1.0] * 3, "RequestCount": [1.0] * 100},
    ),
    "first-token": ({"TimeToFirstToken": [0.4] * 20}, {"TimeToFirstToken": [0.4] * 18 + [2.5] * 2}),
    "queue-depth": ({"QueueDepth": [0.0] * 4}, {"QueueDepth": [40.0] * 4}),
    "scale-wake": (
        {"HTTPCode_ELB_503_Count": [], "RunningTaskCount": [1.0]},
        {"HTTPCode_ELB_503_Count": [1.0], "RunningTaskCount": []},
    ),
    "blocked": ({"BlockedRequests": [1.0]}, {"BlockedRequests": [1_000_000.0]}),
    "gpu-capacity": ({"CapacityProviderReservation": [100.0]}, {"CapacityProviderReservation": [200.0]}),
    "keys-capacity": ({"ACUUtilization": [30.0]}, {"ACUUtilization": [95.0]}),
    "unhealthy-blue": ({"UnHealthyHostCount": [0.0]}, {"UnHealthyHostCount": [1.0]}),
    "unhealthy-green": ({"UnHealthyHostCount": [0.0]}, {"UnHealthyHostCount": [1.0]}),
    "build-failed": ({"FailedBuilds": [0.0]}, {"FailedBuilds": [1.0]}),
    "devbox-idle": ({"CPUUtilization": [60.0]}, {"CPUUtilization": [0.5]}),
    "replication-data": ({"OperationsFailedReplication": [0.0]}, {"OperationsFailedReplication": [2.0]}),
    "replication-models": ({"OperationsFailedReplication": [0.0]}, {"OperationsFailedReplication": [2.0]}),
    **{
        name: ({name: []}, {name: [1.0]})
        for name in ("root-used", "trail-changed", "key-endangered", "bucket-opened", "console-without-mfa")
    },
}


@pytest.fixture(scope="module")
def made(planned: Callable[[str], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What all stages with all their parts make: plans of serving and delivery, a mocked platform."""
    found = [
        dict(one) for name in ("serving-gpu", "serving-standard", "delivery") for one in resources_of(planned(name))
    ]
    platform = mocked(copy_of_infra(tmp_path_factory.mktemp("platform")), "1-platform", "platform.tftest.hcl")
    return found + [{"unknown": {}, **one} for one in platform]


@pytest.fixture(scope="module")
def alarms(made: list[dict[str, Any]]) -> dict[str, MetricAlarm]:
    return {alarm.name: alarm for alarm in metric_alarms(made)}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def runbooks() -> list[Runbook]:
    return [read_runbook(path) for path in sorted(RUNBOOKS.glob("*.md")) if path.stem != "index"]


def samples(alarm: MetricAlarm) -> tuple[Samples, Samples]:
    if "-slo-" in alarm.name:
        if "availability" in alarm.name:
            return GOOD_AND_BAD["error-rate"]
        late = {"first-token": 2.5, "answer": 31.0}["first-token" if "first-token" in alarm.name else "answer"]
        (name,) = {metric.name for metric in alarm.metrics}
        return {name: [0.4] * 100}, {name: [0.4] * 10 + [late] * 90}
    if "nat-ports" in alarm.name:
        return {"ErrorPortAllocation": [0.0]}, {"ErrorPortAllocation": [3.0]}
    return max(
        ((end, both) for end, both in GOOD_AND_BAD.items() if alarm.name.endswith(end)), key=lambda one: len(one[0])
    )[1]


def test_every_alarm_of_every_module_is_looked_at_here(made: list[dict[str, Any]]) -> None:
    kinds = ("aws_cloudwatch_metric_alarm", "aws_cloudwatch_composite_alarm", "aws_cloudwatch_dashboard")
    declared = {
        (kind, name)
        for path in INFRA.glob("modules/*/*.tf")
        for kind, name in re.findall(r'^resource "(\w+)" "(\w+)"', path.read_text(), re.MULTILINE)
        if kind in kinds
    }
    assert {(one["type"], one["name"]) for one in made if one["type"] in kinds} == declared


def test_every_metric_that_is_looked_at_is_emitted(made: list[dict[str, Any]]) -> None:
    emitted = shipped()
    emitted["cloudwatch"] |= emitted_by(made)  # type: ignore[arg-type]
    named = named_by(made)  # type: ignore[arg-type]
    assert len(named) > 60
    assert broken(named, emitted) == []
    del emitted["cloudwatch"]["NexusLLM/API/QueueDepth"]
    assert len(broken(named, emitted)) >= 3  # an alarm, a scaling policy, a panel


def test_every_alarm_fires_and_recovers(alarms: dict[str, MetricAlarm]) -> None:
    for alarm in alarms.values():
        good, bad = samples(alarm)
        many = alarm.evaluation_periods + 3
        series = [good] * many + [bad] * many + [good] * many
        found = points(alarm, {name: [one[name] for one in series] for name in good})
        states = history(alarm, found, start="OK")
        assert states[many - 1] == "OK", alarm.name
        assert states[2 * many - 1] == "ALARM", alarm.name
        assert states[-1] == "OK", alarm.name
        assert states.index("ALARM") == many + alarm.datapoints_to_alarm - 1, alarm.name


def test_silence_is_no_alarm_and_ends_one(alarms: dict[str, MetricAlarm]) -> None:
    """A service may sleep. A stopped box keeps its state, and a database that vanished is not called well."""
    silent: dict[str, State] = {}
    for alarm in alarms.values():
        _, bad = samples(alarm)
        series = [bad] * 20 + [{name: [] for name in bad}] * 20
        silent[alarm.name] = history(alarm, points(alarm, {name: [one[name] for one in series] for name in bad}))[-1]
    spoken = {name: state for name, state in silent.items() if state != "OK"}
    assert {re.sub(r"^.*-(?=keys-|devbox-)", "", name): state for name, state in spoken.items()} == {
        "keys-capacity": "INSUFFICIENT_DATA",
        "devbox-idle": "ALARM",
    }


def test_composites_need_both_windows_of_a_pair(made: list[dict[str, Any]], alarms: dict[str, MetricAlarm]) -> None:
    composites = composite_alarms(made)  # type: ignore[arg-type]
    assert len({one.name for one in composites}) == 2 * 2 * len(OBJECTIVES)
    for one in composites:
        names = re.findall(r'ALARM\("([^"]+)"\)', one.rule)
        pairs = list(zip(names[::2], names[1::2], strict=True))
        assert len(pairs) == 2
        calm: dict[str, State] = dict.fromkeys(alarms, "OK")
        assert not composite_holds(one.rule, calm)
        for long, short in pairs:
            assert (long.endswith("-long"), short) == (True, f"{long.removesuffix('-long')}-short")
            assert composite_holds(one.rule, {**calm, long: "ALARM", short: "ALARM"})
            assert not composite_holds(one.rule, {**calm, long: "ALARM"})
            assert not composite_holds(one.rule, {**calm, short: "ALARM"})


def test_terraform_and_prometheus_promise_the_same(alarms: dict[str, MetricAlarm]) -> None:
    """Thresholds are the tier's burn rate times the budget; windows are the tiers', of at most a day in CloudWatch."""
    for objective in OBJECTIVES:
        found = {
            alarm.name.rpartition(f"{objective.name}-")[2]: alarm
            for alarm in alarms.values()
            if f"-slo-{objective.name}-" in alarm.name
        }
        for tier, name in zip(TIERS, ("hour", "quarter", "day", "three-days"), strict=True):
            for length in ("long", "short"):
                alarm = found[f"{name}-{length}"]
                assert alarm.threshold == pytest.approx(100 * tier.burn_rate * objective.budget_share)
                assert alarm.period_seconds * alarm.evaluation_periods == {
                    "1h": 3600, "5m": 300, "6h": 21_600, "30m": 1800, "1d": 86_400, "2h": 7200, "3d": 259_200
                }[getattr(tier, length)]  # fmt: skip
                assert alarm.period_seconds <= 86_400


def test_every_alarm_names_its_page_and_the_page_names_it(
    made: list[dict[str, Any]], alarms: dict[str, MetricAlarm], runbooks: list[Runbook]
) -> None:
    every: list[MetricAlarm | CompositeAlarm] = [*alarms.values(), *composite_alarms(made)]  # type: ignore[arg-type]
    told = {alarm.name: alarm.description for alarm in every}
    rules = [one for one in made if one["type"] == "aws_cloudwatch_event_rule"]
    told |= {one["values"]["name"]: one["values"]["description"] for one in rules}
    assert len(told) == len(every) + len(rules)
    for name, description in told.items():
        found = re.search(r" Runbook: docs/runbooks/([a-z-]+)\.md$", description)
        assert found, name
        assert found[1] in [one.name for one in runbooks if one.answers(name)], name


def test_what_aws_writes_about_spending_has_a_page_too(made: list[dict[str, Any]], runbooks: list[Runbook]) -> None:
    found = {one["values"]["name"] for one in made if one["type"] in SPENDING}
    assert len(found) == 2
    assert {page.name for name in found for page in runbooks if page.answers(name)} == {"cost-overrun"}


def test_a_failed_run_of_a_job_that_nexus_made_on_glue_is_heard_of(made: list[dict[str, Any]]) -> None:
    (rule,) = [one for one in made if one["address"].endswith("catalog.module.failed.aws_cloudwatch_event_rule.this")]
    heard = json.loads(rule["values"]["event_pattern"])["detail"]["jobName"]
    source = {"type": "files", "path": "s3://b/text/", "name": "own"}
    aws = {"bucket": "b", "role_arn": "arn:aws:iam::123456789012:role/glue"}
    recipe = Recipe.model_validate({"name": "demo", "data": {"sources": [source], "engine": "glue", "aws": aws}})
    plan = plan_of(recipe, "0" * 16)
    assert any(plan.name.startswith(one["prefix"]) for one in heard if isinstance(one, dict))
    (job,) = [one["values"] for one in made if one["type"] == "aws_glue_job"]
    assert job["command"][0]["script_location"].endswith(plan.script.removeprefix("s3://b"))
    assert job["default_arguments"]["--additional-python-modules"].endswith(plan.wheels.removeprefix("s3://b"))


def test_every_alarm_that_a_page_names_is_made(
    made: list[dict[str, Any]], alarms: dict[str, MetricAlarm], runbooks: list[Runbook]
) -> None:
    rules = {f"slo-{one.name}-{tier.severity}" for one in OBJECTIVES for tier in TIERS}
    rules |= {"engine-down", "engine-restarts", "cache-full"}
    composites = {one.name for one in composite_alarms(made)}  # type: ignore[arg-type]
    rules |= {one["values"]["name"] for one in made if one["type"] in (*SPENDING, "aws_cloudwatch_event_rule")}
    for page in runbooks:
        for pattern in page.alarms:
            one = Runbook(page.name, (pattern,), {}, (), ())
            assert any(one.answers(name) for name in (*alarms, *composites, *rules)), f"{page.name}: {pattern}"


STEP_SECONDS = 300
DAY = 86_400 // STEP_SECONDS
REQUESTS = 1_000.0
"""In each step of a simulation."""


def simulated(alarms: dict[str, MetricAlarm], rules: list[CompositeAlarm], bad: list[float]) -> dict[str, list[bool]]:
    """Whether page and ticket of the availability are on, after each step of so many failures, by sliding windows."""
    states: dict[str, list[State]] = {}
    for name, alarm in alarms.items():
        if "-standard-slo-availability-" in name:
            stride = alarm.period_seconds // STEP_SECONDS

            def windows(values: list[float], stride: int = stride) -> list[float | None]:
                sums = [0.0, *itertools.accumulate(values)]
                return [sums[end] - sums[max(0, end - stride)] for end in range(1, len(sums))]

            series = {"part": windows(bad), "all": windows([REQUESTS] * len(bad))}
            states[name] = history(alarm, list(evaluated(alarm.expression, series)), stride=stride)  # type: ignore[arg-type]
    return {
        rule.name.rpartition("-")[2]: [
            composite_holds(rule.rule, {name: one[step] for name, one in states.items()}) for step in range(len(bad))
        ]
        for rule in rules
        if "-standard-slo-availability-" in rule.name
    }


@pytest.fixture(scope="module")
def burn(made: list[dict[str, Any]], alarms: dict[str, MetricAlarm]) -> Callable[[list[float]], dict[str, list[bool]]]:
    rules = composite_alarms(made)  # type: ignore[arg-type]
    return functools.partial(simulated, alarms, rules)


def test_thirty_days_at_half_the_budget_alarm_nobody(burn: Callable[[list[float]], dict[str, list[bool]]]) -> None:
    generator = np.random.default_rng(1)
    told = burn(generator.binomial(int(REQUESTS), 0.000_5, size=30 * DAY).astype(float).tolist())
    assert sum(told["page"]) == 0
    assert sum(told["ticket"]) == 0


@pytest.mark.parametrize(
    ("burn_rate", "severity", "most_hours"),
    [
        (1000, "page", 0.1),
        (100, "page", 0.2),
        (20, "page", 1),
        (7, "page", 6),
        (3.5, "ticket", 24),
        (1.5, "ticket", 72),
    ],
)
def test_a_budget_that_goes_too_fast_is_told_before_a_seventh_of_it_is_gone(
    burn: Callable[[list[float]], dict[str, list[bool]]], burn_rate: float, severity: str, most_hours: float
) -> None:
    quiet, share = 4 * DAY, min(1.0, burn_rate * 0.001)
    told = burn([0.0] * quiet + [share * REQUESTS] * 4 * DAY)
    assert not any(told[severity][:quiet])
    steps = told[severity][quiet:].index(True) + 1
    assert steps * STEP_SECONDS <= most_hours * 3600 + STEP_SECONDS
    assert steps / (30 * DAY) * burn_rate <= 1 / 7


def test_a_page_ends_soon_after_its_cause(burn: Callable[[list[float]], dict[str, list[bool]]]) -> None:
    told = burn([0.0] * DAY + [0.5 * REQUESTS] * 6 + [0.0] * DAY)  # half an hour of 50 %
    last = max(step for step, on in enumerate(told["page"]) if on)
    assert (last - DAY - 6) * STEP_SECONDS <= 45 * 60


def test_a_blip_wakes_nobody(burn: Callable[[list[float]], dict[str, list[bool]]]) -> None:
    told = burn([0.0] * DAY + [0.1 * REQUESTS] + [0.0] * DAY)  # five minutes of 10 %: 1.2 % of the budget
    assert sum(told["page"]) == 0

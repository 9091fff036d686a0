"""Rows of a preflight, from needs and facts alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.deploy import needs as sizes
from nexus_llm.deploy import quotas
from nexus_llm.deploy.checks import Check, document
from nexus_llm.deploy.facts import Caller, Facts, MachineFact, NotKnown, QuotaFact, SubnetFact
from nexus_llm.deploy.needs import ENVIRONMENTS, EnvironmentName, Needs, Platform, Serving, needs_of
from nexus_llm.deploy.preflight import Local, preflight
from nexus_llm.deploy.quotas import Quota
from nexus_llm.errors import UsageError
from nexus_llm.recipe import Recipe

INFRA = Path(__file__).parents[2] / "infra"
REGION = "eu-central-1"
ZONES = ("eu-central-1a", "eu-central-1b", "eu-central-1c")
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/nexus-small"
PLATFORM = Platform(
    "nexus-small", REGION, "123456789012", ("subnet-1", "subnet-2"), {"serve": f"{ECR}/serve", "train": f"{ECR}/train"}
)
LOCAL = Local("folder", True, 200, 100.0)
DENIED = NotKnown("not allowed: cloudwatch:GetMetricStatistics", "give the caller cloudwatch:GetMetricStatistics")


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate({"name": "demo", "model": {"base": "."}, **sections})


ON_GPU = recipe(
    serve={"engine": "vllm"}, train={"launcher": "sagemaker", "sagemaker": {"instance_type": "ml.p4d.24xlarge"}}
)


def plenty(needs: Needs) -> Facts:
    """An account that has everything."""
    kinds = {"g6.xlarge": MachineFact(4, 1), "g6.12xlarge": MachineFact(48, 4)}
    subnets = tuple(SubnetFact(f"subnet-{one}", ZONES[one - 1], 4000) for one in (1, 2))
    return Facts(
        region=REGION,
        known_regions=("eu-central-1", "eu-south-2", "eu-west-1", "us-east-1"),
        caller=Caller("123456789012", "arn:aws:iam::123456789012:user/ana"),
        region_status={REGION: "opt-in-not-required", "eu-west-1": "opted-in", "eu-south-2": "not-opted-in"},
        zones=ZONES,
        quotas={one.quota: QuotaFact(one.quota.code or "L-1", one.quota.name, 1000.0, 0.0) for one in needs.quotas},
        machines=kinds,
        offered=dict.fromkeys(needs.machines, ZONES),
        subnets=subnets,
        image_id="ami-1",
        images=dict.fromkeys(needs.images, True),
        buckets=dict.fromkeys(needs.buckets, True),
    )


def with_quota(facts: Facts, quota: Quota, value: float, used: Any = 0.0, *, is_adjustable: bool = True) -> Facts:
    fact = QuotaFact(quota.code or "L-1", quota.name, value, used, is_adjustable)
    return replace(facts, quotas={**facts.quotas, quota: fact})


def row(checks: tuple[Check, ...], name: str) -> Check:
    return next(one for one in checks if one.name.startswith(name))


def test_an_account_that_has_everything_passes_with_one_row_for_each_question() -> None:
    needs = needs_of(ON_GPU, "small", platform=PLATFORM, serving_variables={"gpu": {"max_instances": 16}})
    checks = preflight(needs, plenty(needs), LOCAL)
    assert document(checks)["verdict"] == "ok", [one for one in checks if one.verdict != "ok"]
    assert len({one.name for one in checks}) == len(checks)
    assert all(one.needed and one.found and not one.fix for one in checks)


# Quotas.


def test_a_quota_that_is_too_small_comes_with_the_whole_command_that_raises_it() -> None:
    needs = needs_of(ON_GPU, "small")
    checks = preflight(needs, with_quota(plenty(needs), quotas.G_ON_DEMAND, 4, 4.0), LOCAL)
    found = row(checks, "serving: Running On-Demand G and VT")
    assert (found.verdict, found.needed, found.found) == ("fail", "8 vCPU, up to 32", "4 vCPU, 4 in use")
    # 8 tasks of 4 vCPU twice, beside the 4 that are in use: one request serves this row and the rollout's.
    assert found.fix == (
        "aws service-quotas request-service-quota-increase --service-code ec2 --quota-code L-DB2E81BA "
        "--desired-value 68 --region eu-central-1"
    )
    assert row(checks, "rollout headroom: Running").fix == found.fix


def test_a_quota_for_the_service_alone_still_fails_the_rollout() -> None:
    needs = needs_of(recipe(), "small")
    checks = preflight(needs, with_quota(plenty(needs), quotas.FARGATE, 12), LOCAL)
    assert row(checks, "serving: Fargate").verdict == "warn"  # carries two tasks, not all eight
    assert row(checks, "rollout headroom: Fargate").verdict == "fail"


def test_tasks_that_share_a_machine_count_its_vcpus_once() -> None:
    variables = {"gpu": {"instance_type": "g6.12xlarge", "max_instances": 4}, "tasks": {"min": 3, "max": 8}}
    needs = needs_of(ON_GPU, "small", serving_variables=variables)
    checks = preflight(needs, plenty(needs), LOCAL)
    assert row(checks, "serving: Running").needed == "48 vCPU, up to 96"
    assert row(checks, "rollout headroom: scaling group").verdict == "ok"


def test_a_scaling_group_without_room_for_green_fails() -> None:
    needs = needs_of(ON_GPU, "small", serving_variables={"gpu": {"max_instances": 3}})
    found = row(preflight(needs, plenty(needs), LOCAL), "rollout headroom: scaling group")
    assert found.verdict == "fail"
    assert "max_instances = 16" in found.fix


def test_what_runs_already_may_be_this_platforms_own() -> None:
    without, platform = needs_of(ON_GPU, "small"), needs_of(ON_GPU, "small", platform=PLATFORM)
    for needs, verdict in ((without, "fail"), (platform, "warn")):
        facts = with_quota(plenty(needs), quotas.G_ON_DEMAND, 16, 16.0)
        assert row(preflight(needs, facts, LOCAL), "serving: Running").verdict == verdict


def test_use_that_may_not_be_seen_leaves_a_large_quota_unknown_and_a_small_one_failed() -> None:
    needs = needs_of(recipe(), "small")
    for value, verdict in ((1000, "unknown"), (1, "fail")):
        found = row(preflight(needs, with_quota(plenty(needs), quotas.FARGATE, value, DENIED), LOCAL), "serving: F")
        assert found.verdict == verdict
        assert ("cloudwatch:GetMetricStatistics" in found.fix) == (verdict == "unknown")


def test_a_quota_that_aws_never_raises_is_not_asked_for() -> None:
    needs = needs_of(recipe(), "small")
    facts = with_quota(plenty(needs), quotas.FARGATE, 1, is_adjustable=False)
    assert "another region" in row(preflight(needs, facts, LOCAL), "serving: F").fix


def test_a_training_type_without_a_quota_does_not_exist_there() -> None:
    needs = needs_of(ON_GPU, "small")
    facts = plenty(needs)
    spot = quotas.training_quota("ml.p4d.24xlarge", is_spot=True)
    found = row(preflight(needs, replace(facts, quotas={**facts.quotas, spot: None}), LOCAL), "train job")
    assert (found.name, found.verdict) == ("train job: ml.p4d.24xlarge for spot training job usage", "fail")
    assert "train.sagemaker.instance_type" in found.fix


def test_a_queue_that_no_job_of_the_recipe_uses_is_only_warned_of() -> None:
    for engine, verdict in (("embedded", "warn"), ("batch", "fail")):
        needs = needs_of(recipe(data={"engine": engine}), "small")
        facts = with_quota(plenty(needs), quotas.STANDARD_SPOT, 5)
        assert row(preflight(needs, facts, LOCAL), "Batch queue cpu: All").verdict == verdict


@given(
    value=st.integers(0, 200),
    used=st.integers(0, 200),
    has_platform=st.booleans(),
    unseen=st.sampled_from([None, DENIED]),
)
def test_no_quota_passes_that_cannot_hold_the_service(value: int, used: int, has_platform: bool, unseen: Any) -> None:
    needs = needs_of(recipe(), "small", platform=PLATFORM if has_platform else None)
    facts = with_quota(plenty(needs), quotas.FARGATE, value, unseen or float(used))
    found = row(preflight(needs, facts, LOCAL), "serving: Fargate")
    if value < 8:
        assert found.verdict == "fail"
    elif not unseen:
        assert (found.verdict == "ok") == (value - used >= 32)
    assert bool(found.fix) == (found.verdict != "ok")


def test_quotas_without_a_confirmed_code_are_looked_up_by_name() -> None:
    assert quotas.machine_quota("p5.48xlarge", is_spot=True).code is None
    assert quotas.machine_quota("p5.48xlarge", is_spot=False).code == "L-417A185B"
    assert quotas.machine_quota("p4d.24xlarge", is_spot=True).code == "L-7212CCBC"
    assert quotas.machine_quota("gr6.4xlarge", is_spot=False).code == "L-DB2E81BA"
    assert quotas.machine_quota("im4gn.large", is_spot=False).code == "L-1216C47A"
    with pytest.raises(UsageError, match=r"trn1\.2xlarge"):
        quotas.machine_quota("trn1.2xlarge", is_spot=False)


# Who, where.


def test_the_wrong_account_fails() -> None:
    needs = needs_of(recipe(), "small", account_id="999999999999")
    found = row(preflight(needs, plenty(needs), LOCAL), "account")
    assert (found.verdict, found.found) == ("fail", "signed in to 123456789012")


@pytest.mark.parametrize(
    ("region", "fix"),
    [
        ("eu-central1", "--region eu-central-1"),
        ("eu-south-2", "aws account enable-region --region-name eu-south-2"),
        (None, "AWS_REGION"),
    ],
)
def test_a_region_that_is_missing_misspelt_or_not_enabled_fails(region: str | None, fix: str) -> None:
    needs = needs_of(recipe(), "small")
    found = row(preflight(needs, replace(plenty(needs), region=region), LOCAL), "region")
    assert found.verdict == "fail"
    assert fix in found.fix


def test_the_region_of_the_copies_has_to_be_enabled_too() -> None:
    needs = needs_of(recipe(), "regulated")
    facts = replace(plenty(needs), region_status={REGION: "opted-in", "eu-west-1": "not-opted-in"})
    assert row(preflight(needs, facts, LOCAL), "region of the copies").verdict == "fail"


def test_a_job_in_another_region_than_the_platform_is_warned_of() -> None:
    other = recipe(train={"launcher": "sagemaker", "sagemaker": {"region": "us-east-1"}})
    needs = needs_of(other, "small")
    assert row(preflight(needs, plenty(needs), LOCAL), "train.sagemaker.region").verdict == "warn"


# Machines, network, images, buckets.


@pytest.mark.parametrize(
    ("offered", "verdict", "fix"),
    [
        (ZONES, "ok", ""),
        (("eu-central-1b",), "warn", "fewer zones"),
        (("eu-central-1c",), "fail", "--zones with some of eu-central-1c"),
        ((), "fail", "another --region"),
    ],
)
def test_a_machine_type_that_the_zones_do_not_offer(offered: tuple[str, ...], verdict: str, fix: str) -> None:
    needs = needs_of(ON_GPU, "small", serving_variables={"gpu": {"max_instances": 16}})
    facts = plenty(needs)
    facts = replace(facts, subnets=NotKnown("not asked", ""), offered={**facts.offered, "g6.xlarge": offered})  # type: ignore[dict-item]
    needs = replace(needs, machines={"g6.xlarge": "serving"})
    found = row(preflight(needs, facts, LOCAL), "serving: machine types")
    assert found.verdict == verdict
    assert fix in found.fix


def test_zones_that_are_chosen_are_the_ones_looked_at() -> None:
    needs = needs_of(ON_GPU, "small", zones=["eu-central-1b", "eu-central-1c"])
    facts = replace(plenty(needs), subnets=NotKnown("not asked", ""), offered={"g6.xlarge": ("eu-central-1c",)})
    assert "eu-central-1b, eu-central-1c" in row(preflight(needs, facts, LOCAL), "serving: machine types").needed
    gone = replace(facts, zones=ZONES[:2])
    assert row(preflight(needs, gone, LOCAL), "availability zones").verdict == "fail"


def test_a_region_with_too_few_zones_fails() -> None:
    needs = needs_of(recipe(), "standard")
    found = row(preflight(needs, replace(plenty(needs), zones=ZONES[:2]), LOCAL), "availability zones")
    assert (found.verdict, found.needed) == ("fail", "3 zones")


@pytest.mark.parametrize(
    ("subnets", "words"),
    [
        ((SubnetFact("subnet-1", ZONES[0], 4000),), "subnet-2 does not exist"),
        ((SubnetFact("subnet-1", ZONES[0], 4000), SubnetFact("subnet-2", ZONES[1], 15)), "15 in subnet-2"),
    ],
)
def test_a_subnet_that_is_gone_or_full_fails(subnets: tuple[SubnetFact, ...], words: str) -> None:
    needs = needs_of(recipe(), "small", platform=PLATFORM)
    found = row(preflight(needs, replace(plenty(needs), subnets=subnets), LOCAL), "subnet addresses")
    assert (found.verdict, found.needed[:7]) == ("fail", "16 free")
    assert words in found.found


def test_an_image_that_is_missing_comes_with_how_to_push_it() -> None:
    needs = needs_of(recipe(), "small", platform=PLATFORM, serving_variables={"gateway_version": ":1.2.0"})
    facts = replace(plenty(needs), images={f"{ECR}/serve:1.2.0": False})
    found = row(preflight(needs, facts, LOCAL), "image nexus-small/serve:1.2.0")
    assert found.verdict == "fail"
    assert f"--file containers/serve/Dockerfile --tag {ECR}/serve:1.2.0 ." in found.fix
    assert f"docker push {ECR}/serve:1.2.0" in found.fix


def test_a_missing_machine_image_fails() -> None:
    needs = needs_of(ON_GPU, "small")
    assert row(preflight(needs, replace(plenty(needs), image_id=None), LOCAL), "ECS GPU").verdict == "fail"


def test_a_bucket_that_the_platform_will_make_is_fine_and_any_other_missing_one_fails() -> None:
    own, other = "nexus-small-data-123456789012", "ACCOUNT-data"
    job = recipe(data={"engine": "glue", "aws": {"bucket": own}}, model={"base": f"s3://{other}/model"})
    needs = needs_of(job, "small")
    checks = preflight(needs, replace(plenty(needs), buckets={own: False, other: False}), LOCAL)
    assert row(checks, f"bucket {own}").verdict == "ok"
    assert row(checks, f"bucket {other}").verdict == "fail"
    later = needs_of(job, "small", platform=PLATFORM)  # it stands, and its bucket is gone
    checks = preflight(later, replace(plenty(later), buckets={own: False, other: True}), LOCAL)
    assert row(checks, f"bucket {own}").verdict == "fail"


# What is known here.


def test_a_budget_below_the_plan_fails_and_a_price_that_is_not_known_is_no_pass() -> None:
    needs = needs_of(recipe(), "small")
    for price, verdict in ((199.0, "ok"), (201.0, "fail"), (NotKnown("no price", "refresh"), "unknown")):
        local = replace(LOCAL, usd_per_month=price)  # type: ignore[arg-type]
        assert row(preflight(needs, plenty(needs), local), "price").verdict == verdict


def test_no_hub_is_asked_for_the_model() -> None:
    needs = needs_of(recipe(model={"base": "llama-3.1-8b-instruct"}), "small")
    found = row(preflight(needs, plenty(needs), replace(LOCAL, model_kind="catalogue")), "base model")
    assert (found.verdict, found.found[:9]) == ("unknown", "not asked")
    missing = replace(LOCAL, is_model_here=False)
    assert row(preflight(needs, plenty(needs), missing), "base model").verdict == "fail"


def test_an_incomplete_recipe_fails_only_once_the_platform_could_complete_it() -> None:
    local = replace(LOCAL, problems={"train job": NotKnown("no role_arn", "--set …")})
    for platform, verdict in ((None, "warn"), (PLATFORM, "fail")):
        needs = needs_of(recipe(), "small", platform=platform)
        assert row(preflight(needs, plenty(needs), local), "recipe: train job").verdict == verdict


def test_an_engine_that_no_stage_knows_fails() -> None:
    needs = needs_of(recipe(serve={"engine": "llama.cpp"}), "small")
    assert row(preflight(needs, plenty(needs), LOCAL), "serving engine").verdict == "fail"


def test_files_of_another_form_are_refused() -> None:
    with pytest.raises(UsageError, match=r"p\.json is no platform\.json \('region'"):
        Platform.of({"name": "x"}, place="p.json")
    with pytest.raises(UsageError, match="another form"):
        Serving.of(recipe(), {"tasks": {"min": "many"}})


def test_the_documents_verdict_is_the_worst_one() -> None:
    verdicts = {
        one: document([Check("a", "b", "c", "ok"), Check("a", "b", "c", one)])["verdict"] for one in ("ok", "warn")
    }
    assert verdicts == {"ok": "ok", "warn": "warn"}
    rows = [Check("a", "b", "c", one) for one in ("unknown", "fail", "warn")]  # type: ignore[arg-type]
    assert document(rows)["verdict"] == "fail"


# The sizes are those of infra/.


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_an_environment_is_as_large_as_its_variables_say(name: EnvironmentName) -> None:
    environment = ENVIRONMENTS[name]
    text = (INFRA / "environments" / name / "platform.tfvars").read_text()
    readme = (INFRA / "environments" / name / "README.md").read_text()
    zones = re.search(r"availability_zones=\[([^]]*)\]", readme)
    assert zones
    assert len(zones[1].split(",")) == environment.zones
    per_zone = re.search(r'nat\s*= "(\w+)"', text)[1] == "per_zone"  # type: ignore[index]
    assert environment.nat_gateways == (environment.zones if per_zone else 1)
    assert f"usd_per_month = {environment.budget_usd:g}" in text
    assert f'"nexus-{name}"' in text  # the prefix of its buckets
    assert re.findall(r'replica_region = "([^"]+)"', text) == [one for one in [environment.replica_region] if one]
    queues = text if "batch_queues" in text else (INFRA / "modules/batch/variables.tf").read_text()
    for kind, queue in environment.queues.items():
        found = re.search(rf"{kind} = {{ instance_types = \[([^]]*)\], max_vcpus = (\d+)", queues)
        assert found, kind
        assert (re.findall(r'"(\w+)"', found[1]), int(found[2])) == (list(queue.families), queue.max_vcpus)


def test_serving_is_as_large_as_the_stages_defaults() -> None:
    text = (INFRA / "stages/2-serving/variables.tf").read_text()
    plain = Serving("openvino")
    assert f"default = {{ cpu = {plain.vcpus_per_task * 1024:g}, " in text
    assert f"default = {{ min = {plain.min_tasks}, max = {plain.max_tasks} }}" in text
    assert f'optional(string, "{plain.machine}")' in text
    assert f"max_instances  = optional(number, {plain.max_machines})" in text
    assert f'"{sizes.GPU_IMAGE_PARAMETER}"' in (INFRA / "modules/serving-gpu-capacity/variables.tf").read_text()
    assert f'type = "VCPU", value = "{sizes.BATCH_JOB_VCPUS}"' in (INFRA / "modules/batch/jobs.tf").read_text()
    assert f'optional(string, "{sizes.JOB_IMAGE_TAG}")' in (INFRA / "stages/1-platform/variables.tf").read_text()

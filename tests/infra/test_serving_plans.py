"""What the plans of serving and delivery promise: how many resources, and the controls that a plan can prove."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from call_needs import needs
from infrastructure_controls import above_the_ceiling, ceiling_of
from infrastructure_plans import Resource, resources
from nexus_llm.deploy.authorization import Need
from nexus_llm.deploy.policies import recordings
from nexus_llm.deploy.policy_evaluation import is_allowed
from terraform_here import INFRA, copy_of_infra, run

pytestmark = [pytest.mark.xdist_group("infrastructure_plans"), pytest.mark.timeout(1800)]

VARIANTS = ("serving-small", "serving-standard", "serving-regulated", "serving-gpu", "delivery")
COUNTS = Path(__file__).parent / "serving_plan_counts.json"
METRICS = {
    "ResponseTime", "TokensGenerated", "ErrorCount", "RequestCount", "TimeToFirstToken", "QueueDepth",
    "RequestsInFlight",
}  # fmt: skip
"""All that the gateway sends to NexusLLM/API (docs: the project's design, HTTP and metrics)."""
UNKNOWN_POLICIES = {
    (one, "module.service.aws_iam_role_policy.task[0]") for one in VARIANTS if one not in ("serving-gpu", "delivery")
}
"""Names the database, whose id AWS invents; service.tftest.hcl looks at it."""
KEY = "key/00000000-0000-0000-0000-000000000001"
WILDCARDS = {
    "FindTheBalancer": "the describing actions of load balancing know no resources",
    "FindTheEndpoint": "ecs:DiscoverPollEndpoint knows no resources",
    "LogInToEcr": "ecr:GetAuthorizationToken knows no resources",
    "LookAtItsTasks": "ecs:ListTasks knows container instances alone, and tasks' ids are AWS' own; kept to the cluster",
    "RegisterTaskDefinitions": "what is registered has no ARN yet; ecs:DescribeTaskDefinition knows no resources",
    "SendTraces": "X-Ray's writing actions know no resources",
}
"""Statement → why its Resource is `*`."""

Plans = dict[str, list[Resource]]


@pytest.fixture(scope="module")
def plans(planned: Callable[[str], dict[str, Any]]) -> Plans:
    return {variant: resources(planned(variant)) for variant in VARIANTS}


def of_type(plans: Plans, *types: str) -> Iterator[tuple[str, Resource]]:
    found = [(variant, one) for variant, made in plans.items() for one in made if one.type in types]
    assert found, f"no plan has {types}"
    yield from found


def every(plans: Plans, kind: str, holds: Callable[[dict[str, Any]], object]) -> None:
    for variant, one in of_type(plans, kind):
        assert holds(one.values), f"{variant}: {one.address}"


def statements(plans: Plans) -> Iterator[tuple[str, dict[str, Any]]]:
    for variant, one in of_type(plans, "aws_iam_role_policy"):
        if (variant, one.address) not in UNKNOWN_POLICIES:
            for statement in json.loads(one.values["policy"])["Statement"]:
                yield f"{variant}: {one.address} {statement['Sid']}", statement


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_the_modules_suites_pass(tmp_path: Path) -> None:
    printed = run(copy_of_infra(tmp_path) / "tests" / "serving", "test", "-no-color").stdout
    assert "Success!" in printed
    assert " 0 failed" in printed
    used = {name for name in printed.split() if name.startswith('"')}
    assert len(used) > 25, "runs went missing"


def test_plans_have_as_many_resources_as_were_agreed(plans: Plans) -> None:
    counted = {variant: dict(sorted(Counter(one.type for one in found).items())) for variant, found in plans.items()}
    assert counted == json.loads(COUNTS.read_text(encoding="utf-8")), json.dumps(counted, indent=2)


def test_what_a_plan_cannot_show_is_known_by_name(plans: Plans) -> None:
    unknown = {
        (variant, one.address) for variant, one in of_type(plans, "aws_iam_role_policy") if one.unknown.get("policy")
    }
    assert unknown == UNKNOWN_POLICIES


def test_clients_are_served_over_tls_and_redirected_to_it(plans: Plans) -> None:
    for variant, one in of_type(plans, "aws_lb_listener"):
        if one.values["port"] == 80:
            assert one.values["default_action"][0]["redirect"][0]["protocol"] == "HTTPS", variant
        else:
            assert one.values["protocol"] == "HTTPS"
            assert one.values["ssl_policy"].startswith("ELBSecurityPolicy-TLS13-1-2-Res")


def test_all_that_rests_is_encrypted_with_the_platforms_key(plans: Plans) -> None:
    every(plans, "aws_cloudwatch_log_group", lambda one: one["kms_key_id"] and one["retention_in_days"] > 0)
    every(plans, "aws_rds_cluster", lambda one: one["storage_encrypted"] and one["kms_key_id"])
    every(plans, "aws_rds_cluster_instance", lambda one: one["performance_insights_kms_key_id"])
    every(plans, "aws_codebuild_project", lambda one: one["encryption_key"])
    every(plans, "aws_codepipeline", lambda one: one["artifact_store"][0]["encryption_key"][0]["type"] == "KMS")
    for _, one in of_type(plans, "aws_launch_template"):
        disks = [disk["ebs"][0] for disk in one.values["block_device_mappings"]]
        assert disks
        assert all(disk["encrypted"] == "true" and disk["kms_key_id"] for disk in disks)
    for _, one in of_type(plans, "aws_s3_bucket_server_side_encryption_configuration"):
        assert one.values["rule"][0]["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "aws:kms"


def test_nothing_but_the_balancer_has_a_public_address(plans: Plans) -> None:
    every(plans, "aws_ecs_service", lambda one: one["network_configuration"][0]["assign_public_ip"] is False)
    every(plans, "aws_rds_cluster_instance", lambda one: one["publicly_accessible"] is False)
    every(
        plans,
        "aws_launch_template",
        lambda one: one["network_interfaces"][0]["associate_public_ip_address"] == "false",
    )
    for variant, one in of_type(plans, "aws_vpc_security_group_ingress_rule"):
        if one.values["cidr_ipv4"] == "0.0.0.0/0":
            assert one.address.startswith("module.balancer."), f"{variant}: {one.address}"
            assert one.values["from_port"] in (80, 443)


def test_machines_insist_on_imdsv2(plans: Plans) -> None:
    every(plans, "aws_launch_template", lambda one: one["metadata_options"][0]["http_tokens"] == "required")


def test_targets_are_judged_by_readiness_and_drain_as_long_as_an_answer_may_take(plans: Plans) -> None:
    every(plans, "aws_lb_target_group", lambda one: one["health_check"][0]["path"] == "/ready")
    patience = {one.values["idle_timeout"] for _, one in of_type(plans, "aws_lb")}
    draining = {int(one.values["deregistration_delay"]) for _, one in of_type(plans, "aws_lb_target_group")}
    assert patience == draining == {300}


def test_containers_are_not_root_and_cannot_write_to_their_image(plans: Plans) -> None:
    task = next(one for variant, one in of_type(plans, "aws_ecs_task_definition") if variant == "serving-gpu")
    containers = {one["name"]: one for one in json.loads(task.values["container_definitions"])}
    assert sorted(containers) == ["engine", "gateway", "model", "tracing"]
    for name, one in containers.items():
        assert one["readonlyRootFilesystem"] is True, name
        assert one["user"] == "10001:10001", name
        assert not one["privileged"], name
        assert one["linuxParameters"]["capabilities"]["drop"] == ["ALL"], name
        assert one["logConfiguration"]["logDriver"] == "awslogs", name
    assert containers["gateway"]["secrets"] == [
        {"name": "UPSTREAM_KEY", "valueFrom": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:key-a1b2c3"}
    ]


def test_no_action_is_a_wildcard_and_every_wildcard_resource_has_a_reason(plans: Plans) -> None:
    used = set()
    for place, statement in statements(plans):
        assert statement["Effect"] == "Allow", place
        assert not [action for action in listed(statement["Action"]) if "*" in action], place
        if "*" in listed(statement["Resource"]):
            assert statement["Sid"] in WILDCARDS, f"{place} reaches everything, and nobody said why"
            used.add(statement["Sid"])
    assert used == set(WILDCARDS), "a reason that nothing needs any more"


def test_keys_are_used_only_through_the_service_that_they_were_given_for(plans: Plans) -> None:
    for place, statement in statements(plans):
        if any(action.startswith("kms:") for action in listed(statement["Action"])):
            assert "kms:ViaService" in statement["Condition"]["StringEquals"], place


def test_roles_are_passed_only_to_tasks(plans: Plans) -> None:
    passing = [(place, one) for place, one in statements(plans) if "iam:PassRole" in one["Action"]]
    assert len(passing) == 2
    for place, statement in passing:
        assert statement["Condition"]["StringEquals"]["iam:PassedToService"] == "ecs-tasks.amazonaws.com", place


def test_no_role_is_given_what_the_ceiling_takes_away(plans: Plans) -> None:
    ceiling = ceiling_of(INFRA, regions=("eu-central-1",))
    for variant, planned in plans.items():
        made = [asdict(one) for one in planned if (variant, one.address) not in UNKNOWN_POLICIES]
        assert above_the_ceiling(made, ceiling, region="eu-central-1") == [], variant
    # What the unknown policy grants is known all the same.
    assert is_allowed([ceiling], Need("rds-db:connect", "*"), {"aws:RequestedRegion": "eu-central-1"})


def test_the_task_s_role_allows_what_fetching_a_model_asks(plans: Plans, tmp_path: Path) -> None:
    pytest.importorskip("moto.server", reason="needs the dev extra: pip install 'moto[s3]' flask")
    from permission_rehearsal import emulated_account, model_fetched

    (task,) = [one for one in plans["serving-gpu"] if one.address == "module.service.aws_iam_role_policy.task[0]"]
    with emulated_account() as account:
        # Not the plan's: `nexus deploy` rolls others out to tasks with the same role.
        calls = model_fetched(account, "nexus-test-models", "package/0123456789abcdef", tmp_path)
    refused = [
        (call.operation, need)
        for call in calls
        for need in needs(call, recordings().reference, account="123456789012")
        if not is_allowed(
            [json.loads(task.values["policy"])],
            # The plan names one key, and a call cannot say which: any of the account stands for it.
            Need(need.action, need.resource.replace("key/*", KEY), need.condition),
            {"s3:prefix": next(call.values("Prefix"), "")},
        )
    ]
    assert {call.operation for call in calls} >= {"GetObject"}
    assert refused == []


def test_services_can_be_assumed_only_for_this_account(plans: Plans) -> None:
    for variant, one in of_type(plans, "aws_iam_role"):
        (statement,) = json.loads(one.values["assume_role_policy"])["Statement"]
        if statement["Principal"]["Service"] != "ec2.amazonaws.com":  # EC2 sends no source account
            condition = statement["Condition"]["StringEquals"]
            assert condition == {"aws:SourceAccount": "123456789012"}, f"{variant}: {one.address}"


def test_alarms_and_policies_name_only_metrics_that_the_gateway_sends(plans: Plans) -> None:
    named = set()
    for _, one in of_type(plans, "aws_cloudwatch_metric_alarm"):
        queries = [query["metric"][0] for query in one.values["metric_query"] if query["metric"]]
        for metric in [one.values, *queries]:
            if metric["namespace"] == "NexusLLM/API":
                named.add(metric["metric_name"])
                assert set(metric["dimensions"]) == {"Service"}, one.address
    for _, one in of_type(plans, "aws_appautoscaling_policy"):
        for tracking in one.values["target_tracking_scaling_policy_configuration"]:
            (metric,) = tracking["customized_metric_specification"]
            assert metric["namespace"] == "NexusLLM/API"
            named.add(metric["metric_name"])
    assert named == METRICS - {"TokensGenerated"}
    assert named <= METRICS


def test_every_alarm_says_what_it_means_and_tells_somebody(plans: Plans) -> None:
    for variant, one in of_type(plans, "aws_cloudwatch_metric_alarm"):
        assert len(one.values["alarm_description"]) > 40, f"{variant}: {one.address}"
        # Windows of an objective speak through their composites: test_alarms.py.
        others = one.address.startswith(("module.scaling.", "module.objectives.aws_cloudwatch_metric_alarm.window"))
        assert others or one.values["alarm_actions"], f"{variant}: {one.address}"


def test_an_error_rate_is_a_rate(plans: Plans) -> None:
    alarms = [
        one
        for _, one in of_type(plans, "aws_cloudwatch_metric_alarm")
        if one.values["alarm_name"].endswith(("-error-rate", "-5xx"))
    ]
    assert len(alarms) == 2 * sum(variant.startswith("serving-") for variant in VARIANTS)
    for one in alarms:
        (expression,) = [query["expression"] for query in one.values["metric_query"] if query["expression"]]
        assert "/ requests" in expression


def test_costs_can_be_told_apart(plans: Plans) -> None:
    for variant, found in plans.items():
        for one in found:
            if "tags_all" in one.values:
                assert {"project", "environment", "stage"} <= set(one.values["tags_all"]), f"{variant}: {one.address}"

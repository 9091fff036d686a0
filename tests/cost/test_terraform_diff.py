from __future__ import annotations

from typing import Any

import pytest

from cost_ground import SHIPPED
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.cost.terraform_diff import PlanDiff, plan_diff
from nexus_llm.errors import CostError

PRICING = Pricing(SHIPPED, "us-east-1")


def change(kind: str, name: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    return {"address": f"module.x.{kind}.{name}", "type": kind, "mode": "managed",
            "change": {"actions": [], "before": before, "after": after}}  # fmt: skip


def diff(*changes: dict[str, Any]) -> PlanDiff:
    return plan_diff({"resource_changes": list(changes)}, PRICING)


def test_what_comes_goes_and_stays_adds_up() -> None:
    found = diff(
        change("aws_nat_gateway", "a", None, {}),
        change("aws_lb", "a", {}, {}),
        change("aws_instance", "old", {"instance_type": "g5.xlarge"}, None),
        change("aws_vpc_endpoint", "logs", None, {"vpc_endpoint_type": "Interface", "subnet_ids": ["a", "b"]}),
        change("aws_vpc_endpoint", "s3", None, {"vpc_endpoint_type": "Gateway"}),
        change("aws_iam_role", "a", None, {}),
        change("aws_kms_key", "a", None, {}),
    ).as_document()
    assert found["before_usd_per_month"] == 750.81  # 730 x (1.006 + 0.0225) = 734.38 + 16.43
    assert found["after_usd_per_month"] == 64.88  # 32.85 + 16.43 + 14.60 + 1.00
    assert found["resources"][0]["address"] == "module.x.aws_instance.old"
    assert found["not_priced"] == []


def test_fargate_tasks_cost_what_their_definition_asks_for() -> None:
    task = change("aws_ecs_task_definition", "t", None, {"family": "api", "cpu": "4096", "memory": "16384"})
    service = {"name": "api", "launch_type": "FARGATE", "desired_count": 2, "task_definition": "api:1"}
    assert round(diff(task, change("aws_ecs_service", "s", None, service)).after_usd, 2) == 340.24
    on_machines = {**service, "launch_type": "EC2"}
    assert diff(task, change("aws_ecs_service", "s", None, on_machines)).after_usd == 0
    with pytest.raises(CostError, match="does not say how large"):
        diff(change("aws_ecs_service", "s", None, service))


def test_sagemaker_endpoints_are_on_the_bill() -> None:
    variants = [{"instance_type": "ml.g5.xlarge", "initial_instance_count": 2}]
    found = diff(change("aws_sagemaker_endpoint_configuration", "e", None, {"production_variants": variants}))
    assert round(found.after_usd, 2) == round(2 * 730 * 1.4084, 2)


def test_a_scaling_group_is_priced_by_its_launch_template() -> None:
    template = {"name": "gpu", "instance_type": "g6.xlarge", "instance_market_options": [{"market_type": "spot"}]}
    group = {"name": "gpu", "desired_capacity": 3, "launch_template": [{"name": "gpu"}]}
    found = diff(
        change("aws_launch_template", "gpu", None, template), change("aws_autoscaling_group", "g", None, group)
    )
    assert round(found.after_usd, 2) == round(3 * 730 * 0.410448, 2)
    with pytest.raises(CostError, match="which machine gpu starts"):
        diff(change("aws_autoscaling_group", "g", None, group))


def test_a_balancer_on_the_internet_pays_for_its_addresses() -> None:
    found = diff(change("aws_lb", "a", None, {"internal": False, "subnets": ["a", "b", "c"]}))
    assert round(found.after_usd, 2) == round(730 * (0.0225 + 3 * 0.005), 2)
    inside = diff(change("aws_lb", "a", None, {"internal": True, "subnets": ["a", "b", "c"]}))
    assert round(inside.after_usd, 2) == round(730 * 0.0225, 2)


def test_an_endpoint_in_subnets_that_the_plan_makes_is_paid_in_each_of_their_zones() -> None:
    endpoint = change("aws_vpc_endpoint", "logs", None, {"vpc_endpoint_type": "Interface"})
    subnets = [
        change("aws_subnet", f"{kind}-{zone}", None, {"availability_zone": zone}) for kind in "ab" for zone in "xyz"
    ]
    assert round(diff(endpoint, *subnets).after_usd, 2) == round(3 * 730 * 0.01, 2)


def test_a_firewall_costs_by_its_rules_and_a_serverless_database_by_its_smallest_capacity() -> None:
    cluster = {"cluster_identifier": "keys", "serverlessv2_scaling_configuration": [{"min_capacity": 0.5}]}
    instance = change("aws_rds_cluster_instance", "i", None, {"instance_class": "db.serverless"})
    found = diff(
        change("aws_wafv2_web_acl", "w", None, {"rule": [{}, {}, {}, {}]}),
        change("aws_rds_cluster", "keys", None, cluster),
        instance,
    )
    assert [round(one.after_usd, 2) for one in found.resources] == [43.8, 9.0]
    with pytest.raises(CostError, match="how small"):
        diff(instance)
    with pytest.raises(CostError, match=r"db\.r9\.large"):
        diff(change("aws_rds_cluster_instance", "i", None, {"instance_class": "db.r9.large"}))


def test_a_kind_that_is_not_known_is_told_and_not_taken_for_free() -> None:
    assert diff(change("aws_redshift_cluster", "r", None, {})).not_priced == ("module.x.aws_redshift_cluster.r",)


def test_a_machine_without_a_price_is_an_error_and_not_a_saving() -> None:
    with pytest.raises(CostError, match=r"z9\.large"):
        diff(change("aws_instance", "z", {"instance_type": "g5.xlarge"}, {"instance_type": "z9.large"}))
    with pytest.raises(CostError, match="no resource_changes"):
        plan_diff({}, PRICING)

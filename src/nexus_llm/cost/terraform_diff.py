"""What a Terraform plan changes on the monthly bill: before, after, and what has no price here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nexus_llm.cost.money import HOURS_PER_MONTH, Bill, BillLine, Unit, cents
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.errors import CostError

Values = Mapping[str, Any]
Coster = Callable[[Values, Pricing, "Others"], list[BillLine]]
Others = Mapping[str, Values]
"""Address → values of every resource on the same side of the plan: a service needs its task definition."""

# Kinds that cost nothing by standing there (traffic, requests, events and storage that the plan cannot know apart).
_FREE = (
    "aws_iam_", "aws_vpc", "aws_subnet", "aws_route", "aws_security_group", "aws_vpc_security_group_", "aws_internet_",
    "aws_lb_listener", "aws_lb_target_group", "aws_cloudwatch_log_", "aws_s3_bucket", "aws_ecs_cluster",
    "aws_ecs_task_definition", "aws_appautoscaling_", "aws_launch_template", "aws_sagemaker_model",
    "aws_ecs_capacity_provider", "aws_ecr_", "aws_kms_", "aws_network_acl", "aws_default_", "aws_sns_", "aws_glue_",
    "aws_budgets_budget", "aws_secretsmanager_secret_version", "aws_cloudwatch_event_", "random_", "null_",
    "terraform_data", "local_", "aws_sagemaker_endpoint", "aws_ssm_", "aws_athena_", "aws_backup_", "aws_batch_",
    "aws_ce_", "aws_cloudtrail", "aws_codebuild_", "aws_codedeploy_", "aws_config_", "aws_emrserverless_",
    "aws_flow_log", "aws_guardduty_",
    "aws_db_subnet_group", "aws_rds_cluster", "aws_wafv2_web_acl_", "aws_sagemaker_pipeline", "aws_scheduler_",
)  # fmt: skip
_BY_THE_HOUR = {
    "aws_nat_gateway": ("nat", "hour"),
    "aws_eip": ("public-ipv4", "hour"),
}
_BY_THE_MONTH = {
    "aws_kms_key": ("kms", "key"),
    "aws_cloudwatch_metric_alarm": ("cloudwatch", "alarm"),
    "aws_cloudwatch_composite_alarm": ("cloudwatch", "composite-alarm"),
    "aws_cloudwatch_dashboard": ("cloudwatch", "dashboard"),
    "aws_secretsmanager_secret": ("secrets-manager", "secret"),
}


@dataclass(frozen=True, slots=True)
class ResourceCost:
    """One resource's month, before and after."""

    address: str
    kind: str
    """Terraform's resource type."""
    before_usd: float
    after_usd: float

    @property
    def change_usd(self) -> float:
        return self.after_usd - self.before_usd


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """All resources of a plan."""

    resources: tuple[ResourceCost, ...]
    """Those that have a price, the largest change first."""
    not_priced: tuple[str, ...]
    """Addresses of kinds or sizes that are not known here: their cost is missing, not 0."""

    @property
    def before_usd(self) -> float:
        return sum(one.before_usd for one in self.resources)

    @property
    def after_usd(self) -> float:
        return sum(one.after_usd for one in self.resources)

    def as_document(self) -> dict[str, Any]:
        """The diff as JSON, USD a month."""
        return {
            "before_usd_per_month": cents(self.before_usd),
            "after_usd_per_month": cents(self.after_usd),
            "change_usd_per_month": cents(self.after_usd - self.before_usd),
            "resources": [
                {
                    "address": one.address,
                    "before_usd_per_month": cents(one.before_usd),
                    "after_usd_per_month": cents(one.after_usd),
                }
                for one in self.resources
            ],
            "not_priced": list(self.not_priced),
        }


def plan_diff(plan: Values, pricing: Pricing) -> PlanDiff:
    """The diff of `terraform show -json PLANFILE`: hours and standing fees; traffic and storage are not in a plan.

    Raises:
        CostError: it is no plan, or a machine in it has no price.
    """
    changes = plan.get("resource_changes")
    if not isinstance(changes, list):
        raise CostError("the file has no resource_changes", fix="make it with: terraform show -json PLANFILE")
    sides: dict[str, dict[str, Values]] = {"before": {}, "after": {}}
    try:
        managed = [change for change in changes if change.get("mode", "managed") == "managed"]
        for change in managed:
            for side, found in sides.items():
                if (values := change["change"].get(side)) is not None:
                    found[str(change["address"])] = dict(values)
        kinds = [(str(change["type"]), str(change["address"])) for change in managed]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CostError(
            f"one of the file's resource_changes is none ({type(error).__name__}: {error})",
            fix="make it with: terraform show -json PLANFILE",
        ) from error
    rows, unknown = [], []
    for kind, address in kinds:
        if not _is_known(kind):
            unknown.append(address)
            continue
        try:
            before, after = (
                _usd(kind, found[address], pricing, found) if address in found else 0.0 for found in sides.values()
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            unknown.append(address)  # a size that is known only when it is applied
            continue
        if before or after:
            rows.append(ResourceCost(address, kind, before, after))
    rows.sort(key=lambda one: (-abs(one.change_usd), one.address))
    return PlanDiff(tuple(rows), tuple(sorted(unknown)))


def _is_known(kind: str) -> bool:
    return kind in _COSTERS or kind in _BY_THE_HOUR or kind in _BY_THE_MONTH or kind.startswith(_FREE)


def _usd(kind: str, values: Values, pricing: Pricing, others: Others) -> float:
    if kind in _COSTERS:
        return Bill(tuple(_COSTERS[kind](values, pricing, others))).usd
    if kind in _BY_THE_HOUR:
        service, sku = _BY_THE_HOUR[kind]
        return pricing.line(kind, service, sku, HOURS_PER_MONTH, Unit.HOUR).usd
    if kind in _BY_THE_MONTH:
        service, sku = _BY_THE_MONTH[kind]
        return pricing.line(kind, service, sku, 1, Unit.MONTH).usd
    return 0.0


def _machine(name: str, count: float, pricing: Pricing, *, purchase: str = "on-demand") -> BillLine:
    return pricing.line(name, "ec2", f"{name} {purchase}", count * HOURS_PER_MONTH, Unit.HOUR)


def _instance(values: Values, pricing: Pricing, _others: Others) -> list[BillLine]:
    options = values.get("instance_market_options") or []
    purchase = "spot" if any(one.get("market_type") == "spot" for one in options) else "on-demand"
    return [
        _machine(str(values["instance_type"]), 1, pricing, purchase=purchase),
        *_disks(values.get("root_block_device") or [], pricing),
    ]


def _scaling_group(values: Values, pricing: Pricing, others: Others) -> list[BillLine]:
    """Its wanted size, else its smallest, of the machine that its launch template names."""
    count = values.get("desired_capacity")
    count = values.get("min_size") or 0 if count is None else count
    wanted = {str(one.get("name") or one.get("id")) for one in _templates(values)}
    known = [one for address, one in others.items() if _kind(address).startswith("aws_launch_template")]
    named = [one for one in known if str(one.get("name")) in wanted or str(one.get("id")) in wanted]
    # Ids of templates that the same plan makes are not known yet: with one template there is no doubt.
    template = (named or known if len(known) <= 1 else named)[:1]
    if not template:
        raise CostError(
            f"the plan does not say which machine {values.get('name') or 'an aws_autoscaling_group'} starts",
            fix="plan the launch template together with the group",
        )
    purchase = "spot" if template[0].get("instance_market_options") else "on-demand"
    return [_machine(str(template[0]["instance_type"]), float(count), pricing, purchase=purchase)]


def _kind(address: str) -> str:
    """`aws_subnet` of `module.network.aws_subnet.private[0]`."""
    return ".".join(address.split(".")[-2:-1])


def _templates(values: Values) -> list[Values]:
    direct = list(values.get("launch_template") or [])
    for mixed in values.get("mixed_instances_policy") or []:
        for one in mixed.get("launch_template") or []:
            direct += one.get("launch_template_specification") or []
    return direct


def _ecs_service(values: Values, pricing: Pricing, others: Others) -> list[BillLine]:
    """Fargate tasks by the size of their definition; tasks on machines cost what their machines cost."""
    providers = {str(one.get("capacity_provider")) for one in values.get("capacity_provider_strategy") or []}
    if values.get("launch_type") != "FARGATE" and not providers & {"FARGATE", "FARGATE_SPOT"}:
        return []
    wanted = str(values.get("task_definition") or "")
    known = [one for address, one in others.items() if _kind(address).endswith("aws_ecs_task_definition")]
    family = wanted.rsplit("/", maxsplit=1)[-1].split(":", maxsplit=1)[0]
    named = [one for one in known if one.get("family") == family] or (known if len(known) == 1 else [])
    if not named:
        raise CostError(
            f"the plan does not say how large the tasks of {values.get('name') or 'an aws_ecs_service'} are",
            fix="plan the task definition together with the service",
        )
    tasks = float(values.get("desired_count") or 0) * HOURS_PER_MONTH
    vcpu, memory = float(named[0]["cpu"]) / 1024, float(named[0]["memory"]) / 1024
    return [
        pricing.line("vCPU", "fargate", "vcpu", tasks * vcpu, Unit.VCPU_HOUR),
        pricing.line("memory", "fargate", "memory", tasks * memory, Unit.GB_HOUR),
    ]


def _balancer(values: Values, pricing: Pricing, _others: Others) -> list[BillLine]:
    """Its hours, and where it faces the internet those of one public address in each of its subnets."""
    lines = [pricing.line("load balancer", "alb", "hour", HOURS_PER_MONTH, Unit.HOUR)]
    if values.get("internal") is False and (subnets := values.get("subnets")):
        hours = len(subnets) * HOURS_PER_MONTH
        lines.append(pricing.line("public addresses", "public-ipv4", "hour", hours, Unit.HOUR))
    return lines


def _firewall(values: Values, pricing: Pricing, _others: Others) -> list[BillLine]:
    """The list and each of its rules; a managed group of AWS costs as much as one rule."""
    return [
        pricing.line("web ACL", "waf", "web-acl", 1, Unit.MONTH),
        pricing.line("rules", "waf", "rule", len(values.get("rule") or []), Unit.MONTH),
    ]


def _database(values: Values, pricing: Pricing, others: Others) -> list[BillLine]:
    """A serverless instance at its cluster's smallest capacity; another class needs a price of its own."""
    kind = str(values.get("instance_class"))
    if kind != "db.serverless":
        return [pricing.line(kind, "aurora", kind, HOURS_PER_MONTH, Unit.HOUR)]
    known = [one for address, one in others.items() if _kind(address).endswith("aws_rds_cluster")]
    named = [one for one in known if one.get("cluster_identifier") == values.get("cluster_identifier")] or known
    if len(named) != 1:  # the id of a cluster that the same plan makes is not known yet: with one there is no doubt
        raise CostError(
            f"the plan does not say how small {values.get('identifier') or 'an aws_rds_cluster_instance'} may become",
            fix="plan the cluster together with its instances, one cluster a plan",
        )
    smallest = sum(float(one["min_capacity"]) for one in named[0].get("serverlessv2_scaling_configuration") or [])
    return [pricing.line(kind, "aurora", "serverless-v2", smallest * HOURS_PER_MONTH, Unit.ACU_HOUR)]


def _endpoint(values: Values, pricing: Pricing, others: Others) -> list[BillLine]:
    """Hours in each zone; the ids of subnets that the same plan makes are not known: then in all of their zones."""
    if values.get("vpc_endpoint_type") != "Interface":
        return []  # gateway endpoints cost nothing
    subnets = [one for address, one in others.items() if _kind(address) == "aws_subnet"]
    zones = len(values.get("subnet_ids") or []) or len({one.get("availability_zone") for one in subnets}) or 1
    return [pricing.line("interface endpoint", "vpc-endpoint", "hour", zones * HOURS_PER_MONTH, Unit.HOUR)]


def _sagemaker_variants(values: Values, pricing: Pricing, _others: Others) -> list[BillLine]:
    """Hosting machines are taken to cost what training machines of the same type cost: assumed."""
    return [
        _sagemaker(str(one["instance_type"]), float(one.get("initial_instance_count") or 1), pricing)
        for one in values.get("production_variants") or []
        if one.get("instance_type")
    ]


def _notebook(values: Values, pricing: Pricing, _others: Others) -> list[BillLine]:
    return [_sagemaker(str(values["instance_type"]), 1, pricing)]


def _sagemaker(name: str, count: float, pricing: Pricing) -> BillLine:
    return pricing.line(name, "sagemaker", f"{name} training", count * HOURS_PER_MONTH, Unit.HOUR)


def _volume(values: Values, pricing: Pricing, _others: Others) -> list[BillLine]:
    return _disks([{"volume_size": values.get("size"), "volume_type": values.get("type")}], pricing)


def _disks(blocks: list[Values], pricing: Pricing) -> list[BillLine]:
    return [
        pricing.line("disk", "ebs", str(one.get("volume_type") or "gp3"), float(one["volume_size"]), Unit.GB_MONTH)
        for one in blocks
        if one.get("volume_size")
    ]


_COSTERS: Mapping[str, Coster] = {
    "aws_instance": _instance,
    "aws_spot_instance_request": _instance,
    "aws_autoscaling_group": _scaling_group,
    "aws_ecs_service": _ecs_service,
    "aws_vpc_endpoint": _endpoint,
    "aws_lb": _balancer,
    "aws_alb": _balancer,
    "aws_wafv2_web_acl": _firewall,
    "aws_rds_cluster_instance": _database,
    "aws_sagemaker_endpoint_configuration": _sagemaker_variants,
    "aws_sagemaker_notebook_instance": _notebook,
    "aws_ebs_volume": _volume,
}

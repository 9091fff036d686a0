"""What an environment of infra/ costs a month, as its README tells it: from its plans and the dated price table.

    terraform show -json PLANFILE > platform.json        # in stages/1-platform, and likewise in 2-serving
    python benchmarks/infra_prices.py 1-platform=platform.json 2-serving=serving.json

The READMEs themselves: NEXUS_WRITE_GOLDEN=1 pytest tests/infra/test_environment_prices.py
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nexus_llm.cost.money import HOURS_PER_MONTH
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.cost.terraform_diff import plan_diff

REGION = "us-east-1"
MARKS = ("<!-- generated: monthly price -->\n", "<!-- end of generated -->\n")
NAMES = {
    "aws_cloudwatch_metric_alarm": "alarms",
    "aws_ecs_service": "service on Fargate, with its smallest number of tasks",
    "aws_eip": "public addresses of NAT gateways",
    "aws_kms_key": "KMS keys (a dollar more for each of the first two rotations)",
    "aws_lb": "load balancer, with its public addresses where it has some",
    "aws_nat_gateway": "NAT gateways",
    "aws_rds_cluster_instance": "database instances (at their smallest capacity)",
    "aws_vpc_endpoint": "interface endpoints (each in every zone)",
    "aws_wafv2_web_acl": "firewall with its rules",
}
# Kind that makes it → what comes on top, price's service and sku, how many of its units are one of the unit told.
VARYING = (
    ("aws_nat_gateway", "through a NAT gateway, GB", "nat", "data", 1),
    ("aws_vpc_endpoint", "through an interface endpoint, GB", "vpc-endpoint", "data", 1),
    ("aws_lb", "to the internet, GB", "data-transfer", "internet-out", 1),
    ("aws_lb", "load balancer, LCU-hour", "alb", "lcu", 1),
    ("aws_wafv2_web_acl", "requests that the firewall sees, million", "waf", "requests", 1000),
    ("aws_rds_cluster", "database above its smallest capacity, ACU-hour", "aurora", "serverless-v2", 1),
    ("aws_rds_cluster", "database's storage, GB-month", "aurora", "storage", 1),
    ("aws_ecs_service", "each further task: a core, hour", "fargate", "vcpu", 1),
    ("aws_ecs_service", "each further task: a GB of memory, hour", "fargate", "memory", 1),
    ("aws_s3_bucket", "S3 standard, GB-month", "s3", "standard", 1),
    ("aws_ecr_repository", "images, GB-month", "ecr", "storage", 1),
    ("aws_cloudwatch_log_group", "logs written, GB", "cloudwatch", "log-ingestion", 1),
    ("aws_cloudwatch_log_group", "logs kept, GB-month", "cloudwatch", "log-storage", 1),
    ("aws_kms_key", "requests to KMS, million", "kms", "requests", 1000),
    ("aws_glue_job", "Glue, DPU-hour", "glue", "dpu", 1),
    ("aws_emrserverless_application", "EMR Serverless, vCPU-hour", "emr-serverless", "vcpu", 1),
)
UNPRICED = {
    "aws_athena_workgroup": "data that Athena scans",
    "aws_backup_vault": "what lies in backup vaults",
    "aws_cloudtrail": "recorded reads of data (management events are free once)",
    "aws_config_configuration_recorder": "Config's recorded changes",
    "aws_guardduty_detector": "GuardDuty's events",
    "aws_sagemaker_mlflow_tracking_server": "the MLflow server's hours and storage",
}


def section(plans: Mapping[str, Mapping[str, Any]], pricing: Pricing) -> str:
    """The text between a README's markers: what stands there every hour, stage by stage, and what varies."""
    kinds = {change["type"] for plan in plans.values() for change in plan["resource_changes"]}
    rows, sums, unknown = [], [], set()
    for stage, plan in plans.items():
        found = plan_diff(plan, pricing)
        unknown |= {address.split(".")[-2] for address in found.not_priced}
        by_kind: dict[str, list[float]] = defaultdict(list)
        for one in found.resources:
            by_kind[one.kind].append(one.after_usd)
        rows += [
            f"| {stage} | {NAMES.get(kind, kind)} | {len(usd)} | {sum(usd):,.2f} |"
            for kind, usd in sorted(by_kind.items(), key=lambda item: (-sum(item[1]), item[0]))
        ]
        sums.append(found.after_usd)
    if not any(" interface endpoints " in row for row in rows):
        kinds.discard("aws_vpc_endpoint")  # gateway endpoints cost nothing, whatever goes through
    told = " + ".join(f"{one:,.2f}" for one in sums)
    missing = [*(text for kind, text in UNPRICED.items() if kind in kinds), *sorted(unknown - set(UNPRICED))]
    head = (
        f"**{sum(sums):,.2f} USD a month** ({told}) while nobody asks and no job runs: {HOURS_PER_MONTH:g} hours at"
        f" list prices of {pricing.region} without tax, {_dates(pricing)}. Other regions are not shipped, and mostly"
        " higher: `nexus cost refresh --region REGION`, then `nexus cost diff` of your own plans."
    )
    left_out = (
        f"Left out, because no price of it is shipped: {', '.join(missing)}. Machines of Batch and SageMaker cost while"
        " a job runs: `nexus cost plan` knows them."
    )
    table = ["", "| stage | what | count | USD a month |", "|---|---|---|---|", *rows, "", "On top, by use:", ""]
    by_use = ["| what | USD |", "|---|---|", *_varying(kinds, pricing), ""]
    return "\n".join([_wrapped(head), *table, *by_use, _wrapped(left_out)]) + "\n"


def replaced(readme: str, text: str) -> str:
    """A README with `text` between its markers."""
    before, _, rest = readme.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    assert end, f"no markers {MARKS}"
    return before + MARKS[0] + text + end + after


def _wrapped(text: str) -> str:
    return textwrap.fill(text, width=118, break_long_words=False, break_on_hyphens=False)


def _varying(kinds: set[str], pricing: Pricing) -> Iterator[str]:
    for kind, text, service, sku, factor in VARYING:
        if kind in kinds:
            yield f"| {text} | {pricing.table.lookup(service, sku, pricing.region).usd * factor:.4g} |"


def _dates(pricing: Pricing) -> str:
    used = {(service, sku) for _, _, service, sku, _ in VARYING}
    days = [pricing.table.lookup(*one, pricing.region).as_of for one in used]
    return f"as of {min(days)}" if min(days) == max(days) else f"as of {min(days)} to {max(days)}"


def main(arguments: list[str]) -> None:
    """Prints the section of the plans that are named as STAGE=FILE."""
    named = dict(one.split("=", 1) for one in arguments)
    plans = {stage: json.loads(Path(file).read_text(encoding="utf-8")) for stage, file in named.items()}
    print(section(plans, Pricing(PriceTable.shipped(), REGION)), end="")


if __name__ == "__main__":
    main(sys.argv[1:])

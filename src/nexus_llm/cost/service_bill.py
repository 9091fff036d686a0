"""The monthly bill of a served model: engines, and everything around them that is forgotten until the invoice comes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nexus_llm.cost.day import Day, Level
from nexus_llm.cost.money import HOURS_PER_MONTH, SECONDS_PER_MONTH, Bill, BillLine, Quantity, Unit
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.quantities import Traffic
from nexus_llm.recipe import CostRecipe, Purchase

GB = 1e9
FREE_INTERNET_GB = 100.0  # a month, per account (AWS, "Data transfer"; not looked up again)
# One LCU is the largest of 25 new connections a second, 3,000 active ones a minute, 1 GB an hour (AWS, "Elastic Load
# Balancing pricing"; not looked up again). Rule evaluations are far below.
LCU_NEW_CONNECTIONS, LCU_ACTIVE_CONNECTIONS, LCU_GB_PER_HOUR = 25.0, 3000.0, 1.0
REQUEST_BYTES_PER_TOKEN = 6.0  # of prompts, as JSON; assumed
LOGGED_AT_ONCE = 100.0  # requests whose logs and usage go into one encrypted write; assumed
LOG_MONTHS = 1.0  # kept
FIREWALL_RULES = 4  # infra/modules/serving-firewall: three managed groups and a rate; a group costs as much as a rule
DATABASE_LEAST_UNITS = 0.5  # Aurora capacity units of an instance while little is asked: infra/modules/serving-database
DATABASE_GB = 10.0  # the least that Aurora allots; a day, key and model is one row
DATABASE_ACCESSES_PER_REQUEST = 4.0  # of its storage: a request is admitted and settled, two pages each; assumed


@dataclass(frozen=True, slots=True)
class Pricing:
    """Whose prices, and how much off."""

    table: PriceTable
    region: str
    discount_share: float = 0.0

    def line(self, name: str, service: str, sku: str, amount: float, unit: Unit) -> BillLine:
        """One line; a missing price is an error."""
        price = self.table.lookup(service, sku, self.region)
        return BillLine(name, Quantity(amount, unit), price, self.discount_share)


def engine_bill(machine: str, purchase: Purchase, day: Day, cost: CostRecipe, pricing: Pricing) -> Bill:
    """Machines and their disks for a month.

    Savings plans are paid for every hour: machines that run too short for that are bought on demand beside them.
    """
    levels = day.levels()
    bought: dict[Purchase, list[Level]] = {purchase: list(levels)}
    if purchase in ("savings-1y", "savings-3y") and levels[-1].hours < HOURS_PER_MONTH - 1e-6:
        usd = {
            how: pricing.table.lookup("ec2", f"{machine} {how}", pricing.region).usd for how in (purchase, "on-demand")
        }
        worth = [one for one in levels if usd[purchase] * HOURS_PER_MONTH <= usd["on-demand"] * one.hours]
        bought = {
            purchase: [Level(one.machines, HOURS_PER_MONTH) for one in worth],
            "on-demand": [one for one in levels if one not in worth],
        }
    lines = [
        pricing.line(
            f"{sum(one.machines for one in runs)} x {machine} ({how})",
            "ec2",
            f"{machine} {how}",
            math.fsum(one.machines * one.hours for one in runs),
            Unit.HOUR,
        )
        for how, runs in bought.items()
        if runs
    ]
    disks = day.machine_hours / HOURS_PER_MONTH * cost.service.disk_gb
    return _without_nothing([*lines, pricing.line("EBS gp3", "ebs", "gp3", disks, Unit.GB_MONTH)])


def surroundings_bill(traffic: Traffic, e2e_seconds: float, cost: CostRecipe, pricing: Pricing) -> Bill:
    """Everything else, for a month: what stands there all the time, and what each request adds."""
    service, hours, line = cost.service, HOURS_PER_MONTH, pricing.line
    zones, endpoints, tasks = service.availability_zones, service.interface_endpoints, service.gateway_tasks
    addresses = service.nat_gateways + (zones if service.load_balancer else 0)
    lines = [
        line("gateway tasks, vCPU", "fargate", "vcpu", tasks * service.gateway_vcpu * hours, Unit.VCPU_HOUR),
        line("gateway tasks, memory", "fargate", "memory", tasks * service.gateway_gb * hours, Unit.GB_HOUR),
        line("NAT gateways", "nat", "hour", service.nat_gateways * hours, Unit.HOUR),
        line("NAT data", "nat", "data", service.nat_gb if service.nat_gateways else 0, Unit.GB),
        line("interface endpoints", "vpc-endpoint", "hour", endpoints * zones * hours, Unit.HOUR),
        line("public IPv4 addresses", "public-ipv4", "hour", addresses * hours, Unit.HOUR),
        line("S3 storage", "s3", "standard", service.stored_gb, Unit.GB_MONTH),
        line("ECR images", "ecr", "storage", service.images_gb, Unit.GB_MONTH),
        line("CloudWatch metrics", "cloudwatch", "metric", service.metrics, Unit.MONTH),
        line("CloudWatch alarms", "cloudwatch", "alarm", service.alarms, Unit.MONTH),
        line("CloudWatch composite alarms", "cloudwatch", "composite-alarm", service.composite_alarms, Unit.MONTH),
        line("CloudWatch dashboards", "cloudwatch", "dashboard", service.dashboards, Unit.MONTH),
        line("KMS keys", "kms", "key", service.kms_keys, Unit.MONTH),
        line("secrets", "secrets-manager", "secret", service.secrets, Unit.MONTH),
        *_load_balancer(traffic, e2e_seconds, cost, pricing),
        *_database(traffic, cost, pricing),
        *_per_request(traffic, cost, pricing),
    ]
    return _without_nothing(lines)


def request_bytes(traffic: Traffic, cost: CostRecipe) -> tuple[float, float]:
    """Bytes of one request and of its answer, on the wire."""
    answer = traffic.output_tokens * cost.service.bytes_per_output_token
    return traffic.input_tokens * REQUEST_BYTES_PER_TOKEN, answer


def _load_balancer(traffic: Traffic, e2e_seconds: float, cost: CostRecipe, pricing: Pricing) -> list[BillLine]:
    if not cost.service.load_balancer:
        return []
    rate = traffic.requests_per_month / SECONDS_PER_MONTH
    gb_per_hour = rate * 3600 * sum(request_bytes(traffic, cost)) / GB
    # Every request is taken for a connection of its own, which stays open until its last token.
    capacity_units = max(
        rate / LCU_NEW_CONNECTIONS, rate * max(e2e_seconds, 60) / LCU_ACTIVE_CONNECTIONS, gb_per_hour / LCU_GB_PER_HOUR
    )
    return [
        pricing.line("load balancer", "alb", "hour", HOURS_PER_MONTH, Unit.HOUR),
        pricing.line("load balancer capacity", "alb", "lcu", capacity_units * HOURS_PER_MONTH, Unit.LCU_HOUR),
        pricing.line("firewall", "waf", "web-acl", 1, Unit.MONTH),
        pricing.line("firewall rules", "waf", "rule", FIREWALL_RULES, Unit.MONTH),
        pricing.line("firewall requests", "waf", "requests", traffic.requests_per_month / 1000, Unit.THOUSAND_REQUESTS),
    ]


def _database(traffic: Traffic, cost: CostRecipe, pricing: Pricing) -> list[BillLine]:
    instances = cost.service.database_instances
    if not instances:
        return []
    units = instances * DATABASE_LEAST_UNITS * HOURS_PER_MONTH
    accesses = traffic.requests_per_month / 1000 * DATABASE_ACCESSES_PER_REQUEST
    return [
        pricing.line("database of keys", "aurora", "serverless-v2", units, Unit.ACU_HOUR),
        pricing.line("database storage", "aurora", "storage", DATABASE_GB, Unit.GB_MONTH),
        pricing.line("database accesses", "aurora", "io", accesses, Unit.THOUSAND_REQUESTS),
    ]


def _per_request(traffic: Traffic, cost: CostRecipe, pricing: Pricing) -> list[BillLine]:
    requests, line = traffic.requests_per_month, pricing.line
    asked, answered = request_bytes(traffic, cost)
    logs_gb = requests * cost.service.log_bytes_per_request / GB
    out_gb = max(requests * answered / GB - FREE_INTERNET_GB, 0.0)
    # Load balancer to gateway and gateway to engine: half of the hops cross zones, and both sides pay.
    crossing_gb = requests * (asked + answered) / GB * 2 if cost.service.availability_zones > 1 else 0.0
    return [
        line("CloudWatch logs, taken in", "cloudwatch", "log-ingestion", logs_gb, Unit.GB),
        line("CloudWatch logs, kept", "cloudwatch", "log-storage", logs_gb * LOG_MONTHS, Unit.GB_MONTH),
        line("interface endpoints, data", "vpc-endpoint", "data", logs_gb, Unit.GB),
        line("KMS requests", "kms", "requests", requests / 1000 / LOGGED_AT_ONCE, Unit.THOUSAND_REQUESTS),
        line("data out to the internet", "data-transfer", "internet-out", out_gb, Unit.GB),
        line("data between zones", "data-transfer", "between-zones", crossing_gb, Unit.GB),
    ]


def _without_nothing(lines: list[BillLine]) -> Bill:
    return Bill(tuple(line for line in lines if line.quantity.amount > 0))

"""Published price lists read into rows: AWS's offers, savings plan rates and spot history, litellm's list. Pure.

Sources: AWS Billing user guide, "Reading the service price list files" and "AWS Price List Query API"; EC2 reference
(DescribeSpotPriceHistory); Savings Plans API reference; litellm's model_prices_and_context_window.json.
The names of usage types are AWS's as far as known: none was tried against the live lists.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from typing import Any

from nexus_llm.cost.money import Price, Unit
from nexus_llm.cost.prices.table import GLOBAL, PriceTable
from nexus_llm.errors import CostError

AWS_LICENCE, LITELLM_LICENCE = "fact", "MIT"
MAX_CHANGE = 5.0  # times dearer or cheaper than before: taken for a mistake
MIN_SHARE_KEPT = 0.5  # of a service's rows in the same region: fewer are half a download
# Rows that any published price replaces, whatever their day: they are not published themselves.
_STAND_INS = ("derived", "assumed", "on-demand x", "AWS list price from memory", "AWS list price as several")
_SECONDS_PER_YEAR = 31_536_000
_COLUMNS = {"TermType", "PricePerUnit", "Currency", "Region Code", "usageType"}
_PLAIN = {"Operating System": "Linux", "Tenancy": "Shared", "CapacityStatus": "Used", "Pre Installed S/W": "NA"}


@dataclass(frozen=True, slots=True)
class OfferRule:
    """Which product of a price list is one of our rows."""

    service_code: str
    usage: str
    """Regular expression that the usage type must match to its end; AWS puts a region's letters in front."""
    service: str
    sku: str
    unit: Unit
    factor: float = 1.0
    """Makes AWS's unit ours: 1000 for a price of one request."""
    operation: str | None = None
    is_global: bool = False
    """The same price in every region."""


RULES = (
    OfferRule("AWSELB", r"LoadBalancerUsage", "alb", "hour", Unit.HOUR, operation="LoadBalancing:Application"),
    OfferRule("AWSELB", r"LCUUsage", "alb", "lcu", Unit.LCU_HOUR, operation="LoadBalancing:Application"),
    OfferRule("AmazonVPC", r"VpcEndpoint-Hours", "vpc-endpoint", "hour", Unit.HOUR),
    OfferRule("AmazonVPC", r"VpcEndpoint-Bytes", "vpc-endpoint", "data", Unit.GB),
    OfferRule("AmazonVPC", r"PublicIPv4:InUseAddress", "public-ipv4", "hour", Unit.HOUR),
    OfferRule("AmazonECS", r"Fargate-vCPU-Hours:perCPU", "fargate", "vcpu", Unit.VCPU_HOUR),
    OfferRule("AmazonECS", r"Fargate-GB-Hours", "fargate", "memory", Unit.GB_HOUR),
    OfferRule("AmazonS3", r"TimedStorage-ByteHrs", "s3", "standard", Unit.GB_MONTH),
    OfferRule("AmazonS3", r"Requests-Tier1", "s3", "put", Unit.THOUSAND_REQUESTS, 1000),
    OfferRule("AmazonS3", r"Requests-Tier2", "s3", "get", Unit.THOUSAND_REQUESTS, 1000),
    OfferRule("AmazonCloudWatch", r"DataProcessing-Bytes", "cloudwatch", "log-ingestion", Unit.GB),
    OfferRule("AmazonCloudWatch", r"TimedStorage-ByteHrs", "cloudwatch", "log-storage", Unit.GB_MONTH),
    OfferRule("AmazonCloudWatch", r"CW:MetricMonitorUsage", "cloudwatch", "metric", Unit.MONTH),
    OfferRule("AmazonCloudWatch", r"CW:AlarmMonitorUsage", "cloudwatch", "alarm", Unit.MONTH),
    OfferRule("AmazonCloudWatch", r"CW:CompositeAlarmMonitorUsage", "cloudwatch", "composite-alarm", Unit.MONTH),
    OfferRule("AmazonCloudWatch", r"DashboardsUsageHour", "cloudwatch", "dashboard", Unit.MONTH, is_global=True),
    OfferRule("AWSDataTransfer", r"DataTransfer-Out-Bytes", "data-transfer", "internet-out", Unit.GB),
    OfferRule("AWSDataTransfer", r"DataTransfer-Regional-Bytes", "data-transfer", "between-zones", Unit.GB),
    OfferRule("awskms", r"KMS-Keys", "kms", "key", Unit.MONTH),
    OfferRule("awskms", r"KMS-Requests", "kms", "requests", Unit.THOUSAND_REQUESTS, 1000),
    OfferRule("AWSSecretsManager", r"AWSSecretsManager-Secrets", "secrets-manager", "secret", Unit.MONTH),
    OfferRule("AmazonECR", r"TimedStorage-ByteHrs", "ecr", "storage", Unit.GB_MONTH),
    OfferRule("AWSGlue", r"ETL-DPU-Hour", "glue", "dpu", Unit.DPU_HOUR),
    OfferRule("awswaf", r"WebACLV2", "waf", "web-acl", Unit.MONTH),
    OfferRule("awswaf", r"RuleV2", "waf", "rule", Unit.MONTH),
    OfferRule("awswaf", r"RequestV2-Tier1", "waf", "requests", Unit.THOUSAND_REQUESTS, 1000),
)
# EC2's and RDS's own lists are hundreds of megabytes: read line by line, or (EC2's) asked of the Pricing API.
EC2_RULES = (
    OfferRule("AmazonEC2", r"NatGateway-Hours", "nat", "hour", Unit.HOUR),
    OfferRule("AmazonEC2", r"NatGateway-Bytes", "nat", "data", Unit.GB),
    OfferRule("AmazonEC2", r"EBS:VolumeUsage\.gp3", "ebs", "gp3", Unit.GB_MONTH),
)
RDS_RULES = (
    OfferRule("AmazonRDS", r"Aurora:ServerlessV2Usage", "aurora", "serverless-v2", Unit.ACU_HOUR),
    OfferRule("AmazonRDS", r"Aurora:StorageUsage", "aurora", "storage", Unit.GB_MONTH),
    OfferRule("AmazonRDS", r"Aurora:StorageIOUsage", "aurora", "io", Unit.THOUSAND_REQUESTS, 1000),
)


def offer_prices(offer: Mapping[str, Any], rules: Iterable[OfferRule], *, region: str, today: date) -> list[Price]:
    """The rows that one service's offer file holds; the first tier's price where there are tiers.

    Raises:
        CostError: the file is cut off, of another format, or another region's.
    """
    try:
        code, when = str(offer["offerCode"]), _day(str(offer["publicationDate"]), today)
        products, terms = offer["products"], offer["terms"]["OnDemand"]
    except (KeyError, TypeError, ValueError) as error:
        raise CostError(f"the offer file has no {error}: it is cut off", fix="refresh again later") from error
    entries = [(product, terms.get(sku, {})) for sku, product in products.items()]
    places = {str(product.get("attributes", {}).get("regionCode", "")) for product, _ in entries} - {""}
    if places and region not in places:
        raise CostError(
            f"the offer file of {code} is of {', '.join(sorted(places))}, not of {region}",
            fix="the table in use stays; check --region, and what stands between you and AWS",
        )
    source = f"AWS price list {code}"
    return [
        price
        for rule in rules
        if rule.service_code == code and (price := _matching(entries, rule, region=region, when=when, source=source))
    ]


def training_rule(machine: str) -> OfferRule:
    """How SageMaker's list names training on a machine."""
    return OfferRule("AmazonSageMaker", rf"Train:ml\.{machine}", "sagemaker", f"ml.{machine} training", Unit.HOUR)


def ec2_prices(lines: Iterable[str], machines: Iterable[str], *, region: str, today: date) -> list[Price]:
    """Machines on demand (Linux, shared, nothing installed), NAT and gp3 disks, from EC2's offer file as CSV, which is
    too large to be held: each line is looked at once.

    Raises:
        CostError: the file is cut off, of another format, or another region's.
    """
    wanted = [OfferRule("AmazonEC2", f"BoxUsage:{name}", "ec2", f"{name} on-demand", Unit.HOUR) for name in machines]
    return _listed(lines, [*wanted, *EC2_RULES], _COLUMNS | _PLAIN.keys(), region=region, today=today)


def rds_prices(lines: Iterable[str], *, region: str, today: date) -> list[Price]:
    """Aurora's capacity, storage and accesses, from RDS's offer file as CSV.

    Raises:
        CostError: as `ec2_prices`.
    """
    return _listed(lines, RDS_RULES, _COLUMNS, region=region, today=today)


def _listed(
    lines: Iterable[str], rules: Sequence[OfferRule], columns: Set[str], *, region: str, today: date
) -> list[Price]:
    code, wanted = rules[-1].service_code, {rule.usage.replace("\\", ""): rule for rule in rules}
    when, rows = _csv_rows(lines, code, columns, today)
    found: dict[str, Price] = {}
    for row in rows:
        usage = re.sub(r"^[A-Z0-9]+-(?=BoxUsage|NatGateway|EBS|Aurora)", "", row["usageType"])
        if row["TermType"] != "OnDemand" or usage not in wanted or usage in found:
            continue
        if usage.startswith("BoxUsage") and any(row[name] != value for name, value in _PLAIN.items()):
            continue
        if row["Region Code"] not in ("", region):
            raise CostError(
                f"the offer file of {code} is of {row['Region Code']}, not of {region}",
                fix="the table in use stays; check --region, and what stands between you and AWS",
            )
        if row["Currency"] == "USD" and (usd := float(row["PricePerUnit"])) > 0:
            rule, source = wanted[usage], f"AWS price list {code}"
            found[usage] = Price(
                rule.service, rule.sku, region, rule.unit, usd * rule.factor, source, when, AWS_LICENCE
            )
    return list(found.values())


def missing_prices(found: Iterable[Price], machines: Iterable[str]) -> list[str]:
    """`service sku` of what a plan needs or may choose and a region's files did not hold."""
    have = {(price.service, price.sku) for price in found}
    asked = [(rule.service, rule.sku) for rule in (*RULES, *EC2_RULES, *RDS_RULES)]
    asked += [("ec2", f"{name} on-demand") for name in machines]
    return sorted(f"{service} {sku}" for service, sku in asked if (service, sku) not in have)


def product_prices(products: Iterable[Mapping[str, Any]], rule: OfferRule, *, region: str, today: date) -> list[Price]:
    """As `offer_prices`, from documents of the Pricing API (`PriceList` of GetProducts)."""
    found = list(products)
    entries = [(one["product"], one.get("terms", {}).get("OnDemand", {})) for one in found]
    days = [_day(str(one["publicationDate"]), today) for one in found if "publicationDate" in one]
    source = f"AWS Pricing API {rule.service_code}"
    price = _matching(entries, rule, region=region, when=min(days, default=today), source=source)
    return [price] if price else []


def spot_price(history: Iterable[Mapping[str, Any]], machine: str, *, region: str, today: date) -> list[Price]:
    """Mean over zones of each zone's newest spot price (`SpotPriceHistory`); none where there is no history."""
    newest: dict[str, Mapping[str, Any]] = {}
    for row in history:
        zone = str(row["AvailabilityZone"])
        if row["InstanceType"] == machine and (zone not in newest or row["Timestamp"] > newest[zone]["Timestamp"]):
            newest[zone] = row
    if not newest:
        return []
    mean = sum(float(row["SpotPrice"]) for row in newest.values()) / len(newest)
    source = f"AWS spot price history (mean of {len(newest)} zones)"
    return [Price("ec2", f"{machine} spot", region, Unit.HOUR, mean, source, today, AWS_LICENCE)]


def savings_prices(rates: Iterable[Mapping[str, Any]], machine: str, *, region: str, today: date) -> list[Price]:
    """1- and 3-year rates (`searchResults` of DescribeSavingsPlansOfferingRates), the cheapest of each."""
    best: dict[str, float] = {}
    for rate in rates:
        years = int(rate["savingsPlanOffering"]["durationSeconds"]) / _SECONDS_PER_YEAR
        names = {str(one["name"]): str(one["value"]) for one in rate.get("properties", [])}
        if years in (1, 3) and names.get("instanceType", machine) == machine:
            sku = f"{machine} savings-{years:.0f}y"
            best[sku] = min(best.get(sku, math.inf), float(rate["rate"]))
    source = "AWS savings plan rates, nothing upfront"
    return [Price("ec2", sku, region, Unit.HOUR, usd, source, today, AWS_LICENCE) for sku, usd in best.items()]


def litellm_prices(models: Mapping[str, Any], *, today: date) -> list[Price]:
    """API prices with cached, batch and long-context tiers, of chat models that are billed by the token."""
    found = []
    for name, row in models.items():
        if not isinstance(row, dict) or row.get("mode") not in ("chat", "responses"):
            continue
        for sku, usd in _tiers(row):
            if isinstance(usd, int | float) and math.isfinite(usd) and usd > 0:
                source = "litellm, model_prices_and_context_window.json"
                unit = Unit.MILLION_TOKENS
                found.append(Price("api", f"{name} {sku}", "global", unit, usd * 1e6, source, today, LITELLM_LICENCE))
    return found


def updated(table: PriceTable, found: list[Price]) -> PriceTable:
    """The table with what was found, unless that is half a download or cannot be true.

    Raises:
        CostError: nothing was found, far fewer rows than before, an older price than the one that is there, or one
            that changed more than MAX_CHANGE times. The table that was good stays.
    """
    if not found:
        raise CostError("the refresh found no price", fix="the table in use stays; try again later")
    for service, region in {(price.service, price.region) for price in found if price.service == "api"}:
        before = len(table.skus(service, region))
        now = sum((price.service, price.region) == (service, region) for price in found)
        if now < before * MIN_SHARE_KEPT:
            raise CostError(
                f"the refresh found {now} prices of {service} in {region}, before there were {before}: half a download",
                fix="the table in use stays; try again later",
            )
    fresh = []
    for price in found:
        old = table.rows.get((price.service, price.sku, price.region))
        if old and old.as_of > price.as_of and not old.source.startswith(_STAND_INS):
            continue  # the list is older than what we have
        known = old or min(
            (row for row in table.rows.values() if (row.service, row.sku) == (price.service, price.sku)),
            key=lambda row: row.region,
            default=None,
        )
        if known and not 1 / MAX_CHANGE <= price.usd / known.usd <= MAX_CHANGE and price.service != "api":
            raise CostError(
                f"{price.service} {price.sku} is {known.usd:g} USD in {known.region} of {known.as_of} and now "
                f"{price.usd:g} in {price.region}: taken for a mistake",
                fix=f"the table in use stays; look at {price.source}, or write the row by hand and give --prices",
            )
        fresh.append(price)
    return PriceTable.parse(table.updated(fresh).as_csv(), place="the refreshed table")


def _csv_rows(lines: Iterable[str], code: str, columns: Set[str], today: date) -> tuple[date, Iterator[dict[str, str]]]:
    """The day of a price list as CSV, and its rows by the names of the columns that are looked at."""
    cells = csv.reader(lines)
    when: date | None = None
    for head in cells:
        if head[:1] == ["Publication Date"]:
            when = _day(head[1], today)
        if head[:1] == ["SKU"]:
            break
    else:
        head = []
    if when is None or not set(head) >= columns:
        raise CostError(f"the offer file of {code} is cut off, or of another format", fix="refresh again later")

    places = {name: head.index(name) for name in sorted(columns)}

    def rows() -> Iterator[dict[str, str]]:
        for row in cells:
            if len(row) != len(head):
                raise CostError(
                    f"the offer file of {code} is cut off after {cells.line_num} lines", fix="refresh again later"
                )
            yield {name: row[place] for name, place in places.items()}

    return when, rows()


def _matching(
    entries: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    rule: OfferRule,
    *,
    region: str,
    when: date,
    source: str,
) -> Price | None:
    pattern = re.compile(rf"(?:[A-Z0-9]+-)?{rule.usage}")
    for product, terms in entries:
        attributes = product.get("attributes", {})
        fits = pattern.fullmatch(str(attributes.get("usagetype", ""))) is not None
        if fits and rule.operation in (None, attributes.get("operation")):
            usd = _first_tier(terms)
            if usd:
                place = GLOBAL if rule.is_global else region
                return Price(rule.service, rule.sku, place, rule.unit, usd * rule.factor, source, when, AWS_LICENCE)
    return None


def _first_tier(terms: Mapping[str, Any]) -> float:
    """USD of the lowest tier that is not free."""
    tiers = [
        (float(tier.get("beginRange", 0)), float(tier["pricePerUnit"]["USD"]))
        for term in terms.values()
        for tier in term["priceDimensions"].values()
        if "USD" in tier["pricePerUnit"]
    ]
    return next((usd for _, usd in sorted(tiers) if usd > 0), 0.0)


def _tiers(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "input", row.get("input_cost_per_token")
    yield "output", row.get("output_cost_per_token")
    yield "cached-input", row.get("cache_read_input_token_cost")
    yield "batch-input", row.get("input_cost_per_token_batches")
    yield "batch-output", row.get("output_cost_per_token_batches")
    for name, usd in row.items():
        if match := re.fullmatch(r"(input|output)_cost_per_token_above_(\d+)k_tokens", name):
            yield f"long-{match[2]}000-{match[1]}", usd
        if match := re.fullmatch(r"cache_read_input_token_cost_above_(\d+)k_tokens", name):
            yield f"long-{match[1]}000-cached-input", usd


def _day(text: str, today: date) -> date:
    """The publication's day; a clock ahead of ours counts as today."""
    return min(date.fromisoformat(text[:10]), today)

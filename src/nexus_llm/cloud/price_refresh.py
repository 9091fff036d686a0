"""Prices of today from AWS and litellm, fetched only when the user asks for them. Everything here is free of charge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from nexus_llm.cloud.aws_errors import explained
from nexus_llm.cost.money import Price, Unit
from nexus_llm.cost.prices.offers import (
    EC2_RULES,
    RULES,
    OfferRule,
    ec2_prices,
    litellm_prices,
    offer_prices,
    product_prices,
    rds_prices,
    savings_prices,
    spot_price,
    training_rule,
)
from nexus_llm.errors import CostError

OFFERS = "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws"
LITELLM = "https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json"
PRICING_REGION = "us-east-1"  # the Pricing API answers from a few regions only
MAX_BYTES = 200_000_000
TIMEOUT_SECONDS = 120.0
_SPOT_DAYS = 1


@dataclass(frozen=True)
class PriceSources:
    """Where prices come from."""

    fetch: Callable[[str], bytes]
    """The bytes at an address."""
    client: Callable[[str, str], Any]
    """boto3 client of (service, region)."""
    today: date
    fetch_lines: Callable[[str], Iterable[str]] = lambda url: fetch_lines(url)  # noqa: PLW0108 - is below
    """The lines of a large text at an address, as they come."""

    def public(self, region: str, names: Sequence[str] = ()) -> list[Price]:
        """From AWS's offer files, which need no account: all but spot and savings plans; `names` are machines."""
        rules = (*RULES, *map(training_rule, names))
        found: list[Price] = []
        for code in sorted({rule.service_code for rule in rules}):
            offer = _parsed(self.fetch(f"{OFFERS}/{code}/current/{region}/index.json"), code)
            found += offer_prices(offer, rules, region=region, today=self.today)
        lines = self.fetch_lines(f"{OFFERS}/AmazonEC2/current/{region}/index.csv")
        found += ec2_prices(lines, names, region=region, today=self.today)
        lines = self.fetch_lines(f"{OFFERS}/AmazonRDS/current/{region}/index.csv")
        return found + rds_prices(lines, region=region, today=self.today)

    def interfaces(self) -> list[Price]:
        """API prices from litellm's public list."""
        return litellm_prices(_parsed(self.fetch(LITELLM), "litellm's list"), today=self.today)

    def machines(self, names: Sequence[str], region: str) -> list[Price]:
        """From the account's read-only calls: on demand, spot, savings plans, SageMaker, NAT and EBS."""
        found: list[Price] = []
        for rule in EC2_RULES:
            family = {"nat": "NAT Gateway", "ebs": "Storage"}[rule.service]
            products = self._products("AmazonEC2", {"productFamily": family}, region)
            found += product_prices(products, rule, region=region, today=self.today)
        for name in names:
            found += self._on_demand(name, region)
            found += self._sagemaker(name, region)
            found += self._spot(name, region)
            found += self._savings(name, region)
        return found

    def _on_demand(self, name: str, region: str) -> list[Price]:
        wanted = {"instanceType": name, "operatingSystem": "Linux", "preInstalledSw": "NA", "tenancy": "Shared",
                  "capacitystatus": "Used"}  # fmt: skip
        rule = OfferRule("AmazonEC2", rf"BoxUsage:{name}", "ec2", f"{name} on-demand", Unit.HOUR)
        return product_prices(self._products("AmazonEC2", wanted, region), rule, region=region, today=self.today)

    def _sagemaker(self, name: str, region: str) -> list[Price]:
        rule = training_rule(name)
        wanted = {"instanceName": f"ml.{name}", "component": "Training"}
        return product_prices(self._products("AmazonSageMaker", wanted, region), rule, region=region, today=self.today)

    def _products(self, code: str, wanted: dict[str, str], region: str) -> Iterator[dict[str, Any]]:
        filters = [
            {"Type": "TERM_MATCH", "Field": name, "Value": value}
            for name, value in {**wanted, "regionCode": region}.items()
        ]
        request: dict[str, Any] = {"ServiceCode": code, "Filters": filters, "FormatVersion": "aws_v1"}
        with explained("pricing:GetProducts", code):
            client = self.client("pricing", PRICING_REGION)
            while True:
                answer = client.get_products(**request)
                yield from (json.loads(text) for text in answer["PriceList"])
                if not answer.get("NextToken"):
                    return
                request["NextToken"] = answer["NextToken"]

    def _spot(self, name: str, region: str) -> list[Price]:
        with explained("ec2:DescribeSpotPriceHistory", name):
            answer = self.client("ec2", region).describe_spot_price_history(
                InstanceTypes=[name],
                ProductDescriptions=["Linux/UNIX"],
                StartTime=datetime.combine(self.today, time(), UTC) - timedelta(days=_SPOT_DAYS),
            )
        return spot_price(answer["SpotPriceHistory"], name, region=region, today=self.today)

    def _savings(self, name: str, region: str) -> list[Price]:
        filters = {"region": region, "instanceType": name, "productDescription": "Linux/UNIX", "tenancy": "shared"}
        with explained("savingsplans:DescribeSavingsPlansOfferingRates", name):
            answer = self.client("savingsplans", PRICING_REGION).describe_savings_plans_offering_rates(
                savingsPlanPaymentOptions=["No Upfront"],
                savingsPlanTypes=["Compute"],
                products=["EC2"],
                serviceCodes=["AmazonEC2"],
                filters=[{"name": key, "values": [value]} for key, value in filters.items()],
            )
        return savings_prices(answer["searchResults"], name, region=region, today=self.today)


def fetch(url: str) -> bytes:
    """The bytes at an https address.

    Raises:
        CostError: it cannot be had, is too large, or ended before its announced length.
    """
    import httpx

    try:
        with httpx.stream("GET", url, timeout=TIMEOUT_SECONDS, follow_redirects=True) as answer:
            answer.raise_for_status()
            body = bytearray()
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > MAX_BYTES:
                    raise CostError(f"{url} is larger than {MAX_BYTES} bytes", fix="the table in use stays")
            return bytes(body)
    except httpx.HTTPError as error:
        raise CostError(f"{url} cannot be had ({error})", fix="the table in use stays; try again later") from error


def fetch_lines(url: str, advance: Callable[[int], None] = lambda count: None) -> Iterator[str]:  # noqa: ARG005
    """The lines of a text at an https address, as they come; `advance` is told how many bytes a line was.

    Raises:
        CostError: as `fetch`; what came before is then half a text.
    """
    import httpx

    try:
        with httpx.stream("GET", url, timeout=TIMEOUT_SECONDS, follow_redirects=True) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                advance(len(line) + 1)
                yield f"{line}\n"
    except httpx.HTTPError as error:
        raise CostError(f"{url} cannot be had ({error})", fix="the table in use stays; try again later") from error


def _parsed(body: bytes, name: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise CostError(
            f"{name} is no JSON: it is cut off ({len(body)} bytes)", fix="the table in use stays; try again later"
        ) from error
    if not isinstance(content, dict):
        raise CostError(f"{name} is no price list", fix="the table in use stays; try again later")
    return content

"""The calls of `nexus cost refresh` and `actual`: botocore's stubber checks both sides against AWS's models."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest

from cost_ground import SHIPPED, TODAY, planner
from lying_server import LyingServer, Trick, lying_server
from nexus_llm.cloud.cost_explorer import MAX_PAGES, daily_costs
from nexus_llm.cloud.price_refresh import LITELLM, OFFERS, PriceSources, fetch, fetch_lines
from nexus_llm.cost.actual import explorer_rows
from nexus_llm.cost.hardware import machines
from nexus_llm.cost.prices.offers import (
    EC2_RULES,
    RDS_RULES,
    RULES,
    OfferRule,
    missing_prices,
    training_rule,
    updated,
)
from nexus_llm.errors import CostError, NexusError

boto3 = pytest.importorskip("boto3", reason="boto3 (extra aws) is not installed")
from botocore.stub import ANY, Stubber  # noqa: E402


def stubbed(service: str) -> tuple[Any, Stubber]:
    client = boto3.client(service, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    return client, Stubber(client)


def product(usage: str, usd: str) -> str:
    dimensions = {"d": {"beginRange": "0", "pricePerUnit": {"USD": usd}}}
    return json.dumps({"product": {"attributes": {"usagetype": usage}}, "publicationDate": "2026-11-20T00:00:00Z",
                       "terms": {"OnDemand": {"t": {"priceDimensions": dimensions}}}})  # fmt: skip


def test_machines_are_asked_of_four_services_in_their_own_shapes() -> None:
    clients = {name: stubbed(name) for name in ("pricing", "ec2", "savingsplans")}
    pricing = clients["pricing"][1]
    for code, usage, usd in (
        ("AmazonEC2", "NatGateway-Hours", "0.046"),
        ("AmazonEC2", "NatGateway-Bytes", "0.046"),
        ("AmazonEC2", "EBS:VolumeUsage.gp3", "0.081"),
        ("AmazonEC2", "BoxUsage:g6.xlarge", "0.81"),
        ("AmazonSageMaker", "USE1-Train:ml.g6.xlarge", "1.13"),
    ):
        asked = {"ServiceCode": code, "Filters": ANY, "FormatVersion": "aws_v1"}
        pricing.add_response("get_products", {"FormatVersion": "aws_v1", "PriceList": [product(usage, usd)]}, asked)
    when = datetime(2026, 11, 22, tzinfo=UTC)
    spot = {"InstanceType": "g6.xlarge", "AvailabilityZone": "us-east-1a", "SpotPrice": "0.41", "Timestamp": when,
            "ProductDescription": "Linux/UNIX"}  # fmt: skip
    clients["ec2"][1].add_response("describe_spot_price_history", {"SpotPriceHistory": [spot]})
    rate = {"rate": "0.52", "savingsPlanOffering": {"durationSeconds": 31_536_000}, "properties": []}
    clients["savingsplans"][1].add_response("describe_savings_plans_offering_rates", {"searchResults": [rate]})
    for _, stubber in clients.values():
        stubber.activate()
    found = PriceSources(no_network, lambda service, _region: clients[service][0], TODAY).machines(
        ["g6.xlarge"], "us-east-1"
    )
    assert {(row.service, row.sku): row.usd for row in found} == {
        ("nat", "hour"): 0.046,
        ("nat", "data"): 0.046,
        ("ebs", "gp3"): 0.081,
        ("ec2", "g6.xlarge on-demand"): 0.81,
        ("sagemaker", "ml.g6.xlarge training"): 1.13,
        ("ec2", "g6.xlarge spot"): 0.41,
        ("ec2", "g6.xlarge savings-1y"): 0.52,
    }
    for _, stubber in clients.values():
        stubber.assert_no_pending_responses()


def test_refused_credentials_are_told_with_the_call() -> None:
    client, stubber = stubbed("pricing")
    stubber.add_client_error("get_products", "AccessDeniedException")
    stubber.activate()
    with pytest.raises(NexusError, match="pricing:GetProducts"):
        PriceSources(no_network, lambda *_: client, TODAY).machines([], "us-east-1")


# A region's files, as AWS lays them out: one JSON a service, and EC2's and RDS's as CSV.

FRANKFURT = "eu-central-1"
MACHINES = sorted(machines())


def usage_of(rule: OfferRule) -> str:
    return rule.usage.replace("\\", "")


def offer_file(code: str, *, region: str = FRANKFURT, factor: float = 1.1) -> dict[str, Any]:
    """Every product of a service that we know, at the shipped price times `factor`."""
    products, terms = {}, {}
    rules = [rule for rule in (*RULES, *map(training_rule, MACHINES)) if rule.service_code == code]
    for number, rule in enumerate(rules):
        key = (rule.service, rule.sku, "global" if rule.is_global else "us-east-1")
        if key not in SHIPPED.rows:
            continue
        usd = SHIPPED.rows[key].usd * (1 if rule.is_global else factor) / rule.factor
        place = "" if rule.is_global else region
        attributes = {"usagetype": f"EUC1-{usage_of(rule)}", "operation": rule.operation or "", "regionCode": place}
        products[str(number)] = {"attributes": attributes}
        dimension = {"beginRange": "0", "pricePerUnit": {"USD": f"{usd:.12f}"}}
        terms[str(number)] = {"t": {"priceDimensions": {"d": dimension}}}
    return {"offerCode": code, "publicationDate": "2026-11-20T00:00:00Z", "products": products,
            "terms": {"OnDemand": terms}}  # fmt: skip


EC2_COLUMNS = ("SKU", "TermType", "PricePerUnit", "Currency", "Region Code", "usageType", "Operating System",
               "Tenancy", "CapacityStatus", "Pre Installed S/W")  # fmt: skip


def ec2_file(*, region: str = FRANKFURT, factor: float = 1.1) -> str:
    box, linux = "EUC1-BoxUsage:g6.xlarge", ("Linux", "Shared", "Used", "NA")
    rows = [
        ("1", "Reserved", "0.0000000000", "USD", region, box, *linux),
        ("2", "OnDemand", "9.0", "USD", region, box, "Windows", *linux[1:]),
        ("3", "OnDemand", "0.0", "USD", region, box, *linux),
    ]
    for name in MACHINES:
        usd = SHIPPED.lookup("ec2", f"{name} on-demand", "us-east-1").usd * factor
        rows.append(("4", "OnDemand", str(usd), "USD", region, f"EUC1-BoxUsage:{name}", *linux))
    for rule in EC2_RULES:
        usd = SHIPPED.lookup(rule.service, rule.sku, "us-east-1").usd * factor
        rows.append(("5", "OnDemand", str(usd), "USD", region, f"EUC1-{usage_of(rule)}", "", "", "", ""))
    head = ['"FormatVersion","v1.0"', '"Publication Date","2026-11-20T00:00:00Z"', ",".join(EC2_COLUMNS)]
    return "\n".join([*head, *(",".join(f'"{cell}"' for cell in row) for row in rows)]) + "\n"


def rds_file() -> str:
    """Aurora's rows with dearer ones beside them, in other columns than EC2's."""
    columns = ("SKU", "TermType", "PricePerUnit", "Currency", "Database Engine", "Region Code", "usageType")
    rows = [("1", "OnDemand", "0.3", "USD", "Any", FRANKFURT, "EUC1-Aurora:ServerlessV2IOOptimizedUsage")]
    for rule in RDS_RULES:
        usd = SHIPPED.lookup(rule.service, rule.sku, "us-east-1").usd * 1.1 / rule.factor
        rows.append(("2", "OnDemand", f"{usd:.12f}", "USD", "Any", FRANKFURT, f"EUC1-{usage_of(rule)}"))
    head = ['"Publication Date","2026-11-20T00:00:00Z"', ",".join(columns)]
    return "\n".join([*head, *(",".join(f'"{cell}"' for cell in row) for row in rows)]) + "\n"


def laid_out(server: LyingServer) -> PriceSources:
    """A server with all of Frankfurt's files, and sources that ask it instead of AWS."""
    codes = {rule.service_code for rule in (*RULES, training_rule("x"))}
    for code in codes:
        server.add(f"/{code}/current/{FRANKFURT}/index.json", json.dumps(offer_file(code)).encode())
    server.add(f"/AmazonEC2/current/{FRANKFURT}/index.csv", ec2_file().encode())
    server.add(f"/AmazonRDS/current/{FRANKFURT}/index.csv", rds_file().encode())
    return PriceSources(
        lambda url: fetch(url.replace(OFFERS, server.url)),
        no_client,
        TODAY,
        lambda url: fetch_lines(url.replace(OFFERS, server.url)),
    )


def test_another_region_is_planned_from_public_files_alone_and_costs_what_they_say() -> None:
    with lying_server() as server:
        found = laid_out(server).public(FRANKFURT, MACHINES)
    table = updated(SHIPPED, found)
    assert {price.region for price in found} == {FRANKFURT, "global"}
    assert missing_prices(found, MACHINES) == []
    choice: dict[str, Any] = {"purchases": ("on-demand",), "staff_hours_per_month": 0}
    there = planner(table, region=FRANKFURT, **choice).scenario(1e5)
    here = planner(region="us-east-1", **choice).scenario(1e5)
    dashboards = 3.0  # the same everywhere
    assert there.usd_per_month - dashboards == pytest.approx((here.usd_per_month - dashboards) * 1.1)
    with pytest.raises(CostError, match=r"g6\.xlarge has no price as spot in eu-central-1") as caught:
        planner(table, region=FRANKFURT, purchases=("spot",), machines=("g6.xlarge",)).scenario(1e5)
    assert "--what account" in caught.value.fix  # no public file has spot prices


JSON_FILE, CSV_FILE = f"/AWSELB/current/{FRANKFURT}/index.json", f"/AmazonEC2/current/{FRANKFURT}/index.csv"


@pytest.mark.parametrize(
    ("path", "content", "trick", "complaint"),
    [
        (JSON_FILE, None, Trick(cut_after=100), "cannot be had|cut off"),
        (JSON_FILE, None, Trick(cut_after=100, chunked=True), "cannot be had|cut off"),
        (JSON_FILE, None, Trick(status=404), "cannot be had"),
        (JSON_FILE, b"<html>please log in</html>", None, "no JSON"),
        (JSON_FILE, json.dumps(offer_file("AWSELB", region="us-east-1")).encode(), None, "is of us-east-1, not"),
        (JSON_FILE, json.dumps(offer_file("AWSELB", factor=100)).encode(), None, "taken for a mistake"),
        (JSON_FILE, json.dumps(offer_file("AWSELB", factor=0.01)).encode(), None, "taken for a mistake"),
        (CSV_FILE, None, Trick(cut_after=700), "cannot be had|cut off"),
        (CSV_FILE, None, Trick(status=503), "cannot be had"),
        (CSV_FILE, ec2_file()[:-60].encode(), None, "cut off after"),
        (CSV_FILE, b"please log in\n", None, "another format"),
        (CSV_FILE, ec2_file(region="us-east-1").encode(), None, "is of us-east-1, not"),
        (CSV_FILE, ec2_file(factor=50).encode(), None, "taken for a mistake"),
    ],
)
def test_a_server_that_lies_leaves_the_table_in_use(
    path: str, content: bytes | None, trick: Trick | None, complaint: str
) -> None:
    with lying_server() as server:
        sources = laid_out(server)
        page = server.pages[path]
        page.content = page.content if content is None else content
        page.tricks = [trick] if trick else []
        with pytest.raises(CostError, match=complaint):
            updated(SHIPPED, sources.public(FRANKFURT, MACHINES))


def test_what_a_regions_files_do_not_hold_is_named_and_stays_an_error() -> None:
    with lying_server() as server:
        sources = laid_out(server)
        empty = offer_file("AWSELB") | {"products": {}}
        server.pages[JSON_FILE].content = json.dumps(empty).encode()
        server.pages[CSV_FILE].content = "\n".join(
            line for line in ec2_file().splitlines() if "g6.xlarge" not in line
        ).encode()
        found = sources.public(FRANKFURT, MACHINES)
    assert missing_prices(found, MACHINES) == ["alb hour", "alb lcu", "ec2 g6.xlarge on-demand"]
    with pytest.raises(CostError, match="no price of alb 'hour' in eu-central-1"):
        planner(updated(SHIPPED, found), region=FRANKFURT).scenario(1e5)


def test_api_prices_come_from_litellms_list() -> None:
    body = json.dumps({"m": {"mode": "chat", "input_cost_per_token": 1e-6}}).encode()
    (row,) = PriceSources(lambda url: body if url == LITELLM else b"", no_client, TODAY).interfaces()
    assert (row.sku, row.usd) == ("m input", 1.0)


def test_cost_explorer_is_asked_by_day_and_service_through_all_pages() -> None:
    client, stubber = stubbed("ce")
    group = {"Keys": ["Amazon Simple Storage Service"], "Metrics": {"UnblendedCost": {"Amount": "2", "Unit": "USD"}}}
    for day, token in (("2026-11-01", "more"), ("2026-11-02", None)):
        answer = {"ResultsByTime": [{"TimePeriod": {"Start": day, "End": "2026-11-03"}, "Groups": [group]}]}
        stubber.add_response("get_cost_and_usage", answer | ({"NextPageToken": token} if token else {}))
    stubber.activate()
    found = daily_costs(lambda _: client, start=date(2026, 11, 1), end=date(2026, 11, 3), tag=("project", "nexus"))
    assert [(row.day.day, row.usd) for row in explorer_rows(found)] == [(1, 2.0), (2, 2.0)]
    stubber.assert_no_pending_responses()


def test_a_bill_of_more_pages_than_are_paid_for_is_an_error_and_no_smaller_bill() -> None:
    client, stubber = stubbed("ce")
    for _ in range(MAX_PAGES):
        stubber.add_response("get_cost_and_usage", {"ResultsByTime": [], "NextPageToken": "more"})
    stubber.activate()
    with pytest.raises(CostError, match="no part of a bill is told"):
        daily_costs(lambda _: client, start=date(2026, 11, 1), end=date(2026, 11, 3), tag=None)


def no_network(url: str) -> bytes:
    raise AssertionError(f"nobody asked for {url}")


def no_client(service: str, region: str) -> Any:
    raise AssertionError(f"nobody asked for {service} in {region}")

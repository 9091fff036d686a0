"""The calls of `nexus cost refresh` and `actual`: botocore's stubber checks both sides against AWS's models."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest

from nexus_llm.cloud.cost_explorer import daily_costs
from nexus_llm.cloud.price_refresh import LITELLM, OFFERS, PriceSources
from nexus_llm.cost.actual import explorer_rows
from nexus_llm.cost.prices.offers import RULES
from nexus_llm.errors import CostError, NexusError

boto3 = pytest.importorskip("boto3", reason="boto3 (extra aws) is not installed")
from botocore.stub import ANY, Stubber  # noqa: E402

TODAY = date(2026, 11, 22)


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


def test_public_files_are_read_from_the_regions_addresses_without_an_account() -> None:
    asked = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        code = url.split("/")[-4]
        return json.dumps({"offerCode": code, "publicationDate": "2026-11-20T00:00:00Z", "products": {},
                           "terms": {"OnDemand": {}}}).encode()  # fmt: skip

    assert PriceSources(fetch, no_client, TODAY).public("eu-west-1") == []
    assert f"{OFFERS}/AWSELB/current/eu-west-1/index.json" in asked
    assert len(asked) == len({rule.service_code for rule in RULES})


@pytest.mark.parametrize("body", [b'{"offerCode": "AWSE', b"", b"[]", b'{"offerCode": "AWSELB"}'])
def test_a_download_that_ended_early_is_refused(body: bytes) -> None:
    with pytest.raises(CostError, match=r"cut off|no price list"):
        PriceSources(lambda _url: body, no_client, TODAY).public("us-east-1")


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


def no_network(url: str) -> bytes:
    raise AssertionError(f"nobody asked for {url}")


def no_client(service: str, region: str) -> Any:
    raise AssertionError(f"nobody asked for {service} in {region}")

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from cost_ground import SHIPPED, TODAY
from nexus_llm.cost.money import Price, Unit
from nexus_llm.cost.prices.offers import RULES, litellm_prices, offer_prices, savings_prices, spot_price, updated
from nexus_llm.errors import CostError

REGION = "us-east-1"


def offer(*products: tuple[str, str, list[tuple[int, str]]], code: str = "AWSELB") -> dict[str, Any]:
    """An offer file of (usage type, operation, [(from, USD)])."""
    return {
        "offerCode": code,
        "publicationDate": "2026-11-20T10:00:00Z",
        "products": {str(n): {"attributes": {"usagetype": usage, "operation": operation}}
                     for n, (usage, operation, _) in enumerate(products)},
        "terms": {"OnDemand": {str(n): {"t": {"priceDimensions": {
            str(i): {"beginRange": str(begin), "pricePerUnit": {"USD": usd}} for i, (begin, usd) in enumerate(tiers)}}}
            for n, (_, _, tiers) in enumerate(products)}},
    }  # fmt: skip


def test_an_offer_file_becomes_our_rows_and_its_day() -> None:
    content = offer(
        ("LoadBalancerUsage", "LoadBalancing:Network", [(0, "0.9")]),
        ("USE1-LoadBalancerUsage", "LoadBalancing:Application", [(0, "0.0230000000")]),
        ("LCUUsage", "LoadBalancing:Application", [(0, "0.0081")]),
    )
    found = offer_prices(content, RULES, region=REGION, today=TODAY)
    assert [(row.sku, row.unit, row.usd) for row in found] == [
        ("hour", Unit.HOUR, 0.023),
        ("lcu", Unit.LCU_HOUR, 0.0081),
    ]
    assert {row.as_of for row in found} == {date(2026, 11, 20)}


def test_a_free_tier_is_not_taken_for_the_price_and_requests_are_scaled() -> None:
    content = offer(("KMS-Requests", "", [(20000, "0.000003"), (0, "0")]), code="awskms")
    (row,) = offer_prices(content, RULES, region=REGION, today=TODAY)
    assert (row.unit, row.usd) == (Unit.THOUSAND_REQUESTS, pytest.approx(0.003))


@pytest.mark.parametrize("missing", ["offerCode", "publicationDate", "products", "terms"])
def test_an_offer_that_is_cut_off_is_refused(missing: str) -> None:
    content = offer()
    del content[missing]
    with pytest.raises(CostError, match="cut off"):
        offer_prices(content, RULES, region=REGION, today=TODAY)


def test_spot_is_the_mean_of_each_zones_newest_price() -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    history = [
        {
            "InstanceType": "g6.xlarge",
            "AvailabilityZone": zone,
            "SpotPrice": usd,
            "Timestamp": now - timedelta(hours=age),
        }
        for zone, usd, age in (("a", "0.40", 1), ("a", "9.0", 5), ("b", "0.50", 2))
    ]
    (row,) = spot_price(history, "g6.xlarge", region=REGION, today=TODAY)
    assert row.usd == pytest.approx(0.45)
    assert spot_price(history, "p5.4xlarge", region=REGION, today=TODAY) == []


def test_savings_rates_are_kept_apart_by_their_years() -> None:
    rates = [
        {"rate": rate, "savingsPlanOffering": {"durationSeconds": seconds}, "properties": []}
        for rate, seconds in (("0.6", 31_536_000), ("0.55", 31_536_000), ("0.40", 94_608_000))
    ]
    found = {row.sku: row.usd for row in savings_prices(rates, "g6.xlarge", region=REGION, today=TODAY)}
    assert found == {"g6.xlarge savings-1y": 0.55, "g6.xlarge savings-3y": 0.40}


def test_litellms_tiers_become_rows_and_free_or_other_models_none() -> None:
    models = {
        "sample_spec": {"mode": "one of: chat, embedding"},
        "m": {"mode": "chat", "input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6,
              "cache_read_input_token_cost": 5e-7, "output_cost_per_token_batches": 4e-6,
              "input_cost_per_token_above_200k_tokens": 4e-6,
              "cache_read_input_token_cost_above_200k_tokens": 1e-6},
        "free": {"mode": "chat", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
        "e": {"mode": "embedding", "input_cost_per_token": 1e-7},
    }  # fmt: skip
    found = {row.sku: round(row.usd, 6) for row in litellm_prices(models, today=TODAY)}
    assert found == {"m input": 2, "m output": 8, "m cached-input": 0.5, "m batch-output": 4, "m long-200000-input": 4,
                     "m long-200000-cached-input": 1}  # fmt: skip


def row(sku: str, usd: float, *, as_of: date = TODAY, service: str = "alb", region: str = REGION) -> Price:
    return Price(service, sku, region, Unit.HOUR, usd, "AWS price list", as_of, "fact")


def test_good_news_replace_the_row_and_leave_all_others() -> None:
    table = updated(SHIPPED, [row("hour", 0.03)])
    assert table.lookup("alb", "hour", REGION).usd == 0.03
    assert len(table.rows) == len(SHIPPED.rows)


def test_another_regions_prices_come_beside() -> None:
    table = updated(SHIPPED, [row("hour", 0.03, region="eu-central-1")])
    assert table.lookup("alb", "hour", "eu-central-1").usd == 0.03
    assert table.lookup("alb", "hour", REGION).usd == 0.0225


def test_an_older_list_never_replaces_a_newer_row() -> None:
    table = updated(SHIPPED, [row("hour", 0.03, as_of=date(2024, 1, 1))])
    assert table.lookup("alb", "hour", REGION).usd == 0.0225


@pytest.mark.parametrize(
    ("found", "what"),
    [
        ([], "found no price"),
        ([row("hour", 22.5)], "taken for a mistake"),
        ([row("hour", 0.000225)], "taken for a mistake"),
        ([Price("api", "m input", "global", Unit.MILLION_TOKENS, 1, "litellm", TODAY, "MIT")], "half a download"),
    ],
)
def test_half_a_download_or_an_unbelievable_price_leaves_the_table_in_use(found: list[Price], what: str) -> None:
    with pytest.raises(CostError, match=what):
        updated(SHIPPED, found)

from __future__ import annotations

import pytest

from cost_ground import SHIPPED, planner
from nexus_llm.cost.api_price import ApiUse, monthly_bill
from nexus_llm.cost.break_even import break_even, quality_beside
from nexus_llm.cost.plan import recipe_traffic
from nexus_llm.cost.quantities import Traffic
from nexus_llm.errors import CostError

OWN = planner()
STAFF = OWN.cost.staff_hours_per_month * OWN.cost.staff_usd_per_hour


def test_below_the_break_even_it_costs_more_and_above_it_less() -> None:
    found = break_even(OWN, "gpt-4o-mini", requests_per_month=1e5, upfront_usd=0)
    bound = found.pays_from_requests
    assert bound
    asked = recipe_traffic(OWN.cost)
    for factor, pays in ((0.99, False), (1.01, True), (3, True), (30, True)):
        volume = bound * factor
        api = monthly_bill(ApiUse("gpt-4o-mini"), Traffic(volume, asked.input_tokens, asked.output_tokens), SHIPPED).usd
        assert (OWN.scenario(volume).usd_per_month + STAFF <= api) is pays


def test_the_advice_not_to_self_host_is_given_in_plain_words() -> None:
    small = break_even(OWN, "gpt-4o-mini", requests_per_month=1e5, upfront_usd=100)
    assert small.words.startswith("Do not self-host to save against gpt-4o-mini below 8,")
    assert small.payback_days is None
    cheapest = break_even(OWN, "deepinfra/meta-llama/Meta-Llama-3.1-8B-Instruct", requests_per_month=1e5, upfront_usd=0)
    assert cheapest.pays_from_requests is None
    assert "at no volume is it cheaper" in cheapest.words


def test_payback_and_three_years_count_peoples_hours() -> None:
    found = break_even(OWN, "gpt-4", requests_per_month=1e5, upfront_usd=1000)
    month = OWN.scenario(1e5).usd_per_month + 8 * 75
    assert found.upfront_usd == 1000 + 80 * 75
    assert found.own_usd_3_years == pytest.approx(7000 + 36 * month)
    assert found.api_usd_3_years == pytest.approx(36 * 3300)
    assert found.payback_days == pytest.approx(7000 / (3300 - month) * 730 / 24)
    assert found.words.endswith("it costs 1,542 USD instead of 3,300; the 7,000 USD upfront are back after 122 days.")
    assert {price.sku for price in found.prices} == {"gpt-4 input", "gpt-4 output"}
    free = planner(staff_hours_per_month=0, staff_hours_to_build=0)
    assert break_even(free, "gpt-4", requests_per_month=1e5, upfront_usd=0).own_usd_per_month < month


def test_batch_prices_are_what_self_hosting_is_held_against_where_the_table_has_them() -> None:
    with pytest.raises(CostError, match="'gpt-4o-mini batch-output'"):  # the shipped list has none
        break_even(planner(batch_prices=True), "gpt-4o-mini", requests_per_month=1e5, upfront_usd=0)


def test_an_api_without_a_price_is_refused() -> None:
    with pytest.raises(CostError, match="gpt-99"):
        break_even(OWN, "gpt-99", requests_per_month=1e5, upfront_usd=0)


def test_quality_that_nobody_measured_is_not_claimed() -> None:
    assert "not measured" in quality_beside(None)["words"]
    text = {"name": "domain", "base_perplexity": 17.8, "tuned_perplexity": 13.8, "verdict": "pass"}
    # A task's change is in points of its metric, and none where too few answers could be scored.
    task = {"name": "glue", "change": None, "reason": "2 of 40 items have a score", "verdict": "inconclusive"}
    report = {"base": "m", "gate": {"verdict": "inconclusive", "comparisons": [text, task]}}
    assert quality_beside(report)["words"] == (
        "quality of the tuned m against that base: inconclusive; perplexity on domain text 17.8 → 13.8 (pass); "
        "glue: 2 of 40 items have a score (inconclusive). Against the API: not measured"
    )

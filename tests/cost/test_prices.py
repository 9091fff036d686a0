from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_ground import SHIPPED, TODAY
from nexus_llm.cost.api_price import ApiUse, monthly_bill
from nexus_llm.cost.money import Bill, BillLine, Price, Quantity, Unit, cents
from nexus_llm.cost.prices import PriceTable, age_warnings
from nexus_llm.cost.quantities import Traffic
from nexus_llm.errors import CostError

HOURLY = SHIPPED.lookup("ec2", "g6.xlarge on-demand", "us-east-1")
AMOUNTS = st.floats(0, 1e9)


@given(price=st.sampled_from(sorted(SHIPPED.rows)), unit=st.sampled_from(Unit), amount=AMOUNTS)
def test_a_price_is_never_multiplied_with_an_amount_of_another_unit(
    price: tuple[str, str, str], unit: Unit, amount: float
) -> None:
    row = SHIPPED.rows[price]
    if unit is row.unit:
        assert row.cost(Quantity(amount, unit)) == pytest.approx(row.usd * amount)
    else:
        with pytest.raises(CostError, match=f"not for one {unit}"):
            row.cost(Quantity(amount, unit))


@given(st.lists(AMOUNTS, max_size=20), st.lists(AMOUNTS, max_size=20))
def test_two_bills_together_cost_what_they_cost_apart(first: list[float], second: list[float]) -> None:
    def bill(amounts: list[float]) -> Bill:
        return Bill(tuple(BillLine("x", Quantity(one, Unit.HOUR), HOURLY) for one in amounts))

    assert (bill(first) + bill(second)).usd == pytest.approx(bill(first).usd + bill(second).usd)


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_an_amount_below_zero_or_without_end_is_refused(amount: float) -> None:
    with pytest.raises(CostError, match="is no amount"):
        Quantity(amount, Unit.GB)


def test_a_negotiated_discount_comes_off_the_list_price() -> None:
    assert cents(BillLine("x", Quantity(730, Unit.HOUR), HOURLY, discount_share=0.2).usd) == 470.00  # 0.8 x 587.504


def test_every_shipped_price_has_a_source_a_day_and_a_licence_and_survives_a_round_trip() -> None:
    assert len(SHIPPED.rows) > 500
    assert all(row.source and row.licence in ("Apache-2.0", "MIT", "fact") for row in SHIPPED.rows.values())
    assert all(date(2023, 1, 1) < row.as_of <= TODAY for row in SHIPPED.rows.values())
    assert PriceTable.parse(SHIPPED.as_csv(), place="again").rows == SHIPPED.rows


@pytest.mark.parametrize(
    ("service", "sku", "region", "what", "fix"),
    [
        (
            "ec2",
            "g6.xlarge on-demand",
            "eu-central-1",
            "no price of ec2 'g6.xlarge on-demand' in eu-central-1",
            "--region",
        ),
        ("ec2", "g6.xlarg on-demand", "us-east-1", "no price of ec2 'g6.xlarg on-demand'", "g6.xlarge on-demand"),
        ("ec2", "p5.4xlarge spot", "us-east-1", "no price", "did you mean"),
        ("gpu", "x", "us-east-1", "no price of gpu", "nexus cost refresh"),
    ],
)
def test_a_missing_price_is_an_error_that_names_what_there_is(
    service: str, sku: str, region: str, what: str, fix: str
) -> None:
    with pytest.raises(CostError, match=what) as caught:
        SHIPPED.lookup(service, sku, region)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda text: text[: text.index("\nsagemaker") - 30], "cut off|partial|no price"),
        (lambda text: text[: text.index("\nec2,")], "partial: it has no price of ec2"),
        (lambda text: text.replace(",0.8048,", ",0,", 1), "is no price"),
        (lambda text: text.replace(",0.8048,", ",-1,", 1), "is no price"),
        (lambda text: text.replace(",0.8048,", ",nan,", 1), "is no price"),
        (lambda text: text.replace("us-east-1,hour,", "us-east-1,fortnight,", 1), "fortnight"),
        (lambda text: text.replace("2026-07-20", "yesterday", 1), "yesterday"),
        (lambda text: text + text.splitlines()[-1] + "\n", "has two prices"),
        (lambda text: text.replace("service,sku", "sku,service", 1), "first line"),
        (lambda text: "", "first line"),
    ],
)
def test_a_table_that_is_cut_off_or_wrong_is_refused_with_its_place(change, what: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CostError, match=what):
        PriceTable.parse(change(SHIPPED.as_csv()), place="table.csv")


def test_prices_warn_from_their_ninety_first_day() -> None:
    young = replace(HOURLY, as_of=TODAY - timedelta(days=90))
    old = replace(HOURLY, as_of=TODAY - timedelta(days=91))
    assert age_warnings([young], TODAY) == []
    assert "91 days old" in age_warnings([young, old], TODAY)[0]
    spot = replace(old, sku="g6.xlarge spot", source="AWS Spot Instance Advisor")
    assert age_warnings([spot], TODAY)[0].endswith("nexus cost refresh --what account fetches those of today")


def test_the_briefs_traffic_costs_3300_dollars_with_gpt_4() -> None:
    bill = monthly_bill(ApiUse("gpt-4"), Traffic(100_000, 500, 300), SHIPPED)
    assert cents(bill.usd) == 3300.00  # 50 M x $30 + 30 M x $60


def test_cached_batch_and_long_tiers_have_their_own_prices() -> None:
    def row(sku: str, usd: float) -> Price:
        return Price("api", f"m {sku}", "global", Unit.MILLION_TOKENS, usd, "test", TODAY, "MIT")

    prices = [
        row("input", 2),
        row("output", 8),
        row("cached-input", 0.5),
        row("batch-input", 1),
        row("batch-output", 4),
    ]
    long = [row("long-200000-input", 4), row("long-200000-output", 16), row("long-200000-cached-input", 1)]
    table = SHIPPED.updated([*prices, *long])
    month = Traffic(1e6, 1000, 100)
    assert monthly_bill(ApiUse("m"), month, table).usd == pytest.approx(2000 + 800)
    assert monthly_bill(ApiUse("m", cached_input_share=0.5), month, table).usd == pytest.approx(1000 + 250 + 800)
    assert monthly_bill(ApiUse("m", is_batch=True), month, table).usd == pytest.approx(1000 + 400)
    endless = Traffic(1, 300_000, 1_000_000)
    assert monthly_bill(ApiUse("m"), endless, table).usd == pytest.approx(0.3 * 4 + 16)
    assert monthly_bill(ApiUse("m", cached_input_share=0.5), endless, table).usd == pytest.approx(0.15 * (4 + 1) + 16)


def test_a_tier_without_a_price_is_an_error_and_not_free() -> None:
    with pytest.raises(CostError, match="gpt-4 cached-input"):
        monthly_bill(ApiUse("gpt-4", cached_input_share=0.5), Traffic(1e5, 500, 300), SHIPPED)
    with pytest.raises(CostError, match="no price of api 'gpt-9"):
        monthly_bill(ApiUse("gpt-9"), Traffic(1e5, 500, 300), SHIPPED)

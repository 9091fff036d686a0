from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from cost_ground import planner
from nexus_llm.cost.actual import Spent, Usage, Used, actual_document, explorer_rows, report_rows, usage_rows
from nexus_llm.cost.money import cents
from nexus_llm.cost.quantities import Traffic
from nexus_llm.cost.report import actual_page
from nexus_llm.errors import CostError

EC2 = "Amazon Elastic Compute Cloud - Compute"
DAYS = [Spent(date(2026, 11, 1) + timedelta(days=n), EC2, 20.0) for n in range(10)]
SPENT = [*DAYS, Spent(date(2026, 11, 3), "AmazonCloudWatch", 5.0)]


def used(day: int, key: str, tokens: int, *, requests: int = 1) -> Used:
    return Used(date(2026, 11, day), key, "m", requests, tokens - 10 * requests, 10 * requests)


def hour(day: int, hour: int) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


def test_ten_days_are_scaled_to_a_month_and_held_against_the_plan() -> None:
    found = actual_document(SPENT, Usage(), planner=planner())
    planned = planner().scenario().usd_per_month
    assert (found["usd"], found["days"]) == (205.0, 10)
    assert found["usd_per_month"] == round(20.5 * 730 / 24, 2)
    assert found["over_plan_share"] == round(20.5 * 730 / 24 / planned - 1, 4)
    assert found["services"] == [{"name": EC2, "usd": 200.0}, {"name": "AmazonCloudWatch", "usd": 5.0}]
    assert found["by_day"][2] == {"day": "2026-11-03", "usd": 25.0, "requests": 0}
    assert found["idle"] is found["usd_per_request"] is found["traffic"] is None
    assert "the plan" in actual_page(found)


def test_the_bill_is_divided_among_keys_by_tokens_and_idle_hours_are_counted() -> None:
    rows = (used(1, "team-a", 300), used(1, "team-b", 100), used(2, "team-a", 600), used(12, "late", 11))
    found = actual_document(SPENT, Usage(rows, frozenset({hour(1, 0), hour(2, 5), hour(12, 0)})))
    assert found["requests"] == 3  # the one after the last day is not in these bills
    assert [(row["name"], row["usd"]) for row in found["keys"]] == [("team-a", 184.5), ("team-b", 20.5)]
    assert found["keys"][0]["usd_per_request"] == 92.25
    assert sum(row["usd"] for row in found["models"]) == found["usd"]
    assert found["usd_per_request"] == pytest.approx(205 / 3, abs=1e-6)
    assert found["idle"] == {"hours": 238, "of_hours": 240, "machine_usd": round(200 * 238 / 240, 2)}
    page = actual_page(found)
    assert "team-a (2 requests)" in page
    assert "238 of 240 hours" in page
    assert page.count("<title>2026-11-") == 10  # a bar a day


def test_days_whose_hours_nobody_noted_are_not_taken_for_idle() -> None:
    rows = (used(1, "a", 300), used(2, "a", 300))
    found = actual_document(SPENT, Usage(rows, frozenset({hour(2, 5)})))
    assert found["idle"] == {"hours": 215, "of_hours": 216, "machine_usd": round(180 * 215 / 216, 2)}
    every = tuple(used(day, "a", 300) for day in range(1, 11))
    assert "Idle hours: not known" in actual_page(actual_document(SPENT, Usage(every)))


def test_the_same_tokens_are_priced_at_the_apis_and_the_traffic_that_came_is_planned() -> None:
    own = planner(compare_with=["gpt-4"], staff_hours_per_month=0)
    usage = Usage((Used(date(2026, 11, 2), "a", "m", 30_000, 30_000 * 400, 30_000 * 200),))
    found = actual_document(SPENT, usage, planner=own)
    # GPT-4: 30 and 60 USD a million tokens: 12 million in, 6 million out.
    assert found["apis"] == [{"api": "gpt-4", "usd": 720.0, "staff_usd": 0.0, "saved_usd": 720.0 - 205.0}]
    month = round(30_000 / 10 * 730 / 24)
    assert found["traffic"] == {
        "requests_per_month": month,
        "input_tokens": 400.0,
        "output_tokens": 200.0,
        "planned_usd_per_month": cents(
            own.scenario(traffic=Traffic(30_000 / 10 * 730 / 24, 400, 200, 3)).usd_per_month
        ),
    }
    assert "515.00 USD saved" in actual_page(found)
    poor = actual_document(SPENT, usage, planner=planner(compare_with=["gpt-4o-mini"]))
    assert poor["apis"][0]["staff_usd"] == cents(8 * 75 * 10 * 24 / 730)
    assert "USD lost" in actual_page(poor)


def test_cost_explorers_answer_becomes_rows() -> None:
    group = {"Keys": ["AmazonS3"], "Metrics": {"UnblendedCost": {"Amount": "1.25", "Unit": "USD"}}}
    result = {"TimePeriod": {"Start": "2026-11-01", "End": "2026-11-02"}, "Groups": [group]}
    assert explorer_rows([result]) == [Spent(date(2026, 11, 1), "AmazonS3", 1.25)]


def test_a_bill_in_another_currency_is_not_added_up_as_dollars() -> None:
    group = {"Keys": ["AmazonS3"], "Metrics": {"UnblendedCost": {"Amount": "1.25", "Unit": "CNY"}}}
    with pytest.raises(CostError, match="bills in CNY"):
        explorer_rows([{"TimePeriod": {"Start": "2026-11-01"}, "Groups": [group]}])
    header = "lineItem/UsageStartDate,lineItem/ProductCode,lineItem/UnblendedCost,lineItem/CurrencyCode"
    with pytest.raises(CostError, match=r"cur\.csv:2 bills in CNY"):
        report_rows(f"{header}\n2026-11-01T00:00:00Z,AmazonEC2,1.5,CNY", place="cur.csv")


@pytest.mark.parametrize(
    "header",
    [
        "lineItem/UsageStartDate,lineItem/ProductCode,lineItem/UnblendedCost",
        "line_item_usage_start_date,line_item_product_code,line_item_unblended_cost",
    ],
)
def test_usage_reports_of_both_versions_are_summed_by_day_and_service(header: str) -> None:
    lines = [
        "2026-11-01T00:00:00Z,AmazonEC2,1.5",
        "2026-11-01T01:00:00Z,AmazonEC2,0.5",
        "2026-11-02T00:00:00Z,AmazonS3,1",
    ]
    found = report_rows("\n".join([header, *lines]), place="cur.csv")
    assert found == [Spent(date(2026, 11, 1), "AmazonEC2", 2.0), Spent(date(2026, 11, 2), "AmazonS3", 1.0)]
    with pytest.raises(CostError, match=r"cur\.csv:3"):
        report_rows("\n".join([header, lines[0], "2026-11"]), place="cur.csv")


def test_bad_reports_and_usage_tables_are_refused_with_their_place() -> None:
    with pytest.raises(CostError, match="no column"):
        report_rows("a,b\n1,2\n", place="cur.csv")
    good = {"time": "2026-11-01T00:00:00+00:00", "key": "a", "model": "m", "input_tokens": 1, "output_tokens": 2}
    late = {**good, "time": "2026-11-01T00:30:00+02:00"}
    found = usage_rows(json.dumps(good) + "\n\n" + json.dumps(late), place="usage")
    assert [row.day.day for row in found.rows] == [1, 31]  # AWS bills in UTC
    assert found.busy_hours == {hour(1, 0), datetime(2026, 10, 31, 22, tzinfo=UTC)}
    for bad in ({**good, "input_tokens": -1}, {**good, "time": "x"}, {"time": good["time"]}):
        with pytest.raises(CostError, match="usage:2"):
            usage_rows(json.dumps(good) + "\n" + json.dumps(bad), place="usage")
    with pytest.raises(CostError, match="no bill"):
        actual_document([], Usage())

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from nexus_llm.cost.actual import Spent, Used, actual_document, explorer_rows, report_rows, usage_rows
from nexus_llm.cost.report import actual_page
from nexus_llm.errors import CostError

EC2 = "Amazon Elastic Compute Cloud - Compute"
DAYS = [Spent(date(2026, 11, 1) + timedelta(days=n), EC2, 20.0) for n in range(10)]
SPENT = [*DAYS, Spent(date(2026, 11, 3), "AmazonCloudWatch", 5.0)]


def used(hour: int, key: str, tokens: int) -> Used:
    return Used(datetime(2026, 11, 1, tzinfo=UTC) + timedelta(hours=hour), key, "m", tokens - 10, 10)


def test_ten_days_are_scaled_to_a_month_and_held_against_the_plan() -> None:
    found = actual_document(SPENT, [], planned_usd_per_month=500)
    assert (found["usd"], found["days"]) == (205.0, 10)
    assert found["usd_per_month"] == round(20.5 * 730 / 24, 2)
    assert found["over_plan_share"] == round(20.5 * 730 / 24 / 500 - 1, 4)
    assert found["services"] == [{"name": EC2, "usd": 200.0}, {"name": "AmazonCloudWatch", "usd": 5.0}]
    assert found["idle"] is None
    assert found["usd_per_request"] is None


def test_the_bill_is_divided_among_keys_by_tokens_and_idle_hours_are_counted() -> None:
    requests = [used(0, "team-a", 300), used(0, "team-b", 100), used(5, "team-a", 600), used(999, "late", 1)]
    found = actual_document(SPENT, requests, planned_usd_per_month=None)
    assert found["requests"] == 3  # the one after the last day is not in these bills
    assert [(row["name"], row["usd"]) for row in found["keys"]] == [("team-a", 184.5), ("team-b", 20.5)]
    assert sum(row["usd"] for row in found["models"]) == found["usd"]
    assert found["usd_per_request"] == pytest.approx(205 / 3, abs=1e-6)
    assert found["idle"] == {"hours": 238, "of_hours": 240, "machine_usd": round(200 * 238 / 240, 2)}
    page = actual_page(found)
    assert "team-a" in page
    assert "238 of 240 hours" in page


def test_cost_explorers_answer_becomes_rows() -> None:
    group = {"Keys": ["AmazonS3"], "Metrics": {"UnblendedCost": {"Amount": "1.25", "Unit": "USD"}}}
    result = {"TimePeriod": {"Start": "2026-11-01", "End": "2026-11-02"}, "Groups": [group]}
    assert explorer_rows([result]) == [Spent(date(2026, 11, 1), "AmazonS3", 1.25)]


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
    assert len(usage_rows(json.dumps(good) + "\n\n", place="usage")) == 1
    for bad in ({**good, "input_tokens": -1}, {**good, "time": "x"}, {"time": good["time"]}):
        with pytest.raises(CostError, match="usage:2"):
            usage_rows(json.dumps(good) + "\n" + json.dumps(bad), place="usage")
    with pytest.raises(CostError, match="no bill"):
        actual_document([], [], planned_usd_per_month=1)

"""What AWS billed, by day and service. Cost Explorer takes 0.01 USD a request (not looked up again)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

from nexus_llm.cloud.aws_errors import explained
from nexus_llm.errors import CostError

REGION = "us-east-1"  # its only endpoint
MAX_PAGES = 20


def daily_costs(client: Callable[[str], Any], *, start: date, end: date, tag: tuple[str, str] | None) -> list[Any]:
    """`ResultsByTime` of the days from `start` to before `end`, grouped by service; `tag` keeps one project's costs.

    Raises:
        NexusError: AWS refuses.
        CostError: there are more than MAX_PAGES pages.
    """
    request: dict[str, Any] = {
        "TimePeriod": {"Start": start.isoformat(), "End": end.isoformat()},
        "Granularity": "DAILY",
        "Metrics": ["UnblendedCost"],
        "GroupBy": [{"Type": "DIMENSION", "Key": "SERVICE"}],
    }
    if tag:
        request["Filter"] = {"Tags": {"Key": tag[0], "Values": [tag[1]], "MatchOptions": ["EQUALS"]}}
    found: list[Any] = []
    with explained("ce:GetCostAndUsage", "costs"):
        explorer = client("ce")
        for _ in range(MAX_PAGES):
            answer = explorer.get_cost_and_usage(**request)
            found += answer["ResultsByTime"]
            if not answer.get("NextPageToken"):
                return found
            request["NextPageToken"] = answer["NextPageToken"]
    raise CostError(
        f"Cost Explorer has more than {MAX_PAGES} pages of {start} to {end}; no part of a bill is told",
        fix="fewer --days, a --tag, or a Cost and Usage Report: --cur FILE",
    )

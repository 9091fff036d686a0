"""What it did cost: bills against the plan, and who caused them. Pure: rows come from Cost Explorer, a CUR or files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from nexus_llm.cost.money import DAYS_PER_MONTH, cents
from nexus_llm.errors import CostError

# Names of the columns in a Cost and Usage Report, CUR 1 and CUR 2 (AWS, Data Exports; not looked up again).
_CUR_COLUMNS = {
    "day": ("lineItem/UsageStartDate", "line_item_usage_start_date"),
    "service": ("lineItem/ProductCode", "line_item_product_code"),
    "usd": ("lineItem/UnblendedCost", "line_item_unblended_cost"),
}
# Whose bills are machines: what idle hours waste.
_MACHINES = ("Elastic Compute Cloud", "AmazonEC2", "SageMaker")


@dataclass(frozen=True, slots=True)
class Spent:
    """One service's bill of one day."""

    day: date
    service: str
    usd: float


@dataclass(frozen=True, slots=True)
class Used:
    """One answered request."""

    at: datetime
    key: str
    """Name of the API key; never the key itself."""
    model: str
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def explorer_rows(results: Iterable[Mapping[str, Any]]) -> list[Spent]:
    """From `ResultsByTime` of Cost Explorer's GetCostAndUsage, by day and service."""
    return [
        Spent(
            date.fromisoformat(result["TimePeriod"]["Start"]),
            str(group["Keys"][0]),
            float(group["Metrics"]["UnblendedCost"]["Amount"]),
        )
        for result in results
        for group in result.get("Groups", [])
    ]


def report_rows(text: str, *, place: str) -> list[Spent]:
    """From a Cost and Usage Report as CSV.

    Raises:
        CostError: a column is missing, or a row is no bill.
    """
    lines = csv.DictReader(io.StringIO(text))
    names: dict[str, str] = {}
    for field, choices in _CUR_COLUMNS.items():
        found = next((name for name in choices if name in (lines.fieldnames or ())), None)
        if found is None:
            raise CostError(f"{place} has no column {choices[0]}", fix="export the report with its line items, as CSV")
        names[field] = found
    summed: dict[tuple[date, str], float] = defaultdict(float)
    for number, row in enumerate(lines, start=2):
        try:
            day = date.fromisoformat(row[names["day"]][:10])
            summed[day, row[names["service"]]] += float(row[names["usd"]])
        except (TypeError, ValueError) as error:
            raise CostError(f"{place}:{number}: {error}", fix="export the report again: it is cut off") from error
    return [Spent(day, service, usd) for (day, service), usd in sorted(summed.items())]


def usage_rows(text: str, *, place: str) -> list[Used]:
    """From a usage table: JSON lines with time (ISO 8601), key, model, input_tokens and output_tokens.

    Raises:
        CostError: a line is none.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            at = datetime.fromisoformat(row["time"])
            found.append(Used(at, str(row["key"]), str(row["model"]), *_counts(row)))
        except (ValueError, KeyError, TypeError) as error:
            raise CostError(
                f"{place}:{number}: no usage row ({error})",
                fix="each line is one JSON object with time, key, model, input_tokens and output_tokens",
            ) from error
    return found


def actual_document(
    spent: Sequence[Spent], used: Sequence[Used], *, planned_usd_per_month: float | None
) -> dict[str, Any]:
    """What was spent in the days of `spent`, against the plan, by key, model and request, with its idle hours.

    Raises:
        CostError: nothing was spent: there is nothing to compare.
    """
    if not spent:
        raise CostError("there is no bill in that time", fix="give other days, or a report that has them")
    first, last = min(row.day for row in spent), max(row.day for row in spent)
    days = (last - first).days + 1
    total = math.fsum(row.usd for row in spent)
    month = total / days * DAYS_PER_MONTH
    inside = [row for row in used if first <= row.at.date() <= last]
    return {
        "from": first.isoformat(),
        "to": last.isoformat(),
        "days": days,
        "usd": cents(total),
        "usd_per_month": cents(month),
        "planned_usd_per_month": None if planned_usd_per_month is None else cents(planned_usd_per_month),
        "over_plan_share": round(month / planned_usd_per_month - 1, 4) if planned_usd_per_month else None,
        "services": _summed((row.service, row.usd) for row in spent),
        "requests": len(inside),
        "usd_per_request": round(total / len(inside), 6) if inside else None,
        "usd_per_million_tokens": round(total / tokens * 1e6, 4)
        if (tokens := sum(row.tokens for row in inside))
        else None,
        "keys": _shared(total, ((row.key, row.tokens) for row in inside)),
        "models": _shared(total, ((row.model, row.tokens) for row in inside)),
        "idle": _idle(spent, inside, first, days) if inside else None,
    }


def _idle(spent: Sequence[Spent], used: Sequence[Used], first: date, days: int) -> dict[str, Any]:
    """Hours without a request, and what machines cost in them: what stopping machines at night would save at most."""
    busy = {(row.at.date() - first).days * 24 + row.at.hour for row in used}
    hours = days * 24
    machines = math.fsum(row.usd for row in spent if any(name in row.service for name in _MACHINES))
    idle = hours - len(busy)
    return {"hours": idle, "of_hours": hours, "machine_usd": cents(machines * idle / hours)}


def _shared(total: float, weights: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """The bill divided by tokens, the largest part first."""
    summed: dict[str, float] = defaultdict(float)
    counted: dict[str, int] = defaultdict(int)
    for name, weight in weights:
        summed[name] += weight
        counted[name] += 1
    whole = math.fsum(summed.values())
    return [
        {
            "name": name,
            "requests": counted[name],
            "tokens": round(summed[name]),
            "usd": cents(total * summed[name] / whole) if whole else 0.0,
        }
        for name in sorted(summed, key=lambda one: (-summed[one], one))
    ]


def _summed(rows: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    summed: dict[str, float] = defaultdict(float)
    for name, usd in rows:
        summed[name] += usd
    return [{"name": name, "usd": cents(summed[name])} for name in sorted(summed, key=lambda one: (-summed[one], one))]


def _counts(row: Mapping[str, Any]) -> tuple[int, int]:
    counts = int(row["input_tokens"]), int(row["output_tokens"])
    if min(counts) < 0:
        raise ValueError("tokens below 0")
    return counts


def period(days: int, today: date) -> tuple[date, date]:
    """The last `days` whole days before today, as Cost Explorer wants them: the end is not included.

    >>> period(7, date(2026, 11, 22))
    (datetime.date(2026, 11, 15), datetime.date(2026, 11, 22))
    """
    return today - timedelta(days=days), today

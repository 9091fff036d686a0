"""What it did cost: bills against the plan, and who caused them. Pure: rows come from Cost Explorer, a CUR or files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from nexus_llm.cost.api_price import ApiUse, monthly_bill
from nexus_llm.cost.money import DAYS_PER_MONTH, cents
from nexus_llm.cost.plan import Planner
from nexus_llm.cost.quantities import Traffic
from nexus_llm.errors import CostError

# Names of the columns in a Cost and Usage Report, CUR 1 and CUR 2 (AWS, Data Exports; not looked up again).
_CUR_COLUMNS = {
    "day": ("lineItem/UsageStartDate", "line_item_usage_start_date"),
    "service": ("lineItem/ProductCode", "line_item_product_code"),
    "usd": ("lineItem/UnblendedCost", "line_item_unblended_cost"),
}
MOST_USD, MOST_TOKENS = 1e12, 10**12
"""Of a line of a bill, and of a request: beyond them a file is broken."""
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
    """What one key asked one model on one day (UTC, as AWS bills)."""

    day: date
    key: str
    """Name of the API key; never the key itself."""
    model: str
    requests: int
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Usage:
    """What a gateway was asked."""

    rows: tuple[Used, ...] = ()
    busy_hours: frozenset[datetime] = frozenset()
    """Starts of the hours (UTC) in which a request came. A day with requests and no such hour is one whose hours
    nobody noted."""


def explorer_rows(results: Iterable[Mapping[str, Any]]) -> list[Spent]:
    """From `ResultsByTime` of Cost Explorer's GetCostAndUsage, by day and service.

    Raises:
        CostError: the bill is in another currency than the prices.
    """
    rows = []
    for result in results:
        for group in result.get("Groups", []):
            cost = group["Metrics"]["UnblendedCost"]
            _check_currency(str(cost.get("Unit", "USD")), place="Cost Explorer")
            day = date.fromisoformat(result["TimePeriod"]["Start"])
            rows.append(Spent(day, str(group["Keys"][0]), float(cost["Amount"])))
    return rows


def report_rows(text: str, *, place: str) -> list[Spent]:
    """From a Cost and Usage Report as CSV.

    Raises:
        CostError: a column is missing, or a row is no bill, or one in another currency than the prices.
    """
    lines = csv.DictReader(io.StringIO(text, newline=""))
    try:
        rows = list(lines)
    except csv.Error as error:
        raise CostError(
            f"{place}:{lines.line_num + 1}: {error}", fix="export the report again: it is cut off"
        ) from error
    names: dict[str, str] = {}
    for field, choices in _CUR_COLUMNS.items():
        found = next((name for name in choices if name in (lines.fieldnames or ())), None)
        if found is None:
            raise CostError(f"{place} has no column {choices[0]}", fix="export the report with its line items, as CSV")
        names[field] = found
    summed: dict[tuple[date, str], float] = defaultdict(float)
    for number, row in enumerate(rows, start=2):
        try:
            day = date.fromisoformat(row[names["day"]][:10])
            currency = row.get("lineItem/CurrencyCode") or row.get("line_item_currency_code") or "USD"
            _check_currency(currency, place=f"{place}:{number}")
            summed[day, row[names["service"]]] += _amount(row[names["usd"]])
        except (TypeError, ValueError) as error:
            raise CostError(f"{place}:{number}: {error}", fix="export the report again: it is cut off") from error
    return [Spent(day, service, usd) for (day, service), usd in sorted(summed.items())]


def _amount(text: str) -> float:
    usd = float(text)
    if not abs(usd) <= MOST_USD:
        raise ValueError(f"{text} USD is no amount of a bill")
    return usd


def _check_currency(currency: str, *, place: str) -> None:
    if currency != "USD":
        raise CostError(f"{place} bills in {currency}, and all prices here are USD", fix="give a bill in USD")


def usage_rows(text: str, *, place: str) -> Usage:
    """From a usage table: JSON lines with time (ISO 8601; UTC where it names no zone), key, model, input_tokens and
    output_tokens.

    Raises:
        CostError: a line is none.
    """
    found, hours = [], set()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            at = datetime.fromisoformat(row["time"])
            at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
            found.append(Used(at.date(), str(row["key"]), str(row["model"]), 1, *_counts(row)))
            hours.add(at.replace(minute=0, second=0, microsecond=0))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise CostError(
                f"{place}:{number}: no usage row ({error})",
                fix="each line is one JSON object with time, key, model, input_tokens and output_tokens",
            ) from error
    return Usage(tuple(found), frozenset(hours))


def actual_document(spent: Sequence[Spent], usage: Usage, *, planner: Planner | None = None) -> dict[str, Any]:
    """What was spent in the days of `spent`: by service, day, key, model and request, with its idle hours; with a
    planner, against the plan, against the plan for the traffic that really came, and against the APIs' prices.

    Raises:
        CostError: nothing was spent: there is nothing to compare; or a price of the plan is missing.
    """
    if not spent:
        raise CostError("there is no bill in that time", fix="give other days, or a report that has them")
    first, last = min(row.day for row in spent), max(row.day for row in spent)
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    inside = [row for row in usage.rows if first <= row.day <= last]
    total = math.fsum(row.usd for row in spent)
    requests, tokens = sum(row.requests for row in inside), sum(row.tokens for row in inside)
    return {
        "from": first.isoformat(),
        "to": last.isoformat(),
        "days": len(days),
        "usd": cents(total),
        "usd_per_month": cents(total / len(days) * DAYS_PER_MONTH),
        **_against(planner, total, inside, len(days)),
        "services": _summed((row.service, row.usd) for row in spent),
        "by_day": _by_day(spent, inside, days),
        "requests": requests,
        "usd_per_request": round(total / requests, 6) if requests else None,
        "usd_per_million_tokens": round(total / tokens * 1e6, 4) if tokens else None,
        "keys": _shared(total, ((row.key, row) for row in inside)),
        "models": _shared(total, ((row.model, row) for row in inside)),
        "idle": _idle(spent, inside, usage.busy_hours, days) if inside else None,
    }


def _against(planner: Planner | None, total: float, used: Sequence[Used], days: int) -> dict[str, Any]:
    """The plan beside the bill, and what the same tokens would have cost at the APIs."""
    if planner is None:
        return {"planned_usd_per_month": None, "over_plan_share": None, "traffic": None, "apis": []}
    months = days / DAYS_PER_MONTH
    planned = planner.scenario().usd_per_month
    found: dict[str, Any] = {
        "planned_usd_per_month": cents(planned),
        "over_plan_share": round(total / months / planned - 1, 4),
        "traffic": None,
        "apis": [],
    }
    requests = sum(row.requests for row in used)
    if not requests:
        return found
    cost = planner.cost
    came = Traffic(
        requests / months,
        max(sum(row.input_tokens for row in used) / requests, 1.0),
        max(sum(row.output_tokens for row in used) / requests, 1.0),
        cost.traffic.peak_ratio,
    )
    staff = cost.staff_hours_per_month * cost.staff_usd_per_hour * months
    apis = {
        api: monthly_bill(ApiUse(api, cost.cached_input_share, cost.batch_prices), came, planner.table).usd * months
        for api in cost.compare_with
    }
    return found | {
        "traffic": {
            "requests_per_month": round(came.requests_per_month),
            "input_tokens": round(came.input_tokens, 1),
            "output_tokens": round(came.output_tokens, 1),
            "planned_usd_per_month": None if (usd := planner.usd_or_none(came)) is None else cents(usd),
        },
        "apis": [
            {"api": api, "usd": cents(usd), "staff_usd": cents(staff), "saved_usd": round(usd - total - staff, 2)}
            for api, usd in apis.items()
        ],
    }


def _by_day(spent: Sequence[Spent], used: Sequence[Used], days: Sequence[date]) -> list[dict[str, Any]]:
    usd: dict[date, float] = defaultdict(float)
    requests: dict[date, int] = defaultdict(int)
    for bill in spent:
        usd[bill.day] += bill.usd
    for row in used:
        requests[row.day] += row.requests
    return [{"day": day.isoformat(), "usd": cents(usd[day]), "requests": requests[day]} for day in days]


def _idle(
    spent: Sequence[Spent], used: Sequence[Used], busy: frozenset[datetime], days: Sequence[date]
) -> dict[str, Any]:
    """Hours without a request, and what machines cost in them: what stopping machines at night would save at most.

    Days with requests whose hours nobody noted are left out.
    """
    noted = {hour.date() for hour in busy}
    unknown = {row.day for row in used} - noted
    known = [day for day in days if day not in unknown]
    hours = 24 * len(known)
    idle = hours - sum(hour.date() in known for hour in busy)
    machines = math.fsum(
        row.usd for row in spent if row.day not in unknown and any(name in row.service for name in _MACHINES)
    )
    return {"hours": idle, "of_hours": hours, "machine_usd": cents(machines * idle / hours) if hours else 0.0}


def _shared(total: float, uses: Iterable[tuple[str, Used]]) -> list[dict[str, Any]]:
    """The bill divided by tokens, the largest part first."""
    tokens: dict[str, int] = defaultdict(int)
    requests: dict[str, int] = defaultdict(int)
    for name, row in uses:
        tokens[name] += row.tokens
        requests[name] += row.requests
    whole = sum(tokens.values())
    usd = {name: total * tokens[name] / whole if whole else 0.0 for name in tokens}
    return [
        {
            "name": name,
            "requests": requests[name],
            "tokens": tokens[name],
            "usd": cents(usd[name]),
            "usd_per_request": round(usd[name] / requests[name], 6) if requests[name] else None,
        }
        for name in sorted(tokens, key=lambda one: (-tokens[one], one))
    ]


def _summed(rows: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    summed: dict[str, float] = defaultdict(float)
    for name, usd in rows:
        summed[name] += usd
    return [{"name": name, "usd": cents(summed[name])} for name in sorted(summed, key=lambda one: (-summed[one], one))]


def _counts(row: Mapping[str, Any]) -> tuple[int, int]:
    counts = int(row["input_tokens"]), int(row["output_tokens"])
    if not 0 <= min(counts) <= max(counts) <= MOST_TOKENS:
        raise ValueError(f"{min(counts)} and {max(counts)} tokens in one request")
    return counts

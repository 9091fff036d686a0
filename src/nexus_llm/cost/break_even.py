"""From how many requests a month self-hosting costs less than an API, people's hours included; often: never."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from nexus_llm.cost.api_price import ApiUse, monthly_bill
from nexus_llm.cost.money import DAYS_PER_MONTH, Price
from nexus_llm.cost.plan import Planner, recipe_traffic
from nexus_llm.cost.quantities import MAX_REQUESTS_PER_MONTH

MONTHS = 36
_FIRST_VOLUME = 100.0
_STEP = 10 ** (1 / 12)  # volumes that are tried; each crossing is then narrowed to 0.1 %


@dataclass(frozen=True, slots=True)
class BreakEven:
    """One API against our own machines, at the recipe's traffic."""

    api: str
    requests_per_month: float
    api_usd_per_month: float
    own_usd_per_month: float
    """Machines and everything around them, and people's hours."""
    staff_usd_per_month: float
    upfront_usd: float
    """Training, data and people's hours before the first request."""
    pays_from_requests: float | None
    """At this volume and every larger one our own month costs less; None where there is no such volume."""
    payback_days: float | None
    """Until the monthly saving has paid the upfront cost; None where there is no saving."""
    prices: tuple[Price, ...] = ()
    """The API's."""

    @property
    def api_usd_3_years(self) -> float:
        return MONTHS * self.api_usd_per_month

    @property
    def own_usd_3_years(self) -> float:
        return self.upfront_usd + MONTHS * self.own_usd_per_month

    @property
    def words(self) -> str:
        """The advice, in plain words.

        >>> BreakEven("x", 1e5, 10, 900, 600, 7000, None, None).words
        'Do not self-host to save against x: at no volume is it cheaper.'
        """
        if self.pays_from_requests is None:
            return f"Do not self-host to save against {self.api}: at no volume is it cheaper."
        bound = f"{_rounded_up(self.pays_from_requests):,.0f}"
        if self.requests_per_month < self.pays_from_requests:
            return (
                f"Do not self-host to save against {self.api} below {bound} requests a month: at "
                f"{self.requests_per_month:,.0f} it costs {self.own_usd_per_month:,.0f} USD instead of "
                f"{self.api_usd_per_month:,.0f}."
            )
        count = math.ceil(self.payback_days or 0)
        days = f"{count:,} day{'' if count == 1 else 's'}"
        return (
            f"Self-hosting is cheaper than {self.api} from {bound} requests a month: at "
            f"{self.requests_per_month:,.0f} it costs {self.own_usd_per_month:,.0f} USD instead of "
            f"{self.api_usd_per_month:,.0f}"
            + (f"; the {self.upfront_usd:,.0f} USD upfront are back after {days}." if count else ".")
            + (" Over 3 years the API costs less in all." if self.own_usd_3_years > self.api_usd_3_years else "")
        )


def break_even(planner: Planner, api: str, *, requests_per_month: float, upfront_usd: float) -> BreakEven:
    """The comparison with one API. `upfront_usd` is training and data; people's hours to build are added here.

    Raises:
        CostError: the API has no price, or nothing serves the recipe's traffic.
    """
    cost = planner.cost
    staff = cost.staff_hours_per_month * cost.staff_usd_per_hour
    upfront = upfront_usd + cost.staff_hours_to_build * cost.staff_usd_per_hour
    use = ApiUse(api, cost.cached_input_share, cost.batch_prices)
    api_bill = monthly_bill(use, replace(recipe_traffic(cost), requests_per_month=1.0), planner.table)
    api_each = api_bill.usd
    own = planner.scenario(requests_per_month).usd_per_month + staff
    api_usd = api_each * requests_per_month
    saving = api_usd - own
    return BreakEven(
        api,
        requests_per_month,
        api_usd,
        own,
        staff,
        upfront,
        _pays_from(planner, api_each, staff),
        upfront / saving * DAYS_PER_MONTH if saving > 0 else None,
        api_bill.prices,
    )


def quality_beside(report: dict[str, Any] | None) -> dict[str, Any]:
    """What a run's evaluation (`report.json`) says of the model, or that nobody measured it.

    A price comparison says nothing about answers: a tuned 8B model is not a frontier model.
    """
    if not report or "gate" not in report:
        return {"measured": False, "words": "quality: not measured (run the recipe, then plan again)"}
    rows, verdict = report["gate"].get("comparisons", []), report["gate"]["verdict"]
    told = "; ".join(f"{_compared(row)} ({row['verdict']})" for row in rows)
    words = f"quality of the tuned {report['base']} against that base: {verdict}; {told}. Against the API: not measured"
    return {"measured": True, "verdict": verdict, "comparisons": rows, "words": words}


def _compared(row: dict[str, Any]) -> str:
    """One rule of the gate: both perplexities, else the gate's own sentence, for a task's change is in its metric."""
    if row.get("base_perplexity") and row.get("tuned_perplexity"):
        return f"perplexity on {row['name']} text {row['base_perplexity']:.1f} → {row['tuned_perplexity']:.1f}"
    return f"{row['name']}: {row['reason']}"


def _pays_from(planner: Planner, api_usd_each: float, staff_usd: float) -> float | None:
    """The smallest volume from which every larger one pays. Steps of machines make the saving no straight line, so
    volumes are searched from the top down for the last one that does not pay."""

    def pays(volume: float) -> bool:
        return planner.scenario(volume).usd_per_month + staff_usd <= api_usd_each * volume

    high = MAX_REQUESTS_PER_MONTH
    if not pays(high):
        return None
    while high > _FIRST_VOLUME:
        low = max(high / _STEP, _FIRST_VOLUME)
        if not pays(low):
            break
        high = low
    else:
        return _FIRST_VOLUME
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high


def _rounded_up(value: float) -> float:
    """Two digits, up: the advice is no more exact than its assumptions.

    >>> _rounded_up(123_456)
    130000.0
    """
    power = 10.0 ** (len(str(int(value))) - 2)
    return float(-(-value // power) * power)

"""Amounts and prices that carry their unit, so that a gigabyte is never multiplied with the price of an hour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from nexus_llm.errors import CostError

HOURS_PER_MONTH = 730.0
SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600
DAYS_PER_MONTH = HOURS_PER_MONTH / 24


class Unit(StrEnum):
    """What one price is for."""

    HOUR = "hour"
    VCPU_HOUR = "vCPU-hour"
    GB_HOUR = "GB-hour"
    LCU_HOUR = "LCU-hour"
    DPU_HOUR = "DPU-hour"
    ACU_HOUR = "ACU-hour"
    GB = "GB"
    GB_MONTH = "GB-month"
    MONTH = "month"
    """One thing (a key, an alarm) for one month."""
    THOUSAND_REQUESTS = "thousand requests"
    MILLION_TOKENS = "million tokens"


@dataclass(frozen=True, slots=True)
class Quantity:
    """How much of something."""

    amount: float
    unit: Unit

    def __post_init__(self) -> None:
        if not math.isfinite(self.amount) or self.amount < 0:
            raise CostError(f"{self.amount} {self.unit} is no amount", fix="give a number of 0 or more")


@dataclass(frozen=True, slots=True)
class Price:
    """USD for one unit of one thing in one region, with its source and the day it was true."""

    service: str
    sku: str
    region: str
    unit: Unit
    usd: float
    source: str
    as_of: date
    licence: str

    @property
    def is_assumed(self) -> bool:
        """No source confirms it: shown, never chosen."""
        return self.source.startswith("assumed")

    def cost(self, quantity: Quantity) -> float:
        """USD of `quantity`.

        Raises:
            CostError: the quantity has another unit.
        """
        if quantity.unit is not self.unit:
            raise CostError(
                f"{self.service} {self.sku} is priced for one {self.unit}, not for one {quantity.unit}",
                fix="mend the unit of that row of the price table; nexus cost refresh fetches the prices of today",
            )
        return self.usd * quantity.amount


@dataclass(frozen=True, slots=True)
class BillLine:
    """One line of a bill."""

    name: str
    quantity: Quantity
    price: Price
    discount_share: float = 0.0
    """Negotiated, off the list price."""

    @property
    def usd(self) -> float:
        return self.price.cost(self.quantity) * (1 - self.discount_share)


@dataclass(frozen=True, slots=True)
class Bill:
    """Lines and their sum. Two bills add up to one."""

    lines: tuple[BillLine, ...]

    @property
    def usd(self) -> float:
        return math.fsum(line.usd for line in self.lines)

    def __add__(self, other: Bill) -> Bill:
        return Bill(self.lines + other.lines)

    @property
    def prices(self) -> tuple[Price, ...]:
        return tuple(line.price for line in self.lines)


def cents(usd: float) -> float:
    """USD rounded to the cent, halves up, as an invoice prints them.

    >>> cents(0.125), cents(287.0049)
    (0.13, 287.0)
    """
    return math.floor(usd * 100 + 0.5 + 1e-9) / 100

"""What one job cost: what its service says it used, at dated prices; what has no price is named, never taken for 0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nexus_llm.cost.money import Bill, BillLine, Quantity, Unit
from nexus_llm.cost.prices import PriceTable

UsedRow = tuple[str, str, float, str]
"""Service, name and unit as in the price table, and the amount: (service, sku, amount, unit)."""


@dataclass(frozen=True, slots=True)
class JobBill:
    """A bill, and what is missing on it."""

    bill: Bill
    without_price: tuple[str, ...]
    """`service sku` of what was used and has no price in the region."""

    @property
    def usd(self) -> float | None:
        """USD of what has a price; None where nothing has."""
        return self.bill.usd if self.bill.lines else None


def job_bill(used: Iterable[UsedRow], table: PriceTable, *, region: str) -> JobBill:
    """The bill of a job in a region.

    Raises:
        CostError: a unit is not the price's.
    """
    lines: list[BillLine] = []
    missing: list[str] = []
    for service, sku, amount, unit in used:
        if table.has(service, sku, region):
            quantity = Quantity(amount, Unit(unit))
            line = BillLine(f"{service} {sku}", quantity, table.lookup(service, sku, region))
            line.price.cost(quantity)  # refuses another unit here, before anybody adds up
            lines.append(line)
        else:
            missing.append(f"{service} {sku}")
    return JobBill(Bill(tuple(lines)), tuple(missing))

"""The price table: dated rows that are looked up by service, name and region, and a missing one is an error."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path

from nexus_llm.cost.money import Price, Unit
from nexus_llm.errors import CostError

COLUMNS = ("service", "sku", "region", "unit", "usd", "source", "date", "licence")
MAX_AGE_DAYS = 90
# A table without one of these was cut off or written by something else.
REQUIRED_SERVICES = frozenset({"ec2", "alb", "nat", "vpc-endpoint", "ebs", "s3", "cloudwatch", "kms", "fargate", "api"})
_REFRESH = "nexus cost refresh fetches the prices of today"

GLOBAL = "global"
"""Stands for the region where a price is the same everywhere."""
Key = tuple[str, str, str]


@dataclass(frozen=True)
class PriceTable:
    """Prices by (service, sku, region)."""

    rows: Mapping[Key, Price]

    @classmethod
    def shipped(cls) -> PriceTable:
        """The table that came with the package."""
        text = resources.files("nexus_llm.cost.prices").joinpath("table.csv").read_text(encoding="utf-8")
        return cls.parse(text, place="the shipped price table")

    @classmethod
    def load(cls, path: Path) -> PriceTable:
        """The table in a CSV file.

        Raises:
            CostError: it cannot be read, is cut off, or has a row that is no price.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CostError(f"{path} cannot be read ({error})", fix="check the path, or leave --prices out") from error
        return cls.parse(text, place=str(path))

    @classmethod
    def parse(cls, text: str, *, place: str) -> PriceTable:
        """As `load`, from text; `place` names it in errors."""
        try:
            lines = iter([cells for cells in csv.reader(io.StringIO(text)) if cells])
        except csv.Error as error:
            raise CostError(f"{place} is no table ({error})", fix=_REFRESH) from error
        if tuple(next(lines, ())) != COLUMNS:
            raise CostError(f"{place}: the first line is not {','.join(COLUMNS)}", fix=_REFRESH)
        rows: dict[Key, Price] = {}
        for number, cells in enumerate(lines, start=2):
            price = _price(cells, place=f"{place}:{number}")
            key = (price.service, price.sku, price.region)
            if key in rows:
                raise CostError(f"{place}:{number}: {' '.join(key)} has two prices", fix="keep one of the two rows")
            rows[key] = price
        missing = sorted(REQUIRED_SERVICES - {service for service, _, _ in rows})
        if missing:
            raise CostError(f"{place} is partial: it has no price of {', '.join(missing)}", fix=_REFRESH)
        return cls(rows)

    def lookup(self, service: str, sku: str, region: str) -> Price:
        """The price of one thing.

        Raises:
            CostError: there is none. It is never taken to be 0.
        """
        if found := self.rows.get((service, sku, region)) or self.rows.get((service, sku, GLOBAL)):
            return found
        elsewhere = sorted(place for name, one, place in self.rows if (name, one) == (service, sku))
        if elsewhere:
            fetch = f"{_fetched_by(service, sku)} --region {region}"
            meant = difflib.get_close_matches(region, elsewhere, n=1)
            what, fix = f"in {region}", f"did you mean {meant[0]}?" if meant else f"priced are {', '.join(elsewhere)}"
            fix += f" Prices of {region}: {fetch}" if meant else f"; or: {fetch}"
        else:
            near = difflib.get_close_matches(sku, sorted({one for name, one, _ in self.rows if name == service}), n=3)
            what, fix = f"at all (asked for {region})", f"did you mean {' or '.join(near)}?" if near else _REFRESH
        raise CostError(f"there is no price of {service} {sku!r} {what}", fix=fix)

    def has(self, service: str, sku: str, region: str) -> bool:
        """Whether the price is known."""
        return (service, sku, region) in self.rows or (service, sku, GLOBAL) in self.rows

    def skus(self, service: str, region: str) -> tuple[str, ...]:
        """Names of everything priced there, sorted."""
        return tuple(sorted(sku for name, sku, place in self.rows if (name, place) == (service, region)))

    def updated(self, newer: Iterable[Price]) -> PriceTable:
        """This table with rows replaced and added."""
        return PriceTable({**self.rows, **{(row.service, row.sku, row.region): row for row in newer}})

    def as_csv(self) -> str:
        """The table as text that `parse` reads, sorted."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for key in sorted(self.rows):
            row = self.rows[key]
            usd = f"{row.usd:.10f}".rstrip("0").rstrip(".")
            writer.writerow((*key, row.unit, usd, row.source, row.as_of.isoformat(), row.licence))
        return out.getvalue()


def age_warnings(prices: Iterable[Price], today: date) -> list[str]:
    """One sentence a source whose prices are older than MAX_AGE_DAYS, oldest first."""
    oldest: dict[str, Price] = {}
    for price in prices:
        kind = price.source.split(":")[0].split("(")[0].strip()
        if kind not in oldest or price.as_of < oldest[kind].as_of:
            oldest[kind] = price
    stale = sorted(
        (price.as_of, kind, _fetched_by(price.service, price.sku))
        for kind, price in oldest.items()
        if age_days(price, today) > MAX_AGE_DAYS
    )
    return [
        f"prices are {(today - when).days} days old: {kind} ({when}); {command} fetches those of today"
        for when, kind, command in stale
    ]


def age_days(price: Price, today: date) -> int:
    """Days since the price was true."""
    return (today - price.as_of).days


def _fetched_by(service: str, sku: str) -> str:
    """The command that asks for it today: what AWS's public files do not hold is asked of the account."""
    if service == "api":
        return "nexus cost refresh --what apis"
    is_private = sku.rsplit(maxsplit=1)[-1] in ("spot", "savings-1y", "savings-3y")
    return "nexus cost refresh --what account" if is_private else "nexus cost refresh"


def _price(cells: list[str], *, place: str) -> Price:
    if len(cells) != len(COLUMNS) or not all(cells):
        raise CostError(f"{place}: {len(cells)} of {len(COLUMNS)} columns: the table is cut off", fix=_REFRESH)
    service, sku, region, unit, usd, source, when, licence = cells
    try:
        price = Price(service, sku, region, Unit(unit), float(usd), source, date.fromisoformat(when), licence)
    except ValueError as error:
        raise CostError(f"{place}: {error}", fix="mend the row, or: " + _REFRESH) from error
    if not math.isfinite(price.usd) or price.usd <= 0:
        raise CostError(f"{place}: {usd} USD is no price", fix="leave the row out: a missing price is told, 0 is not")
    return price

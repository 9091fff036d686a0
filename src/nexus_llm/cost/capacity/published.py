"""Step times fitted to load tests that others published, each with its source and how far its predictions were off.

The table `published.csv` is what `benchmarks/cost_published.py` writes; the published rows themselves are not shipped.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

from nexus_llm.cost.quantities import StepTime
from nexus_llm.errors import UsageError


@dataclass(frozen=True, slots=True)
class PublishedEngine:
    """One engine on one kind of card."""

    hardware: str
    cards: int
    engine: str
    model: str
    precision: str
    step_time: StepTime
    max_batched_tokens: int
    held_out_mean_error_share: float
    """Of the time per output token, over published points that the fit did not see."""
    rows_held_out: int


def published_engines() -> tuple[PublishedEngine, ...]:
    """All that are known, in the order of the table."""
    text = (resources.files("nexus_llm.cost.capacity") / "published.csv").read_text(encoding="utf-8")
    return tuple(_engine(row) for row in csv.DictReader(text.splitlines()))


def published(hardware: str, *, precision: str, cards: int = 1) -> PublishedEngine:
    """The engine whose predictions held best on that hardware, at that precision.

    Raises:
        UsageError: nothing is published of it here.
    """
    known = published_engines()
    fits = [one for one in known if (one.hardware, one.precision, one.cards) == (hardware, precision, cards)]
    if not fits:
        names = sorted({f"{one.cards} x {one.hardware} in {one.precision}" for one in known})
        raise UsageError(
            f"no published load test of {cards} x {hardware} in {precision}",
            fix=f"measure with nexus cost calibrate, use a roofline, or one of {', '.join(names)}",
        )
    return min(fits, key=lambda one: one.held_out_mean_error_share)


def _engine(row: dict[str, str]) -> PublishedEngine:
    return PublishedEngine(
        hardware=row["hardware"],
        cards=int(row["cards"]),
        engine=row["engine"],
        model=row["model"],
        precision=row["precision"],
        step_time=StepTime(
            float(row["fixed_seconds"]),
            float(row["seconds_per_prefill_token"]),
            float(row["seconds_per_sequence"]),
            float(row["seconds_per_context_token"]),
            "published",
            f"{row['source']}: {row['engine']}, {row['cards']} x {row['hardware']}, {row['rows_fitted']} rows fitted",
        ),
        max_batched_tokens=int(row["max_batched_tokens"]),
        held_out_mean_error_share=float(row["held_out_mean_error_share"]),
        rows_held_out=int(row["rows_held_out"]),
    )

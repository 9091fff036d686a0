"""How much a plan's month would cost if one of its assumptions were wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nexus_llm.cost.plan import Planner, Scenario
from nexus_llm.cost.quantities import Traffic


@dataclass(frozen=True, slots=True)
class Change:
    """One assumption changed, everything else kept, the cheapest plan chosen again."""

    name: str
    usd_per_month: float | None
    """None where no machine keeps the objective any more."""


def sensitivity(planner: Planner, scenario: Scenario) -> tuple[Change, ...]:
    """The month's USD with other token counts, another peak, and machines 20 % dearer or cheaper."""
    usual = scenario.traffic
    variants = {
        "input tokens x 2": (replace(usual, input_tokens=usual.input_tokens * 2), 1.0),
        "input tokens / 2": (replace(usual, input_tokens=usual.input_tokens / 2), 1.0),
        "output tokens x 2": (replace(usual, output_tokens=usual.output_tokens * 2), 1.0),
        "output tokens / 2": (replace(usual, output_tokens=usual.output_tokens / 2), 1.0),
        "peak ratio x 2": (replace(usual, peak_ratio=usual.peak_ratio * 2), 1.0),
        "peak ratio 1 (no peak)": (replace(usual, peak_ratio=1.0), 1.0),
        "machine prices + 20 %": (usual, 1.2),
        "machine prices - 20 %": (usual, 0.8),
    }
    return tuple(Change(name, _usd(planner, *variant)) for name, variant in variants.items())


def _usd(planner: Planner, traffic: Traffic, machine_price_factor: float) -> float | None:
    if machine_price_factor != 1:
        machines = (row for row in planner.table.rows.values() if row.service == "ec2")
        dearer = (replace(row, usd=row.usd * machine_price_factor) for row in machines)
        planner = planner.with_table(planner.table.updated(dearer))
    return planner.usd_or_none(traffic)

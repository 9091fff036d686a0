"""How much a plan's month would cost if one of its assumptions were wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nexus_llm.cost.plan import Planner, Scenario
from nexus_llm.cost.quantities import Traffic
from nexus_llm.errors import CostError


@dataclass(frozen=True, slots=True)
class Change:
    """One assumption changed, everything else kept, the cheapest plan chosen again."""

    name: str
    usd_per_month: float | None
    """None where no machine keeps the objective any more."""


def sensitivity(planner: Planner, scenario: Scenario) -> tuple[Change, ...]:
    """The month's USD with other token counts, another peak, and machines 20 % dearer or cheaper."""
    traffic = scenario.traffic
    variants: list[tuple[str, Callable[[], float]]] = [
        ("input tokens x 2", lambda: _usd(planner, replace(traffic, input_tokens=traffic.input_tokens * 2))),
        ("input tokens / 2", lambda: _usd(planner, replace(traffic, input_tokens=traffic.input_tokens / 2))),
        ("output tokens x 2", lambda: _usd(planner, replace(traffic, output_tokens=traffic.output_tokens * 2))),
        ("output tokens / 2", lambda: _usd(planner, replace(traffic, output_tokens=traffic.output_tokens / 2))),
        ("peak ratio x 2", lambda: _usd(planner, replace(traffic, peak_ratio=traffic.peak_ratio * 2))),
        ("peak ratio 1 (no peak)", lambda: _usd(planner, replace(traffic, peak_ratio=1.0))),
        ("machine prices + 20 %", lambda: _repriced(planner, traffic, 1.2)),
        ("machine prices - 20 %", lambda: _repriced(planner, traffic, 0.8)),
    ]
    return tuple(Change(name, _or_none(variant)) for name, variant in variants)


def _usd(planner: Planner, traffic: Traffic) -> float:
    return planner.scenario(traffic=traffic).usd_per_month


def _repriced(planner: Planner, traffic: Traffic, factor: float) -> float:
    machines = (row for row in planner.table.rows.values() if row.service == "ec2")
    table = planner.table.updated(replace(row, usd=row.usd * factor) for row in machines)
    return planner.with_table(table).scenario(traffic=traffic).usd_per_month


def _or_none(variant: Callable[[], float]) -> float | None:
    try:
        return variant()
    except CostError:
        return None

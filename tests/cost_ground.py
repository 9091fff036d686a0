"""What tests of costs start from: the shipped prices, Llama 3.1 8B, and a capacity model that needs no simulation."""

from __future__ import annotations

from datetime import date
from typing import Any

from nexus_llm.cost.closed_form import closed_form_capacity
from nexus_llm.cost.plan import Planner
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.shapes import model_size
from nexus_llm.recipe import CostRecipe

TODAY = date(2026, 11, 22)
SHIPPED = PriceTable.shipped()


def cost_recipe(**changes: Any) -> CostRecipe:
    """A cost section with some fields changed; `service__x`, `traffic__x` and `objective__x` reach into its parts."""
    values: dict[str, Any] = {}
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            values.setdefault(section, {})[field] = value
        else:
            values[name] = value
    return CostRecipe.model_validate(values)


def planner(table: PriceTable = SHIPPED, base: str = "llama-3.1-8b-instruct", **changes: Any) -> Planner:
    """A planner of the cost section that `changes` make."""
    name, shape = model_size(base)
    return Planner(cost_recipe(**changes), name, shape, table, closed_form_capacity)

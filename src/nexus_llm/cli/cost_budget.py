"""`nexus run --budget-usd`: refused before it starts where it would cost more; a meter and a hard stop afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexus_llm.cli.cost_inputs import planner, price_table
from nexus_llm.errors import BudgetError

if TYPE_CHECKING:
    from nexus_llm.cost.recipe_plan import RunBudget
    from nexus_llm.ports import Progress
    from nexus_llm.recipe import Recipe


def within_budget(recipe: Recipe, budget_usd: float) -> tuple[Recipe, RunBudget]:
    """The recipe with a training job that AWS itself ends when the budget is used up, and what it is planned to cost.

    Raises:
        BudgetError: it is planned to cost more.
        CostError: a price or the model's size is missing: a cost that is not known is not within any budget.
    """
    from nexus_llm.cost.recipe_plan import run_budget

    chosen, _ = planner(recipe, price_table(None), is_quick=True)  # training asks for no capacity
    found = run_budget(recipe, chosen)
    if found.planned_usd > budget_usd:
        raise BudgetError(
            f"{recipe.name} is planned to cost {found.planned_usd:,.2f} USD, the budget is {budget_usd:,.2f}",
            fix="raise --budget-usd, lower train.max_steps, or train on spot (nexus cost plan shows the parts)",
        )
    if found.training_usd_per_hour is None:
        return recipe, found
    hours = (budget_usd - found.data_usd) / found.training_usd_per_hour
    job = recipe.train.sagemaker
    # SageMaker ends the job at this time even when this machine is off: a meter on a laptop could not.
    capped = job.model_copy(update={"max_run_hours": min(job.max_run_hours, hours)})
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"sagemaker": capped})}), found


@dataclass
class MeteredProgress:
    """A `Progress` that also shows what a SageMaker job has cost at most since it started."""

    shown: Progress
    usd_per_hour: float
    now: Callable[[], float] = time.monotonic
    _started: float | None = None

    def start(self, label: str, *, total: float | None, unit: str) -> None:
        self._started = self.now() if label.startswith("SageMaker") else None
        self.shown.start(label, total=total, unit=unit)

    def advance(self, amount: float, note: str = "") -> None:
        self.shown.advance(amount, note=self._with_cost(note))

    def finish(self, note: str = "") -> None:
        self.shown.finish(note=self._with_cost(note))

    def _with_cost(self, note: str) -> str:
        if self._started is None:
            return note
        cost = f"at most {(self.now() - self._started) / 3600 * self.usd_per_hour:,.2f} USD"
        return f"{note}, {cost}" if note else cost

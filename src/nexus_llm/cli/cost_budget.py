"""`--budget-usd`: refused before it starts where it would cost more; a meter and a hard stop afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nexus_llm.cli.cost_inputs import planner, price_table
from nexus_llm.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from nexus_llm.cloud.account import Spending
    from nexus_llm.cloud.launcher import JobState
    from nexus_llm.cost.recipe_plan import RunBudget
    from nexus_llm.ports import DataService, Ports, TrainService
    from nexus_llm.recipe import Recipe


@dataclass
class Budget:
    """What one run may cost on AWS, and what its jobs have cost so far.

    AWS itself ends each job when the money for it is used up, also when this machine is off: a meter on a laptop could
    not. The data job may use all but what the training is planned to cost; the training, what is then left.
    """

    usd: float
    planned: RunBudget
    billed: Callable[[JobState], float | None]
    """USD of a job that has ended; None where nobody can know."""
    now: Callable[[], float] = time.time
    _spent: dict[str, float] = field(default_factory=dict)

    def spending(self, job: str, state: JobState) -> Spending:
        """What a job has cost by now: its bill where it has ended, before that all its machines since it began."""
        from nexus_llm.cloud.account import Spending

        rate = self.usd_per_hour(job.partition("/")[0]) or 0.0
        hours = max(self.now() - state.started_at, 0.0) / 3600 if state.started_at is not None else 0.0
        billed = None if state.outcome == "waiting" else self.billed(state)
        self._spent[job] = max(rate * hours, self._spent.get(job, 0.0)) if billed is None else billed
        total = sum(self._spent.values())
        return Spending(f"at most {total:,.2f} of {self.usd:,.2f} USD", is_over=total >= self.usd)

    def usd_per_hour(self, service: str) -> float | None:
        """Of all machines of a service's job; None where the recipe rents none for it."""
        return self.planned.training_usd_per_hour if service == "training" else self.planned.data_usd_per_hour

    def for_data(self, recipe: Recipe) -> Recipe:
        """The recipe whose data job ends at its part of the budget."""
        if self.planned.data_usd_per_hour is None:
            return recipe
        hours = self._hours(self.usd - self.planned.training_usd, self.planned.data_usd_per_hour)
        aws = recipe.data.aws
        capped = aws.model_copy(update={"max_run_hours": min(aws.max_run_hours, hours)})
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"aws": capped})})

    def for_training(self, recipe: Recipe) -> Recipe:
        """The recipe whose training job ends when what is left of the budget is used up."""
        if self.planned.training_usd_per_hour is None:
            return recipe
        hours = self._hours(self.usd, self.planned.training_usd_per_hour)
        job = recipe.train.sagemaker
        capped = job.model_copy(update={"max_run_hours": min(job.max_run_hours, hours)})
        return recipe.model_copy(update={"train": recipe.train.model_copy(update={"sagemaker": capped})})

    def _hours(self, usd: float, usd_per_hour: float) -> float:
        left = usd - sum(self._spent.values())
        if left <= 0:
            raise BudgetError(f"all of {self.usd:,.2f} USD is spent", fix="raise --budget-usd; what is made is kept")
        return left / usd_per_hour


@dataclass(frozen=True)
class BudgetedServices:
    """A `DataService` and a `TrainService` whose jobs keep a budget."""

    data: DataService
    training: TrainService
    budget: Budget

    def make(self, recipe: Recipe, key: str, folder: Path) -> dict[str, Any]:
        """See `nexus_llm.ports.DataService`."""
        return self.data.make(self.budget.for_data(recipe), key, folder)

    def train(self, recipe: Recipe, inputs: Mapping[str, Path], key: str, folder: Path) -> dict[str, Any]:
        """See `nexus_llm.ports.TrainService`."""
        return self.training.train(self.budget.for_training(recipe), inputs, key, folder)


def budget_of(recipe: Recipe, usd: float, *, until: str | None = None) -> Budget:
    """The budget of a run, up to a stage, that is planned to stay within it.

    Raises:
        BudgetError: it is planned to cost more.
        CostError: a price, the model's size or the corpus' is missing: a cost that is not known is within no budget.
    """
    budget = _meter(recipe, usd, stages=("data",) if until == "data" else ("data", "train"))
    if (planned := budget.planned.planned_usd) > usd:
        raise BudgetError(
            f"{recipe.name} is planned to cost {planned:,.2f} USD, the budget is {usd:,.2f}",
            fix="raise --budget-usd, or make a part cheaper (nexus cost plan shows them): fewer steps, less data, spot",
        )
    return budget


def spending_of(job_service: str, recipe: Path | None, usd: float | None) -> Callable[[str, JobState], Spending] | None:
    """The meter of a job that runs already, at the rate of the recipe that started it; None without a budget.

    Raises:
        UsageError: no recipe tells what such a job costs an hour.
        CostError: as `budget_of`.
    """
    from nexus_llm.recipe import load_recipe

    if usd is None:
        return None
    if recipe is None:
        raise UsageError("--budget-usd alone does not say what the job costs an hour", fix="add --recipe RECIPE")
    is_training = job_service == "training"
    loaded = load_recipe(recipe, overrides=("train.launcher=sagemaker",) if is_training else ())
    budget = _meter(loaded, usd, stages=("train" if is_training else "data",))
    if job_service in ("processing", "transform") or budget.usd_per_hour(job_service) is None:
        raise UsageError(
            f"{recipe} does not say what a {job_service} job costs an hour",
            fix="leave --budget-usd out, or give the recipe whose data or training job it is",
        )
    return budget.spending


def _meter(recipe: Recipe, usd: float, *, stages: Container[str]) -> Budget:
    from nexus_llm.cli.job_account import bill
    from nexus_llm.cost.recipe_plan import run_budget

    chosen, _ = planner(recipe, price_table(None), is_quick=True)  # training asks for no capacity
    planned = run_budget(recipe, chosen, stages=stages)
    return Budget(usd, planned, lambda state: bill(state, recipe.cost.region).usd)


def with_budget(recipe: Recipe, openings: Ports, usd: float, *, until: str | None) -> tuple[Ports, Budget]:
    """Ports whose jobs keep the budget.

    Raises:
        NexusError: as `budget_of`.
    """
    from nexus_llm.cli.job_account import account
    from nexus_llm.cli.train_remote import LauncherTrainService
    from nexus_llm.cloud.data_submit import AwsDataService

    budget = budget_of(recipe, usd, until=until)
    progress, interrupt = openings.progress, openings.interrupt
    services = BudgetedServices(
        AwsDataService(lambda region: account(region, interrupt, spending=budget.spending), progress),
        LauncherTrainService(progress, interrupt, spending=budget.spending),
        budget,
    )
    return replace(openings, data_service=services, train_service=services), budget

"""Everything a recipe's cost section asks for, computed once: volumes, training, data, and the comparison with APIs."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from nexus_llm.cost.break_even import BreakEven, break_even
from nexus_llm.cost.data_processing import DataPlan, data_plan
from nexus_llm.cost.money import Bill, Price, cents
from nexus_llm.cost.plan import CapacityModel, Option, Planner, Scenario, recipe_objective
from nexus_llm.cost.prices import PriceTable, age_days, age_warnings
from nexus_llm.cost.quantities import LatencyObjective
from nexus_llm.cost.sensitivity import Change, sensitivity
from nexus_llm.cost.service_bill import Pricing
from nexus_llm.cost.shapes import context_tokens, model_size
from nexus_llm.cost.training import INTERRUPTIONS_PER_HOUR, SpotTrace, TrainingPlan, training_plan
from nexus_llm.errors import CostError
from nexus_llm.recipe import CostRecipe, Recipe

if TYPE_CHECKING:
    from nexus_llm.cost.capacity.autoscale import Scaled


LEFT_OUT = "not on the bill: tax, support, people's hours, and what watches a whole account (GuardDuty, Config)"


@dataclass(frozen=True)
class RecipePlan:
    """What a recipe costs."""

    recipe: Recipe
    model: str
    capacity_model: str
    scenarios: tuple[Scenario, ...]
    days: tuple[Scaled | None, ...]
    """Of each scenario; None where its machines do not come and go, or the day was not simulated."""
    changes: tuple[Change, ...]
    """Of the first volume."""
    training: TrainingPlan | None
    data: DataPlan | None
    upfront_usd: float
    """Training and data, before the first request; people's hours apart."""
    break_even: tuple[BreakEven, ...]
    """At the first volume, one for each API."""

    @property
    def prices(self) -> tuple[Price, ...]:
        bills = [one.best.bill for one in self.scenarios]
        bills += [part.bill for part in (self.training, self.data) if part is not None]
        listed = [price for bill in bills for price in bill.prices]
        listed += [price for one in self.break_even for price in one.prices]
        unique = {(price.service, price.sku, price.region): price for price in listed}
        return tuple(unique[key] for key in sorted(unique))


def planner_for(
    recipe: Recipe, table: PriceTable, capacity: CapacityModel, *, config: Mapping[str, Any] | None = None
) -> Planner:
    """The planner of a recipe. `config` is the model's config.json, where its size is not known by name.

    Raises:
        CostError: the model's size is not known, or the mean request does not fit into its context.
    """
    name, sizes = model_size(recipe.model.base, config)
    asked, context = recipe.cost.traffic, context_tokens(name, config)
    if context and asked.input_tokens + asked.output_tokens > context:
        raise CostError(
            f"cost.traffic: {asked.input_tokens:,.0f} tokens of a prompt and {asked.output_tokens:,.0f} of an answer "
            f"are more than the {context:,} that {name} can read",
            fix="shorten them, or take a model with a longer context",
        )
    return Planner(recipe.cost, name, sizes, table, capacity, recipe.seed)


def plan_recipe(
    recipe: Recipe,
    planner: Planner,
    *,
    volumes: Sequence[float] = (),
    traces: Sequence[SpotTrace] = (),
    capacity_model: str,
    is_compared: bool = True,
) -> RecipePlan:
    """The whole plan; `volumes` in requests a month, else the recipe's one. `is_compared` also looks at other
    assumptions and at APIs, which takes most of the time.

    Raises:
        CostError: a price, a machine or a volume is wrong, or nothing keeps the objective.
    """
    cost = recipe.cost
    wanted = tuple(volumes) or (cost.traffic.requests_per_month,)
    scenarios = tuple(planner.scenario(volume) for volume in wanted)
    training = recipe_training(recipe, planner, traces=traces)
    pricing = Pricing(planner.table, cost.region, cost.discount_share)
    data = data_plan(recipe.data, cost.data_gb, pricing) if cost.data_gb else None
    upfront = (training.usd * cost.training_runs if training else 0.0) + (data.bill.usd if data else 0.0)
    compared = tuple(
        break_even(planner, api, requests_per_month=wanted[0], upfront_usd=upfront)
        for api in (cost.compare_with if is_compared else ())
    )
    changes = sensitivity(planner, scenarios[0]) if is_compared else ()
    days = tuple(planner.simulated_day(one) if is_compared else None for one in scenarios)
    return RecipePlan(
        recipe, planner.model_name, capacity_model, scenarios, days, changes, training, data, upfront, compared
    )


def recipe_training(recipe: Recipe, planner: Planner, *, traces: Sequence[SpotTrace] = ()) -> TrainingPlan | None:
    """The recipe's SageMaker job; None where it trains on a machine that is not rented."""
    if recipe.train.launcher != "sagemaker":
        return None
    cost = recipe.cost
    return training_plan(
        recipe.train,
        planner.model,
        planner.table,
        region=cost.region,
        discount_share=cost.discount_share,
        traces=traces,
    )


@dataclass(frozen=True, slots=True)
class RunBudget:
    """What one run of a recipe is planned to cost."""

    data_usd: float
    data_usd_per_hour: float | None
    """Of all workers of the job; None where the data stage runs on a machine that is not rented."""
    training_usd: float
    training_usd_per_hour: float | None
    """Of all machines of the job; None where it trains on a machine that is not rented."""

    @property
    def planned_usd(self) -> float:
        return self.data_usd + self.training_usd


def run_budget(recipe: Recipe, planner: Planner, *, stages: Container[str] = ("data", "train")) -> RunBudget:
    """What these stages of a run will pay for: the data stage's AWS job and the SageMaker job, both at the price
    table's rate, restarts on spot included.

    Raises:
        CostError: a price is missing, or how much the data job reads.
    """
    cost = recipe.cost
    data: tuple[float, float | None] = (0.0, None)
    if "data" in stages and recipe.data.engine in ("glue", "emr-serverless", "batch"):
        if not cost.data_gb:
            raise CostError(
                f"cost.data_gb is 0, so nobody knows what the {recipe.data.engine} job will cost",
                fix="--set cost.data_gb=… (gigabytes of text, unpacked)",
            )
        found = data_plan(recipe.data, cost.data_gb, Pricing(planner.table, cost.region, cost.discount_share))
        data = found.bill.usd, found.bill.usd / found.hours
    training = recipe_training(recipe, planner) if "train" in stages else None
    if training is None:
        return RunBudget(*data, 0.0, None)
    return RunBudget(*data, training.usd, training.usd / training.billed_hours)


def as_document(plan: RecipePlan, *, today: date) -> dict[str, Any]:
    """The plan as JSON. Every amount is in USD; `currency` says how to read it in another one."""
    cost = plan.recipe.cost
    return {
        "recipe": plan.recipe.name,
        "model": plan.model,
        "region": cost.region,
        "capacity_model": plan.capacity_model,
        "objective_p95": asdict(recipe_objective(cost)),
        "currency": {"name": cost.currency, "per_usd": cost.currency_per_usd},
        "discount_share": cost.discount_share,
        "scenarios": [_scenario(one, cost, day) for one, day in zip(plan.scenarios, plan.days, strict=True)],
        "sensitivity": [
            {"change": one.name, "usd_per_month": None if one.usd_per_month is None else cents(one.usd_per_month)}
            for one in plan.changes
        ],
        "training": _training(plan.training, cost.training_runs),
        "data": None
        if plan.data is None
        else {
            "engine": plan.data.engine,
            "gigabytes": cost.data_gb,
            "hours": round(plan.data.hours, 2),
            "usd": cents(plan.data.bill.usd),
            "bill": bill_rows(plan.data.bill),
        },
        "upfront_usd": cents(plan.upfront_usd),
        "left_out": LEFT_OUT,
        "break_even": [_break_even(one) for one in plan.break_even],
        "prices": {
            "oldest_days": max(age_days(price, today) for price in plan.prices),
            "warnings": age_warnings(plan.prices, today),
        },
    }


def bill_rows(bill: Bill) -> list[dict[str, Any]]:
    """The lines of a bill as JSON."""
    return [
        {
            "name": line.name,
            "amount": round(line.quantity.amount, 4),
            "unit": str(line.quantity.unit),
            "usd_per_unit": line.price.usd,
            "usd": cents(line.usd),
            "source": line.price.source,
            "as_of": line.price.as_of.isoformat(),
        }
        for line in bill.lines
    ]


def _scenario(scenario: Scenario, cost: CostRecipe, simulated: Scaled | None) -> dict[str, Any]:
    best = scenario.best
    scaling = None if cost.scaling is None else _scaling(best, simulated)
    return {
        **asdict(scenario.traffic),
        "usd_per_month": cents(scenario.usd_per_month),
        "in_currency_per_month": cents(scenario.usd_per_month * cost.currency_per_usd),
        "usd_per_million_tokens": round(scenario.usd_per_million_tokens, 4),
        "usd_per_request": round(scenario.usd_per_month / scenario.traffic.requests_per_month, 6),
        "idle_share": round(scenario.idle_share, 4),
        **_option(best),
        "latency_p95_seconds": {
            "ttft": round(best.load.ttft.p95, 4),
            "tpot": round(best.load.tpot.p95, 4),
            "e2e": round(best.load.e2e.p95, 3),
        },
        "scaling": scaling,
        "notes": [*_notes(best), *(_scaling_notes(best, simulated, recipe_objective(cost)) if scaling else ())],
        "bill": bill_rows(best.bill),
        "cheapest_by_purchase": [_option(one) for one in scenario.by_purchase],
    }


def _notes(option: Option) -> list[str]:
    """What a reader must know before trusting the figure."""
    found = []
    if option.purchase == "spot":
        price = next(price for price in option.bill.prices if price.service == "ec2")
        found.append(
            f"spot machines go with two minutes' notice; {price.source} ({price.as_of}). Days and trainings are "
            f"planned with {INTERRUPTIONS_PER_HOUR:g} interruptions an hour and machine, as scarce V100s had in 2023: "
            "another source than the advisor's, and the worse one"
        )
    if option.step_time.provenance != "measured":
        found.append(f"the throughput was not measured by us: {option.step_time.provenance}, {option.step_time.source}")
    if option.precision != "bfloat16":
        found.append(f"{option.precision} weights: whether answers stay as good is for the evaluation to say")
    return found


def _scaling(option: Option, simulated: Scaled | None) -> dict[str, Any]:
    """Which machines run when, and how a simulated day went."""
    day = option.day
    found: dict[str, Any] = {
        "machines_by_hour": list(day.machines),
        "on_share_by_hour": [round(share, 4) for share in day.on_shares],
        "days_per_month": round(day.days_per_month, 2),
        "machine_hours_per_month": round(day.machine_hours, 1),
        "waiting_for_a_start_share": round(day.cold_share, 4),
        "simulated_day": None,
    }
    if simulated:
        found["simulated_day"] = {
            "requests": simulated.requests,
            "ttft_p95_seconds": round(simulated.ttft.p95, 3),
            "tpot_p95_seconds": round(simulated.tpot.p95, 4),
            "e2e_p95_seconds": round(simulated.e2e.p95, 3),
            "starts": simulated.starts,
            "interruptions": simulated.interruptions,
            "most_machines": simulated.most_replicas,
        }
    return found


def _scaling_notes(option: Option, simulated: Scaled | None, objective: LatencyObjective) -> list[str]:
    found = []
    if option.day.cold_share >= 0.0005:
        found.append(
            f"{option.day.cold_share:.1%} of the requests find no machine and wait for one to start: the objective is "
            "kept for the others only"
        )
    if simulated is None:
        found.append("the day with starting machines was not simulated: who comes while one starts may wait longer")
        return found
    return found + [
        f"while machines start, {name} (p95 of the simulated day) is {seconds:.3g} s instead of {bound:g}: "
        "lower cost.scaling.target_share, or raise min_replicas"
        for name, bound, seconds in objective.missed(simulated)
    ]


def _option(option: Option) -> dict[str, Any]:
    return {
        "machine": option.machine,
        "precision": option.precision,
        "purchase": option.purchase,
        "machines": option.machines,
        "spare_machines": option.spare_machines,
        "option_usd_per_month": cents(option.usd_per_month),
        "price_is_assumed": option.is_assumed,
        "capacity_requests_per_second": round(option.capacity_requests_per_second, 4),
        "throughput_provenance": option.step_time.provenance,
        "throughput_source": option.step_time.source,
    }


def _training(training: TrainingPlan | None, runs: int) -> dict[str, Any] | None:
    if training is None:
        return None
    return {
        "machine": training.machine,
        "machines": training.machines,
        "purchase": "spot" if training.is_spot else "on-demand",
        "tokens": training.tokens,
        "tokens_per_second": round(training.tokens_per_second, 1),
        "tokens_per_second_provenance": "roofline",
        "work_hours": round(training.work_hours, 3),
        "billed_hours": round(training.billed_hours, 3),
        "interruptions": round(training.interruptions, 2),
        "basis": training.basis,
        "notes": training.notes,
        "usd": cents(training.usd),
        "runs": runs,
        "bill": bill_rows(training.bill),
    }


def _break_even(one: BreakEven) -> dict[str, Any]:
    return {
        "api": one.api,
        "requests_per_month": one.requests_per_month,
        "api_usd_per_month": cents(one.api_usd_per_month),
        "own_usd_per_month": cents(one.own_usd_per_month),
        "staff_usd_per_month": cents(one.staff_usd_per_month),
        "upfront_usd": cents(one.upfront_usd),
        "pays_from_requests_per_month": None if one.pays_from_requests is None else round(one.pays_from_requests),
        "payback_days": None if one.payback_days is None else round(one.payback_days, 1),
        "api_usd_3_years": cents(one.api_usd_3_years),
        "own_usd_3_years": cents(one.own_usd_3_years),
        "words": one.words,
        "price_sources": sorted({f"{price.source} ({price.as_of})" for price in one.prices}),
    }

"""The cheapest way to answer a month's requests within an objective: machine x precision x purchase, with its bill.

One replica's capacity does not depend on the month's volume, so more requests never cost less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, get_args

from nexus_llm.arithmetic import Precision, Shape
from nexus_llm.cost.day import Day, scaled, steady
from nexus_llm.cost.hardware import Machine, engine_limits, machine, machines, step_time
from nexus_llm.cost.money import HOURS_PER_MONTH, SECONDS_PER_MONTH, Bill
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.quantities import (
    EngineLimits,
    LatencyObjective,
    LoadPoint,
    ReplicaCapacity,
    StepTime,
    Traffic,
)
from nexus_llm.cost.service_bill import Pricing, engine_bill, surroundings_bill
from nexus_llm.errors import CostError
from nexus_llm.recipe import CostRecipe, Purchase, ScalingRecipe

if TYPE_CHECKING:
    from nexus_llm.cost.capacity.autoscale import Scaled  # compiles what it needs: only for who simulates

_REFERENCE_REQUESTS = 1_000_000.0


class CapacityModel(Protocol):
    """How much one replica can take."""

    def __call__(
        self, step_time: StepTime, limits: EngineLimits, traffic: Traffic, objective: LatencyObjective, seed: int
    ) -> ReplicaCapacity:
        """The largest load of `traffic`'s requests that keeps the objective.

        Where even the lightest load misses it, `at_objective` is that load's latencies with 0 requests a second.
        """


@dataclass(frozen=True, slots=True)
class Option:
    """One way to serve a month, with what it costs."""

    machine: str
    precision: Precision
    purchase: Purchase
    day: Day
    """How many machines run when, spares included."""
    spare_machines: int
    capacity_requests_per_second: float
    """Of all machines that are no spares, at the objective."""
    load: LoadPoint
    """One replica's, at the objective."""
    step_time: StepTime
    bill: Bill
    usd_per_month: float
    """The bill's sum."""

    @property
    def machines(self) -> int:
        """At the busiest hour, spares included."""
        return self.day.most

    @property
    def is_assumed(self) -> bool:
        return any(price.is_assumed for price in self.bill.prices)


class DayModel(Protocol):
    """How a day with a scaling policy goes."""

    def __call__(
        self, option: Option, limits: EngineLimits, traffic: Traffic, scaling: ScalingRecipe, seed: int
    ) -> Scaled | None:
        """The day of an option; None where it cannot be simulated."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The answer for one volume."""

    traffic: Traffic
    best: Option
    by_purchase: tuple[Option, ...]
    """The cheapest of each purchase option, cheapest first."""

    @property
    def usd_per_month(self) -> float:
        return self.best.usd_per_month

    @property
    def usd_per_million_tokens(self) -> float:
        """Idle hours and everything around the engines included; input and output tokens alike."""
        tokens = self.traffic.requests_per_month * (self.traffic.input_tokens + self.traffic.output_tokens)
        return self.usd_per_month / tokens * 1e6

    @property
    def idle_share(self) -> float:
        """Of what was paid for at the objective, spares included, that the month's mean leaves unused."""
        best = self.best
        each = best.capacity_requests_per_second / (best.machines - best.spare_machines)
        paid = each * best.day.machine_hours / HOURS_PER_MONTH
        return 1 - self.traffic.requests_per_month / SECONDS_PER_MONTH / paid


@dataclass
class Planner:
    """Plans for one model; what it asked the capacity model is remembered."""

    cost: CostRecipe
    model_name: str
    model: Shape
    table: PriceTable
    capacity: CapacityModel
    seed: int = 0
    day_model: DayModel | None = None
    measured: Mapping[str, tuple[StepTime, EngineLimits]] = field(default_factory=dict)
    """By machine: what calibration found there. It stands for the first of cost.precisions; no other is planned."""
    _known: dict[tuple[object, ...], ReplicaCapacity] = field(default_factory=dict)
    _planned: dict[Traffic, Scenario] = field(default_factory=dict)

    def scenario(self, requests_per_month: float | None = None, *, traffic: Traffic | None = None) -> Scenario:
        """The cheapest plan for a volume, or for another traffic altogether.

        Raises:
            CostError: the volume is none; nothing is priced; or no machine keeps the objective (names the nearest).
        """
        traffic = traffic or recipe_traffic(self.cost)
        if requests_per_month is not None:
            traffic = replace(traffic, requests_per_month=requests_per_month)
        if traffic not in self._planned:
            self._planned[traffic] = self._cheapest(traffic)
        return self._planned[traffic]

    def usd_or_none(self, traffic: Traffic) -> float | None:
        """USD a month of the cheapest plan for that traffic; None where no machine keeps the objective."""
        try:
            return self.scenario(traffic=traffic).usd_per_month
        except CostError:
            return None

    def simulated_day(self, scenario: Scenario) -> Scaled | None:
        """The day of a scenario's cheapest option; None where its machines do not scale, or nobody simulates it."""
        best, scaling = scenario.best, self.cost.scaling
        limits = self._limits(machine(best.machine), best.precision)
        if scaling is None or self.day_model is None or limits is None:
            return None
        return self.day_model(best, limits, scenario.traffic, scaling, self.seed)

    def with_table(self, table: PriceTable) -> Planner:
        """The same planner with other prices; capacities need not be found again."""
        return replace(self, table=table, _planned={})

    def with_cost(self, cost: CostRecipe) -> Planner:
        """The same planner for another cost section; capacities are kept where the objective is the same."""
        return replace(
            self, cost=cost, _known=self._known if cost.objective == self.cost.objective else {}, _planned={}
        )

    def _cheapest(self, traffic: Traffic) -> Scenario:
        options = sorted(self._options(traffic), key=lambda one: (one.usd_per_month, one.machine, one.precision))
        if not options:
            raise self._nearest(traffic)
        purchases = dict.fromkeys(option.purchase for option in options)
        by_purchase = tuple(next(one for one in options if one.purchase == name) for name in purchases)
        sure = [one for one in options if not one.is_assumed]
        if not sure:
            raise CostError(
                f"every price of {', '.join(purchases)} is assumed: nothing to choose from",
                fix="add on-demand to cost.purchases, or: nexus cost refresh",
            )
        return Scenario(traffic, sure[0], by_purchase)

    def _options(self, traffic: Traffic) -> Iterator[Option]:
        pricing = Pricing(self.table, self.cost.region, self.cost.discount_share)
        around: dict[float, tuple[Bill, float]] = {}
        for place, precision, found in self._replicas(traffic):
            load = found.at_objective
            if load.requests_per_second <= 0:
                continue
            each = load.requests_per_second * place.cards
            if load.e2e.p50 not in around:
                rest = surroundings_bill(traffic, load.e2e.p50, self.cost, pricing)
                around[load.e2e.p50] = rest, rest.usd
            rest, rest_usd = around[load.e2e.p50]
            for purchase in self._purchases(place):
                spare = max(self.cost.spare_machines, 1 if purchase == "spot" else 0)
                day = self._day(traffic, each, spare)
                bill = engine_bill(place.name, purchase, day, self.cost, pricing)
                yield Option(
                    place.name,
                    precision,
                    purchase,
                    day,
                    spare,
                    each * (day.most - spare),
                    load,
                    found.step_time,
                    bill + rest,
                    bill.usd + rest_usd,
                )

    def _day(self, traffic: Traffic, requests_per_second: float, spare: int) -> Day:
        """The machines that run, each of which takes so many requests within the objective."""
        if self.cost.scaling is not None:
            return scaled(traffic, requests_per_second, self.cost.scaling, spare=spare)
        peak = traffic.requests_per_month / SECONDS_PER_MONTH * traffic.peak_ratio
        return steady(max(math.ceil(peak / requests_per_second - 1e-9), 1) + spare)

    def _replicas(self, traffic: Traffic) -> Iterator[tuple[Machine, Precision, ReplicaCapacity]]:
        for place in self._places():
            for precision in self.cost.precisions:
                limits = self._limits(place, precision)
                if precision in place.card.flops and limits is not None:
                    yield place, precision, self._replica(place, precision, limits, traffic)

    def _limits(self, place: Machine, precision: Precision) -> EngineLimits | None:
        """What an engine there can hold; None where the model does not fit, or where another precision was measured."""
        if place.name in self.measured:
            return self.measured[place.name][1] if precision == self.cost.precisions[0] else None
        return engine_limits(place.card, self.model, precision)

    def _replica(self, place: Machine, precision: Precision, limits: EngineLimits, traffic: Traffic) -> ReplicaCapacity:
        is_measured = place.name in self.measured
        name = place.name if is_measured else place.card.name
        key = (name, precision, traffic.input_tokens, traffic.output_tokens)
        if key not in self._known:
            time = step_time(place.card, self.model, self.model_name, precision)
            if is_measured:
                time = self.measured[place.name][0]
            # The busiest hour is steady; volume and peak decide how many replicas, not what one of them can do.
            steady = replace(traffic, requests_per_month=_REFERENCE_REQUESTS, peak_ratio=1.0)
            self._known[key] = self.capacity(time, limits, steady, recipe_objective(self.cost), self.seed)
        return self._known[key]

    def _places(self) -> list[Machine]:
        chosen = [machine(name) for name in self.cost.machines] or list(machines().values())
        priced = [place for place in chosen if any(True for _ in self._purchases(place))]
        missing = [place for place in chosen if place not in priced]
        if not priced or (self.cost.machines and missing):
            name, region = (missing or chosen)[0].name, self.cost.region
            self.table.lookup("ec2", f"{name} on-demand", region)  # says so where the region has no prices at all
            raise CostError(
                f"{name} has no price as {' or '.join(self.cost.purchases)} in {region}",
                fix=f"add on-demand to cost.purchases, or: nexus cost refresh --what account --region {region}",
            )
        return priced

    def _purchases(self, place: Machine) -> Iterator[Purchase]:
        for purchase in get_args(Purchase):
            if purchase in self.cost.purchases and self.table.has("ec2", f"{place.name} {purchase}", self.cost.region):
                yield purchase

    def _nearest(self, traffic: Traffic) -> CostError:
        """Why nothing serves the model, what comes nearest, and what would."""
        found = [(place, precision, one.at_objective) for place, precision, one in self._replicas(traffic)]
        if not found:
            return CostError(
                f"{self.model_name} fits on no card of {', '.join(place.name for place in self._places())}",
                fix="name machines with more memory, or add float8 to cost.precisions (tensor parallel is not planned)",
            )
        held = {
            (place.name, precision): limits.kv_cache_tokens
            for place, precision, _ in found
            if (limits := self._limits(place, precision))
        }
        largest, tokens = max(held, key=lambda one: held[one]), traffic.input_tokens + traffic.output_tokens
        if held[largest] < tokens:
            return CostError(
                f"one request of {tokens:,.0f} tokens fits into no cache; the largest holds {held[largest]:,} tokens "
                f"({largest[0]}, {largest[1]})",
                fix="name machines with more memory in cost.machines, or shorten prompts and answers",
            )
        fitting = [one for one in found if held.get((one[0].name, one[1]), 0) >= tokens]
        return _missed(fitting, recipe_objective(self.cost))


def recipe_traffic(cost: CostRecipe) -> Traffic:
    """The recipe's traffic."""
    asked = cost.traffic
    return Traffic(asked.requests_per_month, asked.input_tokens, asked.output_tokens, asked.peak_ratio)


def recipe_objective(cost: CostRecipe) -> LatencyObjective:
    """The recipe's objective."""
    return LatencyObjective(**dict(cost.objective))


def _missed(found: list[tuple[Machine, Precision, LoadPoint]], objective: LatencyObjective) -> CostError:
    """By how much the nearest of these misses which bounds, and bounds that it would keep."""
    place, precision, load = min(found, key=lambda one: (_excess(one[2], objective), one[0].name))
    missed = objective.missed(load)
    if not missed:  # it is fast enough, and takes nobody: what was measured there says so
        return CostError(
            f"{place.name}, {precision}, takes no request at all as it was measured or published",
            fix="look into what --measured names, or shorten prompts and answers",
        )
    told = ", ".join(f"{name}_seconds {seconds:.3g} instead of {bound:g}" for name, bound, seconds in missed)
    raised = " ".join(f"--set cost.objective.{name}_seconds={_above(seconds)}" for name, _, seconds in missed)
    return CostError(
        f"no machine keeps the objective; nearest is {place.name}, {precision}: {told} (p95 at the lightest load)",
        fix=f"{raised}, shorter answers, a smaller model, or other cost.machines",
    )


def _excess(load: LoadPoint, objective: LatencyObjective) -> float:
    """How many times over the worst bound the load is."""
    return max((seconds / bound for _, bound, seconds in objective.missed(load)), default=0.0)


def _above(seconds: float) -> str:
    """Two digits, rounded up.

    >>> _above(2.512), _above(0.0344)
    ('2.6', '0.035')
    """
    power = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return f"{math.ceil(seconds / power) * power:.6g}"

"""Simulated continuous batching as the capacity model of plans, and the day on which their machines come and go."""

from __future__ import annotations

import numpy as np

from nexus_llm.cost.capacity.arrivals import hourly
from nexus_llm.cost.capacity.autoscale import Scaled, ScalingPolicy, autoscale
from nexus_llm.cost.capacity.search import capacity, that_fit
from nexus_llm.cost.capacity.simulate import Demand
from nexus_llm.cost.day import hourly_rates
from nexus_llm.cost.plan import Option
from nexus_llm.cost.quantities import (
    EngineLimits,
    LatencyObjective,
    ReplicaCapacity,
    StepTime,
    Traffic,
)
from nexus_llm.cost.training import INTERRUPTIONS_PER_HOUR
from nexus_llm.recipe import ScalingRecipe

MOST_REQUESTS_A_DAY = 1_000_000
REQUESTS = 4_000  # of each load that is tried: a fifth of the default, for a plan asks for fifteen cards


def simulated_capacity(
    step_time: StepTime,
    limits: EngineLimits,
    traffic: Traffic,
    objective: LatencyObjective,
    seed: int,
    *,
    trace: Demand | None = None,
) -> ReplicaCapacity:
    """See `nexus_llm.cost.plan.CapacityModel`. With a trace its arrivals and lengths."""
    return capacity(step_time, limits, traffic, objective, seed=seed, trace=trace, requests=REQUESTS)


def simulated_day(
    option: Option,
    limits: EngineLimits,
    traffic: Traffic,
    scaling: ScalingRecipe,
    seed: int,
    *,
    trace: Demand | None = None,
) -> Scaled | None:
    """See `nexus_llm.cost.plan.DayModel`; with a trace its lengths. None where a day has too many requests, or where a
    machine has several engines."""
    rates, _ = hourly_rates(traffic, scaling)
    per_hour = np.array(rates) * 3600
    each = option.capacity_requests_per_second / (option.machines - option.spare_machines)
    if not 1 <= per_hour.sum() <= MOST_REQUESTS_A_DAY or each > 1.01 * option.load.requests_per_second:
        return None
    policy = ScalingPolicy(
        each * scaling.target_share,
        min_replicas=scaling.min_replicas,
        max_replicas=2 * option.machines,
        spare=option.spare_machines,
        cold_start_seconds=scaling.cold_start_seconds,
        scale_in_cooldown_seconds=scaling.scale_in_cooldown_seconds,
    )
    interrupted = INTERRUPTIONS_PER_HOUR if option.purchase == "spot" else 0.0
    demand = that_fit(hourly(per_hour, traffic, trace=trace, seed=seed), limits)
    return autoscale(demand, option.step_time, limits, policy, interruptions_per_hour=interrupted, seed=seed)

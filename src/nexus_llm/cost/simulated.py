"""The simulation of continuous batching as the capacity model of plans."""

from __future__ import annotations

from dataclasses import replace

from nexus_llm.cost.capacity.search import capacity
from nexus_llm.cost.quantities import (
    EngineLimits,
    LatencyObjective,
    NothingMeets,
    ReplicaCapacity,
    StepTime,
    Traffic,
)

REQUESTS = 4_000  # of each load that is tried: a fifth of the default, for a plan asks for fifteen cards


def simulated_capacity(
    step_time: StepTime, limits: EngineLimits, traffic: Traffic, objective: LatencyObjective, seed: int
) -> ReplicaCapacity:
    """See `nexus_llm.cost.plan.CapacityModel`; 0 requests a second where a lone request misses or does not fit."""
    found = capacity(step_time, limits, traffic, objective, seed=seed, requests=REQUESTS)
    fits = traffic.input_tokens + traffic.output_tokens <= limits.kv_cache_tokens  # the simulation cuts what does not
    if isinstance(found, ReplicaCapacity) and fits:
        return found
    load = found.alone if isinstance(found, NothingMeets) else found.at_objective
    return ReplicaCapacity(replace(load, requests_per_second=0.0, output_tokens_per_second=0.0), 0.0, step_time)

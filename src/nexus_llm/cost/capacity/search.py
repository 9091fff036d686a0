"""The largest load at which one replica keeps an objective."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nexus_llm.cost.capacity.arrivals import LengthSpread, poisson, replayed
from nexus_llm.cost.capacity.simulate import Demand, simulate
from nexus_llm.cost.quantities import (
    EngineLimits,
    LatencyObjective,
    LoadPoint,
    ReplicaCapacity,
    StepTime,
    Traffic,
)

STABLE_SHARE = 0.95
"""Of saturation. Above it queues grow through a busy hour, which a simulation of minutes would not show."""
REQUESTS = 20_000
PRECISION_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class _Offered:
    """What does not change while the rate does."""

    traffic: Traffic
    step_time: StepTime
    limits: EngineLimits
    spread: LengthSpread | None
    trace: Demand | None
    requests: int
    seed: int

    def demand(self, rate_per_second: float) -> Demand:
        if self.trace is not None:
            return that_fit(replayed(self.trace, rate_per_second, self.traffic), self.limits)
        drawn = poisson(rate_per_second, self.requests, self.traffic, spread=self.spread, seed=self.seed)
        return that_fit(drawn, self.limits)

    def alone(self, rate_per_second: float) -> LoadPoint:
        """At a rate at which no two requests meet: evenly spaced, for some of a trace come at the same moment."""
        one = self.demand(1.0)
        return self._point(replace(one, arrived_seconds=np.arange(len(one)) / rate_per_second), rate_per_second)

    def at(self, rate_per_second: float) -> LoadPoint:
        return self._point(self.demand(rate_per_second), rate_per_second)

    def _point(self, demand: Demand, rate_per_second: float) -> LoadPoint:
        found = simulate(demand, self.step_time, self.limits).load_point()
        # The rate that was asked for: the one that came out scatters with the sample.
        tokens = found.output_tokens_per_second / found.requests_per_second
        return replace(found, requests_per_second=rate_per_second, output_tokens_per_second=rate_per_second * tokens)


def capacity(
    step_time: StepTime,
    limits: EngineLimits,
    traffic: Traffic,
    objective: LatencyObjective,
    *,
    seed: int,
    spread: LengthSpread | None = None,
    trace: Demand | None = None,
    requests: int = REQUESTS,
) -> ReplicaCapacity:
    """The largest load, Poisson or a trace's, whose 95th percentiles keep the objective, within 0.5 % of saturation.

    The same seed draws the same lengths and the same gaps, scaled, for every load that is tried, so the answer does not
    scatter. Without any objective it is 95 % of saturation. Lengths above what the cache holds are cut. Where one
    request alone misses the objective, a mean one does not fit, or a trace's crowds are late at every rate, it is none.

    Raises:
        UsageError: limits that cannot be.
    """
    offered = _Offered(traffic, step_time, limits, spread, trace, requests, seed)
    saturation = saturated_requests_per_second(offered.demand(1.0), step_time, limits)
    alone = offered.alone(_calm_rate(offered))
    if objective.missed(alone) or traffic.input_tokens + traffic.output_tokens > limits.kv_cache_tokens:
        return ReplicaCapacity(alone.as_none, step_time)
    low, best, high = 0.0, alone, STABLE_SHARE * saturation
    at_most = offered.at(high)
    if not objective.missed(at_most):
        return ReplicaCapacity(at_most, step_time)
    while high - low > PRECISION_SHARE * saturation:
        middle = (low + high) / 2
        point = offered.at(middle)
        if objective.missed(point):
            high = middle
        else:
            low, best = middle, point
    if trace is not None and low == 0.0:  # the last one that was tried was the lightest
        best = point.as_none
    return ReplicaCapacity(best, step_time)


def saturated_requests_per_second(demand: Demand, step_time: StepTime, limits: EngineLimits) -> float:
    """What one replica finishes a second while the queue never empties: all come at once, and the begin and the end,
    where the batch is not full, are left out."""
    at_once = replace(demand, arrived_seconds=np.zeros(len(demand)))
    ends = np.sort(simulate(at_once, step_time, limits).last_token_seconds)
    begin, end = int(0.2 * len(ends)), int(0.8 * len(ends))
    if end <= begin or ends[end] <= ends[begin]:  # so few that they are one batch
        return float(len(ends) / ends[-1])
    return float((end - begin) / (ends[end] - ends[begin]))


def _calm_rate(offered: _Offered) -> float:
    """A rate at which hardly ever two requests meet."""
    step, traffic = offered.step_time, offered.traffic
    seconds = traffic.output_tokens * (
        step.fixed_seconds
        + step.seconds_per_sequence
        + step.seconds_per_context_token * (traffic.input_tokens + traffic.output_tokens)
        + step.seconds_per_batch_change
    ) + traffic.input_tokens * (step.seconds_per_prefill_token + step.fixed_seconds / offered.limits.max_batched_tokens)
    return 1e-4 / seconds


def that_fit(demand: Demand, limits: EngineLimits) -> Demand:
    """The same requests, the longest ones cut so that the cache holds each: first the answer, then the prompt."""
    most = limits.kv_cache_tokens // limits.kv_block_tokens * limits.kv_block_tokens
    prompts = np.minimum(demand.input_tokens, max(1, most - 1))
    answers = np.maximum(1, np.minimum(demand.output_tokens, most - prompts))
    return Demand(demand.arrived_seconds, prompts, answers)

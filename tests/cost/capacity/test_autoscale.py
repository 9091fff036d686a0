from __future__ import annotations

import numpy as np
import pytest

from nexus_llm.cost.capacity.arrivals import LengthSpread, month, poisson
from nexus_llm.cost.capacity.autoscale import ScalingPolicy, autoscale
from nexus_llm.cost.capacity.simulate import Demand, simulate
from nexus_llm.cost.quantities import EngineLimits, StepTime, Traffic

STEP = StepTime(0.02, 1e-4, 5e-4, 1e-6, "measured", "a test")
LIMITS = EngineLimits(kv_cache_tokens=100_000, max_sequences=16, max_batched_tokens=256)
CHAT = Traffic(requests_per_month=30_000, input_tokens=100, output_tokens=30)


def day(requests_per_month: float = 300_000, peak: float = 3.0) -> Demand:
    whole = month(Traffic(requests_per_month, 100, 30, peak), spread=LengthSpread(0.5, 0.5), seed=4)
    upto = int(np.searchsorted(whole.arrived_seconds, 86_400))
    return Demand(whole.arrived_seconds[:upto], whole.input_tokens[:upto], whole.output_tokens[:upto])


def test_one_replica_that_never_scales_is_the_plain_simulation() -> None:
    demand = poisson(3.0, 3_000, CHAT, seed=2)
    scaled = autoscale(demand, STEP, LIMITS, ScalingPolicy(1e9, min_replicas=1, max_replicas=1))
    plain = simulate(demand, STEP, LIMITS)
    assert scaled.e2e.p95 == pytest.approx(float(np.quantile(plain.e2e, 0.95, method="inverted_cdf")), rel=1e-9)
    assert scaled.replica_hours == pytest.approx(scaled.hours, rel=1e-6)


def test_scaling_follows_the_day_and_costs_less_than_the_peak_all_day() -> None:
    demand = day()
    steady = autoscale(demand, STEP, LIMITS, ScalingPolicy(0.1, min_replicas=4, max_replicas=4))
    follows = autoscale(demand, STEP, LIMITS, ScalingPolicy(0.1, min_replicas=1, max_replicas=8))
    assert follows.replica_hours < 0.8 * steady.replica_hours
    assert follows.most_replicas >= 3
    assert follows.unanswered == steady.unanswered == 0


def test_one_more_than_needed_is_one_more() -> None:
    demand = poisson(3.0, 4_000, CHAT, seed=2)
    bare, spare = (
        autoscale(demand, STEP, LIMITS, ScalingPolicy(100.0, max_replicas=4, spare=count)) for count in (0, 1)
    )
    assert spare.replica_hours == pytest.approx(2 * bare.replica_hours, rel=1e-6)


def test_zero_replicas_cost_nothing_and_the_first_request_waits_for_the_cold_start() -> None:
    arrived = np.array([10.0, 20_000.0])
    demand = Demand(arrived, np.array([50, 50]), np.array([10, 10]))
    policy = ScalingPolicy(1.0, min_replicas=0, max_replicas=2, cold_start_seconds=200, scale_in_cooldown_seconds=600)
    scaled = autoscale(demand, STEP, LIMITS, policy)
    assert scaled.unanswered == 0
    assert 200 < scaled.ttft.p95 < 200 + policy.period_seconds + 1
    assert scaled.replica_hours < 0.6
    assert scaled.starts == 2


def test_interruptions_cost_latency_and_restart_what_was_running_but_lose_nothing() -> None:
    demand = poisson(2.0, 20_000, CHAT, seed=2)
    policy = ScalingPolicy(1.5, min_replicas=2, max_replicas=4, cold_start_seconds=120)
    calm = autoscale(demand, STEP, LIMITS, policy)
    stormy = autoscale(demand, STEP, LIMITS, policy, interruptions_per_hour=4.0, seed=1)
    assert stormy.interruptions > 5
    assert stormy.restarted_requests > 0
    assert stormy.unanswered == 0
    assert stormy.e2e.p99 > calm.e2e.p99
    assert stormy.starts > calm.starts


def test_the_same_seed_gives_the_same_bill() -> None:
    demand = poisson(2.0, 2_000, CHAT, seed=2)
    once, again = (
        autoscale(demand, STEP, LIMITS, ScalingPolicy(1.0), interruptions_per_hour=6.0, seed=9) for _ in range(2)
    )
    assert (once.replica_hours, once.e2e, once.interruptions) == (again.replica_hours, again.e2e, again.interruptions)

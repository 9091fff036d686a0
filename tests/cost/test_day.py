from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_ground import TODAY, planner
from nexus_llm.cost.capacity.arrivals import LengthSpread, hourly
from nexus_llm.cost.capacity.autoscale import ScalingPolicy, autoscale
from nexus_llm.cost.day import Day, Level, hourly_rates, scaled, steady
from nexus_llm.cost.quantities import EngineLimits, StepTime, Traffic
from nexus_llm.cost.recipe_plan import as_document, plan_recipe, planner_for
from nexus_llm.cost.simulated import simulated_day
from nexus_llm.errors import RecipeError
from nexus_llm.recipe import ScalingRecipe, load_recipe

DOMAIN = Path(__file__).parents[2] / "recipes" / "domain-8b-sagemaker.yaml"
CHAT = Traffic(3e6, 500, 300, 3.0)
POLICIES = st.builds(
    ScalingRecipe,
    min_replicas=st.integers(0, 3),
    target_share=st.floats(0.3, 1.0),
    cold_start_seconds=st.floats(0, 1800),
    scale_in_cooldown_seconds=st.floats(1, 1800),
    awake_hours=st.sampled_from([(0, 24), (8, 20), (0, 1), (13, 16)]),
    weekdays_only=st.booleans(),
)
SCALING = {
    name: planner(scaling=policy)
    for name, policy in {
        "day": {},
        "zero": {"min_replicas": 0},
        "office": {"awake_hours": [8, 20], "weekdays_only": True, "min_replicas": 0},
    }.items()
}


@settings(max_examples=200, deadline=None)
@given(st.floats(1, 1e9), st.floats(1, 4), st.floats(1, 60), st.integers(0, 2), POLICIES)
def test_more_requests_never_mean_fewer_machine_hours(
    volume: float, more: float, peak: float, spare: int, policy: ScalingRecipe
) -> None:
    few, many = (scaled(Traffic(count, 500, 300, peak), 1.7, policy, spare=spare) for count in (volume, volume * more))
    assert few.machine_hours <= many.machine_hours * (1 + 1e-12)
    assert few.most <= many.most
    assert few.machine_hours <= 730 * few.most * (1 + 1e-12)


@pytest.mark.parametrize("name", sorted(SCALING))
@settings(max_examples=15, deadline=None)
@given(first=st.floats(1, 1e9), second=st.floats(1, 1e9))
def test_more_requests_never_cost_less_where_machines_come_and_go(name: str, first: float, second: float) -> None:
    own = SCALING[name]
    low, high = sorted((first, second))
    assert own.scenario(low).usd_per_month <= own.scenario(high).usd_per_month * (1 + 1e-12)


def test_the_count_follows_the_day_and_each_start_is_paid_for() -> None:
    day = scaled(CHAT, 1.0, ScalingRecipe(target_share=1.0), spare=1)
    assert day.most == math.ceil(3e6 / (730 * 3600) * 3) + 1  # the busiest hour, and the spare
    assert (day.machines[2], day.machines[14]) == (2, day.most)
    assert day.machine_hours < 0.8 * 730 * day.most
    # One start of each machine that does not run all day: 900 s before it takes requests, 600 s until it is stopped.
    free = scaled(
        CHAT, 1.0, ScalingRecipe(target_share=1.0, cold_start_seconds=0, scale_in_cooldown_seconds=1e-9), spare=1
    )
    starts = (day.most - day.machines[2]) * 730 / 24
    assert day.machine_hours - free.machine_hours == pytest.approx(starts * 1500 / 3600)
    assert steady(3).levels() == (Level(3, 730.0),)


def test_the_day_agrees_with_the_simulated_policy() -> None:
    """The closed form against the request by request simulation, the same policy and demand in both."""
    policy = ScalingRecipe(target_share=0.8, cold_start_seconds=300, scale_in_cooldown_seconds=600)
    traffic = Traffic(600_000, 100, 30, 3.0)
    rates, _ = hourly_rates(traffic, policy)
    demand = hourly(np.array([*rates, *rates]) * 3600, traffic, spread=LengthSpread(0, 0), seed=1)
    found = autoscale(
        demand,
        StepTime(0.02, 1e-4, 5e-4, 1e-6, "measured", "a test"),
        EngineLimits(kv_cache_tokens=100_000, max_sequences=16, max_batched_tokens=256),
        ScalingPolicy(0.2 * 0.8, max_replicas=12, cold_start_seconds=300, scale_in_cooldown_seconds=600),
    )
    day = scaled(traffic, 0.2, policy, spare=0)
    # The policy sees every burst of a minute, the day only the hour's mean: it needs a machine or two more.
    assert day.machine_hours * 2 / day.days_per_month <= found.replica_hours
    assert found.replica_hours <= 1.6 * day.machine_hours * 2 / day.days_per_month


def test_nobody_asks_and_nothing_runs() -> None:
    policy = ScalingRecipe(min_replicas=0, cold_start_seconds=900, scale_in_cooldown_seconds=600)
    day = scaled(Traffic(60, 500, 300, 1.0), 1.0, policy, spare=0)  # twice a day
    assert day.machine_hours == pytest.approx(60 * 1500 / 3600, rel=0.05)  # each request starts it once
    assert day.cold_share == pytest.approx(1.0, abs=0.05)
    busy = scaled(Traffic(1e6, 500, 300, 1.0), 1.0, policy, spare=0)
    assert busy.cold_share < 1e-6
    assert busy.machine_hours == pytest.approx(730)
    office = scaled(CHAT, 1.0, ScalingRecipe(awake_hours=(8, 20), weekdays_only=True), spare=0)
    assert office.days_per_month == pytest.approx(730 / 24 * 5 / 7)
    assert office.machines[7] == office.machines[20] == 0
    assert min(office.machines[8:20]) >= 1


def test_machines_that_run_all_day_are_committed_and_the_others_bought_by_the_hour() -> None:
    own = planner(machines=("g6.xlarge",), purchases=("savings-1y", "on-demand"), precisions=("bfloat16",), scaling={})
    found = {one.purchase: one for one in own.scenario(2e7).by_purchase}
    committed, rest = found["savings-1y"].bill.lines[:2]
    assert committed.name.endswith("(savings-1y)")
    assert rest.name.endswith("(on-demand)")
    day = found["savings-1y"].day
    assert committed.quantity.amount % 730 == pytest.approx(0)
    assert committed.quantity.amount > min(day.machines) * 730 * 0.999
    assert found["savings-1y"].usd_per_month < found["on-demand"].usd_per_month


def test_a_plan_tells_the_machines_of_each_hour_and_how_the_day_went() -> None:
    recipe = load_recipe(DOMAIN, overrides=("cost.scaling.min_replicas=1", "cost.machines=[g6.xlarge]"))
    own = planner_for(recipe, planner().table, planner().capacity)
    own.day_model = simulated_day
    plan = plan_recipe(recipe, own, volumes=(1e6,), capacity_model="closed form")
    (row,) = as_document(plan, today=TODAY)["scenarios"]
    assert len(row["scaling"]["machines_by_hour"]) == 24
    simulated = row["scaling"]["simulated_day"]
    assert simulated["requests"] == pytest.approx(1e6 / 730 * 24, rel=0.02)
    assert simulated["ttft_p95_seconds"] < 2
    fixed = planner(machines=("g6.xlarge",)).scenario(1e6)
    assert own.scenario(1e6).usd_per_month <= fixed.usd_per_month
    assert own.scenario(1e6).idle_share <= fixed.idle_share + 1e-9


def test_a_service_that_sleeps_says_who_waits() -> None:
    recipe = load_recipe(DOMAIN, overrides=("cost.scaling.min_replicas=0", "cost.traffic.requests_per_month=1000"))
    own = planner_for(recipe, planner().table, planner().capacity)
    (row,) = as_document(plan_recipe(recipe, own, capacity_model="closed form"), today=TODAY)["scenarios"]
    assert row["scaling"]["waiting_for_a_start_share"] > 0.2
    assert any("find no machine and wait" in note for note in row["notes"])
    assert any("was not simulated" in note for note in row["notes"])


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("cost.scaling.cold_start_seconds=3500", "more than an hour"),
        ("cost.scaling.awake_hours=[20,8]", "does not end after it begins"),
        ("cost.scaling.target_share=0", "target_share"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(override: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        load_recipe(DOMAIN, overrides=(override,))


def test_a_day_of_machines_that_never_stop_has_no_starts() -> None:
    assert Day((2,) * 24, (1.0,) * 24, start_hours=1.0).machine_hours == 2 * 730

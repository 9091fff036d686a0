from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cost_ground import SHIPPED
from nexus_llm.cost.closed_form import closed_form_capacity
from nexus_llm.cost.lock import lock_document, lock_text, measured_regression, moved, read_lock, regressions
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.quantities import ReplicaCapacity
from nexus_llm.cost.recipe_plan import plan_recipe, planner_for
from nexus_llm.errors import CostError
from nexus_llm.recipe import load_recipe

DOMAIN = Path(__file__).parents[2] / "recipes" / "domain-8b-sagemaker.yaml"
FEW = ("cost.compare_with=[]", "cost.machines=[g6.xlarge]", "cost.purchases=[on-demand]", "cost.precisions=[bfloat16]")


def document(*overrides: str, table: PriceTable = SHIPPED, capacity: Any = closed_form_capacity) -> dict[str, Any]:
    recipe = load_recipe(DOMAIN, overrides=(*FEW, *overrides))
    return lock_document(
        plan_recipe(recipe, planner_for(recipe, table, capacity), capacity_model="closed form", is_compared=False)
    )


LOCKED = document()


def test_a_lock_is_read_back_as_written_and_holds_against_itself() -> None:
    assert read_lock(lock_text(LOCKED), place="cost.lock") == LOCKED
    assert regressions(LOCKED, document()) == ()
    assert moved(LOCKED, document()) == []


def test_a_price_that_moved_is_named_with_its_share() -> None:
    row = SHIPPED.lookup("ec2", "g6.xlarge on-demand", "us-east-1")
    now = document(table=SHIPPED.updated([replace(row, usd=row.usd * 1.2)]))
    found = regressions(LOCKED, now)
    assert [one.figure for one in found] == ["usd_per_month", "usd_per_million_tokens"]
    assert found[0].causes[0] == "price of ec2 g6.xlarge on-demand +20.0%"
    assert "bill: 2 x g6.xlarge (on-demand) +235.00 USD a month" in found[0].words


def test_a_slower_replica_is_a_regression_although_the_bill_is_the_same() -> None:
    def slower(*arguments: Any) -> ReplicaCapacity:
        found = closed_form_capacity(*arguments)
        load = found.at_objective
        return replace(found, at_objective=replace(load, output_tokens_per_second=load.output_tokens_per_second * 0.9))

    (found,) = regressions(LOCKED, document(capacity=slower))
    assert (found.figure, found.causes) == ("tokens_per_second", ("throughput of a replica -10.0%",))


def test_more_traffic_and_a_new_part_of_the_bill_are_told_apart() -> None:
    more = regressions(LOCKED, document("cost.traffic.requests_per_month=2000000"))
    assert any("traffic: requests_per_month 100000 → 2e+06" in cause for cause in more[0].causes)
    part = regressions(LOCKED, document("cost.service.interface_endpoints=20"))
    assert part[0].causes == ("bill: interface endpoints +219.00 USD a month",)


def test_dearer_training_is_a_regression() -> None:
    found = regressions(LOCKED, document("train.max_steps=6000"))
    assert [one.figure for one in found] == ["training_usd"]
    assert any(cause.startswith("training hours") for cause in found[0].causes)


def test_what_is_cheaper_or_within_the_tolerance_passes() -> None:
    row = SHIPPED.lookup("ec2", "g6.xlarge on-demand", "us-east-1")
    for factor in (0.5, 1.04):
        now = document(table=SHIPPED.updated([replace(row, usd=row.usd * factor)]))
        assert regressions(LOCKED, now) == ()
        assert moved(LOCKED, now)


def test_a_measured_throughput_below_the_lock_is_a_regression() -> None:
    locked = LOCKED["tokens_per_second"]
    assert measured_regression(LOCKED, {"output_tokens_per_second": locked * 0.96}) is None
    found = measured_regression(LOCKED, {"output_tokens_per_second": locked * 0.9})
    assert found is not None
    assert "measured" in found.words
    with pytest.raises(CostError, match="no output_tokens_per_second"):
        measured_regression(LOCKED, {"tokens": 3})


@pytest.mark.parametrize(("text", "what"), [("{", "is no JSON"), ("[]", "version 1"), ('{"version": 0}', "version 1")])
def test_a_file_that_is_no_lock_is_refused(text: str, what: str) -> None:
    with pytest.raises(CostError, match=what):
        read_lock(text, place="cost.lock")
    half = copy.deepcopy(LOCKED)
    del half["bill"]
    with pytest.raises(CostError, match="has no bill"):
        read_lock(lock_text(half), place="cost.lock")

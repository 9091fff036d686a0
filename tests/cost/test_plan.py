from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_ground import SHIPPED, TODAY, cost_recipe, planner
from nexus_llm.arithmetic import parameters
from nexus_llm.cost.closed_form import closed_form_capacity
from nexus_llm.cost.day import steady
from nexus_llm.cost.hardware import engine_limits, machine, machines, step_time
from nexus_llm.cost.money import cents
from nexus_llm.cost.plan import Planner
from nexus_llm.cost.prices import PriceTable
from nexus_llm.cost.quantities import EngineLimits, LatencyObjective, ReplicaCapacity, StepTime, Traffic
from nexus_llm.cost.recipe_plan import as_document, plan_recipe, planner_for
from nexus_llm.cost.sensitivity import sensitivity
from nexus_llm.cost.service_bill import Pricing, engine_bill, surroundings_bill
from nexus_llm.cost.shapes import known_shapes, model_size
from nexus_llm.errors import CostError, RecipeError
from nexus_llm.recipe import CostRecipe, load_recipe

PRICING = Pricing(SHIPPED, "us-east-1")
ROOT = Path(__file__).parents[2]
DOMAIN, INFRA = ROOT / "recipes" / "domain-8b-sagemaker.yaml", ROOT / "infra"
SHARED = planner()  # remembers capacities between examples


def test_the_bill_equals_an_invoice_that_was_made_by_hand_to_the_cent() -> None:
    # 1M requests of 500 + 300 tokens, each 3,000 bytes asked and 75,000 answered, 30 s long; two g6.xlarge.
    cost, traffic = CostRecipe(), Traffic(1_000_000, 500, 300)
    bill = engine_bill("g6.xlarge", "on-demand", steady(2), cost, PRICING) + surroundings_bill(
        traffic, 30, cost, PRICING
    )
    by_hand = {
        "2 x g6.xlarge (on-demand)": 1175.01,  # 2 x 730 x 0.8048
        "EBS gp3": 16.00,  # 2 x 100 x 0.08
        "gateway tasks, vCPU": 29.55,  # 2 x 0.5 x 730 x 0.04048
        "gateway tasks, memory": 6.49,  # 2 x 1 x 730 x 0.004445
        "load balancer": 16.43,  # 730 x 0.0225
        "load balancer capacity": 0.62,  # 78 GB / 730 h = 0.10685 LCU; x 730 x 0.008
        "firewall": 5.00,
        "firewall rules": 4.00,  # 4 x 1.00
        "firewall requests": 0.60,  # 1M
        "database of keys": 87.60,  # 2 x 0.5 x 730 x 0.12
        "database storage": 1.00,  # 10 x 0.10
        "database accesses": 0.80,  # 4M x 0.20 / 1M
        "NAT gateways": 65.70,  # 2 x 730 x 0.045
        "NAT data": 0.90,  # 20 x 0.045
        "interface endpoints": 73.00,  # 5 x 2 x 730 x 0.01
        "interface endpoints, data": 0.02,  # 2 GB x 0.01
        "public IPv4 addresses": 14.60,  # 4 x 730 x 0.005
        "S3 storage": 2.30,  # 100 x 0.023
        "ECR images": 1.50,  # 15 x 0.10
        "CloudWatch metrics": 6.00,  # 20 x 0.30
        "CloudWatch alarms": 3.90,  # 39 x 0.10
        "CloudWatch composite alarms": 3.00,  # 6 x 0.50
        "CloudWatch dashboards": 3.00,
        "CloudWatch logs, taken in": 1.00,  # 2 GB x 0.50
        "CloudWatch logs, kept": 0.06,  # 2 GB x 0.03
        "KMS keys": 2.00,
        "KMS requests": 0.03,  # 10,000 x 0.003 / 1,000
        "secrets": 0.80,  # 2 x 0.40
        "data between zones": 1.56,  # 2 x 78 GB x 0.01
    }  # 75 GB out: the first 100 are free
    assert {line.name: cents(line.usd) for line in bill.lines} == by_hand
    assert cents(bill.usd) == 1522.47


def test_the_bill_has_what_the_terraform_of_a_product_with_users_makes() -> None:
    page = (INFRA / "environments/standard/README.md").read_text()  # written from its Terraform plan; a test holds it
    stands = dict.fromkeys(("firewall", "database", "alarms", "composite", "dashboard"), 0.0)
    for what, usd in re.findall(r"^\| [12]-\w+ \| (.+?) \| \d+ \| ([\d.]+) \|$", page, re.MULTILINE):
        for name in [one for one in stands if re.match(rf"(aws_cloudwatch_)?{one}", what)]:
            stands[name] += float(usd)
    usual = surroundings_bill(Traffic(1, 1, 1), 1, CostRecipe(), PRICING)
    planned = {line.name: cents(line.usd) for line in usual.lines}
    assert stands == {
        "firewall": planned["firewall"] + planned["firewall rules"],
        "database": planned["database of keys"],
        "alarms": planned["CloudWatch alarms"],
        "composite": planned["CloudWatch composite alarms"],
        "dashboard": planned["CloudWatch dashboards"],
    }
    one = surroundings_bill(Traffic(1, 1, 1), 1, cost_recipe(service__database_instances=1), PRICING)
    assert cents(usual.usd - one.usd) == 43.80
    none = surroundings_bill(
        Traffic(1, 1, 1), 1, cost_recipe(service__database_instances=0, service__load_balancer=False), PRICING
    )
    assert not [line.name for line in none.lines if line.name.startswith(("database", "firewall"))]


@settings(max_examples=60)
@given(st.floats(1, 1e9), st.floats(1, 1e9))
def test_more_requests_never_cost_less(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert SHARED.scenario(low).usd_per_month <= SHARED.scenario(high).usd_per_month * (1 + 1e-12)


@settings(max_examples=20)
@given(st.floats(1, 50), st.floats(1e4, 1e8))
def test_a_higher_peak_or_a_dearer_region_never_costs_less(peak: float, volume: float) -> None:
    usual = SHARED.scenario(traffic=Traffic(volume, 500, 300, peak)).usd_per_month
    assert usual <= SHARED.scenario(traffic=Traffic(volume, 500, 300, peak * 2)).usd_per_month
    dearer = SHIPPED.updated(replace(row, usd=row.usd * 1.1) for row in SHIPPED.rows.values())
    assert usual <= SHARED.with_table(dearer).scenario(traffic=Traffic(volume, 500, 300, peak)).usd_per_month


def test_one_machine_more_than_the_busiest_hour_needs_is_bought() -> None:
    found = planner(machines=("g6.xlarge",), purchases=("on-demand",), precisions=("bfloat16",)).scenario(1e6).best
    each = found.load.requests_per_second
    busiest = 1e6 / (730 * 3600) * 3
    assert found.spare_machines == 1
    assert (found.machines - 2) * each < busiest <= (found.machines - 1) * each
    assert planner(spare_machines=0, purchases=("on-demand",)).scenario(1e5).best.machines == 1


def test_spot_has_a_spare_even_where_none_was_asked_for() -> None:
    assert planner(spare_machines=0, purchases=("spot",)).scenario(1e5).best.machines == 2


def test_every_purchase_option_is_priced_as_itself() -> None:
    rows = {one.purchase: one for one in planner(machines=("g6.xlarge",)).scenario(1e5).by_purchase}
    hours = {name: one.bill.lines[0].price.usd for name, one in rows.items()}
    assert hours == {"on-demand": 0.8048, "spot": 0.410448, "savings-1y": 0.4732224, "savings-3y": 0.346064}


def test_an_assumed_price_is_shown_and_never_chosen() -> None:
    found = planner(purchases=("on-demand", "savings-3y")).scenario(1e5)
    assert [one.purchase for one in found.by_purchase] == ["savings-3y", "on-demand"]
    assert found.by_purchase[0].is_assumed
    assert found.best.purchase == "on-demand"
    with pytest.raises(CostError, match="is assumed"):
        planner(purchases=("savings-3y",)).scenario(1e5)


def test_an_objective_that_nothing_meets_names_the_nearest_and_what_would_do() -> None:
    with pytest.raises(CostError, match=r"nearest is .*: e2e_seconds .* instead of 0\.5") as caught:
        planner(objective__e2e_seconds=0.5).scenario(1e5)
    wanted = float(caught.value.fix.split("e2e_seconds=")[1].split(",")[0])
    assert planner(objective__e2e_seconds=wanted).scenario(1e5).best  # the remedy works


def test_streaming_and_whole_answers_are_different_objectives() -> None:
    streamed = planner(objective__e2e_seconds=None).scenario(1e5)
    whole = planner(objective__e2e_seconds=2.0).scenario(1e5)
    assert streamed.best.load.e2e.p95 > 2.0 >= whole.best.load.e2e.p95
    assert whole.usd_per_month > streamed.usd_per_month


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"machines": ("g6.xlrge",)}, "'g6.xlrge' is not known"),
        ({"region": "mars-north-1"}, "in mars-north-1"),
        ({"machines": ("p5.4xlarge",), "purchases": ("spot",)}, "p5.4xlarge has no price as spot in us-east-1"),
        ({"machines": ("g5.xlarge",), "precisions": ("float8",)}, "fits on no card"),
    ],
)
def test_an_unknown_machine_region_or_purchase_is_refused_by_name(changes: dict[str, object], what: str) -> None:
    with pytest.raises(CostError, match=what):
        planner(**changes).scenario(1e5)


@pytest.mark.parametrize("requests", [-1.0, 0.0, float("nan"), float("inf"), 1e12])
def test_volumes_that_are_none_are_refused(requests: float) -> None:
    with pytest.raises(CostError, match=r"no traffic|more than all people"):
        SHARED.scenario(requests)


def test_a_prompt_that_fits_no_cache_says_so() -> None:
    with pytest.raises(CostError, match=r"900,300 tokens fits into no cache; the largest holds 104,237"):
        planner(machines=("g6.xlarge",), objective__ttft_seconds=None).scenario(traffic=Traffic(1e5, 900_000, 300))


def test_capacity_is_asked_once_for_a_card_and_never_for_a_volume() -> None:
    asked: list[Traffic] = []

    def capacity(step_time, limits, traffic, objective, seed) -> ReplicaCapacity:  # type: ignore[no-untyped-def]
        asked.append(traffic)
        return SHARED.capacity(step_time, limits, traffic, objective, seed)

    name, shape = model_size("llama-3.1-8b")
    own = Planner(CostRecipe(), name, shape, SHIPPED, capacity)
    own.scenario(1e5)
    before = len(asked)
    own.scenario(1e7)
    assert len(asked) == before
    assert {traffic.requests_per_month for traffic in asked} == {1e6}


def test_a_model_without_a_known_size_is_refused_and_its_config_helps() -> None:
    with pytest.raises(CostError, match="size of the model 'hf:acme/zeta-9b@main' is not known") as caught:
        model_size("hf:acme/zeta-9b@main")
    assert "cost.model_config_path" in caught.value.fix
    config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
              "intermediate_size": 128, "vocab_size": 1000}  # fmt: skip
    assert model_size("hf:acme/zeta-9b", config)[1].layers == 2
    assert model_size("hf:meta-llama/Llama-3.1-8B-Instruct@abc")[0] == "Llama-3.1-8B"


def test_the_known_models_have_as_many_parameters_as_their_names_say() -> None:
    told = {"Llama-3.1-8B": 8.03e9, "Llama-3.2-1B": 1.24e9, "Qwen2.5-0.5B": 0.494e9, "Qwen2.5-1.5B": 1.54e9,
            "Qwen2.5-7B": 7.62e9, "SmolLM2-135M": 134.5e6, "SmolLM2-360M": 362e6, "SmolLM2-1.7B": 1.71e9}  # fmt: skip
    assert {name: parameters(shape).total for name, shape in known_shapes().items()} == pytest.approx(told, rel=0.01)


def test_every_known_machine_has_an_on_demand_price() -> None:
    assert [name for name in machines() if not SHIPPED.has("ec2", f"{name} on-demand", "us-east-1")] == []
    assert machine("p4d.24xlarge").cards == 8


def test_sensitivity_tells_which_assumption_matters() -> None:
    found = {one.name: one.usd_per_month for one in sensitivity(SHARED, SHARED.scenario(1e8))}
    base = SHARED.scenario(1e8).usd_per_month
    assert found["output tokens x 2"] > base > found["output tokens / 2"]  # type: ignore[operator]
    assert found["machine prices + 20 %"] > base > found["machine prices - 20 %"]  # type: ignore[operator]


def test_the_shipped_8b_recipe_is_planned_offline_and_its_plan_does_not_move() -> None:
    recipe = load_recipe(DOMAIN)
    own = planner_for(recipe, PriceTable.shipped(), SHARED.capacity)
    plan = plan_recipe(recipe, own, volumes=(1e5, 1e6, 1e7), capacity_model="closed form")
    document = as_document(plan, today=TODAY)
    rows = [(row["requests_per_month"], row["usd_per_month"], row["machines"], row["machine"], row["precision"])
            for row in document["scenarios"]]  # fmt: skip
    assert rows == [
        (1e5, 942.49, 2, "g6.xlarge", "bfloat16"),
        (1e6, 946.71, 2, "g6.xlarge", "float8"),
        (1e7, 1427.72, 6, "g6.xlarge", "float8"),  # at the busiest hour: they follow the day
    ]
    assert document["scenarios"][0]["throughput_provenance"] == "roofline"
    assert document["training"]["usd"] == 98.13
    assert document["prices"]["oldest_days"] > 90
    assert len(document["prices"]["warnings"]) == 3


def test_amounts_are_also_told_in_another_currency() -> None:
    recipe = load_recipe(DOMAIN, overrides=("cost.currency=EUR", "cost.currency_per_usd=0.9"))
    plan = plan_recipe(recipe, planner_for(recipe, SHIPPED, SHARED.capacity), capacity_model="closed form")
    row = as_document(plan, today=TODAY)["scenarios"][0]
    assert row["in_currency_per_month"] == cents(942.48858 * 0.9)
    with pytest.raises(RecipeError, match="currency_per_usd is missing"):
        load_recipe(DOMAIN, overrides=("cost.currency=EUR",))


def test_a_discount_lowers_every_aws_line_and_no_api() -> None:
    usual, less = planner(), planner(discount_share=0.1)
    assert less.scenario(1e5).usd_per_month == pytest.approx(usual.scenario(1e5).usd_per_month * 0.9)
    assert cost_recipe(discount_share=0.1).compare_with == CostRecipe().compare_with


def test_the_closed_form_gives_zero_where_one_request_alone_misses() -> None:
    limits = engine_limits(machine("g6.xlarge").card, SHARED.model, "bfloat16")
    time = step_time(machine("g6.xlarge").card, SHARED.model, SHARED.model_name, "bfloat16")
    assert limits
    found = SHARED.capacity(time, limits, Traffic(1e5, 500, 300), LatencyObjective(tpot_seconds=1e-6), 0).at_objective
    assert found.requests_per_second == 0
    assert found.tpot.p95 > 1e-6


def test_in_closed_form_a_prompt_waits_for_its_own_changed_batch() -> None:
    limits = EngineLimits(kv_cache_tokens=100_000, max_sequences=8, max_batched_tokens=512)
    time = StepTime(0.01, 1e-4, 1e-3, 0.0, "measured", "a test", seconds_per_batch_change=0.1)
    found = closed_form_capacity(time, limits, Traffic(1e5, 100, 200), LatencyObjective(ttft_seconds=0.1), 0)
    assert found.at_objective.requests_per_second == 0
    assert found.at_objective.ttft.p50 == pytest.approx(0.01 + 0.1 + 0.01 + 0.001 + 1e-4 * 100 / 200)

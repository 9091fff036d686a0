"""`nexus cost plan` and `nexus cost claims`: what it will cost, whether it pays, and what of the brief holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.cost_inputs import (
    Measured,
    Prices,
    Quick,
    SpotTraces,
    capacity_model,
    planner,
    price_table,
    volumes,
    warn,
)
from nexus_llm.cli.options import AsJson, Overrides, RecipePath, Root, workspace

_RUN = typer.Option(
    "--run",
    help="A run: its measured quality stands beside the price [default: the recipe's, if any].",
    metavar="RUN",
)


def register(group: typer.Typer) -> None:
    """Adds the commands."""
    group.command("plan")(plan)
    group.command("claims")(claims)


def plan(
    recipe: RecipePath,
    requests: Annotated[str | None, typer.Option(help="Requests a month: 100K,1M,10M [default: the recipe's].")] = None,
    run: Annotated[str | None, _RUN] = None,
    quick: Quick = False,
    measured: Measured = [],  # noqa: B006 - typer reads the default, nobody changes it
    prices: Prices = None,
    spot_traces: SpotTraces = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with plots.", metavar="FILE.html")] = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """What a recipe's model costs a month, the cheapest way that keeps its objective, and when that beats an API."""
    from nexus_llm.cost.break_even import quality_beside
    from nexus_llm.cost.recipe_plan import as_document, plan_recipe
    from nexus_llm.cost.training import read_traces
    from nexus_llm.recipe import load_recipe

    wanted = volumes(requests)
    loaded = load_recipe(recipe, overrides=tuple(overrides))
    chosen, model = planner(loaded, price_table(prices), is_quick=quick, measured=measured)
    traces = read_traces(spot_traces) if spot_traces else ()
    found = plan_recipe(loaded, chosen, volumes=wanted, traces=traces, capacity_model=model)
    document = as_document(found, today=datetime.now(UTC).date()) | {
        "quality": quality_beside(_evaluation(run or loaded.name, root))
    }
    if report is not None:
        from nexus_llm.cost.report import plan_page
        from nexus_llm.storage import write_atomically

        write_atomically(report, plan_page(document, chosen).encode())
    warn(document["prices"]["warnings"])
    if as_json:
        print_json(document)
    else:
        print_plan(document)
    return 0


def claims(as_json: AsJson = False, prices: Prices = None) -> int:
    """Every figure of the product's brief about money, speed and time, computed again: holds, fails, or holds if."""
    from nexus_llm.cost.claims import claims_document, claims_page

    chosen, model = capacity_model(is_quick=True)  # the page must not depend on what a simulation draws
    document = claims_document(price_table(prices), chosen, model)
    if as_json:
        print_json(document)
    else:
        print(claims_page(document), end="")
    return 0


def print_plan(document: dict[str, Any]) -> None:
    """The plan on stdout, for a reader who has not seen the recipe."""
    print(f"{document['recipe']}: {document['model']} in {document['region']}, list prices without tax")
    bounds = [f"{name.split('_')[0]} {value:g} s" for name, value in document["objective_p95"].items() if value]
    print(f"objective (p95): {', '.join(bounds) or 'none'}; capacity: {document['capacity_model']}")
    _print_against_apis(document)
    for scenario in document["scenarios"]:
        _print_scenario(scenario, document["currency"])
    _print_upfront(document)
    first = document["scenarios"][0]
    print(f"\nif an assumption is wrong, {first['requests_per_month']:,.0f} requests a month cost")
    same = [one["change"] for one in document["sensitivity"] if one["usd_per_month"] == first["usd_per_month"]]
    for change in document["sensitivity"]:
        usd = change["usd_per_month"]
        if change["change"] not in same:
            print(
                f"  {change['change']:<24} {'no machine keeps the objective' if usd is None else f'{usd:10,.2f} USD'}"
            )
    if same:
        print(f"  as much as before: {', '.join(same)}")


def _print_against_apis(document: dict[str, Any]) -> None:
    """The answer to what most people ask first: should we?"""
    compared = document["break_even"]
    if not compared:
        return
    one = compared[0]
    machines = one["own_usd_per_month"] - one["staff_usd_per_month"]
    print(
        f"\nshould we? {one['requests_per_month']:,.0f} requests a month cost {machines:,.2f} USD of AWS and "
        f"{one['staff_usd_per_month']:,.2f} of people's hours; {one['upfront_usd']:,.2f} before the first request"
    )
    for one in compared:
        print(f"  {one['words']}")
        print(f"    3 years: {one['own_usd_3_years']:,.0f} USD own, {one['api_usd_3_years']:,.0f} API")
    print("  These are prices only. " + document["quality"]["words"])


def _print_scenario(scenario: dict[str, Any], currency: dict[str, Any]) -> None:
    from nexus_llm.cost.money import SECONDS_PER_MONTH

    other = ""
    if currency["name"] != "USD":
        other = f" = {scenario['in_currency_per_month']:,.2f} {currency['name']}"
    print(
        f"\n{scenario['requests_per_month']:,.0f} requests a month ({scenario['input_tokens']:g} tokens in, "
        f"{scenario['output_tokens']:g} out, peak x {scenario['peak_ratio']:g}): "
        f"{scenario['usd_per_month']:,.2f} USD{other}"
    )
    print(
        f"  {scenario['machines']} x {scenario['machine']} {scenario['purchase']}, {scenario['precision']} "
        f"({scenario['spare_machines']} spare), idle {scenario['idle_share']:.0%}, "
        f"{scenario['usd_per_million_tokens']:.2f} USD a million tokens"
    )
    latency = ", ".join(f"{name} {value:g} s" for name, value in scenario["latency_p95_seconds"].items())
    busiest = scenario["requests_per_month"] / SECONDS_PER_MONTH * scenario["peak_ratio"]
    print(
        f"  the busiest hour brings {busiest:.3g} requests a second; without the spares the objective is kept up to "
        f"{scenario['capacity_requests_per_second']:.3g}, where p95 is {latency} (whole answers, the long ones too)"
    )
    print(f"  throughput: {scenario['throughput_provenance']}, {scenario['throughput_source']}")
    if scaling := scenario["scaling"]:
        _print_scaling(scaling)
    for note in scenario["notes"]:
        print(f"  note: {note}")
    print("  cheapest by purchase:")
    for one in scenario["cheapest_by_purchase"]:
        flag = "  (assumed price: not chosen)" if one["price_is_assumed"] else ""
        words = f"{one['machines']} x {one['machine']}, {one['precision']}"
        print(f"    {one['purchase']:<11} {one['option_usd_per_month']:>12,.2f}  {words}{flag}")
    print("  bill:")
    for line in scenario["bill"]:
        print(f"    {line['name']:<40} {line['amount']:>12,.1f} {line['unit']:<18} {line['usd']:>10,.2f}")
    print(f"    {'in all, USD a month':<72} {scenario['usd_per_month']:>10,.2f}")


def _print_scaling(scaling: dict[str, Any]) -> None:
    from nexus_llm.cost.training import INTERRUPTIONS_PER_HOUR

    counts = scaling["machines_by_hour"]
    changes = [hour for hour in range(24) if hour == 0 or counts[hour] != counts[hour - 1]]
    over = ", ".join(f"{counts[hour]} from {hour}:00" for hour in changes)
    print(f"  machines over the day: {over}; {scaling['machine_hours_per_month']:,.0f} machine hours a month")
    if day := scaling["simulated_day"]:
        basis = f" (assumed: {INTERRUPTIONS_PER_HOUR:g} an hour and machine)" if day["interruptions"] else ""
        print(
            f"  simulated day of {day['requests']:,} requests: p95 ttft {day['ttft_p95_seconds']:g} s, tpot "
            f"{day['tpot_p95_seconds']:g} s, e2e {day['e2e_p95_seconds']:g} s; {day['starts']} starts, "
            f"{day['interruptions']} interruptions{basis}, at most {day['most_machines']} machines"
        )


def _print_upfront(document: dict[str, Any]) -> None:
    training, data = document["training"], document["data"]
    print("\nbefore the first request:")
    if training:
        work = f"{training['machines']} x {training['machine']} {training['purchase']}"
        print(
            f"  training: {training['usd']:,.2f} USD a run, planned are {training['runs']:g}: {work}, "
            f"{training['billed_hours']:.1f} h with {training['interruptions']:.1f} restarts "
            f"({training['basis']}); {training['tokens'] / 1e6:,.0f} M tokens, speed not measured"
        )
    else:
        print("  training: on a machine that is not rented; not on the bill")
    if data:
        print(
            f"  data: {data['usd']:,.2f} USD for {data['gigabytes']:g} GB, {data['hours']:.1f} h on "
            f"{data['engine']} (a paper estimate)"
        )
    for people in document["break_even"][:1]:
        upfront = people["upfront_usd"] - document["upfront_usd"]
        print(f"  people's hours to build it: {upfront:,.2f} USD")


def _evaluation(run: str, root: Path) -> dict[str, Any] | None:
    """A run's `report.json`; None where it was not evaluated."""
    place = workspace(root)
    for folder in (Path(run), place.root / "runs" / run):
        path = folder / "report.json"
        if path.exists():
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return content
    return None

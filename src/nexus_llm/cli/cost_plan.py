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
from nexus_llm.errors import UsageError

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
    evaluated = _evaluation(run or loaded.name, root)
    if run and evaluated is None:
        raise UsageError(
            f"{run} is no evaluated run: it has no report.json", fix="nexus run RECIPE, or leave --run out"
        )
    chosen, model = planner(loaded, price_table(prices), is_quick=quick, measured=measured)
    traces = read_traces(spot_traces) if spot_traces else ()
    found = plan_recipe(loaded, chosen, volumes=wanted, traces=traces, capacity_model=model)
    document = as_document(found, today=datetime.now(UTC).date()) | {"quality": quality_beside(evaluated)}
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
    """The plan on stdout, for a reader who has not seen the recipe: the answer first, then what it is made of."""
    from nexus_llm.cost.report import latency_words

    print(f"{document['recipe']}: {document['model']} in {document['region']}, USD at list prices without tax")
    bounds = latency_words({name.removesuffix("_seconds"): value for name, value in document["objective_p95"].items()})
    print(f"objective for 95 % of the requests: {bounds or 'none'}; capacity: {document['capacity_model']}")
    _print_against_apis(document)
    _print_volumes(document["scenarios"], document["currency"])
    told: set[str] = set()
    for scenario in document["scenarios"]:
        _print_scenario(scenario, told)
        told.update(scenario["notes"])
    print(f"\nevery line, and the source and day of every price: --json or --report\n{document['left_out']}")
    _print_upfront(document)
    _print_sensitivity(document["scenarios"][0], document["sensitivity"])


def _print_against_apis(document: dict[str, Any]) -> None:
    """The answer to what most people ask first: should we?"""
    if not document["break_even"]:
        return
    first = document["break_even"][0]
    machines = first["own_usd_per_month"] - first["staff_usd_per_month"]
    print(
        f"\nshould we? {first['requests_per_month']:,.0f} requests a month cost {machines:,.2f} USD of AWS and "
        f"{first['staff_usd_per_month']:,.2f} of people's hours;\n3 years of it {first['own_usd_3_years']:,.0f}, with "
        f"{first['upfront_usd']:,.2f} before the first request"
    )
    for one in document["break_even"]:
        print(f"  {one['words']} 3 years of the API: {one['api_usd_3_years']:,.0f}.")
    print(f"  Prices alone: an API's model may answer better than a tuned {document['model']}.")
    print(f"  {document['quality']['words']}")
    sources = sorted({source for one in document["break_even"] for source in one["price_sources"]})
    print(f"  the APIs' prices: {'; '.join(sources)}")


def _print_volumes(scenarios: list[dict[str, Any]], currency: dict[str, Any]) -> None:
    from nexus_llm.cost.report import option_words

    other = "" if currency["name"] == "USD" else f"{currency['name']:>14}"
    print(f"\n{'requests a month':>16} {'USD a month':>14}{other} {'USD a M tokens':>15} {'idle':>5}  the cheapest")
    for one in scenarios:
        translated = f"{one['in_currency_per_month']:>14,.2f}" if other else ""
        print(
            f"{one['requests_per_month']:>16,.0f} {one['usd_per_month']:>14,.2f}{translated} "
            f"{one['usd_per_million_tokens']:>15,.2f} {one['idle_share']:>5.0%}  {option_words(one)}"
        )


def _print_scenario(scenario: dict[str, Any], told: set[str]) -> None:
    """One volume; notes that were `told` for another one are not said again."""
    from nexus_llm.cost.money import SECONDS_PER_MONTH
    from nexus_llm.cost.report import large_lines, latency_words, option_words

    print(
        f"\n{scenario['requests_per_month']:,.0f} requests a month, {round(scenario['input_tokens'], 1):g} tokens in "
        f"and {round(scenario['output_tokens'], 1):g} out"
    )
    busiest = scenario["requests_per_month"] / SECONDS_PER_MONTH * scenario["peak_ratio"]
    print(
        f"  {option_words(scenario)}, {scenario['spare_machines']} of them spare. The busiest hour (mean x "
        f"{scenario['peak_ratio']:g}) brings {busiest:.3g} requests a second;\n  the others take up to "
        f"{scenario['capacity_requests_per_second']:.3g}, where 95 % have "
        f"{latency_words(scenario['latency_p95_seconds'])}"
    )
    if scaling := scenario["scaling"]:
        _print_scaling(scaling)
    for note in scenario["notes"]:
        if note not in told:
            print(f"  note: {note}")
    print("  by purchase")
    for one in scenario["cheapest_by_purchase"]:
        flag = "  (assumed price: never chosen)" if one["price_is_assumed"] else ""
        print(f"    {one['option_usd_per_month']:>12,.2f}  {option_words(one)}{flag}")
    print(f"  the {scenario['usd_per_month']:,.2f} are")
    large, small = large_lines(scenario["bill"])
    for line in large:
        print(
            f"    {line['usd']:>12,.2f}  {line['name']:<34} {line['amount']:>10,.1f} x {line['usd_per_unit']:<9g} "
            f"{line['unit']}"
        )
    if small:
        rest = sum(line["usd"] for line in small)
        print(f"    {rest:>12,.2f}  {len(small)} smaller lines")


def _print_scaling(scaling: dict[str, Any]) -> None:
    from nexus_llm.cost.report import latency_words
    from nexus_llm.cost.training import INTERRUPTIONS_PER_HOUR

    counts = scaling["machines_by_hour"]
    changes = [hour for hour in range(1, 24) if counts[hour] != counts[hour - 1]]
    if changes:
        over = ", ".join(f"{counts[hour]} from {hour}:00" for hour in [0, *changes])
        print(f"  machines over the day: {over}; {scaling['machine_hours_per_month']:,.0f} machine hours a month")
    if day := scaling["simulated_day"]:
        basis = f" (assumed: {INTERRUPTIONS_PER_HOUR:g} an hour and machine)" if day["interruptions"] else ""
        found = {name: day[f"{name}_p95_seconds"] for name in ("ttft", "tpot", "e2e")}
        print(
            f"  a simulated day of {day['requests']:,} requests, 95 %: {latency_words(found)}; {day['starts']} starts, "
            f"{day['interruptions']} interruptions{basis}, at most {day['most_machines']} machines"
        )


def _print_upfront(document: dict[str, Any]) -> None:
    training, data = document["training"], document["data"]
    print("\nbefore the first request:")
    if training:
        work = f"{training['machines']} x {training['machine']} {training['purchase']}"
        print(
            f"    {training['usd'] * training['runs']:>12,.2f}  {training['runs']:g} x training: {work}, "
            f"{training['billed_hours']:.1f} h for {training['tokens'] / 1e6:,.0f} M tokens, speed not measured; "
            f"{training['interruptions']:.1f} restarts ({training['basis']}); price: {training['bill'][0]['source']}"
        )
        for note in training["notes"]:
            print(f"    note: {note}")
    else:
        print("    training: on a machine that is not rented; not on the bill")
    if data:
        print(
            f"    {data['usd']:>12,.2f}  data: {data['gigabytes']:g} GB, {data['hours']:.1f} h on {data['engine']} "
            "(a paper estimate)"
        )
    for people in document["break_even"][:1]:
        print(f"    {people['upfront_usd'] - document['upfront_usd']:>12,.2f}  people's hours to build it")


def _print_sensitivity(scenario: dict[str, Any], changes: list[dict[str, Any]]) -> None:
    usual = scenario["usd_per_month"]
    print(f"\nif an assumption is wrong, {scenario['requests_per_month']:,.0f} requests a month cost")
    same = []
    for change in changes:
        usd = change["usd_per_month"]
        if usd is None:
            print(f"    {'nothing':>12}  {change['change']}: no machine keeps the objective")
        elif abs(usd / usual - 1) < 0.01:
            same.append(change["change"])
        else:
            print(f"    {usd:>12,.2f}  {change['change']} ({usd / usual - 1:+.0%})")
    if same:
        print(f"    within 1 % of {usual:,.2f}: {', '.join(same)}")


def _evaluation(run: str, root: Path) -> dict[str, Any] | None:
    """A run's `report.json`; None where it was not evaluated."""
    from nexus_llm.cost.break_even import quality_beside

    place = workspace(root)
    for folder in (Path(run), place.root / "runs" / run):
        path = folder / "report.json"
        if path.exists():
            try:
                content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                quality_beside(dict(content))  # reads all that the plan will
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise UsageError(
                    f"{path} is no report of an evaluation ({type(error).__name__}: {error})",
                    fix="make it again: nexus evaluate RECIPE",
                ) from error
            return content
    return None

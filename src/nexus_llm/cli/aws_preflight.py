"""`nexus aws preflight`: what would fail later, found before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, Overrides, RecipePath, json_object
from nexus_llm.errors import CostError, PreflightError, RecipeError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nexus_llm.deploy.checks import Check
    from nexus_llm.deploy.facts import NotKnown
    from nexus_llm.deploy.preflight import Local
    from nexus_llm.recipe import Recipe

EnvironmentOption = Annotated[
    Literal["small", "standard", "regulated"], typer.Option("--environment", help="One of infra/environments.")
]
RegionOption = Annotated[str | None, typer.Option("--region", help="AWS region [default: AWS_REGION, the profile's].")]
BudgetOption = Annotated[
    float | None, typer.Option("--budget", help="USD a month [default: the environment's].", min=0)
]
_PLATFORM = typer.Option("--platform", help="platform.json of stage 1-platform, once it is there.", metavar="FILE")
_WRITTEN = "name a file that stage 1 or you wrote: infra/README.md"
_VARIABLES = typer.Option("--serving", help="Variables of stage 2-serving, as JSON.", metavar="FILE.tfvars.json")


def register(group: typer.Typer) -> None:
    """Adds the command to the group."""
    group.command("preflight")(preflight)


def preflight(
    recipe: RecipePath,
    environment: EnvironmentOption = "small",
    region: RegionOption = None,
    zones: Annotated[str, typer.Option(help="Availability zones, with commas [default: the first ones].")] = "",
    account: Annotated[str | None, typer.Option(help="Account that it must be, 12 digits.")] = None,
    budget: BudgetOption = None,
    platform: Annotated[Path | None, _PLATFORM] = None,
    serving: Annotated[Path | None, _VARIABLES] = None,
    seconds: Annotated[float, typer.Option(help="Longest time to wait for AWS.", min=1, max=600)] = 20.0,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    as_json: AsJson = False,
) -> int:
    """Look whether account, quotas, network, images and budget carry a recipe. Only reads; exit code 6 where not."""
    from nexus_llm.cloud.account import open_account
    from nexus_llm.cloud.account_facts import gather
    from nexus_llm.deploy.needs import ENVIRONMENTS, Platform, needs_of
    from nexus_llm.deploy.preflight import preflight as rows_of
    from nexus_llm.recipe import load_recipe

    loaded = load_recipe(recipe, overrides=tuple(overrides))
    needs = needs_of(
        loaded,
        environment,
        region=region,
        account_id=account,
        zones=[one.strip() for one in zones.split(",") if one.strip()],
        platform=Platform.of(json_object(platform, fix=_WRITTEN), place=str(platform)) if platform else None,
        serving_variables=json_object(serving, fix=_WRITTEN) if serving else None,
    )
    try:
        opened = open_account(needs.region)
    except StorageError as error:
        raise PreflightError(error.what, fix=error.fix) from error
    facts = gather(needs, opened, limit_seconds=seconds)
    chosen = ENVIRONMENTS[environment].budget_usd if budget is None else budget
    rows = rows_of(needs, facts, local_facts(loaded, chosen, facts.region))
    title = f"{needs.recipe} in environment {environment}, {facts.region or 'no region'}"
    return report(title, rows, as_json=as_json)


def local_facts(recipe: Recipe, budget_usd: float, region: str | None) -> Local:
    """What this machine knows: whether the model is here, what the plan costs, what the recipe's jobs lack."""
    from nexus_llm.cloud import data_submit, sagemaker_request
    from nexus_llm.deploy.facts import NotKnown
    from nexus_llm.deploy.preflight import Local
    from nexus_llm.model.sources import kind_of

    problems = {}
    jobs = {
        "train job": recipe.train.launcher == "sagemaker" and sagemaker_request.check,
        "data job": recipe.data.engine in ("glue", "emr-serverless", "batch") and data_submit.check,
    }
    for job, check in jobs.items():
        try:
            if check:
                check(recipe)
        except RecipeError as error:
            problems[job] = NotKnown(error.what, error.fix)
    base = recipe.model.base
    return Local(kind_of(base), Path(base).expanduser().exists(), budget_usd, _monthly(recipe, region), problems)


def _monthly(recipe: Recipe, region: str | None) -> float | NotKnown:
    """USD a month of the recipe's first volume, as `nexus cost plan --quick` tells it for the region."""
    from nexus_llm.cli.cost_inputs import planner, price_table
    from nexus_llm.deploy.facts import NotKnown

    cost = recipe.cost.model_copy(update={"region": region or recipe.cost.region})
    try:
        chosen, _ = planner(recipe.model_copy(update={"cost": cost}), price_table(None), is_quick=True)
        return chosen.scenario(cost.traffic.requests_per_month).usd_per_month
    except CostError as error:
        return NotKnown(error.what, error.fix)


def report(title: str, rows: Sequence[Check], *, as_json: bool) -> int:
    """Shows the rows; the exit code."""
    from nexus_llm.deploy.checks import document
    from nexus_llm.deploy.facts import NOT_ASKED

    failed = [one for one in rows if one.verdict == "fail"]
    if as_json:
        print_json(document(rows))
        return PreflightError.exit_code if failed else 0
    print(f"{title}: {len(rows)} checks, nothing made\n")
    unasked = [one for one in rows if one.found == NOT_ASKED.why]
    for one in (one for one in rows if one not in unasked):
        print(f"{one.verdict:<8}{one.name}: {one.found}" + ("" if one.verdict == "ok" else f"; needed: {one.needed}"))
        if one.fix:
            print(f"{'':<8}→ {one.fix}")
    if unasked:
        print(f"unknown {NOT_ASKED.why}: {'; '.join(one.name for one in unasked)}\n{'':<8}→ {NOT_ASKED.fix}")
    counts = {verdict: sum(one.verdict == verdict for one in rows) for verdict in ("fail", "unknown", "warn", "ok")}
    print("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    if failed:
        names = "; ".join(one.name for one in failed)
        raise PreflightError(
            f"{len(failed)} of {len(rows)} checks failed: {names}", fix="each stands above with its fix"
        )
    return 0

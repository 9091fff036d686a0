"""`nexus cost lock`, `check` and `diff`: what must not become dearer unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.cost_inputs import Measured, Prices, Quick, planner, price_table, read_text
from nexus_llm.cli.options import AsJson, Overrides, RecipePath
from nexus_llm.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from nexus_llm.cost.recipe_plan import RecipePlan

Lock = Annotated[Path, typer.Option("--lock", help="The lock file.", metavar="FILE")]
_LOCK = Path("cost.lock")


def register(group: typer.Typer) -> None:
    """Adds the commands."""
    group.command("lock")(lock)
    group.command("check")(check)
    group.command("diff")(diff)


def lock(
    recipe: RecipePath,
    file: Lock = _LOCK,
    tolerance: Annotated[float, typer.Option(min=0, max=1, help="Share that check lets pass.")] = 0.05,
    quick: Quick = False,
    measured: Measured = [],  # noqa: B006
    prices: Prices = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    as_json: AsJson = False,
) -> int:
    """Write down what a recipe costs now; commit the file, and `check` holds it."""
    from nexus_llm.cost.lock import lock_document, lock_text
    from nexus_llm.storage import write_atomically

    document = lock_document(_planned(recipe, prices, overrides, measured, is_quick=quick), tolerance_share=tolerance)
    write_atomically(file, lock_text(document).encode())
    if as_json:
        print_json(document)
    else:
        print(
            f"{file}: {document['usd_per_month']:,.2f} USD a month, {document['usd_per_million_tokens']:.4f} a million"
        )
    return 0


def check(
    recipe: RecipePath,
    file: Lock = _LOCK,
    bench: Annotated[Path | None, typer.Option(help="A result of nexus bench --json.", metavar="FILE.json")] = None,
    quick: Quick = False,
    measured: Measured = [],  # noqa: B006
    prices: Prices = None,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> int:
    """Compare with the lock: exit 5 where something costs more or runs slower, and say which factor moved."""
    from nexus_llm.cost.lock import check_same, lock_document, measured_regression, moved, read_lock, regressions

    locked = read_lock(read_text(file, fix="make it first: nexus cost lock RECIPE"), place=str(file))
    now = lock_document(
        _planned(recipe, prices, overrides, measured, is_quick=quick), tolerance_share=locked["tolerance_share"]
    )
    check_same(locked, now, place=str(file))
    found = list(regressions(locked, now))
    if bench is not None:
        slower = measured_regression(locked, _json(bench))
        found += [slower] if slower else []
    factors = moved(locked, now)
    if as_json:
        rows = [{"figure": one.figure, "locked": one.locked, "now": one.now, "causes": one.causes} for one in found]
        print_json({"regressions": rows, "moved": factors})
    elif not found:
        print(f"{file} holds: {now['usd_per_month']:,.2f} USD a month" + "".join(f"\n  {one}" for one in factors))
    if not found:
        return 0
    error = BudgetError(
        "; ".join(one.words for one in found), fix=f"undo what moved, or agree to it: nexus cost lock {recipe}"
    )
    if as_json:
        return error.exit_code
    raise error


def diff(
    file: Annotated[Path, typer.Argument(help="terraform show -json PLANFILE", metavar="PLAN.json")],
    region: Annotated[str, typer.Option(help="Whose prices.")] = "us-east-1",
    prices: Prices = None,
    as_json: AsJson = False,
) -> int:
    """What a Terraform plan changes on the monthly bill."""
    from nexus_llm.cost.service_bill import Pricing
    from nexus_llm.cost.terraform_diff import plan_diff

    found = plan_diff(_json(file), Pricing(price_table(prices), region)).as_document()
    if as_json:
        print_json(found)
        return 0
    for row in found["resources"]:
        before, after = row["before_usd_per_month"], row["after_usd_per_month"]
        print(f"{after - before:>+12,.2f}  {before:>10,.2f} → {after:>10,.2f}  {row['address']}")
    print(
        f"{found['change_usd_per_month']:>+12,.2f}  {found['before_usd_per_month']:>10,.2f} → "
        f"{found['after_usd_per_month']:>10,.2f}  USD a month, without traffic, requests and stored data"
    )
    if found["not_priced"]:
        print(f"no price is known for: {', '.join(found['not_priced'])}")
    return 0


def _planned(
    recipe: Path, prices: Path | None, overrides: list[str], measured: list[str], *, is_quick: bool
) -> RecipePlan:
    from nexus_llm.cost.recipe_plan import plan_recipe
    from nexus_llm.recipe import load_recipe

    loaded = load_recipe(recipe, overrides=tuple(overrides))
    chosen, model = planner(loaded, price_table(prices), is_quick=is_quick, measured=measured)
    return plan_recipe(loaded, chosen, capacity_model=model, is_compared=False)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON ({error})", fix="give the file that the command printed") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no JSON object", fix="give the file that the command printed")
    return content

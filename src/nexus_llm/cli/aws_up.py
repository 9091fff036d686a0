"""`nexus aws up`, `status`, `down`: the platform made with its price first, looked at, taken down to a receipt."""

from __future__ import annotations

import functools
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import agree, print_json
from nexus_llm.cli.cost_inputs import Prices, price_table
from nexus_llm.cli.options import AsJson, DryRun, Root
from nexus_llm.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nexus_llm.cloud.stack_life import StackLife
    from nexus_llm.cloud.terraform import Planned
    from nexus_llm.cost.service_bill import Pricing
    from nexus_llm.cost.terraform_diff import PlanDiff
    from nexus_llm.deploy.stack import Stage

Name = Annotated[str | None, typer.Option("--name", help="Prefix of every name [default: nexus-ENVIRONMENT].")]
Environment = Annotated[
    str | None, typer.Option("--environment", help="Folder of infra/environments [default: small].")
]
Account = Annotated[str | None, typer.Option("--account", help="Account that everything is made in, 12 digits.")]
Region = Annotated[str | None, typer.Option("--region", help="AWS region.")]
Zones = Annotated[str, typer.Option("--zones", help="Availability zones, with commas [default: the first ones].")]
Stages = Annotated[list[str], typer.Option("--stage", help="Only this one; several times [default: all].")]
Variables = Annotated[
    list[str], typer.Option("--vars", help="More variables of a stage: 2-serving=FILE.tfvars", metavar="STAGE=FILE")
]
Yes = Annotated[bool, typer.Option("--yes", help="Agree to the plan and its price without being asked.")]
_PRICED_REGION = "us-east-1"  # of the shipped table
_UNAGREED, _LOOK = "nobody agreed to this plan: {}", "look with --dry-run, agree with --yes"


def register(group: typer.Typer) -> None:
    """Adds the commands."""
    group.command("up")(up)
    group.command("status")(status)
    group.command("down")(down)


def up(
    environment: Environment = None,
    name: Name = None,
    account: Account = None,
    region: Region = None,
    zones: Zones = "",
    stage: Stages = [],  # noqa: B006 - typer reads the default, nobody changes it
    variables: Variables = [],  # noqa: B006
    budget: Annotated[float | None, typer.Option(help="Refuse above so many USD a month.", min=0)] = None,
    break_lock: Annotated[str | None, typer.Option(help="Take this lock from whoever held it.", metavar="ID")] = None,
    prices: Prices = None,
    root: Root = Path(),
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Make the platform: each stage is planned, priced, shown and agreed to before anything of it is made."""
    from nexus_llm.deploy.stack import chosen, ready

    life = _life(root, name, environment, account, region, zones, variables)
    life.fetch_state()
    stages = chosen(stage, with_variables=_with_variables(life))
    priced = _Prices(life, prices, budget)
    if dry_run or budget is not None:
        priced.preview(stages)
    rows = [] if not dry_run else priced.rows
    for one in () if dry_run else stages:
        ready(one, life.made())
        if break_lock and len(stages) == 1:
            life.unlock(one, break_lock)
        planned = life.plan(one)
        diff = priced.add(one, planned)
        row = _row(one, planned, diff)
        if planned.is_empty:
            life.write_outputs(one)
        else:
            _show(row, priced.note)
            question, otherwise = f"Make this ({diff.after_usd:,.2f} USD a month)?", f"{one.name} was not made"
            agree(question, unagreed=_UNAGREED.format(otherwise), fix=_LOOK, yes=yes, as_json=as_json)
            life.apply(one, planned, usd_per_month=diff.after_usd)
        rows.append(row | {"applied": not planned.is_empty})
    document = {
        "name": life.deployment.name,
        "folder": str(life.folder),
        "stages": rows,
        "usd_per_month": round(priced.total, 2),
        "prices_of": priced.region,
    }
    if as_json:
        print_json(document)
    else:
        for row in rows:
            print(_line(row))
        print(f"{priced.total:,.2f} USD a month while nothing runs{priced.note}; {life.folder}")
    return 0


def status(
    name: Name = None,
    environment: Environment = None,
    account: Account = None,
    region: Region = None,
    drift: Annotated[bool, typer.Option("--drift", help="Compare with the account: a plan of each stage.")] = False,
    variables: Variables = [],  # noqa: B006
    root: Root = Path(),
    as_json: AsJson = False,
) -> int:
    """What is made, half made or changed behind our back, what it handed on, and what it costs a month."""
    from nexus_llm.deploy.ledger import last
    from nexus_llm.deploy.stack import STAGES

    life = _life(root, name, environment, account, region, "", variables)
    life.fetch_state()
    entries, conditions = life.ledger.entries(), life.conditions()
    rows = []
    for one in STAGES:
        applied = [entry for entry in entries if entry.stage == one.name and entry.action != "plan"]
        ended = last([entry for entry in applied if entry.usd_per_month is not None], one.name)
        row: dict[str, Any] = {
            "stage": one.name,
            "condition": conditions[one.name].value,
            "last": asdict(applied[-1]) if applied else None,
            "usd_per_month": ended.usd_per_month if ended and ended.action == "apply" else 0.0,
            "outputs": {key: str(life.folder / f"{key}.json") for key in life.outputs(one)},
        }
        if drift and one.name in life.made():
            row["drifted"] = dict(life.plan(one).actions)
        rows.append(row)
    document = {
        "name": life.deployment.name,
        "stages": rows,
        "usd_per_month": sum(row["usd_per_month"] for row in rows),
    }
    if as_json:
        print_json(document)
        return 0
    for row in rows:
        said = f"{row['condition']:<16} {row['usd_per_month']:>10,.2f} USD/month"
        changed = f"  differs: {_counts(row['drifted'])}" if row.get("drifted") else ""
        error = f"  {row['last']['error']}" if row["last"] and row["last"].get("error") else ""
        print(f"{row['stage']:<12} {said}{changed}{error}")
    return 0


def down(
    name: Name = None,
    environment: Environment = None,
    account: Account = None,
    region: Region = None,
    stage: Stages = [],  # noqa: B006
    variables: Variables = [],  # noqa: B006
    yes_delete_data: Annotated[
        bool,
        typer.Option(
            "--yes-delete-data",
            help="Delete what buckets, repositories, vaults, model groups hold, and the database's last snapshot.",
        ),
    ] = False,
    prices: Prices = None,
    root: Root = Path(),
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Take the platform down, last stage first, look for what is left, and print a receipt. Exit 7 with leftovers."""
    from nexus_llm.cloud.stack_life import regional_clients
    from nexus_llm.cloud.taking_down import TakingDown

    life = _life(root, name, environment, account, region, "", variables)
    life.fetch_state()
    work = TakingDown(life, life.clients or regional_clients, may_delete_data=yes_delete_data)
    plans = work.plan(stage)
    for one, planned in plans:
        _show({"stage": one.name, "changes": planned.actions}, "")
    if dry_run:
        if as_json:
            print_json({"name": life.deployment.name, "stages": [_row(one, planned) for one, planned in plans]})
        return 0
    if plans:
        question = f"Destroy {', '.join(one.name for one, _ in plans)} of {life.deployment.name}?"
        agree(question, unagreed=_UNAGREED.format("nothing was destroyed"), fix=_LOOK, yes=yes, as_json=as_json)
    receipt = work.run(plans, pricing=pricing(prices, life.deployment.region))
    if as_json:
        print_json(receipt.as_document())
        return 7 if receipt.left or receipt.not_asked else 0
    for line in receipt.lines():
        print(line)
    receipt.refuse_leftovers()
    return 0


class _Prices:
    """Prices of plans as they are made, and the budget that they have to stay in."""

    def __init__(self, life: StackLife, table: Path | None, budget_usd: float | None) -> None:
        self._life, self._budget = life, budget_usd
        self._pricing = pricing(table, life.deployment.region)
        self._usd: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []
        if budget_usd is not None and self.region != life.deployment.region:
            raise BudgetError(
                f"there are no prices of {life.deployment.region}, so no budget can be kept",
                fix=f"nexus cost refresh --region {life.deployment.region}, or leave --budget out",
            )

    @property
    def region(self) -> str:
        """Whose prices they are."""
        return self._pricing.region

    @property
    def note(self) -> str:
        """What to say beside a price that is another region's."""
        is_other = self.region != self._life.deployment.region
        return f" at the prices of {self.region} (no others are known here)" if is_other else ""

    @property
    def total(self) -> float:
        """USD a month of all stages that were priced."""
        return sum(self._usd.values())

    def add(self, stage: Stage, planned: Planned) -> PlanDiff:
        """What the stage costs after the plan."""
        from nexus_llm.cost.terraform_diff import plan_diff

        diff = plan_diff(planned.document, self._pricing)
        self._usd[stage.name] = diff.after_usd
        if self._budget is not None and self.total > self._budget:
            raise BudgetError(
                f"{', '.join(self._usd)} would cost {self.total:,.2f} USD a month, the budget is {self._budget:,.2f}; "
                f"nothing of {stage.name} was made",
                fix="raise --budget, take a smaller --environment, or see the parts: nexus aws up --dry-run",
            )
        return diff

    def preview(self, stages: Sequence[Stage]) -> None:
        """Prices what can be planned before anything is made."""
        for one in stages:
            if one.reads and not set(one.needs) <= self._life.made():
                self.rows.append({"stage": one.name, "changes": None, "usd_per_month": None})
                print(f"{one.name} can be planned only when {', '.join(one.needs)} are made", file=sys.stderr)
                continue
            can_open = one.name in self._life.made()
            planned = self._life.plan(one) if can_open else self._life.preview(one)
            row = _row(one, planned, self.add(one, planned))
            self.rows.append(row | {"applied": False})
            _show(row, self.note)


def _life(
    root: Path,
    name: str | None,
    environment: str | None,
    account: str | None,
    region: str | None,
    zones: str,
    variables: Sequence[str],
) -> StackLife:
    """The deployment as it was begun, or as these options describe it."""
    import os
    from datetime import UTC, datetime

    from nexus_llm.cli.console import SignalInterrupt, console_progress
    from nexus_llm.cloud.stack_life import StackLife, begun, regional_clients

    interrupt = SignalInterrupt()
    interrupt.install()
    deployment, folder = begun(
        root / "runs" / "aws",
        name=name or f"nexus-{environment or 'small'}",
        environment=environment,
        account=account,
        region=region,
        zones=tuple(one.strip() for one in zones.split(",") if one.strip()),
    )
    return StackLife(
        deployment,
        folder,
        dict(os.environ) | {"AWS_REGION": deployment.region},
        lambda: datetime.now(UTC).isoformat(timespec="seconds"),
        given=_given(variables),
        clients=functools.cache(regional_clients),
        progress=console_progress(),
        interrupt=interrupt,
    )


def _given(variables: Sequence[str]) -> dict[str, Path]:
    found = {}
    for one in variables:
        stage, _, file = one.partition("=")
        if not file or not Path(file).is_file():
            raise UsageError(f"--vars {one}: there is no such file", fix="--vars 2-serving=serving.tfvars")
        found[stage] = Path(file)
    return found


def _with_variables(life: StackLife) -> set[str]:
    """Stages that were given variables now, or are made already."""
    return set(life.given) | life.made()


def pricing(table: Path | None, region: str) -> Pricing:
    """Prices of the region; those that ship where it has none."""
    from nexus_llm.cost.service_bill import Pricing

    prices = price_table(table)
    return Pricing(prices, region if prices.has("nat", "hour", region) else _PRICED_REGION)


def _row(stage: Stage, planned: Planned, diff: PlanDiff | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"stage": stage.name, "changes": planned.actions}
    if diff is not None:
        priced = diff.as_document()
        row |= {"usd_per_month": priced["after_usd_per_month"], "change_usd_per_month": priced["change_usd_per_month"]}
        row |= {"priced": priced["resources"], "not_priced": priced["not_priced"]}
    return row


def _show(row: dict[str, Any], note: str) -> None:
    """The plan and its price, on stderr: it is there to be agreed to."""
    print(f"{row['stage']}: {_counts(row['changes']) or 'nothing to do'}", file=sys.stderr)
    for one in row.get("priced", []):
        print(f"  {one['after_usd_per_month']:>10,.2f} USD/month  {one['address']}", file=sys.stderr)
    if row.get("not_priced"):
        print(f"  not priced: {', '.join(row['not_priced'])}", file=sys.stderr)
    if "usd_per_month" in row:
        print(
            f"  {row['usd_per_month']:>10,.2f} USD/month, without traffic, requests, stored data{note}",
            file=sys.stderr,
        )


def _line(row: dict[str, Any]) -> str:
    if row["changes"] is None:
        return f"{row['stage']:<12} not planned yet"
    done = "made" if row.get("applied") else "as planned" if not row["changes"] else "planned"
    counts = _counts(row["changes"]) or "nothing to do"
    return f"{row['stage']:<12} {done}: {counts}, {row['usd_per_month']:,.2f} USD/month"


def _counts(changes: dict[str, int]) -> str:
    return ", ".join(f"{count} to {verb}" for verb, count in changes.items())

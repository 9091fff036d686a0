"""`nexus run`, and one verb a stage."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.gate import GATE_EXIT_CODES, print_gate
from nexus_llm.cli.options import (
    AsJson,
    BudgetUsd,
    DryRun,
    Overrides,
    RecipePath,
    Root,
    command_line,
    ports,
    tracker,
    workspace,
)
from nexus_llm.cli.train_remote import On, launcher_overrides

if TYPE_CHECKING:
    from nexus_llm.pipeline import PlannedStage, RunResult, Workspace
    from nexus_llm.ports import Ports
    from nexus_llm.recipe import Recipe

Plan = Annotated[bool, typer.Option("--plan", help="Show memory, speed and time of the training; train nothing.")]
Fit = Annotated[
    bool, typer.Option("--fit", help="Take fewer rows in a pass, more passes, and checkpointing, until it fits.")
]
_VERBS = {
    "run": "Run every stage of a recipe; what is already made is skipped.",
    "data": "Read, clean, deduplicate, split and tokenise the text.",
    "train": "Everything up to the trained weights.",
    "package": "Everything up to a model folder that can be served.",
    "evaluate": "Everything up to the comparison of base and tuned model.",
}


def register(app: typer.Typer) -> None:
    """Adds the verbs to the command line."""
    for verb, text in _VERBS.items():
        app.command(verb, help=text)(_train if verb == "train" else _stage_command(None if verb == "run" else verb))


def _train(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    as_json: AsJson = False,
    dry_run: DryRun = False,
    plan: Plan = False,
    fit: Fit = False,
    on: On = None,
    budget_usd: BudgetUsd = None,
    root: Root = Path(),
) -> int:
    """The verb `train`, which can also plan, fit, and go elsewhere."""
    changes = (*overrides, *launcher_overrides(on))
    if plan:
        return _show_train_plan(recipe, changes, as_json=as_json, fit=fit, root=root)
    return _run(
        recipe, changes, as_json=as_json, dry_run=dry_run, root=root, until="train", fit=fit, budget_usd=budget_usd
    )


def _show_train_plan(path: Path, overrides: tuple[str, ...], *, as_json: bool, fit: bool, root: Path) -> int:
    from nexus_llm.cli import train_plan
    from nexus_llm.cloud.local import provenance
    from nexus_llm.pipeline import execute, stages
    from nexus_llm.recipe import load_recipe

    recipe, openings = load_recipe(path, overrides=overrides), ports()
    made = execute(
        recipe, workspace(root), openings, line=stages(until="data"), provenance=provenance(command_line())
    ).artifacts
    if fit:
        recipe = train_plan.fitted(recipe, made["model"].folder)
    train_plan.show(recipe, made, openings, as_json=as_json)
    return 0


def _stage_command(until: str | None) -> Any:
    def command(
        recipe: RecipePath,
        overrides: Overrides = [],  # noqa: B006
        as_json: AsJson = False,
        dry_run: DryRun = False,
        budget_usd: BudgetUsd = None,
        root: Root = Path(),
    ) -> int:
        changes = tuple(overrides)
        return _run(recipe, changes, as_json=as_json, dry_run=dry_run, root=root, until=until, budget_usd=budget_usd)

    return command


def _run(
    path: Path,
    overrides: tuple[str, ...],
    *,
    as_json: bool,
    dry_run: bool,
    root: Path,
    until: str | None,
    fit: bool = False,
    budget_usd: float | None = None,
) -> int:
    from nexus_llm.cloud.local import provenance
    from nexus_llm.pipeline import execute, plan, stages
    from nexus_llm.pipeline.report import write_report
    from nexus_llm.recipe import load_recipe

    recipe = load_recipe(path, overrides=overrides)
    place = workspace(root)
    openings = replace(ports(), tracker=tracker(recipe, runs=place.root / "runs"))
    line = stages(until=until)
    if budget_usd is not None:
        openings = _metered(recipe, openings, budget_usd, until=until)
    if fit:
        recipe = _fitted(recipe, place, openings)
    if dry_run:
        _print_plan(recipe, plan(recipe, place, openings, line=line), as_json=as_json)
        return 0
    result = execute(recipe, place, openings, line=line, provenance=provenance(command_line()))
    rows = [asdict(stage) for stage in result.stages]
    if result.gate:
        write_report(result.run, result.artifacts, rows)
    if as_json:
        print_json({"run": str(result.run), "stages": rows, "gate": result.gate})
    else:
        _print_result(result)
    return GATE_EXIT_CODES[result.gate["verdict"]] if result.gate else 0


def _metered(recipe: Recipe, openings: Ports, budget_usd: float, *, until: str | None) -> Ports:
    """Ports whose jobs show what they have cost, and end at the budget."""
    from nexus_llm.cli.cost_budget import with_budget

    openings, budget = with_budget(recipe, openings, budget_usd, until=until)
    print(f"planned: {budget.planned.planned_usd:,.2f} of {budget_usd:,.2f} USD", file=sys.stderr)
    return openings


def _fitted(recipe: Recipe, place: Workspace, openings: Ports) -> Recipe:
    """The recipe made to fit; the model is fetched for it, because its config says how large it is."""
    from nexus_llm.cli.train_plan import fitted
    from nexus_llm.cloud.local import provenance
    from nexus_llm.pipeline import execute, stages

    made = execute(recipe, place, openings, line=stages(until="model"), provenance=provenance(command_line()))
    return fitted(recipe, made.artifacts["model"].folder)


def _print_plan(recipe: Recipe, planned: list[PlannedStage], *, as_json: bool) -> None:
    rows = [
        {
            "stage": step.stage.kind,
            "key": step.key,
            "path": str(step.folder),
            "made": step.artifact is not None,
            "id": step.artifact.id if step.artifact else None,
            "estimated_minutes": 0.0 if step.artifact else round(step.estimate.seconds / 60, 1),
            "estimated_memory_gib": round(step.estimate.memory_bytes / 2**30, 1),
        }
        for step in planned
    ]
    minutes = sum(row["estimated_minutes"] for row in rows if isinstance(row["estimated_minutes"], float))
    if as_json:
        print_json({"run": recipe.name, "stages": rows, "estimated_minutes": round(minutes, 1)})
        return
    for row in rows:
        state = "made" if row["made"] else f"about {row['estimated_minutes']} min, {row['estimated_memory_gib']} GiB"
        print(f"{row['stage']:<10} {row['key']}  {state:<24} {row['path']}")
    print(f"in total about {minutes:.1f} min on 2 cores")


def _print_result(result: RunResult) -> None:
    print()
    for stage in result.stages:
        state = "already made" if stage.skipped else f"{stage.seconds:.1f} s"
        print(f"{stage.stage:<10} {stage.id}  {state:<14} {stage.path}")
    if result.gate:
        print()
        print_gate(result.gate)
        _print_samples(result)
        print(f"\nreport  {result.run / 'report.html'}")
    if "package" in result.artifacts:
        print(f"chat    nexus chat {result.run}\nserve   nexus serve {result.run}")
    sys.stdout.flush()


def _print_samples(result: RunResult) -> None:
    import json
    import textwrap

    samples = json.loads(result.artifacts["evaluate"].file("samples.json").read_text(encoding="utf-8"))
    for sample in samples[:3]:
        print(f"\n» {sample['prompt']}")
        for name in ("base", "tuned"):
            body = textwrap.fill(" ".join(sample[name].split()), width=96, subsequent_indent=" " * 9)
            print(f"  {name:<6} {body}")

"""`nexus evaluate tasks`: a team's own tasks, written in YAML."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.evaluate_asked import (
    IN_PROCESS,
    MODEL_HELP,
    Engine,
    KeyVariable,
    Out,
    Precision,
    Seed,
    Served,
    UsdPerHour,
    folder_of,
    opened,
    tell,
)
from nexus_llm.cli.options import AsJson, DryRun, Root, ports
from nexus_llm.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the command to the group."""
    app.command("tasks")(tasks)


def tasks(
    files: Annotated[list[Path], typer.Argument(help="Task files, YAML: docs/evaluation-tasks.md.", metavar="FILE...")],
    model: Annotated[str | None, typer.Option("--model", help=MODEL_HELP)] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="The model that tasks with a judge are shown to.")
    ] = None,
    served: Served = None,
    engine: Engine = IN_PROCESS,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    judge_served: Annotated[str | None, typer.Option(help="Which of the judge's server's models.")] = None,
    precision: Precision = "float32",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many items of each task, drawn.")] = None,
    seed: Seed = 0,
    usd_per_hour: UsdPerHour = None,
    out: Out = Path("evaluations"),
    root: Root = Path(),
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Ask a model your own tasks and score its answers. Stopped half-way, the same command goes on."""
    if dry_run:
        return _plan(files, limit=limit, seed=seed, as_json=as_json)
    if model is None:
        raise UsageError("nobody is named who shall answer", fix="--model with a run, a folder, a name or a URL")
    from nexus_llm.evaluate.domain_tasks import Drawing, read_tasks, run_tasks

    read_tasks(files, has_judge=judge is not None)  # before a model is loaded
    with contextlib.ExitStack() as stack:
        ask = partial(opened, precision=precision, root=root, engine=engine, key_variable=key_variable)
        completer = stack.enter_context(ask(model, served=served))
        judging = stack.enter_context(ask(judge, served=judge_served)) if judge else None
        facts = completer.describe()
        folder = folder_of(out, facts)
        drawing = Drawing(limit, seed)
        summaries = run_tasks(
            files, completer, folder, ports(), drawing=drawing, judge=judging, usd_per_hour=usd_per_hour
        )
    return tell(summaries, facts, folder, as_json=as_json)


def _plan(files: list[Path], *, limit: int | None, seed: int, as_json: bool) -> int:
    """Reads and checks the files; asks nobody."""
    from nexus_llm.evaluate.domain_tasks import read_tasks

    rows = []
    for task in read_tasks(files, has_judge=True):
        drawn = task.drawn(limit, seed)
        scorer = task.definition.scorer
        rows.append({"task": task.definition.task, "scorer": scorer.type, "items": len(drawn), "of": len(task.items)})
        if not as_json:
            print(f"{task.definition.task}: {len(drawn)} of {len(task.items)} items, scored by {scorer.type}")
    if as_json:
        print_json({"tasks": rows})
    return 0

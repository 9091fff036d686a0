"""`nexus jobs`: what runs for us on AWS, whatever service runs it: list it, watch it, stop it; and start two kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import (
    AsJson,
    BudgetUsd,
    DryRun,
    MeteredBy,
    Overrides,
    RecipePath,
    Root,
    command_line,
    ports,
    workspace,
)

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.cloud.account import Account
    from nexus_llm.cloud.launcher import JobState
    from nexus_llm.pipeline import Workspace
    from nexus_llm.ports import Ports
    from nexus_llm.recipe import Recipe

Job = Annotated[
    str, typer.Argument(help="As nexus jobs list names it; without a service it is a training job.", metavar="JOB")
]
Region = Annotated[str | None, typer.Option("--region", help="AWS region; else what the environment says.")]
Run = Annotated[str | None, typer.Option("--run", help="Only jobs of this run (a recipe's name).")]
Key = Annotated[str | None, typer.Option("--artifact", help="Only jobs that make this artifact (its key).")]


def register(app: typer.Typer) -> None:
    """Adds the group to the command line."""
    group = typer.Typer(
        help="Jobs on AWS: SageMaker, Glue, EMR Serverless, Batch. Runs start them; these commands find them again.",
        rich_markup_mode=None,
    )
    group.command("list", help="Every job of ours in the account, with its state and cost.")(list_jobs)
    group.command("attach", help="Watch a job to its end, from any machine, and import its result.")(attach)
    group.command("stop", help="Ask a job to end.")(stop)
    group.command("evaluate", help="Run a recipe's evaluation as a SageMaker processing job, and import it.")(evaluate)
    group.command("transform", help="Answer a file of requests with a recipe's model, as a SageMaker job.")(transform)
    app.add_typer(group, name="jobs")


def list_jobs(run: Run = None, artifact: Key = None, region: Region = None, as_json: AsJson = False) -> int:
    """Every job of ours in the account, with its state and cost."""
    from nexus_llm.cli.job_account import account, cost_words
    from nexus_llm.cloud.job_search import our_jobs
    from nexus_llm.ports import NeverInterrupted

    here = account(region, NeverInterrupted())
    found = our_jobs(here, run=run, key=artifact)
    place = str(here.region) if found else ""
    rows = [_row(name, state, place) for name, state in found]
    if as_json:
        print_json({"region": place, "jobs": rows})
        return 0
    words = cost_words(lambda: place)
    for row, (_, state) in zip(rows, found, strict=True):
        print(f"{row['id']:<56} {row['state']:<12} {row['run'] or '-':<20} {row['key'] or '-':<16} {words(state)}")
    if not rows:
        print("no job here carries our tags (another region: --region)")
    return 0


def attach(
    job: Job,
    region: Region = None,
    budget_usd: BudgetUsd = None,
    recipe: MeteredBy = None,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Watch a job to its end, from any machine, and import its result."""
    from nexus_llm.cli.console import SignalInterrupt, console_progress
    from nexus_llm.cli.cost_budget import spending_of
    from nexus_llm.cli.job_account import account
    from nexus_llm.cloud.job_search import launcher_of
    from nexus_llm.cloud.launcher import run_to_end

    interrupt = SignalInterrupt()
    interrupt.install()
    here = account(region, interrupt)
    launcher, name = launcher_of(job, here)
    if spending := spending_of(launcher.service, recipe, budget_usd):
        here.watch = replace(here.watch, spending=spending)
    if launcher.service == "training":
        return _import_training(name, here, as_json=as_json, root=root)
    state = run_to_end(launcher, name, console_progress())
    made = _imported(name, state, root) if launcher.service == "processing" else None
    document = _row(launcher.full_id(name), state, None) | {"artifact": None if made is None else _named(made)}
    if as_json:
        print_json(document)
    elif made is not None:
        print(f"{made.kind:<10} {made.id}  {made.folder}")
    elif launcher.service != "transform":
        print("the command that started it (nexus data RECIPE, nexus run RECIPE) imports the result now")
    return 0


def stop(job: Job, region: Region = None, as_json: AsJson = False) -> int:
    """Ask a job to end."""
    from nexus_llm.cli.job_account import account
    from nexus_llm.cloud.job_search import launcher_of
    from nexus_llm.ports import NeverInterrupted

    launcher, name = launcher_of(job, account(region, NeverInterrupted()))
    before = launcher.state(name)
    if before.outcome == "waiting":
        launcher.stop(name)
    if as_json:
        print_json({"id": launcher.full_id(name), "state_before": before.state})
    elif before.outcome == "waiting":
        print(f"{launcher.full_id(name)} was asked to stop; the command that started it goes on from what is saved")
    else:
        print(f"{launcher.full_id(name)} was {before.state} already")
    return 0


def evaluate(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    as_json: AsJson = False,
    dry_run: DryRun = False,
    root: Root = Path(),
) -> int:
    """Run a recipe's evaluation as a SageMaker processing job, and import it."""
    from nexus_llm import storage
    from nexus_llm.cli.job_account import account
    from nexus_llm.cli.train_remote import keep
    from nexus_llm.cloud.sagemaker import StoredBucket
    from nexus_llm.cloud.sagemaker_processing import ProcessingJobs, SageMakerEvaluation, evaluation_job
    from nexus_llm.pipeline import plan, stages
    from nexus_llm.recipe import load_recipe

    wanted = load_recipe(recipe, overrides=tuple(overrides))
    place, openings = workspace(root), ports()
    made, missing = _packaged(wanted, place, openings, dry_run=dry_run)
    step = plan(wanted, place, openings, line=stages())[-1]
    inputs = {kind: made[kind] for kind in step.stage.needs if kind in made}
    if dry_run:
        body = None if missing else evaluation_job(wanted, inputs, step.key)
        print_json({"key": step.key, "is_made": step.artifact is not None, "made_first": missing, "job": body})
        return 0
    evaluation = step.artifact
    if evaluation is None:
        jobs = ProcessingJobs(account(wanted.train.sagemaker.region, openings.interrupt))
        service = SageMakerEvaluation(jobs, openings.progress, StoredBucket())
        scratch = place.root / "artifacts" / f".incoming-{step.key}"
        try:
            manifest = service.evaluate(wanted, inputs, step.key, scratch)
            evaluation = keep(manifest, scratch, place=place, facts={})
        finally:
            storage.remove(scratch)
    if as_json:
        print_json(_named(evaluation) | {"gate": evaluation.manifest.facts["gate"]})
    else:
        print(f"evaluate   {evaluation.id}  {evaluation.folder}")
        print(f"verdict    {evaluation.manifest.facts['gate']['verdict']} (nexus evaluate {recipe} writes the report)")
    return 0


def transform(
    recipe: RecipePath,
    image: Annotated[str, typer.Option(help="The serve image in ECR.", metavar="URI")],
    source: Annotated[str, typer.Option("--input", help="Prefix of JSON lines: one body of /invocations each.")],
    target: Annotated[str, typer.Option("--output", help="Prefix that receives FILE.out for each FILE.")],
    instance_type: Annotated[str, typer.Option(help="Machine.")] = "ml.m5.2xlarge",
    number: Annotated[int, typer.Option(min=1, help="Of this job: a second one of the same model needs another.")] = 1,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
    dry_run: DryRun = False,
    root: Root = Path(),
) -> int:
    """Answer a file of requests with a recipe's model, as a SageMaker transform job."""
    from nexus_llm.cli.job_account import account
    from nexus_llm.cloud import sagemaker_transform as requests
    from nexus_llm.cloud.launcher import run_to_end
    from nexus_llm.cloud.sagemaker import StoredBucket
    from nexus_llm.recipe import load_recipe

    wanted = load_recipe(recipe, overrides=tuple(overrides))
    openings = ports()
    made, missing = _packaged(wanted, workspace(root), openings, dry_run=dry_run)
    if missing:
        print_json({"made_first": missing, "model": None, "job": None})
        return 0
    plan = requests.plan_transform(wanted, made["package"], image=image, source=source, target=target, run=number)
    model, body = requests.model_body(wanted, plan), requests.transform_job(wanted, plan, instance_type=instance_type)
    if dry_run:
        print_json({"made_first": [], "model": model, "job": body})
        return 0
    jobs = requests.TransformJobs(account(wanted.train.sagemaker.region, openings.interrupt))
    requests.upload_package(made["package"], plan.model_data, bucket=StoredBucket())
    jobs.make_model(model)
    state = run_to_end(jobs, jobs.submit(body), openings.progress)
    if as_json:
        print_json(_row(jobs.full_id(plan.name), state, None) | {"output": target})
    else:
        print(f"answers    {target}")
    return 0


def _packaged(
    recipe: Recipe, place: Workspace, openings: Ports, *, dry_run: bool
) -> tuple[dict[str, Artifact], list[str]]:
    """The artifacts up to the package, made here where they are not there yet; a dry run names those instead."""
    from nexus_llm.cloud.local import provenance
    from nexus_llm.pipeline import execute, plan, stages

    line = stages(until="package")
    if dry_run:
        steps = plan(recipe, place, openings, line=line)
        found = {step.stage.kind: step.artifact for step in steps if step.artifact}
        return found, [step.stage.kind for step in steps if step.artifact is None]
    return execute(recipe, place, openings, line=line, provenance=provenance(command_line())).artifacts, []


def _row(name: str, state: JobState, region: str | None) -> dict[str, Any]:
    """A job as JSON; with its cost where a region is given."""
    row: dict[str, Any] = {
        "id": name,
        "state": state.state,
        "outcome": state.outcome,
        "reason": state.reason,
        "run": state.tags.get("recipe"),
        "key": state.tags.get("nexus:key"),
        "platform": state.tags.get("platform"),
        "log": state.log,
        "used": [
            {"service": one.service, "name": one.sku, "amount": round(one.amount, 6), "unit": one.unit}
            for one in state.usage
        ],
        "cost_unknown": state.unbilled or None,
    }
    if region is None:
        return row
    from nexus_llm.cli.job_account import bill

    found = bill(state, region)
    usd = None if found.usd is None else round(found.usd, 4)
    return row | {"usd": usd, "without_price": list(found.without_price)}


def _named(made: Artifact) -> dict[str, str]:
    return {"key": made.key, "id": made.id, "path": str(made.folder)}


def _import_training(name: str, here: Account, *, as_json: bool, root: Path) -> int:
    """Its lines are metrics that the progress shows: none is printed as it is."""
    from nexus_llm.cli.console import console_progress
    from nexus_llm.cli.train_remote import attach_and_import
    from nexus_llm.cloud.sagemaker import StoredBucket, job_facts
    from nexus_llm.cloud.sagemaker_training import TrainingJobs

    here.watch = replace(here.watch, show_line=lambda _: None)
    description, made = attach_and_import(
        name, jobs=TrainingJobs(here), progress=console_progress(), bucket=StoredBucket(), place=workspace(root)
    )
    document = {"job": job_facts(description), "key": made.key, "id": made.id, "path": str(made.folder)}
    if as_json:
        print_json(document)
    else:
        print(f"train      {made.id}  {made.folder}")
    return 0


def _imported(name: str, state: JobState, root: Path) -> Artifact:
    """The evaluation that a processing job has made, now in the workspace."""
    from nexus_llm import storage
    from nexus_llm.cli.train_remote import keep
    from nexus_llm.cloud.sagemaker_processing import fetch_output

    place = workspace(root)
    scratch = place.root / "artifacts" / f".incoming-{name}"
    try:
        return keep(fetch_output(state, scratch, kind="evaluate"), scratch, place=place, facts={})
    finally:
        storage.remove(scratch)

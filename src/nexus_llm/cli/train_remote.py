"""Training elsewhere: `nexus train RECIPE --on sagemaker`, `nexus train attach JOB`, `nexus train stop JOB`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, BudgetUsd, Root, workspace

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact, Manifest
    from nexus_llm.cloud.account import Spending
    from nexus_llm.cloud.launcher import JobState
    from nexus_llm.cloud.sagemaker_training import TrainingJobs
    from nexus_llm.pipeline import Workspace
    from nexus_llm.ports import Interrupt, Progress
    from nexus_llm.recipe import Recipe

Launcher = Literal["local", "container-rehearsal", "sagemaker"]
On = Annotated[Launcher | None, typer.Option("--on", help="Where to train; overrides train.launcher of the recipe.")]
Job = Annotated[str, typer.Argument(help="Name of a SageMaker training job.", metavar="JOB")]
Region = Annotated[str | None, typer.Option("--region", help="AWS region; else what the environment says.")]
MeteredBy = Annotated[
    Path | None, typer.Option("--recipe", help="With --budget-usd: says what the job costs an hour.", metavar="RECIPE")
]


def register(train: typer.Typer) -> None:
    """Adds the commands to the group `nexus train`."""
    train.command("attach", help="Watch a SageMaker job to its end, from any machine, and import its result.")(attach)
    train.command("stop", help="Ask a SageMaker job to save a checkpoint and end.")(stop)


def launcher_overrides(on: Launcher | None) -> tuple[str, ...]:
    """`--on` as overrides of the recipe.

    >>> launcher_overrides("sagemaker"), launcher_overrides(None)
    (('train.launcher=sagemaker',), ())
    """
    return () if on is None else (f"train.launcher={on}",)


@dataclass(frozen=True)
class LauncherTrainService:
    """The `nexus_llm.ports.TrainService` that goes where `train.launcher` says."""

    progress: Progress
    interrupt: Interrupt
    spending: Callable[[str, JobState], Spending] | None = None
    """Meters SageMaker's jobs, and may end them."""

    def train(self, recipe: Recipe, inputs: Mapping[str, Path], key: str, folder: Path) -> dict[str, Any]:
        """See `nexus_llm.ports.TrainService`."""
        if recipe.train.launcher == "local":
            from nexus_llm.cli.train_rank import ARGUMENTS
            from nexus_llm.cloud.local_ranks import LocalRanks

            return LocalRanks(ARGUMENTS, self.progress, self.interrupt).train(recipe, inputs, key, folder)
        if recipe.train.launcher == "container-rehearsal":
            from nexus_llm.cli.train_job import COMMAND
            from nexus_llm.cloud.rehearsal import RehearsalTrainService

            rehearsal = RehearsalTrainService(COMMAND, self.progress, self.interrupt)
            return rehearsal.train(recipe, inputs, key, folder)
        from nexus_llm.cloud.sagemaker import SageMakerTrainService, StoredBucket

        service = SageMakerTrainService(
            lambda region: training_jobs(region, self.interrupt, self.spending), self.progress, StoredBucket()
        )
        return service.train(recipe, inputs, key, folder)


def training_jobs(
    region: str | None, interrupt: Interrupt, spending: Callable[[str, JobState], Spending] | None = None
) -> TrainingJobs:
    """SageMaker's jobs of a region; `spending` meters those that are followed.

    Raises:
        MissingExtraError: boto3 is not installed.
    """
    from nexus_llm.cli.job_account import account
    from nexus_llm.cloud.sagemaker_training import TrainingJobs

    return TrainingJobs(account(region, interrupt, shows_lines=False, spending=spending))


def attach(
    job: Job,
    region: Region = None,
    budget_usd: BudgetUsd = None,
    recipe: MeteredBy = None,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Watch a SageMaker job to its end, from any machine, and import its result."""
    from nexus_llm.cli.console import SignalInterrupt, console_progress
    from nexus_llm.cli.cost_budget import spending_of
    from nexus_llm.cloud.sagemaker import StoredBucket, job_facts

    interrupt = SignalInterrupt()
    interrupt.install()
    jobs = training_jobs(region, interrupt, spending_of("training", recipe, budget_usd))
    description, made = attach_and_import(
        job, jobs=jobs, progress=console_progress(), bucket=StoredBucket(), place=workspace(root)
    )
    document = {"job": job_facts(description), "key": made.key, "id": made.id, "path": str(made.folder)}
    if as_json:
        print_json(document)
    else:
        print(f"train      {made.id}  {made.folder}")
    return 0


def attach_and_import(
    job: str, *, jobs: TrainingJobs, progress: Progress, bucket: Any, place: Workspace
) -> tuple[dict[str, Any], Artifact]:
    """What SageMaker says of a job that has ended well, and its artifact, which now lies in the workspace.

    Raises:
        NexusError: the job ended badly, or left something else.
    """
    from nexus_llm import storage
    from nexus_llm.cloud.launcher import run_to_end
    from nexus_llm.cloud.sagemaker import job_facts, take_result

    description = dict(run_to_end(jobs, job, progress).answer)
    scratch = place.root / "artifacts" / f".incoming-{job}"
    try:
        manifest = take_result(description, scratch, key=None, bucket=bucket)
        made = keep(manifest, scratch, place=place, facts={"job": job_facts(description)})
    finally:
        storage.remove(scratch)
    return description, made


def keep(manifest: Manifest, scratch: Path, *, place: Workspace, facts: Mapping[str, Any]) -> Artifact:
    """The artifact whose files lie in `scratch`, now in the workspace; the same one where it is there already.

    `facts` are added to the manifest's.
    """
    store = place.store(manifest.kind)
    if found := store.find(manifest.kind, manifest.key, inputs=manifest.inputs):
        return found
    with store.draft(
        manifest.kind,
        manifest.key,
        stage_version=manifest.stage_version,
        recipe=manifest.recipe,
        inputs=manifest.inputs,
        provenance=manifest.provenance,
    ) as draft:
        logs = _move(scratch, draft.folder, counted={entry.path for entry in manifest.files})
        return draft.finish(facts={**manifest.facts, **facts}, logs=logs)


def stop(job: Job, region: Region = None, as_json: AsJson = False) -> int:
    """Ask a SageMaker job to save a checkpoint and end."""
    from nexus_llm.ports import NeverInterrupted

    jobs = training_jobs(region, NeverInterrupted())
    before = jobs.state(job).state
    jobs.stop(job)
    if as_json:
        print_json({"job": job, "status_before": before})
    elif before == "InProgress":
        print(f"{job} was asked to stop; it has 120 s to save. The command that started it continues at that step.")
    else:
        print(f"{job} was {before} already")
    return 0


def _move(source: Path, target: Path, *, counted: set[str]) -> tuple[str, ...]:
    """Moves all files; gives those that do not count towards the artifact's id."""
    import shutil

    shutil.rmtree(source / "work", ignore_errors=True)
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source / name, target / name)
    return tuple(name for name in names if name not in counted)

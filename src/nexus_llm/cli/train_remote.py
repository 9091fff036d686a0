"""Training elsewhere: `nexus train RECIPE --on sagemaker`; its `attach` and `stop` are those of `nexus jobs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nexus_llm.cli import jobs

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


def register(train: typer.Typer) -> None:
    """Adds the commands to the group `nexus train`."""
    about = "Watch a SageMaker job to its end, from any machine, and import its result."
    train.command("attach", help=about)(jobs.attach)
    train.command("stop", help="Ask a SageMaker job to save a checkpoint and end.")(jobs.stop)


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


def _move(source: Path, target: Path, *, counted: set[str]) -> tuple[str, ...]:
    """Moves all files; gives those that do not count towards the artifact's id."""
    import shutil

    shutil.rmtree(source / "work", ignore_errors=True)
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source / name, target / name)
    return tuple(name for name in names if name not in counted)

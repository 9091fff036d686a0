"""The data stage of a recipe as a job on AWS: what has to lie in the bucket, and the run."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nexus_llm
from nexus_llm import storage
from nexus_llm.artifacts import MANIFEST, Manifest
from nexus_llm.cloud import data_requests
from nexus_llm.cloud.account import Account
from nexus_llm.cloud.data_jobs import BatchJobs, EmrRuns, GlueRuns, put_table
from nexus_llm.cloud.data_requests import CloudDataPlan
from nexus_llm.cloud.data_uploads import fetch_files, upload_file
from nexus_llm.cloud.launcher import Launcher, job_tags, run_to_end
from nexus_llm.errors import DataError, RecipeError, StorageError
from nexus_llm.ports import Progress
from nexus_llm.recipe import FilesSource, Recipe, recipe_yaml

# Below the bucket of `data.aws.bucket`.
_JOBS, _RECIPES, _OUTPUT, _LOGS = "nexus/jobs", "nexus/recipes", "nexus/artifacts", "nexus/logs"
_PACKAGES = {"glue": "wheels.zip", "emr-serverless": "environment.tar.gz"}
_SCRIPT = Path(nexus_llm.__file__).parent / "cli" / "glue_job.py"


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that ended well."""

    engine: str
    run: str
    """The full id of the job, as `nexus jobs` takes it."""
    output: str
    """Prefix below which the artifact lies, as `data/<key>/`."""


def submit(
    recipe: Recipe,
    account: Account,
    progress: Progress,
    *,
    key: str,
    folder: Path,
    upload: Callable[[Path, str], str] = upload_file,
    is_there: Callable[[str], bool] = lambda url: bool(storage.list_files(url)),
) -> Submitted:
    """Runs the data stage as `data.engine` says and follows it to its end. `folder` is for what is written on the way.

    Raises:
        RecipeError: `data.aws` lacks what the engine needs.
        DataError: the job failed or took too long.
        StorageError: AWS does not let us.
        TryAgainError: AWS is busy, somebody stopped the job, or the watching: the job then goes on.
    """
    engine = recipe.data.engine
    check(recipe)
    plan = plan_of(recipe, key)
    resolved = folder / "recipe.yaml"
    resolved.write_text(recipe_yaml(recipe), encoding="utf-8")
    upload(resolved, plan.recipe)
    upload(_SCRIPT, plan.script)
    if engine in _PACKAGES and not is_there(plan.wheels):
        raise RecipeError(
            f"{plan.wheels} does not exist, so the job would have no Python packages",
            fix="build it once, as docs/data-on-spark.md says, and put it there",
        )
    launcher, job = _start(recipe, plan, account)
    run_to_end(launcher, job, progress)
    return Submitted(engine, launcher.full_id(job), plan.output)


def _start(recipe: Recipe, plan: CloudDataPlan, account: Account) -> tuple[Launcher, str]:
    """Starts the job; gives whom to ask for it, and its name there."""
    aws = recipe.data.aws
    if recipe.data.engine == "glue":
        glue = GlueRuns(account)
        glue.put_job(plan)
        return glue, glue.submit(data_requests.glue_run(plan))
    if recipe.data.engine == "emr-serverless":
        emr = EmrRuns(account)
        application = aws.application_id or emr.make_application(plan)
        # A new token a command: boto3's retries of one request start one run, a second command starts another.
        return emr, emr.submit(data_requests.emr_run(plan, application_id=application, token=uuid.uuid4().hex))
    batch = BatchJobs(account)
    definition = str(aws.job_definition)
    return batch, batch.submit(data_requests.batch_run(plan, queue=str(aws.job_queue), definition=definition))


@dataclass(frozen=True)
class AwsDataService:
    """A `ports.DataService` on AWS: the job makes the artifact in the bucket, and its files are brought here."""

    account: Callable[[str | None], Account]
    """The account in a region; None is what the environment says."""
    progress: Progress
    run: Callable[..., Submitted] = submit
    is_made: Callable[[str], bool] = lambda url: bool(storage.list_files(url))
    """Whether a file is in the bucket."""

    def make(self, recipe: Recipe, key: str, folder: Path) -> dict[str, Any]:
        aws = recipe.data.aws
        account = self.account(aws.region)
        url = f"s3://{aws.bucket}/{_OUTPUT}/data/{key}"
        # Made there already: by a job that somebody stopped watching, or from another machine.
        if aws.bucket and self.is_made(f"{url}/{MANIFEST}"):
            done = Submitted(recipe.data.engine, "an earlier job", f"s3://{aws.bucket}/{_OUTPUT}")
        else:
            with tempfile.TemporaryDirectory() as scratch:
                done = self.run(recipe, account, self.progress, key=key, folder=Path(scratch))
            url = f"{done.output}/data/{key}"
        manifest = _manifest_at(url, done)
        fetch_files(manifest, url, folder, error=DataError)
        if aws.database:
            table = re.sub(r"[^a-z0-9_]", "_", recipe.name)
            put_table(account.client("glue"), aws.database, table, location=f"{url}/", artifact_id=manifest.id)
        return manifest.facts


def _manifest_at(url: str, done: Submitted) -> Manifest:
    try:
        text = storage.read_bytes(f"{url}/{MANIFEST}").decode()
    except StorageError as error:
        raise DataError(
            f"{done.run} ended well, but {url} has no {MANIFEST}: it made another artifact",
            fix="let the job have this version of the package, and the same model",
        ) from error
    return Manifest.from_json(text, place=f"{url}/{MANIFEST}")


def plan_of(recipe: Recipe, key: str) -> CloudDataPlan:
    """The job that a recipe describes, for the artifact `key`."""
    aws, engine = recipe.data.aws, recipe.data.engine
    base = f"s3://{aws.bucket}"
    model = recipe.model.base
    return CloudDataPlan(
        name=f"nexus-data-{recipe.name}",
        recipe=f"{base}/{_RECIPES}/{recipe.name}.yaml",
        output=f"{base}/{_OUTPUT}",
        role_arn=str(aws.role_arn),
        script=f"{base}/{_JOBS}/glue_job.py",
        wheels=f"{base}/{_JOBS}/{_PACKAGES.get(engine, '')}",
        model=model if model.startswith("s3://") else None,
        workers=aws.workers,
        worker_type=aws.worker_type,
        timeout_minutes=max(int(aws.max_run_hours * 60), 1),
        security_configuration=aws.security_configuration,
        logs=f"{base}/{_LOGS}/",
        tags=job_tags(recipe, key),
        key=key,
    )


def check(recipe: Recipe) -> None:
    """Refuses a recipe whose job would have nowhere to work, or nothing to read."""
    aws, engine = recipe.data.aws, recipe.data.engine
    needed = {"bucket": aws.bucket, "role_arn": aws.role_arn}
    if engine == "batch":
        needed = {"bucket": aws.bucket, "job_queue": aws.job_queue, "job_definition": aws.job_definition}
    if missing := [name for name, value in needed.items() if not value]:
        raise RecipeError(
            f"data.engine is {engine}, and data.aws has no {', '.join(missing)}",
            fix=" ".join(f"--set data.aws.{name}=…" for name in missing),
        )
    refuse_local_sources(recipe)


def refuse_local_sources(recipe: Recipe) -> None:
    """Raises RecipeError where a source lies on this machine, out of a job's reach."""
    for source in recipe.data.sources:
        if isinstance(source, FilesSource) and "://" not in source.path:
            raise RecipeError(
                f"source {source.name!r} lies at {source.path}, where a job on AWS cannot read it",
                fix="copy it to a bucket and give its s3:// location",
            )

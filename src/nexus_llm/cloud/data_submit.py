"""The data stage of a recipe as a job on AWS: what has to lie in the bucket, and the run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nexus_llm
from nexus_llm import storage
from nexus_llm.artifacts import MANIFEST, Manifest, file_sha256
from nexus_llm.cloud.data_jobs import DataJobs
from nexus_llm.cloud.data_requests import CloudDataPlan
from nexus_llm.cloud.data_uploads import upload_file
from nexus_llm.errors import DataError, RecipeError, StorageError
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
    """The service's id of the run."""
    output: str
    """Prefix below which the artifact lies, as `data/<key>/`."""


def submit(
    recipe: Recipe,
    jobs: DataJobs,
    *,
    folder: Path,
    upload: Callable[[Path, str], str] = upload_file,
    is_there: Callable[[str], bool] = lambda url: bool(storage.list_files(url)),
) -> Submitted:
    """Runs the data stage as `data.engine` says and waits for its end. `folder` is for what is written on the way.

    Raises:
        RecipeError: `data.aws` lacks what the engine needs.
        DataError, StorageError, TryAgainError: see `DataJobs`.
    """
    aws, engine = recipe.data.aws, recipe.data.engine
    check(recipe)
    plan = plan_of(recipe)
    resolved = folder / "recipe.yaml"
    resolved.write_text(recipe_yaml(recipe), encoding="utf-8")
    upload(resolved, plan.recipe)
    upload(_SCRIPT, plan.script)
    if engine in _PACKAGES and not is_there(plan.wheels):
        raise RecipeError(
            f"{plan.wheels} does not exist, so the job would have no Python packages",
            fix="build it once, as docs/data-on-spark.md says, and put it there",
        )
    if engine == "glue":
        jobs.put_glue_job(plan)
        run = jobs.run_glue(plan)
    elif engine == "emr-serverless":
        run = jobs.run_emr(plan, application_id=aws.application_id)
    else:
        run = jobs.run_batch(plan, queue=str(aws.job_queue), definition=str(aws.job_definition))
    return Submitted(engine, run, plan.output)


@dataclass(frozen=True)
class AwsDataService:
    """A `ports.DataService` on AWS: the job makes the artifact in the bucket, and its files are brought here."""

    jobs: Callable[[str | None], DataJobs]
    """The services of a region; None is what the environment says."""
    run: Callable[..., Submitted] = submit

    def make(self, recipe: Recipe, key: str, folder: Path) -> dict[str, Any]:
        """See `ports.DataService`."""
        aws = recipe.data.aws
        jobs = self.jobs(aws.region)
        with tempfile.TemporaryDirectory() as scratch:
            done = self.run(recipe, jobs, folder=Path(scratch))
        url = f"{done.output}/data/{key}"
        manifest = _manifest_at(url, done)
        for entry in manifest.files:
            path = storage.copy_to(f"{url}/{entry.path}", folder / entry.path)
            if file_sha256(path) != entry.sha256:
                raise DataError(
                    f"{url}/{entry.path} is not the file that {done.engine} run {done.run} wrote",
                    fix="delete that prefix and run the same command again",
                )
        if aws.database:
            table = re.sub(r"[^a-z0-9_]", "_", recipe.name)
            jobs.put_table(aws.database, table, location=f"{url}/", artifact_id=manifest.id)
        return manifest.facts


def _manifest_at(url: str, done: Submitted) -> Manifest:
    try:
        text = storage.read_bytes(f"{url}/{MANIFEST}").decode()
    except StorageError as error:
        raise DataError(
            f"{done.engine} run {done.run} ended well, but {url} has no {MANIFEST}: it made another artifact",
            fix="let the job have this version of the package, and the same model",
        ) from error
    return Manifest.from_json(text, place=f"{url}/{MANIFEST}")


def plan_of(recipe: Recipe) -> CloudDataPlan:
    """The job that a recipe describes."""
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
        security_configuration=aws.security_configuration,
        logs=f"{base}/{_LOGS}/",
        tags={"project": "nexus-llm", "recipe": recipe.name},
    )


def check(recipe: Recipe) -> None:
    """Refuses a recipe whose job would have nowhere to work, or nothing to read.

    Raises:
        RecipeError: `data.aws` lacks what the engine needs, or a source lies on this machine.
    """
    aws, engine = recipe.data.aws, recipe.data.engine
    needed = {"bucket": aws.bucket, "role_arn": aws.role_arn}
    if engine == "batch":
        needed = {"bucket": aws.bucket, "job_queue": aws.job_queue, "job_definition": aws.job_definition}
    if missing := [name for name, value in needed.items() if not value]:
        raise RecipeError(
            f"data.engine is {engine}, and data.aws has no {', '.join(missing)}",
            fix=" ".join(f"--set data.aws.{name}=…" for name in missing),
        )
    for source in recipe.data.sources:
        if isinstance(source, FilesSource) and "://" not in source.path:
            raise RecipeError(
                f"source {source.name!r} lies at {source.path}, where a job on AWS cannot read it",
                fix="copy it to a bucket and give its s3:// location",
            )

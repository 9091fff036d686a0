"""The train stage of a recipe as a SageMaker job: uploads its inputs, starts or finds it, takes its result.

The job's name follows from the artifact's key, so the same command finds the job that it started before: one that
still runs is watched, one that is finished is imported, one that failed is followed by the next attempt, which
continues at the last checkpoint.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nexus_llm import storage
from nexus_llm.artifacts import MANIFEST, Artifact, Manifest, load
from nexus_llm.cloud import stored_files
from nexus_llm.cloud.launcher import run_to_end
from nexus_llm.cloud.sagemaker_errors import explained
from nexus_llm.cloud.sagemaker_request import TrainJobPlan, check, plan_job, training_job
from nexus_llm.cloud.sagemaker_training import TrainingJobs
from nexus_llm.cloud.training_result import adopt, unpack
from nexus_llm.errors import TrainingError
from nexus_llm.ports import Progress
from nexus_llm.recipe import Recipe, recipe_yaml
from nexus_llm.train.container import RECIPE_FILE

MAX_ATTEMPTS = 99


class Bucket(Protocol):
    """Files by their `s3://` locations."""

    def size(self, url: str) -> int | None:
        """Bytes of a file, None where there is none."""

    def upload(self, local: Path, url: str) -> None:
        """Puts a local file there."""

    def download(self, url: str, target: Path) -> Path:
        """Brings a file here; gives the local path."""


class StoredBucket:
    """The `Bucket` behind fsspec (s3fs, with the environment's credentials)."""

    def size(self, url: str) -> int | None:
        with explained("s3:GetObject", url):
            return stored_files.stored_size(url)

    def upload(self, local: Path, url: str) -> None:
        with explained("s3:PutObject", url):
            stored_files.upload_stored(local, url)

    def download(self, url: str, target: Path) -> Path:
        with explained("s3:GetObject", url):
            return storage.copy_to(url, target)


@dataclass(frozen=True)
class SageMakerTrainService:
    """A `nexus_llm.ports.TrainService` on AWS."""

    jobs: Callable[[str | None], TrainingJobs]
    """The jobs of a region; None is what the environment says."""
    progress: Progress
    bucket: Bucket

    def train(self, recipe: Recipe, inputs: Mapping[str, Path], key: str, folder: Path) -> dict[str, Any]:
        check(recipe)
        jobs = self.jobs(recipe.train.sagemaker.region)
        name = self.start(recipe, {kind: load(path) for kind, path in inputs.items()}, key, jobs)
        description = run_to_end(jobs, name, self.progress).answer
        manifest = take_result(description, folder, key=key, bucket=self.bucket)
        return manifest.facts | {"job": job_facts(description)}

    def start(self, recipe: Recipe, inputs: Mapping[str, Artifact], key: str, jobs: TrainingJobs) -> str:
        """The name of the job that makes this artifact: one that runs, or is finished, or is started now.

        Raises:
            TrainingError: so many attempts failed that one more will not help.
            NexusError: AWS refuses.
        """
        ids = {kind: artifact.id for kind, artifact in inputs.items()}
        base = f"s3://{recipe.train.sagemaker.bucket}/nexus/inputs"
        places = {kind: f"{base}/{one.kind}/{one.key}-{one.id}" for kind, one in inputs.items()}
        for attempt in range(1, MAX_ATTEMPTS + 1):
            plan = plan_job(recipe, key=key, input_ids=ids, locations=places, attempt=attempt)
            found = jobs.find(plan.name)
            if found is None:
                self._upload(recipe, plan, inputs)
                return jobs.submit(training_job(recipe, plan))
            if self._is_ours(found.answer, plan):
                return plan.name
        raise TrainingError(
            f"{MAX_ATTEMPTS} SageMaker jobs of recipe {recipe.name} for train {key} have failed",
            fix="look at the last one's log; another name of the recipe starts from attempt 1",
        )

    def _is_ours(self, found: Mapping[str, Any], plan: TrainJobPlan) -> bool:
        """Whether a job of that name has made, or will make, what the plan asks for."""
        if found.get("OutputDataConfig", {}).get("S3OutputPath") != plan.output:
            return False  # of other inputs
        status = found["TrainingJobStatus"]
        if status == "Completed":
            return self.bucket.size(str(found["ModelArtifacts"]["S3ModelArtifacts"])) is not None
        return status in ("InProgress", "Stopping")

    def _upload(self, recipe: Recipe, plan: TrainJobPlan, inputs: Mapping[str, Artifact]) -> None:
        upload_recipe(recipe, plan.channels["recipe"], bucket=self.bucket)
        for kind, artifact in inputs.items():
            upload_once(artifact, plan.channels[kind], bucket=self.bucket, progress=self.progress)


def upload_recipe(recipe: Recipe, prefix: str, *, bucket: Bucket) -> None:
    """Puts the resolved recipe below `prefix`, where a container looks for it."""
    with tempfile.TemporaryDirectory() as scratch:
        resolved = Path(scratch) / RECIPE_FILE
        resolved.write_text(recipe_yaml(recipe), encoding="utf-8")
        bucket.upload(resolved, prefix + RECIPE_FILE)


def upload_once(artifact: Artifact, prefix: str, *, bucket: Bucket, progress: Progress) -> None:
    """Puts an artifact's files below `prefix`, which must be its own (it holds the id), the manifest last.

    A file of the right size is there already: the prefix names the content, and a bucket shows no half files.
    """
    if bucket.size(f"{prefix}{MANIFEST}") is not None:
        return
    total = sum(entry.bytes for entry in artifact.manifest.files)
    progress.start(f"uploading {artifact.kind}", total=total, unit="bytes")
    for entry in artifact.manifest.files:
        if bucket.size(prefix + entry.path) != entry.bytes:
            bucket.upload(artifact.folder / entry.path, prefix + entry.path)
        progress.advance(entry.bytes)
    bucket.upload(artifact.folder / MANIFEST, f"{prefix}{MANIFEST}")
    progress.finish()


def take_result(description: Mapping[str, Any], folder: Path, *, key: str | None, bucket: Bucket) -> Manifest:
    """Brings the result of a finished job into `folder`, but for its manifest, and gives that.

    `key` is the artifact's that is expected; None takes any train artifact.

    Raises:
        TrainingError: it is not what it should be.
    """
    name = str(description["TrainingJobName"])
    url = str(description.get("ModelArtifacts", {}).get("S3ModelArtifacts", ""))
    if not url:
        raise TrainingError(
            f"SageMaker job {name} ({description.get('TrainingJobStatus')}) has no result yet",
            fix=f"nexus train attach {name} waits for its end",
        )
    scratch = folder / "work"
    archive = bucket.download(url, scratch / "model.tar.gz")
    storage.remove(scratch / "unpacked")
    unpack(archive, scratch / "unpacked")
    manifest = adopt(scratch / "unpacked", folder, key=key, made_by=f"SageMaker job {name} ({url})")
    archive.unlink()
    return manifest


def job_facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a finished job: who made it, how long it took, and how much of that is billed."""
    resources = description.get("ResourceConfig", {})
    return {
        "name": str(description["TrainingJobName"]),
        "instance_type": resources.get("InstanceType"),
        "instance_count": resources.get("InstanceCount"),
        "spot": bool(description.get("EnableManagedSpotTraining")),
        "training_seconds": description.get("TrainingTimeInSeconds"),
        "billable_seconds": description.get("BillableTimeInSeconds"),
    }

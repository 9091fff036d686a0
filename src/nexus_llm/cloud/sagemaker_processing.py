"""SageMaker's processing jobs behind the port `Launcher`, and the evaluate stage as one of them.

The job runs the train image with another word (`cli/processing_job.py`). Source: docs.aws.amazon.com, SageMaker API
reference (CreateProcessingJob, DescribeProcessingJob), read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nexus_llm import storage
from nexus_llm.artifacts import MANIFEST, Artifact, Manifest, stable_hash
from nexus_llm.cloud.data_uploads import fetch_files
from nexus_llm.cloud.job_log import LogStreams
from nexus_llm.cloud.launcher import JobState, Outcome, Usage, job_tags, run_to_end
from nexus_llm.cloud.sagemaker import MAX_ATTEMPTS, Bucket, upload_once, upload_recipe
from nexus_llm.cloud.sagemaker_jobs import SageMakerJobs
from nexus_llm.cloud.sagemaker_request import ENVIRONMENT, check, job_name, tag_list, volume_of, vpc_of
from nexus_llm.errors import ArtifactError, NexusError, StorageError, TrainingError, TryAgainError
from nexus_llm.ports import Progress
from nexus_llm.recipe import Recipe

INPUT, OUTPUT = "/opt/ml/processing/input", "/opt/ml/processing/output"
STATUSES: dict[str, Outcome] = {"Completed": "done", "Failed": "failed", "Stopped": "stopped"}
"""ProcessingJobStatus and TransformJobStatus → what they mean here; others are still on their way."""
MAX_RUN_SECONDS = 5 * 24 * 3600  # a processing job (SageMaker quotas, read 2026-11)


@dataclass(frozen=True)
class ProcessingPlan:
    """One processing job. Locations are `s3://bucket/key/`, or references of a pipeline."""

    stage: str
    """The word that the container is started with."""
    inputs: Mapping[str, Any]
    """Name → location; `recipe` holds the recipe."""
    outputs: Mapping[str, Any]
    """Kind of artifact → where it goes."""
    tags: Mapping[str, str]
    needs_network: bool = False
    """Whether the stage reads from anywhere but its inputs."""


def processing_job(recipe: Recipe, plan: ProcessingPlan) -> dict[str, Any]:
    """The body of CreateProcessingJob but for its name, which a pipeline gives by itself."""
    check(recipe)
    settings = recipe.train.sagemaker
    cluster: dict[str, Any] = {"InstanceType": settings.instance_type, "InstanceCount": 1, **volume_of(settings)}
    outputs: dict[str, Any] = {"Outputs": [_output(kind, url) for kind, url in plan.outputs.items()]}
    environment = ENVIRONMENT | ({"HF_HUB_OFFLINE": "0"} if plan.needs_network else {})
    return {
        "ProcessingInputs": [_input(name, url) for name, url in plan.inputs.items()],
        "ProcessingOutputConfig": outputs | ({"KmsKeyId": settings.kms_key_id} if settings.kms_key_id else {}),
        "ProcessingResources": {"ClusterConfig": cluster},
        "StoppingCondition": {"MaxRuntimeInSeconds": min(round(settings.max_run_hours * 3600), MAX_RUN_SECONDS)},
        "AppSpecification": {"ImageUri": settings.image_uri, "ContainerArguments": [plan.stage]},
        "Environment": dict(environment),
        "NetworkConfig": {"EnableNetworkIsolation": not plan.needs_network, **vpc_of(settings)},
        "RoleArn": settings.role_arn,
        "Tags": tag_list(plan.tags),
    }


class ProcessingJobs(SageMakerJobs):
    """SageMaker's processing jobs, by their names; transform jobs differ from them in words only."""

    service: ClassVar[str] = "processing"
    label: ClassVar[str] = "SageMaker processing job"
    describe_call: ClassVar[str] = "sagemaker:DescribeProcessingJob"
    word: ClassVar[str] = "Processing"

    def ended_badly(self, job: str, state: JobState) -> NexusError:
        what = f"{self.label} {job} ended as {state.state}" + (f": {state.reason}" if state.reason else "")
        if state.outcome == "stopped" or "CapacityError" in state.reason or "InternalServerError" in state.reason:
            return TryAgainError(what, fix="run the same command again")
        return TrainingError(what, fix=f"read its log: {state.log}")

    def told(self, found: Mapping[str, Any]) -> JobState:
        name, status = str(found[f"{self.word}JobName"]), str(found[f"{self.word}JobStatus"])
        streams = LogStreams(f"/aws/sagemaker/{self.word}Jobs", f"{name}/")
        started, ended = found.get(f"{self.word}StartTime"), found.get(f"{self.word}EndTime")
        resources = found.get(f"{self.word}Resources", {})
        cluster = resources.get("ClusterConfig", resources)
        usage: tuple[Usage, ...] = ()
        if started and ended and cluster.get("InstanceType"):
            # Billed by the second from the start of the container to its end, on every machine.
            hours = (ended - started).total_seconds() / 3600 * int(cluster.get("InstanceCount", 1))
            usage = (Usage("sagemaker", f"{cluster['InstanceType']} {self.service}", hours, "hour"),)
        reasons = (str(found.get(field, "")).strip() for field in ("ExitMessage", "FailureReason"))
        return JobState(
            status,
            STATUSES.get(status, "waiting"),
            reason="; ".join(" ".join(one.split()) for one in reasons if one),
            log=str(streams),
            streams=streams,
            usage=usage,
            unbilled="" if usage else "SageMaker has not said yet how long it ran",
            answer=found,
        )


def evaluation_job(recipe: Recipe, inputs: Mapping[str, Artifact], key: str, *, attempt: int = 1) -> dict[str, Any]:
    """The body of CreateProcessingJob for the evaluation `key` of these inputs."""
    settings, ids = recipe.train.sagemaker, stable_hash({kind: one.id for kind, one in inputs.items()})[:8]
    base = f"s3://{settings.bucket}/nexus"
    places = {kind: f"{base}/inputs/{one.kind}/{one.key}-{one.id}/" for kind, one in inputs.items()}
    plan = ProcessingPlan(
        "evaluate",
        inputs={"recipe": f"{base}/evaluate/{key}-{ids}/recipe/", **places},
        outputs={"evaluate": f"{base}/evaluate/{key}-{ids}/{attempt}/"},
        tags=job_tags(recipe, key) | settings.tags,
    )
    return {"ProcessingJobName": job_name(f"{recipe.name}-evaluate", key, attempt), **processing_job(recipe, plan)}


@dataclass(frozen=True)
class SageMakerEvaluation:
    """The evaluate stage as a processing job: inputs up, result down."""

    jobs: ProcessingJobs
    progress: Progress
    bucket: Bucket

    def evaluate(self, recipe: Recipe, inputs: Mapping[str, Artifact], key: str, folder: Path) -> Manifest:
        """Brings the evaluation `key` into `folder`, but for its manifest, and gives that.

        The same command finds the job that it started before, as for training.

        Raises:
            NexusError: the job failed, or left something else.
        """
        name = self.start(recipe, inputs, key)
        state = run_to_end(self.jobs, name, self.progress)
        return fetch_output(state, folder, kind="evaluate", key=key)

    def start(self, recipe: Recipe, inputs: Mapping[str, Artifact], key: str) -> str:
        """The name of the job that makes the evaluation `key`: started before, or now, with what it reads uploaded."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            body = evaluation_job(recipe, inputs, key, attempt=attempt)
            name, places = str(body["ProcessingJobName"]), _input_urls(body)
            found = self.jobs.find(name)
            if found and self._is_ours(found, _output_urls(body)["evaluate"]):
                return name
            if found:
                continue
            upload_recipe(recipe, places["recipe"], bucket=self.bucket)
            for kind, artifact in inputs.items():
                upload_once(artifact, places[kind], bucket=self.bucket, progress=self.progress)
            return self.jobs.submit(body)
        raise TrainingError(
            f"{MAX_ATTEMPTS} processing jobs of recipe {recipe.name} for evaluate {key} have failed",
            fix="look at the last one's log; another name of the recipe starts from attempt 1",
        )

    def _is_ours(self, found: JobState, output: str) -> bool:
        """Whether a job of that name has made, or will make, what is asked for."""
        if output not in _output_urls(found.answer).values():
            return False  # of other inputs
        return found.outcome == "waiting" or (
            found.outcome == "done" and self.bucket.size(output + MANIFEST) is not None
        )


def fetch_output(state: JobState, folder: Path, *, kind: str, key: str | None = None) -> Manifest:
    """Brings an artifact that a processing job has made into `folder`, but for its manifest, and gives that.

    Raises:
        TrainingError: there is none, or it is not what it should be.
    """
    url = _output_urls(state.answer).get(kind)
    if url is None:
        raise TrainingError(f"that processing job makes no {kind}", fix="nexus jobs list names the jobs")
    url = url.rstrip("/")
    try:
        manifest = Manifest.from_json(storage.read_bytes(f"{url}/{MANIFEST}").decode(), place=f"{url}/{MANIFEST}")
    except (ArtifactError, StorageError) as error:
        raise TrainingError(
            f"{url} holds no finished {kind} ({error.what})", fix="run the same command again"
        ) from error
    if (manifest.kind, manifest.key) != (kind, key or manifest.key):
        raise TrainingError(
            f"{url} is {manifest.kind} {manifest.key}, not {kind} {key}",
            fix="let the image have this version of the package",
        )
    fetch_files(manifest, url, folder, error=TrainingError)
    return manifest


def _input_urls(body: Mapping[str, Any]) -> dict[str, str]:
    return {one["InputName"]: one["S3Input"]["S3Uri"] for one in body["ProcessingInputs"]}


def _output_urls(body: Mapping[str, Any]) -> dict[str, str]:
    outputs = body.get("ProcessingOutputConfig", {}).get("Outputs", [])
    return {one["OutputName"]: one["S3Output"]["S3Uri"] for one in outputs}


def _input(name: str, url: Any) -> dict[str, Any]:
    source = {"S3Uri": url, "LocalPath": f"{INPUT}/{name}", "S3DataType": "S3Prefix", "S3InputMode": "File"}
    return {"InputName": name, "S3Input": source}


def _output(kind: str, url: Any) -> dict[str, Any]:
    target = {"S3Uri": url, "LocalPath": f"{OUTPUT}/{kind}", "S3UploadMode": "EndOfJob"}
    return {"OutputName": kind, "S3Output": target}

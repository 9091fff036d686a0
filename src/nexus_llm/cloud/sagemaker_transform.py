"""Batch inference with the packaged model: SageMaker's transform jobs around the serve image's `/invocations`.

SageMaker starts the image as `serve` and nothing else, so the model's folder and the port come as environment. Each
line of the input is one body of `/invocations` (chat, completion or generate), each line of the output its answer.

What does not fit: a body with `stream: true` (its answer is no one line), an answer that takes longer than
`INVOCATION_SECONDS` of serve/dialects/sagemaker.py, and a package in the bucket as plain files, which transform jobs
cannot read (API reference, ModelDataSource): it travels as model.tar.gz. Source: docs.aws.amazon.com, SageMaker
Developer Guide, "Custom Inference Code with Batch Transform", API reference (CreateModel, CreateTransformJob), read
2026-11.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nexus_llm.artifacts import Artifact
from nexus_llm.cloud.launcher import job_tags
from nexus_llm.cloud.sagemaker import Bucket
from nexus_llm.cloud.sagemaker_processing import ProcessingJobs
from nexus_llm.cloud.sagemaker_request import check, job_name, tag_list, vpc_of
from nexus_llm.errors import UsageError
from nexus_llm.recipe import Recipe

INVOCATION_SECONDS = 60  # the server gives up a second earlier, with an error of its own
MAX_PAYLOAD_MB = 6
CONTAINER = {"NEXUS_SERVE_MODEL": "/opt/ml/model", "NEXUS_SERVE_HOST": "0.0.0.0", "NEXUS_SAGEMAKER_PORT": "8080"}  # noqa: S104


class TransformJobs(ProcessingJobs):
    """SageMaker's transform jobs, by their names."""

    service: ClassVar[str] = "transform"
    label: ClassVar[str] = "SageMaker transform job"
    describe_call: ClassVar[str] = "sagemaker:DescribeTransformJob"
    word: ClassVar[str] = "Transform"

    def make_model(self, body: Mapping[str, Any]) -> None:
        """Registers the model that a job reads; one of that name is there already. It costs nothing."""
        with self.explained("sagemaker:CreateModel", body["ModelName"]):
            try:
                self.account.client("sagemaker").create_model(**body)
            except Exception as error:
                if "already exist" not in str(error):
                    raise


@dataclass(frozen=True)
class TransformPlan:
    """One batch inference."""

    name: str
    image: str
    """The serve image in ECR."""
    model_data: str
    """Location of the package as model.tar.gz."""
    source: str
    """Prefix of the input's JSON lines."""
    target: str
    """Prefix that receives FILE.out for each FILE."""
    tags: Mapping[str, str]


def plan_transform(
    recipe: Recipe, package: Artifact, *, image: str, source: str, target: str, run: int
) -> TransformPlan:
    """The job that answers what lies at `source` with a package; `run` counts jobs of the same package.

    Raises:
        UsageError: a location is not in a bucket.
    """
    for name, url in (("--input", source), ("--output", target)):
        if not url.startswith("s3://"):
            raise UsageError(f"{name} {url} is in no bucket", fix=f"give an s3:// location: {name} s3://BUCKET/PREFIX/")
    bucket = recipe.train.sagemaker.bucket
    return TransformPlan(
        name=job_name(f"{recipe.name}-transform", package.key, run),
        image=image,
        model_data=f"s3://{bucket}/nexus/models/{package.key}-{package.id}/model.tar.gz",
        source=source,
        target=target,
        tags=job_tags(recipe, package.key) | recipe.train.sagemaker.tags,
    )


def model_body(recipe: Recipe, plan: TransformPlan) -> dict[str, Any]:
    """The body of CreateModel."""
    check(recipe)
    settings = recipe.train.sagemaker
    container = {"Image": plan.image, "ModelDataUrl": plan.model_data, "Environment": dict(CONTAINER)}
    return {
        "ModelName": plan.name,
        "PrimaryContainer": container,
        "ExecutionRoleArn": settings.role_arn,
        "EnableNetworkIsolation": True,
        "Tags": tag_list(plan.tags),
        **vpc_of(settings),
    }


def transform_job(recipe: Recipe, plan: TransformPlan, *, instance_type: str) -> dict[str, Any]:
    """The body of CreateTransformJob."""
    key = recipe.train.sagemaker.kms_key_id
    output: dict[str, Any] = {"S3OutputPath": plan.target, "Accept": "application/json", "AssembleWith": "Line"}
    return {
        "TransformJobName": plan.name,
        "ModelName": plan.name,
        "BatchStrategy": "SingleRecord",
        "MaxPayloadInMB": MAX_PAYLOAD_MB,
        "ModelClientConfig": {"InvocationsTimeoutInSeconds": INVOCATION_SECONDS, "InvocationsMaxRetries": 1},
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": plan.source}},
            "ContentType": "application/json",
            "SplitType": "Line",
        },
        "TransformOutput": output | ({"KmsKeyId": key} if key else {}),
        "TransformResources": {"InstanceType": instance_type, "InstanceCount": 1},
        "Tags": tag_list(plan.tags),
    }


def upload_package(package: Artifact, url: str, *, bucket: Bucket) -> None:
    """Puts a package there as model.tar.gz, once."""
    if bucket.size(url) is not None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "model.tar.gz"
        # Weights hardly shrink: the least effort.
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            for path in sorted(package.folder.rglob("*")):
                tar.add(path, arcname=path.relative_to(package.folder).as_posix(), recursive=False)
        bucket.upload(archive, url)

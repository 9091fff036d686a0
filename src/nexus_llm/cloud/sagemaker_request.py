"""The body of SageMaker's CreateTrainingJob for a recipe: pure functions, checked against botocore's service model.

What SageMaker would accept and then charge for is refused here: spot without checkpoints, with the bill that it would
bring; a warm pool with spot; less time to wait than to run. Facts about the service: docs.aws.amazon.com, SageMaker API
reference (CreateTrainingJob, ResourceConfig) and Developer Guide ("Managed Spot Training", "Warm Pools"), read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nexus_llm.artifacts import stable_hash
from nexus_llm.cloud.launcher import job_tags
from nexus_llm.cloud.spot_bill import QUIET_INTERRUPTIONS_PER_HOUR, restarting_hours
from nexus_llm.errors import RecipeError
from nexus_llm.recipe import Recipe
from nexus_llm.recipe.train import SageMakerRecipe, TrainRecipe
from nexus_llm.train.container import ROOT, secret_names
from nexus_llm.train.metrics_line import METRIC_DEFINITIONS

MAX_NAME_CHARACTERS = 63
MAX_TAGS = 50
_OWN_TAGS = 4
# Families whose machines have NVMe disks: SageMaker puts /opt/ml there, encrypted by the hardware, and refuses a
# VolumeKmsKeyId; the volume's size then means nothing (API reference, ResourceConfig).
LOCAL_DISK_FAMILIES = frozenset(
    {
        "g4dn", "g5", "g6", "g6e", "g7", "g7e", "p3dn", "p4d", "p4de",
        "p5", "p5e", "p5en", "p6-b200", "p6-b300", "p6e-gb200", "r5d", "trn1", "trn1n", "trn2",
    }
)  # fmt: skip
LOCAL_DISK_VOLUME_GB = 30  # what AWS' own SDK sends where nobody says a size: accepted by every type
# Everything comes through channels: the hub is not asked.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class TrainJobPlan:
    """One training job: its name, and where its files lie in the bucket (`s3://bucket/key/`)."""

    name: str
    channels: Mapping[str, str]
    """Channel → prefix with the files of an artifact; `recipe` holds the recipe."""
    checkpoints: str
    output: str
    """SageMaker writes `<output>/<name>/output/model.tar.gz`."""
    hyperparameters: Mapping[str, str]
    tags: Mapping[str, str]
    environment: Mapping[str, str]


def job_name(recipe_name: str, key: str, attempt: int) -> str:
    """The job's name: the recipe's, the first half of the artifact's key, and the attempt; the same every time.

    >>> job_name("domain_8b.v2", "0123456789abcdef", 3)
    'domain-8b-v2-0123456789-3'
    """
    tail = f"-{key[:10]}-{attempt}"
    base = re.sub(r"[^a-zA-Z0-9]+", "-", recipe_name).strip("-")[: MAX_NAME_CHARACTERS - len(tail)].rstrip("-")
    return base + tail


def plan_job(
    recipe: Recipe, *, key: str, input_ids: Mapping[str, str], locations: Mapping[str, str], attempt: int
) -> TrainJobPlan:
    """The job that makes the train artifact `key` from inputs with these ids, which lie at `locations`.

    Attempts share checkpoints and output: the next one continues. Other inputs never meet them.
    """
    settings = recipe.train.sagemaker
    run = f"s3://{settings.bucket}/nexus/train/{key}-{stable_hash(dict(input_ids))[:8]}"
    return TrainJobPlan(
        name=job_name(recipe.name, key, attempt),
        channels={"recipe": f"{run}/recipe/", **{name: f"{url.rstrip('/')}/" for name, url in locations.items()}},
        checkpoints=f"{run}/checkpoints/",
        output=f"{run}/output",
        # Repeats what the recipe says, for whoever looks at the job: `attach` reads the number of steps from it.
        hyperparameters={"train.max_steps": str(recipe.train.max_steps)},
        tags=job_tags(recipe, key) | settings.tags,
        environment=ENVIRONMENT,
    )


def training_job(recipe: Recipe, plan: TrainJobPlan) -> dict[str, Any]:
    """The body of CreateTrainingJob."""
    check(recipe)
    train, settings = recipe.train, recipe.train.sagemaker
    refuse_secrets(plan.environment)
    run_seconds = round(settings.max_run_hours * 3600)
    output: dict[str, Any] = {"S3OutputPath": plan.output, "CompressionType": "GZIP"}
    body: dict[str, Any] = {
        "TrainingJobName": plan.name,
        "RoleArn": settings.role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": settings.image_uri,
            "TrainingInputMode": "File",
            "MetricDefinitions": [dict(one) for one in METRIC_DEFINITIONS],
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "HyperParameters": dict(plan.hyperparameters),
        "InputDataConfig": [_channel(name, url) for name, url in plan.channels.items()],
        "OutputDataConfig": output | ({"KmsKeyId": settings.kms_key_id} if settings.kms_key_id else {}),
        "ResourceConfig": _resources(settings),
        "StoppingCondition": {"MaxRuntimeInSeconds": run_seconds},
        "EnableManagedSpotTraining": settings.spot,
        "EnableInterContainerTrafficEncryption": settings.instance_count > 1,
        # Nothing gets in or out but through channels, checkpoints and output; machines of one job still talk.
        "EnableNetworkIsolation": not _needs_network(train),
        "Environment": dict(plan.environment),
        "RetryStrategy": {"MaximumRetryAttempts": settings.max_retries},
        "Tags": tag_list(plan.tags),
        **vpc_of(settings),
    }
    if settings.spot:
        body["StoppingCondition"]["MaxWaitTimeInSeconds"] = round(_wait_hours(settings) * 3600)
    if settings.checkpoints:
        body["CheckpointConfig"] = {"S3Uri": plan.checkpoints, "LocalPath": str(ROOT / "checkpoints")}
    return body


def check(recipe: Recipe) -> None:
    """Refuses what would fail there, or cost more than anybody wants.

    Raises:
        RecipeError: a field is missing, or two of them do not go together.
    """
    settings = recipe.train.sagemaker
    needed = {"bucket": settings.bucket, "role_arn": settings.role_arn, "image_uri": settings.image_uri}
    if missing := [name for name, value in needed.items() if not value]:
        raise RecipeError(
            f"train runs on SageMaker, and train.sagemaker has no {', '.join(missing)}",
            fix=" ".join(f"--set train.sagemaker.{name}=…" for name in missing),
        )
    if not re.fullmatch(r"arn:aws[a-z-]*:iam::\d{12}:role/.+", str(settings.role_arn)):
        raise RecipeError(
            f"train.sagemaker.role_arn {settings.role_arn} is no role's ARN",
            fix="it looks like arn:aws:iam::123456789012:role/NAME",
        )
    _check_spot(settings)
    _check_machines(recipe.train)
    if len(settings.tags) > MAX_TAGS - _OWN_TAGS or any(name.lower().startswith("aws:") for name in settings.tags):
        raise RecipeError(
            f"train.sagemaker.tags has {len(settings.tags)} tags, or one that begins with aws:",
            fix=f"give at most {MAX_TAGS - _OWN_TAGS}; the names aws:… are AWS' own",
        )


def refuse_secrets(environment: Mapping[str, str]) -> None:
    """Everybody who may describe the job can read its environment.

    Raises:
        RecipeError: a variable's name says that it is secret.
    """
    if secret := secret_names(environment):
        raise RecipeError(
            f"the job's environment would hold {', '.join(secret)}, readable for everybody who may describe the job",
            fix="let the job's role read it from AWS Secrets Manager",
        )


def instance_family(instance_type: str) -> str:
    """The family of an instance type.

    >>> instance_family("ml.p4d.24xlarge")
    'p4d'
    """
    return instance_type.removeprefix("ml.").partition(".")[0]


def _check_spot(settings: SageMakerRecipe) -> None:
    if not settings.spot:
        return
    if not settings.checkpoints:
        hours = settings.max_run_hours
        expected = restarting_hours(hours)
        raise RecipeError(
            "train.sagemaker: spot without checkpoints starts from zero after every interruption: at only "
            f"{QUIET_INTERRUPTIONS_PER_HOUR} an hour (the quietest zone of Wu et al. 2024) {hours:g} h of work take "
            f"{expected:,.0f} h on average, {expected / hours:,.1f} times the bill",
            fix="--set train.sagemaker.checkpoints=true, or --set train.sagemaker.spot=false",
        )
    if settings.warm_pool_minutes:
        raise RecipeError(
            f"train.sagemaker.warm_pool_minutes is {settings.warm_pool_minutes}, and SageMaker keeps no spot machine",
            fix="--set train.sagemaker.warm_pool_minutes=0, or --set train.sagemaker.spot=false",
        )
    if _wait_hours(settings) < settings.max_run_hours:
        raise RecipeError(
            f"train.sagemaker.max_wait_hours {settings.max_wait_hours:g} is less than max_run_hours "
            f"{settings.max_run_hours:g}, but it counts running and waiting together",
            fix=f"--set train.sagemaker.max_wait_hours={2 * settings.max_run_hours:g}",
        )


def _check_machines(train: TrainRecipe) -> None:
    settings = train.sagemaker
    if train.distributed.num_machines != settings.instance_count:
        raise RecipeError(
            f"train.sagemaker.instance_count is {settings.instance_count}, and train.distributed.num_machines is "
            f"{train.distributed.num_machines}",
            fix=f"--set train.distributed.num_machines={settings.instance_count}",
        )
    if bool(settings.subnets) != bool(settings.security_group_ids):
        raise RecipeError(
            "train.sagemaker names only one of subnets and security_group_ids",
            fix="give both: the job's machines stand in your subnets, behind your groups",
        )


def _wait_hours(settings: SageMakerRecipe) -> float:
    return settings.max_wait_hours if settings.max_wait_hours is not None else min(2 * settings.max_run_hours, 672)


def volume_of(settings: SageMakerRecipe) -> dict[str, Any]:
    """The disk of one machine, as jobs of every kind name it: none to speak of where the machine has its own."""
    if instance_family(settings.instance_type) in LOCAL_DISK_FAMILIES:
        return {"VolumeSizeInGB": LOCAL_DISK_VOLUME_GB}
    key = {"VolumeKmsKeyId": settings.kms_key_id} if settings.kms_key_id else {}
    return {"VolumeSizeInGB": settings.volume_gib, **key}


def vpc_of(settings: SageMakerRecipe) -> dict[str, Any]:
    """The user's subnets and groups, as jobs of every kind name them."""
    if not settings.subnets:
        return {}
    return {"VpcConfig": {"Subnets": list(settings.subnets), "SecurityGroupIds": list(settings.security_group_ids)}}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as SageMaker takes them."""
    return [{"Key": name, "Value": value} for name, value in tags.items()]


def _resources(settings: SageMakerRecipe) -> dict[str, Any]:
    resources: dict[str, Any] = {
        "InstanceType": settings.instance_type,
        "InstanceCount": settings.instance_count,
        **volume_of(settings),
    }
    if settings.warm_pool_minutes:
        resources["KeepAlivePeriodInSeconds"] = 60 * settings.warm_pool_minutes
    return resources


def _needs_network(train: TrainRecipe) -> bool:
    """Whether the job must reach a tracking server."""
    tracking = train.tracking
    return bool(tracking.wandb_project) or (tracking.mlflow and "://" in (tracking.mlflow_uri or ""))


def _channel(name: str, url: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": url, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": "File"}

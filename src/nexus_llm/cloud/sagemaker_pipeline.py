"""A recipe's stages as a SageMaker Pipeline: its definition as JSON, and what must lie in the bucket for it.

    Data ─► Train ─► Package ─► Evaluate ─► Gate ─► Register, or Refuse

Every step runs the train image: Train as a training job, the others as processing jobs (`cli/processing_job.py`). What
a step makes goes below a prefix that is named after the recipe's hash and the parameter DataVersion, so another recipe
or other data never meet it, and a step whose arguments are the same is taken from the cache for 30 days.

Sources: docs.aws.amazon.com, SageMaker Developer Guide ("Pipelines steps", "Caching pipeline steps", "Condition step"),
API reference (CreateModelPackage), and the published JSON schema of pipeline definitions
(aws-sagemaker-mlops.github.io/sagemaker-model-building-pipeline-definition-JSON-schema), read 2026-11.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from nexus_llm.artifacts import stable_hash
from nexus_llm.cloud.data_submit import refuse_local_sources
from nexus_llm.cloud.launcher import job_tags
from nexus_llm.cloud.sagemaker_processing import ProcessingPlan, processing_job
from nexus_llm.cloud.sagemaker_request import TrainJobPlan, training_job
from nexus_llm.cloud.sagemaker_transform import CONTAINER
from nexus_llm.errors import MissingExtraError, RecipeError
from nexus_llm.recipe import Recipe

VERSION = "2020-12-01"  # of the language; there is no other
CACHE = {"Enabled": True, "ExpireAfter": "P30D"}
# Of the service, and of machines that are not there; a step that failed by itself is not tried again.
RETRIES: list[dict[str, Any]] = [
    {"ExceptionType": [name], "IntervalSeconds": 60, "BackoffRate": 2.0, "MaxAttempts": 5}
    for name in ("Step.SERVICE_FAULT", "Step.THROTTLING", "SageMaker.CAPACITY_ERROR")
]
SERVE_MACHINES = ("ml.m5.2xlarge", "ml.c5.4xlarge")
_DATA = ("model", "data")
_NOT_IN_A_STEP = ("TrainingJobName", "RetryStrategy")  # the pipeline names jobs, and retries by policies of its own


def recipe_hash(recipe: Recipe) -> str:
    """16 hex digits that every field of the recipe changes."""
    return stable_hash(recipe.model_dump(mode="json"))


def recipe_prefix(recipe: Recipe) -> str:
    """Where the recipe must lie, as `recipe.yaml`, before an execution starts."""
    return f"{_base(recipe)}/recipe/"


def pipeline_definition(recipe: Recipe, *, serve_image: str | None = None, group: str | None = None) -> dict[str, Any]:
    """The definition. `group` is the model package group [default: the platform's]; without `serve_image` whoever
    starts an execution names it.

    Raises:
        RecipeError: `train.sagemaker` lacks what jobs need, or a source lies where no job can read it.
    """
    refuse_local_sources(recipe)
    settings = recipe.train.sagemaker
    made = {kind: _uri("Data", kind) for kind in _DATA}
    trained = {"Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"}
    data = _processing(recipe, "data", {}, _DATA, needs_network=True)
    data["Arguments"]["Environment"]["NEXUS_DATA_VERSION"] = _parameter("DataVersion")
    evaluate = _processing(recipe, "evaluate", {**made, "package": _uri("Package", "package")}, ("evaluate",))
    evaluate["PropertyFiles"] = [
        {"PropertyFileName": "Report", "OutputName": "evaluate", "FilePath": "report.json"},
    ]
    return {
        "Version": VERSION,
        "Metadata": {"recipe": recipe.name, "recipe_hash": recipe_hash(recipe), "platform": recipe.platform},
        "Parameters": [
            _string("DataVersion", "1", "Another value makes the data anew: change it when the sources changed."),
            _string("TrainImage", settings.image_uri, "The train image in ECR: all steps run it."),
            _string("InstanceType", settings.instance_type, "Machine of all steps."),
            _string("ServeImage", serve_image, "The serve image in ECR, for the registered model."),
            _string("ApprovalStatus", "PendingManualApproval", "Of the registered model: a person approves."),
        ],
        "Steps": [
            data,
            _train(recipe, made),
            _processing(recipe, "package", {**made, "train": trained}, ("package",)),
            evaluate,
            _gate(_register(recipe, group or f"{recipe.platform}-models")),
        ],
    }


def check_definition(definition: dict[str, Any]) -> None:
    """Checks a definition against the schema that ships beside this file: our subset of the published one."""
    try:
        import jsonschema_rs
    except ImportError as error:
        raise MissingExtraError.for_extra("aws", "jsonschema_rs") from error
    text = resources.files("nexus_llm.cloud").joinpath("pipeline_schema.json").read_text(encoding="utf-8")
    for wrong in jsonschema_rs.validator_for(json.loads(text)).iter_errors(definition):
        place = "/".join(str(part) for part in wrong.instance_path)
        raise RecipeError(
            f"the pipeline's definition is not valid at {place} ({wrong.message[:300]})",
            fix="look at the recipe's field that it comes from; nexus aws pipeline RECIPE --json shows the definition",
        )


def _base(recipe: Recipe) -> str:
    return f"s3://{recipe.train.sagemaker.bucket}/nexus/pipelines/{recipe.name}/{recipe_hash(recipe)}"


def _below(recipe: Recipe, kind: str) -> dict[str, Any]:
    """Where a step's artifact goes."""
    return {"Std:Join": {"On": "/", "Values": [_base(recipe), _parameter("DataVersion"), kind]}}


def _parameter(name: str) -> dict[str, str]:
    return {"Get": f"Parameters.{name}"}


def _string(name: str, default: str | None, description: str) -> dict[str, Any]:
    value = {"Name": name, "Type": "String", "Description": description}
    return value | ({"DefaultValue": default} if default else {})


def _processing(
    recipe: Recipe, stage: str, inputs: dict[str, Any], kinds: tuple[str, ...], *, needs_network: bool = False
) -> dict[str, Any]:
    plan = ProcessingPlan(
        stage,
        inputs={"recipe": recipe_prefix(recipe), **inputs},
        outputs={kind: _below(recipe, kind) for kind in kinds},
        tags=_tags(recipe),
        needs_network=needs_network,
    )
    body = processing_job(recipe, plan)
    body["AppSpecification"]["ImageUri"] = _parameter("TrainImage")
    body["ProcessingResources"]["ClusterConfig"]["InstanceType"] = _parameter("InstanceType")
    return _step(stage.capitalize(), "Processing", body)


def _train(recipe: Recipe, made: dict[str, Any]) -> dict[str, Any]:
    plan = TrainJobPlan(
        name="named-by-the-pipeline",
        channels={"recipe": recipe_prefix(recipe), **made},
        checkpoints=_below(recipe, "checkpoints"),  # type: ignore[arg-type]  # a reference, which AWS resolves
        output=_below(recipe, "train"),  # type: ignore[arg-type]
        hyperparameters={"train.max_steps": str(recipe.train.max_steps)},
        tags=_tags(recipe),
        environment={"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"},
    )
    body = {name: value for name, value in training_job(recipe, plan).items() if name not in _NOT_IN_A_STEP}
    body["AlgorithmSpecification"]["TrainingImage"] = _parameter("TrainImage")
    body["ResourceConfig"]["InstanceType"] = _parameter("InstanceType")
    body["OutputDataConfig"].pop("CompressionType")  # gzip is what it does by itself
    return _step("Train", "Training", body)


def _gate(register: dict[str, Any]) -> dict[str, Any]:
    """Registers only what passed: `fail` and `inconclusive` both refuse."""
    verdict = {"Std:JsonGet": {"PropertyFile": {"Get": "Steps.Evaluate.PropertyFiles.Report"}, "Path": "gate.verdict"}}
    words = ["the gate's verdict is not pass but", verdict]
    refuse = {
        "Name": "Refuse",
        "Type": "Fail",
        "Arguments": {"ErrorMessage": {"Std:Join": {"On": " ", "Values": words}}},
    }
    condition = {"Type": "Equals", "LeftValue": verdict, "RightValue": "pass"}
    arguments = {"Conditions": [condition], "IfSteps": [register], "ElseSteps": [refuse]}
    return {"Name": "Gate", "Type": "Condition", "DependsOn": ["Evaluate"], "Arguments": arguments}


def registration(
    recipe: Recipe, *, group: str, image: Any, folder: Any, approval: Any, report: Any = None
) -> dict[str, Any]:
    """The body of CreateModelPackage: a version of `group` from the package in `folder` (a prefix, `/` at its end).

    In a pipeline the values may be its parameters. A version of a group carries no tags (AWS refuses them): whose it is
    stands in its metadata.
    """
    source = {"S3Uri": folder, "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {
        "Image": image,
        "ModelDataSource": {"S3DataSource": source},
        "Environment": dict(CONTAINER),
    }
    quality = {"ModelQuality": {"Statistics": {"ContentType": "application/json", "S3Uri": report}}}
    return {
        "ModelPackageGroupName": group,
        "ModelApprovalStatus": approval,
        "ModelPackageDescription": f"Recipe {recipe.name}, {recipe_hash(recipe)}",
        "CustomerMetadataProperties": _metadata(recipe),
        **({"ModelMetrics": quality} if report is not None else {}),
        "InferenceSpecification": {
            "Containers": [container],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json", "text/event-stream"],
            "SupportedRealtimeInferenceInstanceTypes": list(SERVE_MACHINES),
        },
    }


def _register(recipe: Recipe, group: str) -> dict[str, Any]:
    arguments = registration(
        recipe,
        group=group,
        image=_parameter("ServeImage"),
        folder={"Std:Join": {"On": "", "Values": [_uri("Package", "package"), "/"]}},  # a prefix ends so
        approval=_parameter("ApprovalStatus"),
        report={"Std:Join": {"On": "/", "Values": [_uri("Evaluate", "evaluate"), "report.json"]}},
    )
    return {"Name": "Register", "Type": "RegisterModel", "Arguments": arguments, "RetryPolicies": RETRIES[:2]}


def _uri(step: str, kind: str) -> dict[str, str]:
    return {"Get": f"Steps.{step}.ProcessingOutputConfig.Outputs['{kind}'].S3Output.S3Uri"}


def _tags(recipe: Recipe) -> dict[str, str]:
    """The artifact's key is not known before the step runs: the recipe's hash stands for it."""
    return job_tags(recipe, recipe_hash(recipe)) | recipe.train.sagemaker.tags


def _metadata(recipe: Recipe) -> dict[str, str]:
    return {name.replace(":", "-"): value for name, value in job_tags(recipe, recipe_hash(recipe)).items()}


def _step(name: str, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"Name": name, "Type": kind, "Arguments": arguments, "CacheConfig": CACHE, "RetryPolicies": RETRIES}

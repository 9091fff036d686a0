from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

botocore_session = pytest.importorskip("botocore.session", reason="needs the aws extra: pip install boto3")
pytest.importorskip("jsonschema_rs", reason="needs the aws extra: pip install jsonschema-rs")

from botocore.validate import validate_parameters  # noqa: E402

from nexus_llm.cli import aws, processing_job  # noqa: E402
from nexus_llm.cloud.sagemaker_pipeline import check_definition, pipeline_definition, recipe_hash  # noqa: E402
from nexus_llm.errors import RecipeError  # noqa: E402
from nexus_llm.recipe import Recipe, load_recipe, recipe_yaml  # noqa: E402
from service_models import assert_accepted  # noqa: E402

ROLE = "arn:aws:iam::123456789012:role/nexus-train"
IMAGE = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/train:1"
SETTINGS: dict[str, Any] = {"bucket": "bucket", "role_arn": ROLE, "image_uri": IMAGE}
IN_A_NETWORK = {"subnets": ["subnet-1a2b3c4d"], "security_group_ids": ["sg-1a2b3c4d"], "tags": {"team": "search"}}
KEY = "arn:aws:kms:eu-central-1:123456789012:key/1"
MODEL = botocore_session.get_session().get_service_model("sagemaker")
CALLS = {
    "Processing": ("CreateProcessingJob", {"ProcessingJobName": "job"}),
    "Training": ("CreateTrainingJob", {"TrainingJobName": "job"}),
    "RegisterModel": ("CreateModelPackage", {}),
}


def recipe_with(*, path: str = "s3://bucket/text/", **settings: Any) -> Recipe:
    source = {"type": "files", "path": path, "name": "own"}
    train = {"launcher": "sagemaker", "sagemaker": {**SETTINGS, **settings}}
    return Recipe.model_validate(
        {"name": "demo", "platform": "nexus-small", "data": {"sources": [source]}, "train": train}
    )


RECIPES = [
    recipe_with(),
    recipe_with(**IN_A_NETWORK, kms_key_id=KEY, instance_type="ml.c5.2xlarge"),
    recipe_with(spot=False, checkpoints=False, warm_pool_minutes=60, max_run_hours=672),
]


def steps_of(definition: dict[str, Any]) -> list[dict[str, Any]]:
    """All steps, those behind the condition too."""
    found: list[dict[str, Any]] = []
    for step in definition["Steps"]:
        found += [step, *step["Arguments"].get("IfSteps", []), *step["Arguments"].get("ElseSteps", [])]
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if set(value) == {"Get"}:
            yield value["Get"]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def resolved(value: Any, defaults: dict[str, str]) -> Any:
    """Arguments as AWS would see them when the step starts."""
    if isinstance(value, dict):
        if set(value) == {"Get"}:
            kind, _, name = value["Get"].partition(".")
            return defaults.get(name, IMAGE) if kind == "Parameters" else "s3://bucket/made"
        if set(value) == {"Std:Join"}:
            join = value["Std:Join"]
            return join["On"].join(resolved(one, defaults) for one in join["Values"])
        return {name: resolved(one, defaults) for name, one in value.items()}
    return [resolved(one, defaults) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_step_is_a_request_that_the_service_model_accepts(recipe: Recipe) -> None:
    definition = pipeline_definition(recipe)
    check_definition(definition)
    defaults = {one["Name"]: one.get("DefaultValue", IMAGE) for one in definition["Parameters"]}
    checked = []
    for step in steps_of(definition):
        if step["Type"] not in CALLS:
            continue
        operation, named = CALLS[step["Type"]]
        body = {**named, **resolved(step["Arguments"], defaults)}
        shape = MODEL.operation_model(operation).input_shape
        validate_parameters(body, shape)
        assert_accepted(body, shape)
        checked.append(step["Name"])
    assert checked == ["Data", "Train", "Package", "Evaluate", "Register"]


def test_every_reference_names_something_that_is_there() -> None:
    definition = pipeline_definition(RECIPES[0])
    parameters = {one["Name"] for one in definition["Parameters"]}
    outputs = {
        step["Name"]: {one["OutputName"] for one in step["Arguments"]["ProcessingOutputConfig"]["Outputs"]}
        for step in steps_of(definition)
        if step["Type"] == "Processing"
    }
    files = {one["PropertyFileName"] for step in steps_of(definition) for one in step.get("PropertyFiles", [])}
    for reference in references(definition):
        kind, name, *rest = reference.split(".")
        if kind == "Parameters":
            assert name in parameters
        elif rest[0] == "PropertyFiles":
            assert (name, rest[1] in files) == ("Evaluate", True)
        elif found := re.search(r"Outputs\['(\w+)'\]", reference):
            assert found[1] in outputs[name], reference
        else:
            assert reference == "Steps.Train.ModelArtifacts.S3ModelArtifacts"


def test_each_container_gets_what_its_stage_needs() -> None:
    from nexus_llm.pipeline import stages

    definition = pipeline_definition(RECIPES[0])
    needs = {stage.kind: set(stage.needs) for stage in stages()}
    for step in definition["Steps"]:
        if step["Type"] == "Processing":
            (kind,) = step["Arguments"]["AppSpecification"]["ContainerArguments"]
            given = {one["InputName"] for one in step["Arguments"]["ProcessingInputs"]}
            assert kind in processing_job.STAGES
            assert given >= needs[kind] - ({"model"} if kind == "data" else set())
        if step["Type"] == "Training":
            assert {one["ChannelName"] for one in step["Arguments"]["InputDataConfig"]} == {"recipe", *needs["train"]}


def test_only_what_the_gate_passes_is_registered_and_a_person_approves() -> None:
    gate = pipeline_definition(RECIPES[0], serve_image="serve:1")["Steps"][-1]
    (condition,) = gate["Arguments"]["Conditions"]
    assert condition["LeftValue"]["Std:JsonGet"]["Path"] == "gate.verdict"
    assert (condition["Type"], condition["RightValue"]) == ("Equals", "pass")
    assert [step["Type"] for step in gate["Arguments"]["ElseSteps"]] == ["Fail"]
    (register,) = gate["Arguments"]["IfSteps"]
    assert register["Arguments"]["ModelPackageGroupName"] == "nexus-small-models"
    assert "Tags" not in register["Arguments"]  # AWS refuses them on versions of a group
    assert register["Arguments"]["CustomerMetadataProperties"]["platform"] == "nexus-small"


def test_another_recipe_or_other_data_meet_no_earlier_artifact_and_steps_are_cached() -> None:
    first, second = (pipeline_definition(recipe) for recipe in (RECIPES[0], recipe_with(max_run_hours=3)))
    uris = [
        {json.dumps(one["S3Output"]["S3Uri"]) for step in steps_of(definition) if step["Type"] == "Processing"
         for one in step["Arguments"]["ProcessingOutputConfig"]["Outputs"]}
        for definition in (first, second)
    ]  # fmt: skip
    assert len(uris[0]) == 4
    assert not uris[0] & uris[1]
    assert all("Parameters.DataVersion" in one for one in uris[0])
    cached = {step["Name"] for step in steps_of(first) if step.get("CacheConfig", {}).get("Enabled")}
    assert cached == {"Data", "Train", "Package", "Evaluate"}


def test_every_job_of_the_pipeline_carries_our_tags() -> None:
    recipe = RECIPES[1]
    for step in steps_of(pipeline_definition(recipe)):
        if step["Type"] in ("Processing", "Training"):
            tags = {one["Key"]: one["Value"] for one in step["Arguments"]["Tags"]}
            own = {"recipe": "demo", "platform": "nexus-small", "nexus:key": recipe_hash(recipe), "team": "search"}
            assert tags.items() >= own.items()


def test_the_schema_refuses_what_it_does_not_know() -> None:
    whole = pipeline_definition(RECIPES[0])

    def changed(change: Any) -> dict[str, Any]:
        definition = copy.deepcopy(whole)
        change(definition)
        return definition

    for change in (
        lambda one: one.update(Version="2021-01-01"),
        lambda one: one["Steps"][0].update(Name="has spaces"),
        lambda one: one["Steps"][0]["Arguments"].pop("RoleArn"),
        lambda one: one["Steps"][1]["Arguments"].update(TrainingJobName="job"),
        lambda one: one["Steps"][1]["CacheConfig"].update(ExpireAfter="30 days"),
        lambda one: one["Steps"][3]["Arguments"]["ProcessingInputs"][1]["S3Input"].update(S3Uri={"Get": "Nowhere.x"}),
        lambda one: one["Steps"][4]["Arguments"].pop("ElseSteps"),
        lambda one: one["Parameters"].append({"Name": "X", "Type": "String", "DefaultValue": 1}),
    ):
        with pytest.raises(RecipeError, match="not valid at"):
            check_definition(changed(change))


def test_a_source_on_this_machine_is_refused() -> None:
    with pytest.raises(RecipeError, match="lies at text/, where a job on AWS cannot read it"):
        pipeline_definition(recipe_with(path="text/"))


def test_moto_keeps_the_pipeline_as_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto", reason="needs the dev extra: pip install 'moto[s3]'")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    definition = pipeline_definition(RECIPES[0])
    body = {
        "PipelineName": "nexus-small-pipeline",
        "PipelineDefinition": json.dumps(definition),
        "ClientRequestToken": "t" * 32,
        "RoleArn": ROLE,
    }
    assert_accepted(body, MODEL.operation_model("CreatePipeline").input_shape)
    with moto.mock_aws():
        client = boto3.client("sagemaker", region_name="eu-central-1")
        client.create_pipeline(**body)
        kept = client.describe_pipeline(PipelineName="nexus-small-pipeline")["PipelineDefinition"]
        client.start_pipeline_execution(PipelineName="nexus-small-pipeline", ClientRequestToken="t" * 32)
    assert json.loads(kept) == definition


def test_the_file_that_terraform_is_tested_with_is_a_rendered_one() -> None:
    """The recipe's hash is left out: every new field of a recipe changes it."""
    path = Path(__file__).parents[2] / "infra" / "modules" / "sagemaker" / "tests" / "pipeline.json"
    rendered = json.dumps(pipeline_definition(RECIPES[0], serve_image="serve:1"))
    assert json.loads(path.read_text()) == json.loads(rendered.replace(recipe_hash(RECIPES[0]), "0" * 16))


def test_the_command_prints_the_definition_and_nothing_else_for_terraform(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(RECIPES[0]))
    app = typer.Typer()
    app.add_typer(aws.group, name="aws")
    done = CliRunner().invoke(app, ["aws", "pipeline", str(path), "--json", "--serve-image", "serve:1"])
    assert json.loads(done.stdout) == pipeline_definition(load_recipe(path), serve_image="serve:1")
    again = CliRunner().invoke(app, ["aws", "pipeline", str(path), "--json", "--serve-image", "serve:1"])
    assert again.stdout == done.stdout
    assert "--upload puts it there" in done.stderr
    assert "Register" in CliRunner().invoke(app, ["aws", "pipeline", str(path)]).stdout

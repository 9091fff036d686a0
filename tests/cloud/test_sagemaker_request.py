from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

botocore_session = pytest.importorskip("botocore.session", reason="needs the aws extra: pip install boto3")

from botocore.validate import validate_parameters  # noqa: E402

from nexus_llm.cloud.sagemaker_request import (  # noqa: E402
    LOCAL_DISK_FAMILIES,
    TrainJobPlan,
    check,
    instance_family,
    job_name,
    plan_job,
    refuse_secrets,
    training_job,
)
from nexus_llm.cloud.spot_bill import restarting_hours  # noqa: E402
from nexus_llm.errors import RecipeError  # noqa: E402
from nexus_llm.recipe import Recipe  # noqa: E402
from nexus_llm.train.metrics_line import FIELDS, METRIC_DEFINITIONS, metrics_line, parse_metrics_line  # noqa: E402
from service_models import assert_accepted  # noqa: E402

KEY = "0123456789abcdef"
ROLE = "arn:aws:iam::123456789012:role/nexus-train"
SETTINGS = {
    "bucket": "bucket",
    "role_arn": ROLE,
    "image_uri": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/train:1",
    "kms_key_id": "arn:aws:kms:eu-central-1:123456789012:key/1",
    "subnets": ["subnet-1a2b3c4d"],
    "security_group_ids": ["sg-1a2b3c4d"],
    "tags": {"team": "search"},
}
LOCATIONS = {"model": "s3://bucket/nexus/inputs/model/m", "data": "s3://bucket/nexus/inputs/data/d"}
MODEL = botocore_session.get_session().get_service_model("sagemaker")


def recipe_with(*, train: dict[str, Any] | None = None, name: str = "demo", **settings: Any) -> Recipe:
    section = {"launcher": "sagemaker", "sagemaker": {**SETTINGS, **settings}, **(train or {})}
    return Recipe.model_validate({"name": name, "train": section})


def plan_for(recipe: Recipe, *, attempt: int = 1, ids: dict[str, str] | None = None) -> TrainJobPlan:
    ids = ids or {"model": "m", "data": "d"}
    return plan_job(recipe, key=KEY, input_ids=ids, locations=LOCATIONS, attempt=attempt)


def body_for(recipe: Recipe) -> dict[str, Any]:
    return training_job(recipe, plan_for(recipe))


RECIPES = [
    recipe_with(),
    recipe_with(
        spot=False, warm_pool_minutes=60, checkpoints=False, subnets=[], security_group_ids=[], kms_key_id=None
    ),
    recipe_with(
        instance_type="ml.c5.2xlarge",
        instance_count=2,
        max_wait_hours=30,
        train={"distributed": {"strategy": "fsdp", "num_processes": 8, "num_machines": 2}},
    ),
    recipe_with(name="a" * 63, max_run_hours=672),
    recipe_with(name="1.2_3--x_.", train={"tracking": {"mlflow": True, "mlflow_uri": "https://host"}}),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_request_is_one_that_the_service_model_accepts(recipe: Recipe) -> None:
    shape = MODEL.operation_model("CreateTrainingJob").input_shape
    body = body_for(recipe)
    validate_parameters(body, shape)
    assert_accepted(body, shape)


def test_the_whole_recipe_reaches_the_request() -> None:
    recipe = RECIPES[2]
    body = body_for(recipe)
    run = f"s3://bucket/nexus/train/{KEY}-"
    assert body["TrainingJobName"] == "demo-0123456789-1"
    assert (body["RoleArn"], body["AlgorithmSpecification"]["TrainingImage"]) == (ROLE, SETTINGS["image_uri"])
    assert body["EnableManagedSpotTraining"]
    assert body["StoppingCondition"] == {"MaxRuntimeInSeconds": 86_400, "MaxWaitTimeInSeconds": 108_000}
    assert body["CheckpointConfig"]["S3Uri"].startswith(run)
    assert body["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"
    assert body["VpcConfig"] == {"Subnets": ["subnet-1a2b3c4d"], "SecurityGroupIds": ["sg-1a2b3c4d"]}
    assert body["OutputDataConfig"]["KmsKeyId"] == body["ResourceConfig"]["VolumeKmsKeyId"] == SETTINGS["kms_key_id"]
    assert body["ResourceConfig"]["VolumeSizeInGB"] == 200
    assert body["EnableInterContainerTrafficEncryption"]
    assert body["EnableNetworkIsolation"]
    assert body["RetryStrategy"] == {"MaximumRetryAttempts": 3}
    assert {"Key": "team", "Value": "search"} in body["Tags"]
    assert body["HyperParameters"] == {"train.max_steps": "100"}
    channels = {one["ChannelName"]: one["DataSource"]["S3DataSource"]["S3Uri"] for one in body["InputDataConfig"]}
    # A prefix without its last slash would also take a neighbour that begins alike.
    assert channels["model"] == LOCATIONS["model"] + "/"
    assert channels["recipe"].startswith(run)
    assert channels["recipe"].endswith("/recipe/")


def test_what_is_not_wanted_is_not_asked_for() -> None:
    plain = body_for(RECIPES[1])
    for field in ("CheckpointConfig", "VpcConfig"):
        assert field not in plain
    assert "MaxWaitTimeInSeconds" not in plain["StoppingCondition"]
    assert "KmsKeyId" not in plain["OutputDataConfig"]
    assert plain["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 3600
    assert not plain["EnableInterContainerTrafficEncryption"]
    assert "KeepAlivePeriodInSeconds" not in body_for(RECIPES[0])["ResourceConfig"]
    assert not body_for(RECIPES[4])["EnableNetworkIsolation"]  # its tracking server must be reached


def test_a_machine_with_a_disk_of_its_own_gets_no_volume_key() -> None:
    resources = body_for(recipe_with(instance_type="ml.g5.2xlarge"))["ResourceConfig"]
    assert "VolumeKmsKeyId" not in resources
    assert resources["VolumeSizeInGB"] == 30
    types = MODEL.shape_for("TrainingInstanceType").enum
    assert {instance_family(one) for one in types} >= LOCAL_DISK_FAMILIES


def test_waiting_and_running_fit_into_twenty_eight_days() -> None:
    body = body_for(recipe_with(max_run_hours=600))
    assert body["StoppingCondition"]["MaxWaitTimeInSeconds"] == 672 * 3600


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bucket": None, "image_uri": None}, "no bucket, image_uri"),
        ({"role_arn": "nexus-train"}, "no role's ARN"),
        ({"checkpoints": False}, "spot without checkpoints"),
        ({"warm_pool_minutes": 10}, "keeps no spot machine"),
        ({"max_wait_hours": 23}, "max_wait_hours 23 is less than max_run_hours 24"),
        ({"instance_count": 2}, "num_machines is 1"),
        ({"subnets": []}, "only one of subnets"),
        ({"tags": {"aws:x": "y"}}, "begins with aws:"),
        ({"tags": {f"t{number}": "" for number in range(48)}}, "48 tags"),
    ],
)
def test_what_would_fail_or_cost_too_much_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        body_for(recipe_with(**changes))
    assert caught.value.fix


def test_the_refusal_of_spot_without_checkpoints_names_the_bill() -> None:
    with pytest.raises(RecipeError) as caught:
        check(recipe_with(checkpoints=False))
    assert "24 h of work take 92 h on average, 3.8 times the bill" in caught.value.what
    assert "checkpoints=true" in caught.value.fix
    assert restarting_hours(1e6) == float("inf")


@given(hours=st.floats(0.1, 200), rate=st.floats(1e-4, 1))
def test_a_restarting_job_is_never_cheaper_and_grows_with_hours_and_rate(hours: float, rate: float) -> None:
    expected = restarting_hours(hours, interruptions_per_hour=rate)
    assert expected >= hours
    assert restarting_hours(2 * hours, interruptions_per_hour=rate) >= 2 * expected
    assert restarting_hours(hours, interruptions_per_hour=2 * rate) >= expected


def test_the_formula_is_what_many_drawn_jobs_take() -> None:
    import numpy as np

    rng = np.random.default_rng(7)
    hours, rate = 4.0, 0.47  # of a busy week: see spot_bill.py
    taken = []
    for _ in range(4000):
        total = 0.0
        while (attempt := rng.exponential(1 / rate)) < hours:
            total += attempt
        taken.append(total + hours)
    assert np.mean(taken) == pytest.approx(restarting_hours(hours, interruptions_per_hour=rate), rel=0.05)


def test_attempts_share_their_checkpoints_and_other_inputs_do_not() -> None:
    recipe = recipe_with()
    first, second = plan_for(recipe), plan_for(recipe, attempt=2)
    assert first.name != second.name
    assert (first.checkpoints, first.output) == (second.checkpoints, second.output)
    other = plan_for(recipe, ids={"model": "m", "data": "other"})
    assert {other.checkpoints, other.output}.isdisjoint({first.checkpoints, first.output})


@given(name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True), attempt=st.integers(1, 99))
def test_every_recipe_name_gives_a_job_name_that_sagemaker_takes(name: str, attempt: int) -> None:
    made = job_name(name, KEY, attempt)
    assert re.fullmatch("[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", made)
    assert len(made) <= 63
    assert made.endswith(f"-{KEY[:10]}-{attempt}")


def test_an_environment_with_a_secret_is_refused() -> None:
    refuse_secrets({"PYTHONUNBUFFERED": "1"})
    with pytest.raises(RecipeError, match="HF_TOKEN"):
        refuse_secrets({"HF_TOKEN": "x"})


# The printed line and the patterns that read it.

ROWS = st.fixed_dictionaries(
    {
        "step": st.integers(1, 10**7),
        "loss": st.floats(-1e30, 1e30),
        "learning_rate": st.floats(0, 1),
        "grad_norm": st.floats(0, 1e30),
        "tokens": st.integers(0, 10**9),
        "tokens_per_second": st.none() | st.floats(0, 1e9),
    },
    optional={"validation_loss": st.floats(0, 1e6)},
)


@given(row=ROWS, before=st.sampled_from(["", "2026-11-02T10:00:00 ", "[1,mpirank:0]<stdout>:"]))
def test_each_metric_pattern_finds_its_own_number_in_the_printed_line(row: dict[str, Any], before: str) -> None:
    line = before + metrics_line(row)
    assert parse_metrics_line(line) == pytest.approx({name: value for name, value in row.items() if value is not None})
    for definition in METRIC_DEFINITIONS:
        name = definition["Name"].removeprefix("train:")
        found = re.findall(definition["Regex"], line)
        expected = row.get(name)
        assert [float(one) for one in found] == pytest.approx([] if expected is None else [float(f"{expected:.10g}")])


def test_a_loss_that_is_no_number_makes_no_metric() -> None:
    line = metrics_line({"step": 3, "loss": float("nan"), "validation_loss": 2.0})
    assert parse_metrics_line(line) == {"step": 3, "validation_loss": 2}
    (loss,) = (one for one in METRIC_DEFINITIONS if one["Name"] == "train:loss")
    assert not re.findall(loss["Regex"], line)


def test_what_the_loop_writes_is_what_is_printed() -> None:
    """The fields of `metrics.jsonl` that have a number, by the design's contract."""
    assert set(FIELDS) >= {"step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second"}


def test_other_lines_are_no_metrics() -> None:
    for line in ("", "loss=3", "nexus-metrics", "nexus-metrics step", "nexus-metrics step=", "nexus-metrics other=1"):
        assert parse_metrics_line(line) == {}

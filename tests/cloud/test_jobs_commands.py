"""`nexus jobs` and `nexus aws pipeline --upload` with the real clients, on an emulator on loopback."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import fsspec
import pytest
import typer
from typer.testing import CliRunner

boto3 = pytest.importorskip("boto3", reason="needs the aws extra: pip install boto3")
server = pytest.importorskip("moto.server", reason="needs the dev extra: pip install 'moto[s3]' flask")

from nexus_llm.artifacts import Artifact, ArtifactStore, load  # noqa: E402
from nexus_llm.cli import aws, jobs  # noqa: E402
from nexus_llm.cli.job_account import account  # noqa: E402
from nexus_llm.cloud.data_uploads import upload_artifact  # noqa: E402
from nexus_llm.cloud.sagemaker import StoredBucket  # noqa: E402
from nexus_llm.cloud.sagemaker_processing import ProcessingJobs, SageMakerEvaluation  # noqa: E402
from nexus_llm.errors import NexusError, TrainingError, UsageError  # noqa: E402
from nexus_llm.ports import NeverInterrupted, SilentProgress  # noqa: E402
from nexus_llm.recipe import Recipe, load_recipe, recipe_yaml  # noqa: E402

KEY = "0123456789abcdef"
RECIPE = Recipe.model_validate(
    {
        "name": "demo",
        "data": {"sources": [{"type": "files", "name": "own", "path": "s3://models/text/"}]},
        "train": {
            "launcher": "sagemaker",
            "sagemaker": {
                "bucket": "models",
                "role_arn": "arn:aws:iam::123456789012:role/nexus-train",
                "image_uri": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/train:1",
            },
        },
    }
)


@pytest.fixture(scope="module", autouse=True)
def emulated() -> Iterator[None]:
    emulator = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    emulator.start()
    host, port = emulator.get_host_and_port()
    reset = Request(f"http://{host}:{port}/moto-api/reset", method="POST")  # accounts are shared within a process
    urlopen(reset).close()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        patch.setattr(signal, "signal", lambda *_: None)  # the commands take signals over; pytest keeps its own
        boto3.client("s3").create_bucket(Bucket="models")
        fsspec.filesystem("s3").clear_instance_cache()
        yield
    urlopen(reset).close()
    emulator.stop()


def made(root: Path, kind: str, key: str = KEY) -> Artifact:
    with ArtifactStore(root).draft(kind, key, stage_version=1, recipe={}, inputs={}) as draft:
        (draft.folder / "content.txt").write_text(kind)
        return draft.finish(facts={"gate": {"verdict": "pass", "comparisons": []}})


def nexus(*arguments: str) -> Any:
    app = typer.Typer()
    jobs.register(app)
    app.add_typer(aws.group, name="aws")
    return CliRunner().invoke(app, list(arguments))


def test_an_evaluation_runs_there_is_found_again_listed_and_imported_anywhere(tmp_path: Path) -> None:
    launcher = ProcessingJobs(account(None, NeverInterrupted()))
    service = SageMakerEvaluation(launcher, SilentProgress(), StoredBucket())
    inputs = {kind: made(tmp_path / "inputs", kind, kind) for kind in ("model", "data", "package")}
    with pytest.raises(TrainingError, match="holds no finished evaluate"):  # the emulator runs nothing
        service.evaluate(RECIPE, inputs, KEY, tmp_path / "one")
    (row,) = json.loads(nexus("jobs", "list", "--json", "--artifact", KEY).stdout)["jobs"]
    assert (row["state"], row["run"], row["key"], row["platform"]) == ("Completed", "demo", KEY, "nexus")
    name = row["id"].removeprefix("processing/")
    body = boto3.client("sagemaker").describe_processing_job(ProcessingJobName=name)
    places = {one["InputName"]: one["S3Input"]["S3Uri"] for one in body["ProcessingInputs"]}
    assert load_recipe(StoredBucket().download(places["recipe"] + "recipe.yaml", tmp_path / "r.yaml")) == RECIPE
    assert StoredBucket().size(places["package"] + "manifest.json")

    there = made(tmp_path / "there", "evaluate")
    (output,) = body["ProcessingOutputConfig"]["Outputs"]
    for path in there.folder.iterdir():
        StoredBucket().upload(path, output["S3Output"]["S3Uri"] + path.name)
    manifest = service.evaluate(RECIPE, inputs, KEY, tmp_path / "two")
    assert (manifest.id, (tmp_path / "two" / "content.txt").read_text()) == (there.id, "evaluate")
    assert len(boto3.client("sagemaker").list_processing_jobs()["ProcessingJobSummaries"]) == 1
    with pytest.raises(TrainingError, match=f"is evaluate {KEY}, not evaluate other"):
        from nexus_llm.cloud.sagemaker_processing import fetch_output

        fetch_output(launcher.state(name), tmp_path / "three", kind="evaluate", key="other")

    attached = nexus("jobs", "attach", row["id"], "--json", "--root", str(tmp_path / "here"))
    document = json.loads(attached.stdout)["artifact"]
    assert (document["id"], load(Path(document["path"])).id) == (there.id, there.id)
    assert f"{row['id']} was Completed already" in nexus("jobs", "stop", row["id"]).stdout


def test_a_dry_run_shows_the_very_request_or_what_is_made_before_it_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(RECIPE))
    boto3.client("s3").put_object(Bucket="models", Key="text/a.txt", Body=b"words")
    places = ("--image", "serve:1", "--input", "s3://models/in/", "--output", "s3://models/out/")
    asked = {"evaluate": ("jobs", "evaluate", str(path)), "transform": ("jobs", "transform", str(path), *places)}
    asked = {word: (*words, "--dry-run", "--root", str(tmp_path / "root")) for word, words in asked.items()}
    for words in asked.values():
        shown = json.loads(nexus(*words).stdout)
        assert (shown["made_first"], shown["job"]) == (["model", "data", "train", "package"], None)

    inputs = {kind: made(tmp_path / "inputs", kind, kind) for kind in ("model", "data", "package")}
    monkeypatch.setattr(jobs, "_packaged", lambda *_, **__: (inputs, []))
    shown = json.loads(nexus(*asked["evaluate"]).stdout)
    assert json.loads(nexus(*asked["transform"]).stdout)["job"]["TransformOutput"]["S3OutputPath"] == places[-1]
    assert not (tmp_path / "root").exists()
    sagemaker = boto3.client("sagemaker")
    assert shown["job"]["ProcessingJobName"] not in str(sagemaker.list_processing_jobs())
    assert sagemaker.list_transform_jobs()["TransformJobSummaries"] == []

    service = SageMakerEvaluation(ProcessingJobs(account(None, NeverInterrupted())), SilentProgress(), StoredBucket())
    name = service.start(RECIPE, inputs, shown["key"])
    began = sagemaker.describe_processing_job(ProcessingJobName=name)
    assert {field: began[field] for field in ("ProcessingJobName", "ProcessingInputs", "ProcessingOutputConfig")} == {
        field: shown["job"][field] for field in ("ProcessingJobName", "ProcessingInputs", "ProcessingOutputConfig")
    }


def test_the_list_says_what_a_job_cost_or_why_nobody_knows(tmp_path: Path) -> None:
    glue = boto3.client("glue")
    glue.create_job(
        Name="listed", Role="r", Command={"Name": "glueetl"}, Tags={"project": "nexus-llm", "recipe": "costly"}
    )
    run = glue.start_job_run(JobName="listed", Arguments={"--NEXUS_KEY": KEY})["JobRunId"]
    shown = nexus("jobs", "list", "--run", "costly")
    assert f"glue/listed/{run}" in shown.stdout
    (row,) = json.loads(nexus("jobs", "list", "--run", "costly", "--json").stdout)["jobs"]
    assert (row["key"], row["run"]) == (KEY, "costly")
    assert row["usd"] is not None or row["cost_unknown"] or row["without_price"]
    assert "no job here carries our tags" in nexus("jobs", "list", "--run", "nobody").stdout


def test_ids_that_lead_nowhere_are_errors_in_two_lines() -> None:
    for arguments, kind in (
        (("jobs", "stop", "lambda/x"), UsageError),
        (("jobs", "attach", "processing/nobody"), TrainingError),
        (("jobs", "stop", "glue/nobody/jr_1"), NexusError),
        (("jobs", "attach", "glue/nobody/jr_1", "--budget-usd", "5"), UsageError),
        (("jobs", "attach", "training/nobody", "--budget-usd", "5"), UsageError),
    ):
        error = nexus(*arguments).exception
        assert isinstance(error, kind)
        assert error.what
        assert error.fix


def test_the_recipe_of_a_pipeline_lies_where_its_steps_read_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(RECIPE))
    definition = json.loads(nexus("aws", "pipeline", str(path), "--json", "--upload").stdout)
    (given,) = definition["Steps"][0]["Arguments"]["ProcessingInputs"]
    there = StoredBucket().download(given["S3Input"]["S3Uri"] + "recipe.yaml", tmp_path / "back.yaml")
    assert load_recipe(there) == RECIPE


def test_a_finished_data_artifact_in_the_bucket_is_taken_without_a_second_job(tmp_path: Path) -> None:
    from nexus_llm.cloud.data_submit import AwsDataService

    data = {"engine": "glue", "aws": {"bucket": "models", "role_arn": "arn:aws:iam::123456789012:role/r"}}
    recipe = Recipe.model_validate({**RECIPE.model_dump(), "data": {**RECIPE.data.model_dump(), **data}})
    there = made(tmp_path / "there", "data")
    upload_artifact(there, "s3://models/nexus/artifacts")

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("no job is needed")

    service = AwsDataService(lambda region: account(region, NeverInterrupted()), SilentProgress(), run=refused)
    facts = service.make(recipe, KEY, tmp_path / "here")
    assert facts == there.manifest.facts
    assert (tmp_path / "here" / "content.txt").read_text() == "data"

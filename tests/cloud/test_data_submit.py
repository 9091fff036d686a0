from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from given_account import account_of
from nexus_llm.artifacts import Artifact, load
from nexus_llm.cloud.data_submit import AwsDataService, Submitted, plan_of, submit
from nexus_llm.cloud.data_uploads import upload_artifact
from nexus_llm.data.stage import STAGE
from nexus_llm.errors import DataError, RecipeError
from nexus_llm.ports import Ports, SilentProgress
from nexus_llm.recipe import Recipe, load_recipe
from running_stages import folder_as_artifact, run_stage
from tiny_model import write_tiny_model

KEY = "0123456789abcdef"
ROLE = "arn:aws:iam::123456789012:role/nexus-data"
AWS = {"bucket": "bucket", "role_arn": ROLE, "job_queue": "large", "job_definition": "nexus-data:1"}


def recipe_for(engine: str, *, path: str = "s3://bucket/text/", **aws: Any) -> Recipe:
    source = {"type": "files", "path": path, "name": "own"}
    return Recipe.model_validate(
        {"name": "demo", "data": {"sources": [source], "engine": engine, "aws": {**AWS, **aws}}}
    )


class Recorder:
    """A client whose runs end well at once; notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Any:
        def call(**body: Any) -> Any:
            self.asked.append((operation, body))
            return {
                "JobRunId": "jr_1",
                "JobRun": {"JobRunState": "SUCCEEDED"},
                "applicationId": "app",
                "jobRunId": "run",
                "jobRun": {"state": "SUCCESS", "applicationId": "app", "jobRunId": "run"},
                "jobId": "job",
                "jobs": [{"status": "SUCCEEDED"}],
                "logStreams": [],
            }

        return call


def submitted(recipe: Recipe, folder: Path, **changes: Any) -> tuple[Recorder, dict[str, Path], Any]:
    client, uploads = Recorder(), {}

    def upload(path: Path, url: str) -> str:
        uploads[url] = path
        return url

    account = account_of(lambda _: client)
    done = submit(
        recipe, account, SilentProgress(), key=KEY, folder=folder, upload=upload, is_there=lambda _: True, **changes
    )
    return client, uploads, done


@pytest.mark.parametrize(
    ("engine", "operations", "run"),
    [
        ("glue", ["create_job", "start_job_run", "get_job_run"], "glue/nexus-data-demo/jr_1"),
        (
            "emr-serverless",
            ["create_application", "start_job_run", "get_job_run"],
            "emr-serverless/app/run",
        ),
        ("batch", ["submit_job", "describe_jobs"], "batch/job"),
    ],
)
def test_each_engine_uploads_recipe_and_script_and_runs_to_the_end(
    tmp_path: Path, engine: str, operations: list[str], run: str
) -> None:
    client, uploads, done = submitted(recipe_for(engine), tmp_path)
    assert [operation for operation, _ in client.asked if operation != "describe_log_streams"] == operations
    assert (done.run, done.output) == (run, "s3://bucket/nexus/artifacts")
    assert uploads["s3://bucket/nexus/jobs/glue_job.py"].name == "glue_job.py"
    assert uploads["s3://bucket/nexus/jobs/glue_job.py"].exists()
    assert load_recipe(uploads["s3://bucket/nexus/recipes/demo.yaml"]).data.sources == recipe_for(engine).data.sources


@pytest.mark.parametrize(
    ("engine", "operation", "field"),
    [
        ("glue", "create_job", {"Timeout": 90}),
        ("emr-serverless", "start_job_run", {"executionTimeoutMinutes": 90}),
        ("batch", "submit_job", {"timeout": {"attemptDurationSeconds": 5400}}),
    ],
)
def test_each_engine_ends_the_job_at_its_time_by_itself(
    tmp_path: Path, engine: str, operation: str, field: dict[str, Any]
) -> None:
    client, _, _ = submitted(recipe_for(engine, max_run_hours=1.5), tmp_path)
    body = next(body for name, body in client.asked if name == operation)
    assert body.items() >= field.items()


def test_a_model_in_a_bucket_is_named_to_the_job_and_others_are_left_to_the_recipe() -> None:
    recipe = recipe_for("glue")
    assert plan_of(recipe, KEY).model is None
    stored = recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": "s3://bucket/model/"})})
    assert plan_of(stored, KEY).model == "s3://bucket/model/"


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        (recipe_for("glue", role_arn=None), "data.aws has no role_arn"),
        (recipe_for("batch", job_queue=None), "data.aws has no job_queue"),
        (recipe_for("emr-serverless", path="text/"), "lies at text/"),
    ],
)
def test_what_a_job_cannot_do_without_is_asked_for_before_anything_is_uploaded(
    tmp_path: Path, recipe: Recipe, complaint: str
) -> None:
    with pytest.raises(RecipeError, match=complaint):
        submitted(recipe, tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_a_reason_to_stop_with_the_way_to_build_them(tmp_path: Path) -> None:
    client = Recorder()
    with pytest.raises(RecipeError, match=r"wheels\.zip does not exist"):
        submit(
            recipe_for("glue"),
            account_of(lambda _: client),
            SilentProgress(),
            key=KEY,
            folder=tmp_path,
            upload=lambda _, url: url,
            is_there=lambda _: False,
        )
    assert not client.asked


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return folder_as_artifact("model", write_tiny_model(tmp_path / "model"))


@pytest.fixture
def texts(tmp_path: Path) -> str:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(12):
        text = " ".join(f"word{number * 1_000 + place}" for place in range(60))
        (folder / f"{number:02d}.txt").write_text(text)
    return str(folder)


def service(root: Path, model: Artifact, bucket: str, *, spoil: str = "") -> AwsDataService:
    """A service whose job is the embedded engine, and whose bucket lies in memory."""

    def run(recipe: Recipe, account: Any, progress: Any, *, key: str, folder: Path) -> Submitted:
        local = recipe.model_copy(update={"data": recipe.data.model_copy(update={"engine": "embedded"})})
        made = run_stage(STAGE, local, {"model": model}, root)
        upload_artifact(made, bucket)
        if spoil:
            filesystem = fsspec.filesystem("memory")
            filesystem.pipe(f"{bucket.removeprefix('memory:/')}/data/{made.key}/{spoil}", b"spoiled")
        return Submitted("glue", "glue/demo/jr_1", bucket)

    return AwsDataService(
        lambda _: account_of(lambda _: Recorder()), SilentProgress(), run=run, is_made=lambda _: False
    )


def test_what_a_job_made_is_brought_here_and_is_the_same_artifact(tmp_path: Path, model: Artifact, texts: str) -> None:
    recipe = recipe_for("glue", path=texts)
    ports = Ports(data_service=service(tmp_path / "there", model, "memory://bucket/one"))
    here = run_stage(STAGE, recipe, {"model": model}, tmp_path / "here", ports)
    (there,) = (load(path.parent) for path in (tmp_path / "there").rglob("manifest.json"))
    assert here.id == there.id
    assert here.manifest.facts == there.manifest.facts


def test_a_file_that_changed_on_the_way_is_refused(tmp_path: Path, model: Artifact, texts: str) -> None:
    ports = Ports(
        data_service=service(tmp_path / "there", model, "memory://bucket/two", spoil="train-00000.tokens.npy")
    )
    with pytest.raises(DataError, match=r"train-00000.tokens.npy is not the file that its manifest names"):
        run_stage(STAGE, recipe_for("glue", path=texts), {"model": model}, tmp_path / "here", ports)


def test_without_a_service_the_engine_is_refused_with_a_remedy(tmp_path: Path, model: Artifact, texts: str) -> None:
    with pytest.raises(DataError, match=r"data.engine is glue") as caught:
        run_stage(STAGE, recipe_for("glue", path=texts), {"model": model}, tmp_path / "here")
    assert "data.engine=embedded" in caught.value.fix

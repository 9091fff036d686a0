"""Jobs started, found again, watched and imported: on a fake account, on moto, and against botocore's Stubber."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("botocore.session", reason="needs the aws extra: pip install boto3")

from fake_sagemaker import COMPLETED, FakeAccount, refusal
from given_account import account_of
from nexus_llm.artifacts import Artifact, ArtifactStore, load
from nexus_llm.cli.train_remote import attach_and_import
from nexus_llm.cloud.job_log import JobLog, LogStreams
from nexus_llm.cloud.launcher import follow
from nexus_llm.cloud.sagemaker import SageMakerTrainService, upload_once
from nexus_llm.cloud.sagemaker_errors import ended_badly, error_of, is_missing
from nexus_llm.cloud.sagemaker_training import LOG_GROUP, STATE_WORDS, TrainingJobs
from nexus_llm.cloud.training_result import adopt, unpack
from nexus_llm.errors import NexusError, RecipeError, StorageError, TrainingError, TryAgainError
from nexus_llm.pipeline import Workspace
from nexus_llm.ports import SilentProgress
from nexus_llm.recipe import Recipe, load_recipe
from nexus_llm.train.metrics_line import metrics_line

REGION = "eu-central-1"
KEY = "0123456789abcdef"
SETTINGS = {
    "bucket": "bucket",
    "role_arn": "arn:aws:iam::123456789012:role/nexus-train",
    "image_uri": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/train:1",
}
RECIPE = Recipe.model_validate(
    {"name": "demo", "train": {"launcher": "sagemaker", "max_steps": 4, "sagemaker": SETTINGS}}
)
NAME = "demo-0123456789-1"


class FolderBucket:
    """A `Bucket` in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uploads: list[str] = []

    def path(self, url: str) -> Path:
        return self.root / url.removeprefix("s3://")

    def size(self, url: str) -> int | None:
        path = self.path(url)
        return path.stat().st_size if path.is_file() else None

    def upload(self, local: Path, url: str) -> None:
        self.uploads.append(url)
        self.path(url).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local, self.path(url))

    def download(self, url: str, target: Path) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(self.path(url), target))


class Bar(SilentProgress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.steps, self.notes, self.total = 0.0, [], None

    def start(self, label: str, *, total: float | None, unit: str) -> None:
        self.total, self.steps = total, 0.0

    def advance(self, amount: float, note: str = "") -> None:
        assert amount >= 0
        self.steps += amount
        self.notes.append(note)

    def finish(self, note: str = "") -> None:
        self.notes.append(note)


def artifact(root: Path, kind: str, key: str, **files: str) -> Artifact:
    store = ArtifactStore(root)
    inputs = {"model": "m-id", "data": "d-id"} if kind == "train" else {}
    with store.draft(kind, key, stage_version=1, recipe={}, inputs=inputs) as draft:
        for name, content in files.items():
            (draft.folder / f"{name}.txt").write_text(content)
        (draft.folder / "metrics.jsonl").write_text("{}\n")
        return draft.finish(facts={"steps": 4}, logs=("metrics.jsonl",))


def packed(folder: Path, target: Path) -> Path:
    """A folder as SageMaker packs /opt/ml/model."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    return target


@pytest.fixture(scope="module", autouse=True)
def shelf(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Artifacts that many tests read, made once: every file of them is flushed to the disk."""
    root = tmp_path_factory.mktemp("shelf")
    for kind, key in (("model", "model"), ("data", "data"), ("train", KEY), ("train", "another")):
        World.shelf[key] = artifact(root, kind, key, adapter="learned").folder


class World:
    """A fake account whose jobs put a result into a folder that passes for a bucket."""

    shelf: ClassVar[dict[str, Path]] = {}

    def __init__(self, root: Path, *states: tuple[str, str], reason: str = "", key: str = KEY) -> None:
        self.account = FakeAccount(*states, reason=reason)
        self.bucket = FolderBucket(root / "s3")
        self.bar = Bar()
        self.packed: set[str] = set()
        self.made = load(Path(shutil.copytree(self.shelf[key], root / "there")))
        self.inputs = {kind: self.shelf[kind] for kind in ("model", "data")}
        self.slept: list[float] = []
        self.account.on_state = self._on_state
        self.stop_reason: str | None = None

    def _on_state(self, name: str, state: str) -> None:
        if state == "Training":
            rows = [metrics_line({"step": step, "loss": 3 - step / 10}) for step in range(1, 4)]
            self.account.streams[f"{name}/algo-1-1"] = [(1000 + n, row) for n, row in enumerate(["hello", *rows])]
        if state == "Completed":
            output = self.account.jobs[name]["body"]["OutputDataConfig"]["S3OutputPath"]
            target = self.bucket.path(f"{output}/{name}/output/model.tar.gz")
            if name not in self.packed:
                self.packed.add(name)
                packed(self.made.folder, target)

    @property
    def jobs(self) -> TrainingJobs:
        return TrainingJobs(
            account_of(self.account.client, region=REGION, sleep=self.slept.append, stop_requested=self.asked_to_stop)
        )

    def asked_to_stop(self) -> str | None:
        return self.stop_reason

    def train(self, folder: Path, recipe: Recipe = RECIPE) -> dict[str, Any]:
        service = SageMakerTrainService(lambda _: self.jobs, self.bar, self.bucket)
        return service.train(recipe, self.inputs, KEY, folder)


def test_a_job_is_started_watched_and_its_result_is_the_artifact(tmp_path: Path) -> None:
    world = World(tmp_path)
    facts = world.train(tmp_path / "out")
    assert (tmp_path / "out" / "adapter.txt").read_text() == "learned"
    assert (tmp_path / "out" / "metrics.jsonl").exists()
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert facts["steps"] == 4
    assert facts["job"]["name"] == NAME
    assert (facts["job"]["training_seconds"], facts["job"]["billable_seconds"]) == (400, 100)
    assert world.bar.steps == 3
    assert "training, loss 2.700" in world.bar.notes
    assert "75% saved" in world.bar.notes[-1]
    body = world.account.jobs[NAME]["body"]
    places = {one["ChannelName"]: one["DataSource"]["S3DataSource"]["S3Uri"] for one in body["InputDataConfig"]}
    assert load_recipe(world.bucket.path(places["recipe"] + "recipe.yaml")) == RECIPE
    for kind in ("model", "data"):
        assert load(world.bucket.path(places[kind])).id == load(world.inputs[kind]).id


def test_the_same_command_finds_the_job_that_still_runs(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.stop_reason = "SIGINT"
    with pytest.raises(TryAgainError, match=r"stopped watching.*goes on") as caught:
        world.train(tmp_path / "out")
    assert f"nexus train attach {NAME}" in caught.value.fix
    assert f"nexus train stop {NAME}" in caught.value.fix
    world.stop_reason = None
    world.train(tmp_path / "out")
    assert world.account.calls.count("create_training_job") == 1


def test_a_finished_job_is_imported_and_not_paid_for_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.train(tmp_path / "one")
    world.train(tmp_path / "two")
    assert list(world.account.jobs) == [NAME]
    shutil.rmtree(world.bucket.root / "bucket" / "nexus" / "train")
    world.train(tmp_path / "three")
    assert list(world.account.jobs) == [NAME, "demo-0123456789-2"]


@pytest.mark.parametrize("end", [("Failed", "Failed"), ("Stopped", "Stopped")])
def test_a_failed_attempt_is_followed_by_the_next_at_the_same_checkpoints(tmp_path: Path, end: tuple[str, str]) -> None:
    world = World(tmp_path, ("InProgress", "Training"), end, reason="AlgorithmError: out of memory, exit code: 1")
    with pytest.raises(NexusError):
        world.train(tmp_path / "out")
    world.account.jobs[NAME]["end"] = end
    world.account.states = COMPLETED
    world.train(tmp_path / "out")
    first, second = (world.account.jobs[name]["body"] for name in (NAME, "demo-0123456789-2"))
    assert first["CheckpointConfig"] == second["CheckpointConfig"]
    assert len(world.bucket.uploads) == len(set(world.bucket.uploads)) + 1  # the recipe twice, the artifacts once


def test_a_job_of_other_inputs_is_not_taken_for_ours(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.train(tmp_path / "out")
    world.inputs["data"] = artifact(tmp_path / "changed", "data", "data", content="another text").folder
    world.train(tmp_path / "out2")
    assert list(world.account.jobs) == [NAME, "demo-0123456789-2"]
    checkpoints = {job["body"]["CheckpointConfig"]["S3Uri"] for job in world.account.jobs.values()}
    assert len(checkpoints) == 2


def test_two_laptops_that_start_at_once_watch_one_job(tmp_path: Path) -> None:
    world = World(tmp_path)
    other = World(tmp_path / "other")
    other.train(tmp_path / "other-out")
    world.account.refusals["create_training_job"] = [refusal("ResourceInUse", "names must be unique")]
    world.account.refusals["describe_training_job"] = [refusal("ValidationException", "Requested resource not found.")]
    world.account.jobs[NAME] = {"body": other.account.jobs[NAME]["body"], "at": -1}
    world.train(tmp_path / "out")
    assert world.account.calls.count("create_training_job") == 1


def test_the_wrong_artifact_is_refused_with_its_place(tmp_path: Path) -> None:
    world = World(tmp_path, key="another")
    with pytest.raises(TrainingError, match=rf"{NAME}.*made train another, not train {KEY}"):
        world.train(tmp_path / "out")
    assert not (tmp_path / "out" / "adapter.txt").exists()


def test_a_broken_upload_continues_and_ends_with_the_manifest(tmp_path: Path) -> None:
    bucket = FolderBucket(tmp_path / "s3")
    whole = artifact(tmp_path, "data", "data", a="1", b="22")
    bucket.upload(whole.folder / "a.txt", "s3://b/p/a.txt")
    bucket.path("s3://b/p/b.txt").write_text("2")
    bucket.uploads.clear()
    upload_once(whole, "s3://b/p/", bucket=bucket, progress=SilentProgress())
    assert bucket.uploads == ["s3://b/p/b.txt", "s3://b/p/manifest.json"]
    upload_once(whole, "s3://b/p/", bucket=bucket, progress=SilentProgress())
    assert len(bucket.uploads) == 2


# Watching.


def started(account: FakeAccount, name: str = NAME) -> TrainingJobs:
    account.jobs[name] = {"body": _body(name), "at": -1}
    return TrainingJobs(account_of(account.client, region=REGION, sleep=lambda _: None))


def _body(name: str) -> dict[str, Any]:
    return {
        "TrainingJobName": name,
        "HyperParameters": {"train.max_steps": "100"},
        "AlgorithmSpecification": {"TrainingInputMode": "File"},
        "StoppingCondition": {},
        "OutputDataConfig": {"S3OutputPath": "s3://b/out"},
    }


def test_an_interrupted_job_shows_its_states_and_counts_no_step_twice() -> None:
    account = FakeAccount(
        ("InProgress", "Pending"), ("InProgress", "Training"), ("InProgress", "Interrupted"),
        ("InProgress", "Training"), ("Completed", "Completed"),
    )  # fmt: skip
    lines = iter([["starting"], range(1, 31), [], range(21, 61), []])

    def on_state(name: str, _: str) -> None:
        texts = [one if isinstance(one, str) else metrics_line({"step": one, "loss": 1.0}) for one in next(lines)]
        number = 1 + ("Interrupted" in {second for _, second in account.states[: account.jobs[name]["at"]]})
        stream = account.streams.setdefault(f"{name}/algo-1-{number}", [])
        stream += [(1000 * account.jobs[name]["at"] + n, text) for n, text in enumerate(texts)]

    bar, jobs = Bar(), started(account)
    account.on_state = on_state
    account.states = account.states[:1] + account.states  # the first describe is of `known`
    lines = iter([[], ["starting"], range(1, 31), [], range(21, 61), []])
    found = follow(jobs, NAME, bar)
    assert found.outcome == "done"
    assert (bar.total, bar.steps) == (100, 60)
    said = " | ".join(bar.notes)
    assert "waiting for capacity" in said
    assert "interrupted: waiting for another spot machine" in said


def test_a_busy_service_is_waited_out_and_a_log_that_may_not_be_read_does_not_end_the_watching() -> None:
    account = FakeAccount()
    jobs, bar = started(account), Bar()
    account.on_state = lambda name, _: account.streams.setdefault(f"{name}/algo-1", [(1, metrics_line({"step": 1}))])
    account.refusals["describe_log_streams"] = [refusal("ThrottlingException"), refusal("AccessDeniedException")]
    assert follow(jobs, NAME, bar).outcome == "done"
    assert any("asking again" in note for note in bar.notes)
    assert any("logs:GetLogEvents" in note for note in bar.notes)
    assert "loss 2.500" in bar.notes[-1]  # from SageMaker's own metrics


def test_credentials_that_run_out_end_the_watching_and_say_how_to_go_on() -> None:
    account = FakeAccount()
    jobs = started(account)
    account.refusals["describe_log_streams"] = [refusal("ExpiredTokenException", "The security token is expired")]
    with pytest.raises(StorageError, match="expired") as caught:
        follow(jobs, NAME, Bar())
    assert f"nexus train attach {NAME}" in caught.value.fix


def test_an_unknown_job_is_named_with_its_region() -> None:
    jobs = TrainingJobs(account_of(FakeAccount().client, region=REGION))
    for ask in (lambda: follow(jobs, "nobody", Bar()), lambda: jobs.stop("nobody")):
        with pytest.raises(TrainingError, match="no training job nobody in region eu-central-1"):
            ask()


def test_a_job_is_stopped_once() -> None:
    account = FakeAccount(("InProgress", "Training"))
    jobs = started(account)
    jobs.stop(NAME)
    assert jobs.state(NAME).outcome == "stopped"
    jobs.stop(NAME)
    assert account.calls.count("stop_training_job") == 1


def test_every_state_that_needs_words_is_one_of_the_service() -> None:
    import botocore.session

    known = botocore.session.get_session().get_service_model("sagemaker").shape_for("SecondaryStatus").enum
    assert set(STATE_WORDS) <= set(known)


# The log, on the fake account and on moto.


@pytest.fixture
def moto_account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    moto = pytest.importorskip("moto", reason="needs the dev extra: pip install 'moto[s3]'")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        yield lambda name: boto3.client(name, region_name=REGION)


@pytest.fixture(params=["fake", "moto"])
def printing(request: pytest.FixtureRequest) -> tuple[Any, Callable[[str, list[tuple[int, str]]], None]]:
    """The logs client of an account, and how a job prints there."""
    if request.param == "fake":
        account = FakeAccount()
        return account.client("logs"), lambda stream, rows: account.streams.setdefault(stream, []).extend(rows)
    logs = request.getfixturevalue("moto_account")("logs")

    def put(stream: str, rows: list[tuple[int, str]]) -> None:
        for make, body in (
            (logs.create_log_group, {"logGroupName": LOG_GROUP}),
            (logs.create_log_stream, {"logGroupName": LOG_GROUP, "logStreamName": stream}),
        ):
            try:
                make(**body)
            except logs.exceptions.ResourceAlreadyExistsException:
                continue
        events = [{"timestamp": time, "message": text} for time, text in rows]
        logs.put_log_events(logGroupName=LOG_GROUP, logStreamName=stream, logEvents=events)

    return logs, put


def test_every_line_of_every_stream_is_read_once(printing: Any) -> None:
    from time import time

    logs, put = printing
    now = int(time() * 1000) - 60_000
    log = JobLog(logs, LogStreams(LOG_GROUP, "job/"))
    assert log.new_lines() == []
    put("job/algo-1-1", [(now + 10 * n, f"a{n}") for n in range(5)])
    put("job/algo-2-1", [(now + 10 * n + 5, f"b{n}") for n in range(3)])
    put("job-2/algo-1-1", [(now, "another job's")])
    assert log.new_lines() == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "a4"]
    assert log.new_lines() == []
    put("job/algo-1-1", [(now + 100, "a5")])
    put("job/algo-1-2", [(now + 110, "after an interruption")])
    put("job/algo-2-1", [(now + 120, "b3")])  # the third stream by name: on the second page
    assert log.new_lines() == ["a5", "after an interruption", "b3"]


def test_an_empty_page_is_not_taken_for_the_end() -> None:
    account = FakeAccount()
    account.streams["job/algo-1"] = [(number, str(number)) for number in range(6)]
    account.gaps = {0, 4}
    assert JobLog(account.client("logs"), LogStreams(LOG_GROUP, "job/")).new_lines() == [
        str(number) for number in range(6)
    ]


def test_a_token_that_is_a_day_old_loses_no_line() -> None:
    account = FakeAccount()
    account.streams["job/algo-1"] = [(1, "a"), (2, "b"), (3, "c")]
    log = JobLog(account.client("logs"), LogStreams(LOG_GROUP, "job/"))
    assert log.new_lines() == ["a", "b", "c"]
    account.streams["job/algo-1"] += [(4, "d")]
    account.refusals["get_log_events"] = [refusal("InvalidParameterException", "The token is expired")]
    assert log.new_lines() == ["d"]
    assert log.new_lines() == []


# The fake account against moto, and the calls against botocore's Stubber.


def test_moto_accepts_the_job_and_the_fake_answers_alike(tmp_path: Path, moto_account: Any) -> None:
    world = World(tmp_path)
    for clients in (world.account.client, moto_account):
        jobs = TrainingJobs(account_of(clients, region=REGION, sleep=world.slept.append))
        assert jobs.find(NAME) is None
        service = SageMakerTrainService(lambda _, jobs=jobs: jobs, world.bar, world.bucket)
        artifacts = {kind: load(folder) for kind, folder in world.inputs.items()}
        assert service.start(RECIPE, artifacts, KEY, jobs) == NAME
        found = follow(jobs, NAME, world.bar).answer
        assert found["TrainingJobStatus"] == "Completed"
        assert found["ModelArtifacts"]["S3ModelArtifacts"].endswith(f"/output/{NAME}/output/model.tar.gz")
        assert found["HyperParameters"] == {"train.max_steps": "4"}
        assert found["EnableManagedSpotTraining"] is True


def test_each_call_is_what_botocores_stubber_expects() -> None:
    import boto3
    from botocore.stub import Stubber

    client = boto3.client("sagemaker", region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
    described = FakeAccount(("InProgress", "Training"))
    described.jobs[NAME] = {"body": _body(NAME), "at": -1}
    answer = described.describe_training_job({"TrainingJobName": NAME})
    jobs = TrainingJobs(account_of(lambda _: client, region=REGION))
    with Stubber(client) as stub:
        stub.add_response("describe_training_job", answer, {"TrainingJobName": NAME})
        stub.add_response("stop_training_job", {}, {"TrainingJobName": NAME})
        jobs.stop(NAME)
        stub.add_client_error("create_training_job", "ResourceInUse", "Training job names must be unique")
        jobs.submit({**_body(NAME), "RoleArn": SETTINGS["role_arn"] + "-long-enough"})
        stub.add_client_error("describe_training_job", "ValidationException", "Requested resource not found.")
        assert jobs.find(NAME) is None
        stub.add_client_error("describe_training_job", "ValidationException", "1 validation error detected")
        with pytest.raises(TrainingError, match="1 validation error"):
            jobs.find(NAME)
        stub.assert_no_pending_responses()


# Refusals.

QUOTA = (
    "The account-level service limit 'ml.g5.2xlarge for spot training job usage' is 0 Instances, with current "
    "utilization of 1 Instances and a request delta of 2 Instances. Please use AWS Service Quotas to request an "
    "increase for this quota."
)
ROLE = "Could not assume role arn:aws:iam::1:role/x. Please ensure that the role exists and allows principal …"
PASS = "User: arn:aws:iam::1:user/me is not authorized to perform: iam:PassRole on resource: arn:…"


@pytest.mark.parametrize(
    ("code", "message", "kind", "what", "fix"),
    [
        ("ThrottlingException", "Rate exceeded", TryAgainError, "busy", "later"),
        ("ExpiredTokenException", "expired", StorageError, "who asks", "renew the credentials"),
        ("AccessDeniedException", PASS, StorageError, "not allowed", "iam:PassRole"),
        ("AccessDeniedException", "no", StorageError, "not allowed", "sagemaker:CreateTrainingJob"),
        ("ValidationException", ROLE, RecipeError, "cannot use the role", "sagemaker.amazonaws.com"),
        ("ValidationException", "1 validation error", TrainingError, "1 validation error", "train.sagemaker"),
        ("ResourceLimitExceeded", QUOTA, TrainingError, "to be 3; it is 0, and 1 are in use", "--desired-value 3"),
        ("ResourceLimitExceeded", "too much", TrainingError, "too much", "Service Quotas"),
    ],
)
def test_each_refusal_has_two_lines_and_a_remedy(
    code: str, message: str, kind: type[NexusError], what: str, fix: str
) -> None:
    account = FakeAccount()
    account.refusals["create_training_job"] = [refusal(code, message, "CreateTrainingJob")]
    body = {**_body(NAME), "RoleArn": SETTINGS["role_arn"]}
    with pytest.raises(kind) as caught:
        TrainingJobs(account_of(account.client, region=REGION)).submit(body)
    assert type(caught.value) is kind
    assert what in caught.value.what
    assert fix in caught.value.fix
    assert "\n" not in caught.value.what + caught.value.fix


def test_the_quota_request_is_one_command_that_a_shell_takes() -> None:
    import subprocess

    error = error_of(refusal("ResourceLimitExceeded", QUOTA), "sagemaker:CreateTrainingJob", NAME, region=REGION)
    assert "QuotaName=='ml.g5.2xlarge for spot training job usage'" in error.fix
    script = 'aws() { if [ "$2" = list-service-quotas ]; then echo L-1; else echo "$@"; fi; }\n' + error.fix
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    asked = "service-quotas request-service-quota-increase --service-code sagemaker --region eu-central-1"
    assert done.stdout.split() == [*asked.split(), "--desired-value", "3", "--quota-code", "L-1"]


def test_missing_credentials_region_and_network_are_told_apart() -> None:
    from botocore.exceptions import EndpointConnectionError, NoCredentialsError, NoRegionError

    expected = {
        NoCredentialsError(): (StorageError, "renew the credentials"),
        NoRegionError(): (RecipeError, "train.sagemaker.region"),
        EndpointConnectionError(endpoint_url="https://x"): (TryAgainError, "later"),
    }
    for error, (kind, fix) in expected.items():
        told = error_of(error, "sagemaker:CreateTrainingJob", NAME)
        assert type(told) is kind
        assert fix in told.fix
    with pytest.raises(ZeroDivisionError):
        error_of(ZeroDivisionError(), "a", "b")
    assert not is_missing(refusal("ValidationException", "another"))


@pytest.mark.parametrize(
    ("second", "reason", "kind", "what", "fix"),
    [
        (
            "Failed",
            "AlgorithmError: the loss became nan\nfix: lower it, exit code: 1",
            TrainingError,
            "nan",
            "lower it",
        ),
        ("Failed", "AlgorithmError: , exit code: 75", TryAgainError, "75", "next attempt"),
        (
            "Failed",
            "CapacityError: Unable to provision requested ML compute capacity",
            TryAgainError,
            "Capacity",
            "later",
        ),
        ("Failed", "InternalServerError: We encountered an internal error", TryAgainError, "Internal", "next attempt"),
        ("Failed", f"ResourceLimitExceeded: {QUOTA}", TrainingError, "to be 3", "request-service-quota-increase"),
        ("Failed", "ClientError: no such image", TrainingError, "no such image", "/aws/sagemaker/TrainingJobs"),
        ("MaxRuntimeExceeded", "", TryAgainError, "MaxRuntimeExceeded", "max_run_hours"),
        ("MaxWaitTimeExceeded", "", TryAgainError, "MaxWaitTimeExceeded", "max_wait_hours"),
        ("Stopped", "", TryAgainError, "Stopped", "next attempt"),
    ],
)
def test_each_bad_end_names_its_reason_and_what_to_do(
    second: str, reason: str, kind: type[NexusError], what: str, fix: str
) -> None:
    status = "Failed" if second == "Failed" else "Stopped"
    error = ended_badly("job", {"TrainingJobStatus": status, "SecondaryStatus": second, "FailureReason": reason})
    assert type(error) is kind
    assert what in error.what
    assert fix in error.fix
    assert "\n" not in error.what + error.fix


# The result.


def write_tar(path: Path, *members: tuple[str, bytes | str], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["../out.txt", "/etc/nexus", "a/../../b", "a\\..\\b"])
def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    archive = write_tar(tmp_path / "model.tar.gz", ("fine.txt", b"1"), (name, b"2"))
    with pytest.raises(TrainingError, match="elsewhere"):
        unpack(archive, tmp_path / "in" / "deep")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["fine.txt", "model.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = write_tar(tmp_path / "model.tar.gz", ("link", "/etc/passwd"), ("link", b"overwritten"), kind=kind)
    with pytest.raises(TrainingError, match="no plain file"):
        unpack(archive, tmp_path / "in")


def test_a_bomb_a_twice_named_file_and_a_torn_archive_are_refused(tmp_path: Path) -> None:
    bomb = write_tar(tmp_path / "bomb.tar.gz", ("zeros", bytes(65 * 2**20)))
    twice = write_tar(tmp_path / "twice.tar.gz", ("a", b"1"), ("a", b"2"))
    torn = write_tar(tmp_path / "torn.tar.gz", ("a", json.dumps(list(range(10_000))).encode()))
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    text = tmp_path / "text.tar.gz"
    text.write_text("AccessDenied")
    for archive, words in ((bomb, "50 times"), (twice, "a twice"), (torn, "cut off"), (text, "cut off or no archive")):
        with pytest.raises(TrainingError, match=words):
            unpack(archive, tmp_path / f"in-{archive.name}")


def test_what_sagemaker_packs_is_unpacked_whole(tmp_path: Path) -> None:
    made = artifact(tmp_path, "train", KEY, adapter="learned")
    names = unpack(packed(made.folder, tmp_path / "model.tar.gz"), tmp_path / "in")
    assert {"adapter.txt", "manifest.json", "metrics.jsonl"} <= set(names)
    assert adopt(tmp_path / "in", tmp_path / "out", key=KEY, made_by="it").id == made.id


def test_a_result_without_manifest_or_with_other_bytes_is_refused(tmp_path: Path) -> None:
    made = artifact(tmp_path, "train", KEY, adapter="learned").folder
    (made / "adapter.txt").write_text("altered")
    with pytest.raises(TrainingError, match=r"adapter.txt is not the file"):
        adopt(made, tmp_path / "out", key=KEY, made_by="it")
    (made / "manifest.json").unlink()
    with pytest.raises(TrainingError, match="left no finished artifact"):
        adopt(made, tmp_path / "out", key=KEY, made_by="it")
    assert not (tmp_path / "out").exists()


def test_attach_imports_the_same_artifact_on_a_machine_that_knows_nothing_of_the_job(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.train(tmp_path / "out")
    place = Workspace(root=tmp_path / "elsewhere", cache=tmp_path / "cache")
    for _ in range(2):  # the second time it is there already
        _, made = attach_and_import(NAME, jobs=world.jobs, progress=Bar(), bucket=world.bucket, place=place)
        assert made.id == world.made.id
        assert made.manifest.inputs == world.made.manifest.inputs
        assert (made.folder / "metrics.jsonl").exists()
    assert [path.name for path in (place.root / "artifacts").iterdir()] == ["train"]


def test_attach_to_a_job_that_failed_is_an_error(tmp_path: Path) -> None:
    world = World(tmp_path, ("Failed", "Failed"), reason="AlgorithmError: why\nfix: so")
    with pytest.raises(TrainingError, match="why"):
        world.train(tmp_path / "out")
    place = Workspace(root=tmp_path / "elsewhere", cache=tmp_path / "cache")
    with pytest.raises(TrainingError, match="why"):
        attach_and_import(NAME, jobs=world.jobs, progress=Bar(), bucket=world.bucket, place=place)

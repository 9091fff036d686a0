"""Every kind of job behind the one port: its requests, what its answers mean, and the one loop that follows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

botocore_session = pytest.importorskip("botocore.session", reason="needs the aws extra: pip install boto3")

from botocore.exceptions import ClientError, EndpointConnectionError  # noqa: E402
from botocore.stub import Stubber  # noqa: E402
from botocore.validate import validate_parameters  # noqa: E402

from given_account import account_of  # noqa: E402
from nexus_llm.artifacts import Artifact, Manifest  # noqa: E402
from nexus_llm.cli.job_account import cost_words  # noqa: E402
from nexus_llm.cloud import data_requests, sagemaker_transform  # noqa: E402
from nexus_llm.cloud.account import Spending  # noqa: E402
from nexus_llm.cloud.data_jobs import BatchJobs, EmrRuns, GlueRuns, batch_state, emr_state, glue_state  # noqa: E402
from nexus_llm.cloud.data_requests import CloudDataPlan  # noqa: E402
from nexus_llm.cloud.job_search import SERVICES, launcher_of, our_jobs  # noqa: E402
from nexus_llm.cloud.launcher import JobState, Launcher, follow, job_tags, run_to_end  # noqa: E402
from nexus_llm.cloud.sagemaker_processing import STATUSES, ProcessingJobs, ProcessingPlan, processing_job  # noqa: E402
from nexus_llm.cloud.sagemaker_request import plan_job, training_job  # noqa: E402
from nexus_llm.cloud.sagemaker_training import TrainingJobs, job_state  # noqa: E402
from nexus_llm.cloud.sagemaker_transform import TransformJobs  # noqa: E402
from nexus_llm.errors import (  # noqa: E402
    BudgetError,
    DataError,
    NexusError,
    StorageError,
    TrainingError,
    TryAgainError,
    UsageError,
)
from nexus_llm.ports import SilentProgress  # noqa: E402
from nexus_llm.recipe import Recipe  # noqa: E402
from service_models import assert_accepted  # noqa: E402

REGION, KEY = "eu-central-1", "0123456789abcdef"
ROLE = "arn:aws:iam::123456789012:role/nexus-train"
IMAGE = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/train:1"
RECIPE = Recipe.model_validate(
    {
        "name": "demo",
        "platform": "nexus-small",
        "train": {
            "launcher": "sagemaker",
            "sagemaker": {"bucket": "bucket", "role_arn": ROLE, "image_uri": IMAGE, "instance_type": "ml.m5.2xlarge"},
        },
    }
)
TAGS = job_tags(RECIPE, KEY)
PLAN = CloudDataPlan(
    name="nexus-data-demo",
    recipe="s3://bucket/recipe.yaml",
    output="s3://bucket/artifacts",
    role_arn=ROLE,
    script="s3://bucket/glue_job.py",
    wheels="s3://bucket/wheels.zip",
    tags=TAGS,
    key=KEY,
)
PACKAGE = Artifact(__file__, Manifest(kind="package", key=KEY, id="id", inputs={}, recipe={}, files=(), facts={}))  # type: ignore[arg-type]
TRANSFORM = sagemaker_transform.plan_transform(
    RECIPE, PACKAGE, image=IMAGE, source="s3://bucket/in/", target="s3://bucket/out/", run=1
)
START = datetime(2026, 11, 1, tzinfo=UTC)


def processing_body() -> dict[str, Any]:
    inputs = {kind: f"s3://bucket/{kind}/" for kind in ("recipe", "model", "data", "package")}
    plan = ProcessingPlan("evaluate", inputs=inputs, outputs={"evaluate": "s3://bucket/evaluate/"}, tags=TAGS)
    return {"ProcessingJobName": "demo-evaluate-1", **processing_job(RECIPE, plan)}


def training_body() -> dict[str, Any]:
    ids = {"model": "m", "data": "d"}
    places = {kind: f"s3://bucket/{kind}" for kind in ids}
    return training_job(RECIPE, plan_job(RECIPE, key=KEY, input_ids=ids, locations=places, attempt=1))


def refusal(code: str, message: str = "no") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Some")


class Scripted:
    """Clients of all services whose operations answer from lists; the last answer stays."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = {"describe_log_streams": [{"logStreams": []}]} | answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Any:
        def call(**body: Any) -> Any:
            self.asked.append((operation, body))
            left = self.answers[operation]
            answer = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


class Terminal:
    """Whoever watches: what was shown, how long was waited, and whether Ctrl-C was pressed."""

    def __init__(self, client: Any) -> None:
        self.lines: list[str] = []
        self.slept: list[float] = []
        self.notes: list[str] = []
        self.reason: str | None = None
        self.account = account_of(
            lambda _: client,
            region=REGION,
            sleep=self.slept.append,
            stop_requested=lambda: self.reason,
            show_line=self.lines.append,
            cost_words=cost_words(lambda: "us-east-1"),
        )

    def start(self, label: str, *, total: float | None, unit: str) -> None: ...

    def advance(self, amount: float, note: str = "") -> None:
        self.notes.append(note)

    def finish(self, note: str = "") -> None:
        self.notes.append(note)


def sagemaker_answer(word: str, status: str, **more: Any) -> dict[str, Any]:
    return {f"{word}JobName": "job", f"{word}JobStatus": status, **more}


# What each service says of a job that waits, ends well, fails, and of one that was stopped.
KINDS: dict[str, tuple[type[Launcher], str, str, Any]] = {
    "training": (TrainingJobs, "job", "describe_training_job", lambda s: sagemaker_answer("Training", s)),
    "processing": (ProcessingJobs, "job", "describe_processing_job", lambda s: sagemaker_answer("Processing", s)),
    "transform": (TransformJobs, "job", "describe_transform_job", lambda s: sagemaker_answer("Transform", s)),
    "glue": (GlueRuns, "job/jr_1", "get_job_run", lambda s: {"JobRun": {"JobRunState": s}}),
    "emr-serverless": (
        EmrRuns, "app/run", "get_job_run",
        lambda s: {"jobRun": {"state": s, "applicationId": "app", "jobRunId": "run"}},
    ),
    "batch": (BatchJobs, "id", "describe_jobs", lambda s: {"jobs": [{"status": s}]}),
}  # fmt: skip
WORDS = {
    "training": ("InProgress", "Completed", "Failed"),
    "processing": ("InProgress", "Completed", "Failed"),
    "transform": ("InProgress", "Completed", "Failed"),
    "glue": ("RUNNING", "SUCCEEDED", "FAILED"),
    "emr-serverless": ("RUNNING", "SUCCESS", "FAILED"),
    "batch": ("RUNNING", "SUCCEEDED", "FAILED"),
}
every_service = pytest.mark.parametrize("service", sorted(KINDS))


def watched(service: str, *answers: Any) -> tuple[Launcher, str, Terminal]:
    """A launcher whose service gives these answers: states, or errors."""
    kind, job, operation, answer = KINDS[service]
    client = Scripted(**{operation: [one if isinstance(one, Exception) else answer(one) for one in answers]})
    terminal = Terminal(client)
    return kind(terminal.account), job, terminal


# The loop.


def test_there_is_a_launcher_for_every_service_and_its_ids_lead_back_to_it() -> None:
    account = Terminal(Scripted()).account
    assert set(SERVICES) == set(KINDS)
    for service, (kind, job, _, _) in KINDS.items():
        launcher, name = launcher_of(f"{service}/{job}", account)
        assert (type(launcher), name, launcher.full_id(name)) == (kind, job, f"{service}/{job}")
    assert isinstance(launcher_of("a-training-job", account)[0], TrainingJobs)
    for wrong in ("lambda/x", "glue/"):
        with pytest.raises(UsageError, match="no job's id"):
            launcher_of(wrong, account)
    with pytest.raises(UsageError, match="names no job"):
        GlueRuns(account).describe("only-a-job")


@every_service
def test_throttling_and_a_lost_line_are_waited_out(service: str) -> None:
    waits, done, _ = WORDS[service]
    lost = EndpointConnectionError(endpoint_url="https://example")
    launcher, job, terminal = watched(service, refusal("ThrottlingException"), waits, lost, refusal("Throttling"), done)
    assert run_to_end(launcher, job, terminal).outcome == "done"
    assert any("asking again" in note for note in terminal.notes)
    assert len(terminal.slept) == 4


@every_service
def test_ctrl_c_leaves_the_job_running_and_says_how_to_attach_and_stop(service: str) -> None:
    waits, done, _ = WORDS[service]
    launcher, job, terminal = watched(service, waits, waits, done)
    terminal.reason = "SIGINT"
    with pytest.raises(TryAgainError, match=r"stopped watching .*SIGINT.*goes on") as caught:
        follow(launcher, job, terminal)
    name = job if service == "training" else f"{service}/{job}"
    assert f" attach {name} " in caught.value.fix
    assert f" stop {name} " in caught.value.fix
    terminal.reason = None
    again, same = launcher_of(f"{service}/{job}", terminal.account)
    assert run_to_end(again, same, terminal).outcome == "done"


@every_service
def test_a_refused_describe_and_lost_credentials_end_the_watching(service: str) -> None:
    launcher, job, terminal = watched(service, refusal("AccessDeniedException"))
    with pytest.raises(StorageError, match="not allowed") as caught:
        follow(launcher, job, terminal)
    assert launcher.describe_call in caught.value.fix
    launcher, job, terminal = watched(service, WORDS[service][0], refusal("ExpiredTokenException"))
    with pytest.raises(StorageError, match="who asks") as caught:
        follow(launcher, job, terminal)
    assert " attach " in caught.value.fix


@every_service
def test_a_job_that_fails_names_its_reason_and_its_log(service: str) -> None:
    kind, job, operation, answer = KINDS[service]
    failed = answer(WORDS[service][2])
    target = failed.get("JobRun") or failed.get("jobRun") or (failed["jobs"][0] if "jobs" in failed else failed)
    target |= {
        "FailureReason": "out of disk",
        "ErrorMessage": "out of disk",
        "stateDetails": "out of disk",
        "statusReason": "out of disk",
    }
    terminal = Terminal(Scripted(**{operation: [failed]}))
    with pytest.raises((DataError, TrainingError), match="out of disk") as caught:
        run_to_end(kind(terminal.account), job, terminal)
    assert "log" in caught.value.fix


TRANSFORM_BODY = sagemaker_transform.transform_job(RECIPE, TRANSFORM, instance_type="ml.m5.xlarge")
SUBMITS = {
    "training": ("create_training_job", training_body()),
    "processing": ("create_processing_job", processing_body()),
    "transform": ("create_transform_job", TRANSFORM_BODY),
    "glue": ("start_job_run", data_requests.glue_run(PLAN)),
    "emr-serverless": ("start_job_run", data_requests.emr_run(PLAN, application_id="app", token="t")),
    "batch": ("submit_job", data_requests.batch_run(PLAN, queue="large", definition="nexus")),
}  # fmt: skip


@every_service
def test_a_refused_submit_names_the_missing_action(service: str) -> None:
    operation, body = SUBMITS[service]
    message = "User: arn:aws:iam::1:user/me is not authorized to perform: iam:PassRole on resource: x"
    for text, action in ((message, "iam:PassRole"), ("no", ":")):
        terminal = Terminal(Scripted(**{operation: [refusal("AccessDeniedException", text)]}))
        with pytest.raises(StorageError, match="not allowed") as caught:
            KINDS[service][0](terminal.account).submit(body)
        assert action in caught.value.fix


@pytest.mark.parametrize(
    ("service", "operation", "asked"),
    [
        ("training", "stop_training_job", {"TrainingJobName": "job"}),
        ("processing", "stop_processing_job", {"ProcessingJobName": "job"}),
        ("transform", "stop_transform_job", {"TransformJobName": "job"}),
        ("glue", "batch_stop_job_run", {"JobName": "job", "JobRunIds": ["jr_1"]}),
        ("emr-serverless", "cancel_job_run", {"applicationId": "app", "jobRunId": "run"}),
        ("batch", "terminate_job", {"jobId": "id", "reason": "nexus jobs stop"}),
    ],
)
def test_each_job_is_stopped_by_its_own_call(service: str, operation: str, asked: dict[str, Any]) -> None:
    launcher, job, _ = watched(service, WORDS[service][0])
    client = launcher.account.client("any")
    client.answers[operation] = [{}]
    launcher.stop(job)
    assert (operation, asked) in client.asked
    name = {"emr-serverless": "emr-serverless", "glue": "glue", "batch": "batch"}.get(service, "sagemaker")
    method = "".join(part.capitalize() for part in operation.split("_"))
    shape = botocore_session.get_session().get_service_model(name).operation_model(method).input_shape
    validate_parameters(asked, shape)


def test_a_glue_run_that_glue_does_not_stop_is_told_unless_it_has_ended() -> None:
    for code, is_error in (("EntityNotFoundException", True), ("InvalidJobRunStateException", False)):
        answer = {"Errors": [{"ErrorDetail": {"ErrorCode": code, "ErrorMessage": "about it"}}]}
        glue = GlueRuns(Terminal(Scripted(batch_stop_job_run=[answer])).account)
        if is_error:
            with pytest.raises(DataError, match="about it"):
                glue.stop("job/jr_1")
        else:
            glue.stop("job/jr_1")


def test_the_lines_of_a_data_job_are_shown_once_and_polls_come_often_while_it_prints() -> None:
    events = [[(1, "reading")], [(2, "cleaning")], [], [], []]
    pages: list[Any] = []
    for number, page in enumerate(events, start=1):
        rows = [{"timestamp": time, "message": f"{text}\n"} for time, text in page]
        pages += [{"events": rows, "nextForwardToken": f"f/{number}"}] * (2 if number == 1 else 1)
        if number > 1:
            pages.append({"events": [], "nextForwardToken": f"f/{number}"})
    pages[1] = {"events": [], "nextForwardToken": "f/1"}
    launcher, job, terminal = watched("glue", *["RUNNING"] * 4, "SUCCEEDED")
    client = launcher.account.client("logs")
    client.answers |= {
        "describe_log_streams": [{"logStreams": [{"logStreamName": "jr_1"}]}],
        "get_log_events": pages,
    }
    follow(launcher, job, terminal)
    assert terminal.lines == ["reading", "cleaning"]
    assert terminal.slept == [5.0, 5.0, 7.5, 11.25]
    group = next(body for name, body in client.asked if name == "get_log_events")["logGroupName"]
    assert group == "/aws-glue/jobs/output"


# What a job may cost.

STOPS = {
    "training": "stop_training_job",
    "processing": "stop_processing_job",
    "transform": "stop_transform_job",
    "glue": "batch_stop_job_run",
    "emr-serverless": "cancel_job_run",
    "batch": "terminate_job",
}


@every_service
def test_a_job_that_has_cost_what_it_may_cost_is_stopped_even_when_aws_is_busy_at_first(service: str) -> None:
    launcher, job, terminal = watched(service, WORDS[service][0])
    asked: list[str] = []

    def spending(full_id: str, state: JobState) -> Spending:
        asked.append(full_id)
        return Spending(f"{len(asked)} of 3 USD", is_over=len(asked) >= 3)

    watch = dataclasses.replace(terminal.account.watch, spending=spending)
    launcher = type(launcher)(dataclasses.replace(terminal.account, watch=watch))
    client = launcher.account.client("any")
    client.answers[STOPS[service]] = [refusal("ThrottlingException"), {}]
    with pytest.raises(BudgetError, match="asked to stop: 4 of 3 USD") as caught:
        follow(launcher, job, terminal)
    assert "--budget-usd" in caught.value.fix
    assert set(asked) == {f"{service}/{job}"}
    assert [name for name, _ in client.asked].count(STOPS[service]) == 2
    assert any(note.endswith("2 of 3 USD") for note in terminal.notes)
    assert terminal.slept == [5.0, 7.5, 11.25]  # what a job costs is no news that would shorten the pauses


def test_each_service_says_since_when_a_running_job_is_paid_for() -> None:
    start = START.timestamp()
    assert glue_state({"JobRunState": "RUNNING", "StartedOn": START}, "jr_1").started_at == start
    emr = {"state": "RUNNING", "applicationId": "a", "jobRunId": "r", "startedAt": START}
    assert emr_state(emr).started_at == start
    milliseconds = round(start * 1000)
    first, second = milliseconds, milliseconds + 3_600_000
    batch = {"status": "RUNNING", "startedAt": second, "attempts": [{"startedAt": first, "stoppedAt": second}]}
    assert batch_state(batch).started_at == start  # the first attempt is paid for too
    assert job_state(sagemaker_answer("Training", "InProgress", TrainingStartTime=START)).started_at == start
    assert batch_state({"status": "RUNNABLE"}).started_at is None


# Requests.


def tags_of(body: dict[str, Any]) -> dict[str, str]:
    tags = body.get("Tags") or body.get("tags")
    return {one["Key"]: one["Value"] for one in tags} if isinstance(tags, list) else dict(tags)


def test_every_request_carries_run_artifact_and_platform() -> None:
    assert set(TAGS.items()) >= {("recipe", "demo"), ("nexus:key", KEY), ("platform", "nexus-small")}
    bodies = [body for service, (_, body) in SUBMITS.items() if service != "glue"]
    bodies += [sagemaker_transform.model_body(RECIPE, TRANSFORM), data_requests.emr_application(PLAN)]
    assert all(tags_of(body).items() >= TAGS.items() for body in bodies)
    glue = data_requests.glue_job(PLAN)
    assert tags_of(glue) == {name: value for name, value in TAGS.items() if name != "nexus:key"}
    assert data_requests.glue_run(PLAN)["Arguments"]["--NEXUS_KEY"] == KEY


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("CreateProcessingJob", processing_body()),
        ("CreateModel", sagemaker_transform.model_body(RECIPE, TRANSFORM)),
        ("CreateTransformJob", SUBMITS["transform"][1]),
    ],
)
def test_the_new_requests_are_what_the_service_model_accepts(operation: str, body: dict[str, Any]) -> None:
    shape = botocore_session.get_session().get_service_model("sagemaker").operation_model(operation).input_shape
    validate_parameters(body, shape)
    assert_accepted(body, shape)


def test_an_evaluation_reads_only_its_inputs_and_keys_and_network_go_along() -> None:
    settings = {**RECIPE.train.sagemaker.model_dump(), "kms_key_id": "alias/k", "subnets": ["subnet-1"]}
    settings["security_group_ids"] = ["sg-1"]
    train = {**RECIPE.train.model_dump(), "sagemaker": settings}
    recipe = Recipe.model_validate({**RECIPE.model_dump(), "train": train})
    plan = ProcessingPlan("evaluate", inputs={}, outputs={"evaluate": "s3://b/e/"}, tags=TAGS)
    body = processing_job(recipe, plan)
    assert body["NetworkConfig"]["EnableNetworkIsolation"] is True
    assert body["NetworkConfig"]["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert body["ProcessingOutputConfig"]["KmsKeyId"] == "alias/k"
    assert body["ProcessingResources"]["ClusterConfig"]["VolumeKmsKeyId"] == "alias/k"
    assert body["AppSpecification"]["ContainerArguments"] == ["evaluate"]


def test_transform_asks_the_serve_image_as_it_is_started_there_and_refuses_other_places() -> None:
    model = sagemaker_transform.model_body(RECIPE, TRANSFORM)["PrimaryContainer"]
    assert model["ModelDataUrl"].endswith("/model.tar.gz")
    assert model["Environment"]["NEXUS_SAGEMAKER_PORT"] == "8080"
    with pytest.raises(UsageError, match="--input here is in no bucket"):
        sagemaker_transform.plan_transform(RECIPE, PACKAGE, image=IMAGE, source="here", target="s3://b/", run=1)


# What is billed.


def used(state: JobState) -> dict[str, float]:
    return {f"{one.service} {one.sku}": round(one.amount, 4) for one in state.usage}


def test_training_is_billed_by_the_seconds_that_spot_leaves_on_every_machine() -> None:
    answer = sagemaker_answer("Training", "Completed", BillableTimeInSeconds=900, TrainingTimeInSeconds=3600)
    state = job_state(answer | {"ResourceConfig": {"InstanceType": "ml.g5.2xlarge", "InstanceCount": 2}})
    assert used(state) == {"sagemaker ml.g5.2xlarge training": 0.5}
    assert "75% saved" in state.ending
    assert cost_words(lambda: "us-east-1")(state) == "0.76 USD (prices of 2026-11-21)"


@pytest.mark.parametrize(
    ("run", "hours", "words"),
    [
        ({"DPUSeconds": 7200.0, "ExecutionTime": 600}, {"glue dpu": 2.0}, "0.88 USD (prices of 2025-07-01)"),
        ({"ExecutionTime": 1800, "WorkerType": "G.2X", "NumberOfWorkers": 10}, {"glue dpu": 10.0}, "4.40 USD"),
        ({"ExecutionTime": 5, "MaxCapacity": 60.0}, {"glue dpu": 1.0}, "0.44 USD"),
        ({"DPUSeconds": 3600.0, "ExecutionClass": "FLEX"}, {"glue dpu flex": 1.0}, "no price of glue dpu flex"),
        ({}, {}, "cost not known: Glue has not said"),
    ],
)
def test_glue_is_billed_by_dpu_hours(run: dict[str, Any], hours: dict[str, float], words: str) -> None:
    state = glue_state({"JobRunState": "SUCCEEDED", **run}, "jr_1")
    assert used(state) == hours
    assert words in cost_words(lambda: "us-east-1")(state)


def test_emr_serverless_is_billed_by_what_it_bills_else_by_what_it_used() -> None:
    base = {"state": "SUCCESS", "applicationId": "a", "jobRunId": "r"}
    total = {"vCPUHour": 9.0, "memoryGBHour": 36.0, "storageGBHour": 0.0}
    billed = {"vCPUHour": 10.0, "memoryGBHour": 40.0, "storageGBHour": 5.0}
    state = emr_state({**base, "totalResourceUtilization": total, "billedResourceUtilization": billed})
    names = [f"emr-serverless {one}" for one in ("vcpu", "memory", "storage")]
    assert used(state) == dict(zip(names, (10.0, 40.0, 5.0), strict=True))
    assert cost_words(lambda: "us-east-1")(state) == ("0.76 USD (prices of 2025-07-01, without emr-serverless storage)")
    assert "not yet billed" in emr_state({**base, "totalResourceUtilization": total}).unbilled
    assert "has not said" in emr_state(base).unbilled


def test_batch_on_fargate_is_billed_by_all_attempts_and_on_machines_it_cannot_be_known() -> None:
    needs = [{"type": "VCPU", "value": "4"}, {"type": "MEMORY", "value": "8192"}]
    job = {"status": "SUCCEEDED", "platformCapabilities": ["FARGATE"], "container": {"resourceRequirements": needs}}
    hour = 3_600_000
    attempts = [{"startedAt": 0 + hour, "stoppedAt": hour + 1_000}, {"startedAt": 2 * hour, "stoppedAt": 3 * hour}]
    hours = 1 + 1 / 60  # the first attempt lasted a second, and a minute is billed
    assert used(batch_state({**job, "attempts": attempts})) == {
        "fargate vcpu": round(4 * hours, 4),
        "fargate memory": round(8 * hours, 4),
    }
    state = batch_state({**job, "platformCapabilities": ["EC2"], "attempts": attempts})
    assert state.usage == ()
    assert "other jobs may share" in cost_words(lambda: "us-east-1")(state)
    assert batch_state({"status": "FAILED", "isTerminated": True}).outcome == "stopped"


def test_processing_and_transform_are_billed_from_start_to_end() -> None:
    times = {"ProcessingStartTime": START, "ProcessingEndTime": START + timedelta(minutes=30)}
    resources = {"ProcessingResources": {"ClusterConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1}}}
    answer = sagemaker_answer("Processing", "Completed", ExitMessage="a\nb", FailureReason="c", **times, **resources)
    launcher = ProcessingJobs(Terminal(Scripted(describe_processing_job=[answer])).account)
    state = launcher.state("job")
    assert used(state) == {"sagemaker ml.m5.xlarge processing": 0.5}
    assert state.reason == "a b; c"
    assert "no price of sagemaker ml.m5.xlarge processing" in cost_words(lambda: "us-east-1")(state)
    assert launcher.find("job") == state
    gone = ProcessingJobs(
        Terminal(Scripted(describe_processing_job=[refusal("ValidationException", "not found")])).account
    )
    assert gone.find("job") is None
    with pytest.raises(TrainingError, match="no processing job job in region eu-central-1"):
        gone.state("job")


def test_every_status_of_processing_and_transform_means_something_here() -> None:
    model = botocore_session.get_session().get_service_model("sagemaker")
    for name in ("ProcessingJobStatus", "TransformJobStatus"):
        assert set(model.shape_for(name).enum) - set(STATUSES) == {"InProgress", "Stopping"}


# The answers' shapes, by botocore's stubber; acceptance, by moto.


def test_describe_answers_have_the_shapes_that_botocore_knows() -> None:
    import boto3

    def stubbed(service: str) -> tuple[Any, Stubber]:
        client = boto3.client(service, region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
        return client, Stubber(client)

    glue, stub = stubbed("glue")
    run = {"Id": "jr_1", "JobRunState": "TIMEOUT", "DPUSeconds": 3600.0, "LogGroupName": "/aws-glue/jobs-secure/"}
    stub.add_response("get_job_run", {"JobRun": run}, {"JobName": "job", "RunId": "jr_1"})
    with stub:
        state = GlueRuns(Terminal(glue).account).state("job/jr_1")
    assert (state.outcome, str(state.streams)) == (
        "late",
        "CloudWatch group /aws-glue/jobs-secure/output, streams jr_1…",
    )
    emr, stub = stubbed("emr-serverless")
    live = {"enabled": True, "logGroupName": "/aws/emr-serverless/nexus", "logStreamNamePrefix": "nexus-t"}
    run = {
        "applicationId": "00abc", "jobRunId": "00run",
            "arn": f"arn:aws:emr-serverless:{REGION}:123456789012:/applications/00abc",
        "createdBy": "x" * 20, "createdAt": START, "updatedAt": START, "executionRole": ROLE, "state": "SUCCESS",
        "stateDetails": "ended", "releaseLabel": "emr-7.9.0", "jobDriver": {"sparkSubmit": {"entryPoint": "s3://b/j.py"}},
        "configurationOverrides": {"monitoringConfiguration": {"cloudWatchLoggingConfiguration": live}},
        "billedResourceUtilization": {"vCPUHour": 1.0, "memoryGBHour": 4.0, "storageGBHour": 0.0}, "tags": TAGS,
    }  # fmt: skip
    stub.add_response("get_job_run", {"jobRun": run}, {"applicationId": "00abc", "jobRunId": "00run"})
    with stub:
        state = EmrRuns(Terminal(emr).account).state("00abc/00run")
    assert state.streams is not None
    assert (state.outcome, state.streams.prefix, state.tags["nexus:key"]) == ("done", "nexus-t", KEY)
    batch, stub = stubbed("batch")
    job = {
        "jobName": "n", "jobId": "id", "jobQueue": "q", "status": "FAILED", "startedAt": 1, "jobDefinition": "d",
        "container": {
            "logStreamName": "s/1", "reason": "exit 1",
            "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "/aws/batch/nexus"}},
        },
    }  # fmt: skip
    stub.add_response("describe_jobs", {"jobs": [job]}, {"jobs": ["id"]})
    with stub:
        state = BatchJobs(Terminal(batch).account).state("id")
    assert (state.outcome, state.reason, state.log) == (
        "failed",
        "exit 1",
        "CloudWatch group /aws/batch/nexus, stream s/1",
    )


@pytest.fixture(scope="module")
def moto_account() -> Iterator[Any]:
    moto = pytest.importorskip("moto", reason="needs the dev extra: pip install 'moto[batch,glue,s3]'")
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "testing")
        with moto.mock_aws(config={"batch": {"use_docker": False}}):
            clients: dict[str, Any] = {}
            yield lambda name: clients.setdefault(name, boto3.client(name, region_name=REGION))


def test_moto_accepts_every_kind_of_sagemaker_job_and_our_tags_find_them_again(moto_account: Any) -> None:
    account = account_of(moto_account, region=REGION, sleep=lambda _: None)
    transform = TransformJobs(account)
    transform.make_model(sagemaker_transform.model_body(RECIPE, TRANSFORM))
    transform.submit(SUBMITS["transform"][1])
    TrainingJobs(account).submit(training_body())
    processing = ProcessingJobs(account)
    job = processing.submit(processing_body())
    assert run_to_end(processing, job, SilentProgress()).outcome == "done"
    GlueRuns(account).put_job(PLAN)
    run = GlueRuns(account).submit(data_requests.glue_run(PLAN))
    moto_account("sagemaker").create_training_job(**{
        **training_body(), "TrainingJobName": "of-somebody-else", "Tags": [{"Key": "project", "Value": "other"}],
    })  # fmt: skip
    found = dict(our_jobs(account))
    assert {"training/demo-0123456789-1", "processing/demo-evaluate-1", "transform/demo-transform-0123456789-1"} <= set(
        found
    )
    assert f"glue/{run}" in found
    assert not any("somebody" in name for name in found)
    assert all(state.tags["nexus:key"] == KEY for state in found.values())
    assert our_jobs(account, run="another") == []
    assert our_jobs(account, key="another") == []
    processing.stop(job)
    with pytest.raises(NexusError):
        processing.state("nobody")


def test_jobs_of_emr_and_batch_are_found_by_their_arns_and_what_is_gone_is_left_out() -> None:
    tags = [{"Key": name, "Value": value} for name, value in TAGS.items()]
    arns = [
        f"arn:aws:emr-serverless:{REGION}:123456789012:/applications/app/jobruns/run",
        f"arn:aws:batch:{REGION}:123456789012:job/id-1",
        f"arn:aws:sagemaker:{REGION}:123456789012:training-job/gone",
        f"arn:aws:sagemaker:{REGION}:123456789012:model/no-job",
        "arn:aws:s3:::bucket",
    ]

    class Tagged(Scripted):
        def get_paginator(self, _: str) -> Any:
            return self

        def paginate(self, **body: Any) -> Any:
            self.asked.append(("paginate", body))
            return [{"ResourceTagMappingList": [{"ResourceARN": arn, "Tags": tags} for arn in arns]}]

    client = Tagged(
        get_job_run=[KINDS["emr-serverless"][3]("RUNNING")],
        describe_jobs=[KINDS["batch"][3]("SUCCEEDED")],
        describe_training_job=[refusal("ValidationException", "Requested resource not found.")],
    )
    found = our_jobs(account_of(lambda _: client), run="demo")
    assert [name for name, _ in found] == ["batch/id-1", "emr-serverless/app/run"]
    filters = client.asked[0][1]["TagFilters"]
    assert {"Key": "recipe", "Values": ["demo"]} in filters

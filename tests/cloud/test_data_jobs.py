from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

botocore_session = pytest.importorskip("botocore.session", reason="needs the aws extra: pip install boto3")

from botocore.exceptions import ClientError  # noqa: E402
from botocore.validate import validate_parameters  # noqa: E402

from given_account import account_of  # noqa: E402
from nexus_llm.cloud import data_requests  # noqa: E402
from nexus_llm.cloud.account import Account  # noqa: E402
from nexus_llm.cloud.data_jobs import (  # noqa: E402
    BATCH_STATES,
    EMR_STATES,
    GLUE_STATES,
    BatchJobs,
    EmrRuns,
    GlueRuns,
    put_table,
)
from nexus_llm.cloud.data_requests import CloudDataPlan  # noqa: E402
from nexus_llm.cloud.launcher import JobState, failure, run_to_end, waits  # noqa: E402
from nexus_llm.errors import DataError, NexusError, StorageError, TryAgainError  # noqa: E402
from nexus_llm.ports import SilentProgress  # noqa: E402

REGION = "eu-central-1"
ROLE = "arn:aws:iam::123456789012:role/nexus-data"
PLAN = CloudDataPlan(
    name="nexus-data-demo",
    recipe="s3://bucket/recipes/demo.yaml",
    output="s3://bucket/artifacts/",
    role_arn=ROLE,
    script="s3://bucket/jobs/glue_job.py",
    wheels="s3://bucket/jobs/wheels.zip",
    model="s3://bucket/models/small/",
    security_configuration="nexus-encryption",
    logs="s3://bucket/logs/",
    tags={"project": "nexus"},
)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """boto3 clients of an emulated account."""
    moto = pytest.importorskip("moto", reason="needs the dev extra: pip install 'moto[batch,glue,s3]'")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws(config={"batch": {"use_docker": False}}):
        clients: dict[str, Any] = {}
        yield lambda name: clients.setdefault(name, boto3.client(name, region_name=REGION))


def at(client: Any, **changes: Any) -> tuple[Account, list[float]]:
    """The account with a clock that only notes how long it would have slept."""
    slept: list[float] = []
    return account_of(client, sleep=slept.append, **changes), slept


def run_glue(client: Any, **changes: Any) -> list[float]:
    """Runs the plan on Glue to its end; gives what was waited."""
    account, slept = at(lambda name: NoLogs() if name == "logs" else client, **changes)
    glue = GlueRuns(account)
    run_to_end(glue, glue.submit(data_requests.glue_run(PLAN)), SilentProgress())
    return slept


class NoLogs:
    """CloudWatch before a job's first line."""

    def describe_log_streams(self, **_: Any) -> Any:
        return {"logStreams": []}


class Scripted:
    """A client whose operations answer from a list."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers

    def __getattr__(self, operation: str) -> Any:
        def call(**_: Any) -> Any:
            answer = self.answers[operation].pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def refusal(code: str, operation: str = "StartJobRun") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": f"about {code}"}}, operation)


def glue_that_answers(*states: Any) -> Scripted:
    answers = [one if isinstance(one, Exception) else {"JobRun": one} for one in states]
    return Scripted(start_job_run=[{"JobRunId": "jr_1"}], get_job_run=answers)


@pytest.mark.parametrize(
    ("service", "operation", "body"),
    [
        ("glue", "CreateJob", data_requests.glue_job(PLAN)),
        ("glue", "CreateJob", data_requests.glue_job(dataclasses.replace(PLAN, is_flexible=True, logs=None))),
        ("glue", "UpdateJob", data_requests.glue_job_update(PLAN)),
        ("glue", "StartJobRun", data_requests.glue_run(PLAN)),
        (
            "glue",
            "CreateTable",
            {
                "DatabaseName": "nexus",
                "TableInput": data_requests.catalog_table("demo", location="s3://b/p/", artifact_id="1"),
            },
        ),
        (
            "emr-serverless",
            "CreateApplication",
            {**data_requests.emr_application(PLAN), "clientToken": "t"},
        ),
        ("emr-serverless", "StartJobRun", data_requests.emr_run(PLAN, application_id="00abc", token="t")),
        ("batch", "SubmitJob", data_requests.batch_run(PLAN, queue="large", definition="nexus-data-demo:3")),
    ],
)
def test_every_request_is_one_that_the_service_model_accepts(
    service: str, operation: str, body: dict[str, Any]
) -> None:
    model = botocore_session.get_session().get_service_model(service).operation_model(operation)
    validate_parameters(body, model.input_shape)  # types, names and required members
    for name, value in body.items():
        allowed = getattr(model.input_shape.members[name], "enum", None)
        assert not allowed or value in allowed, f"{name}={value!r} is none of {allowed}"


def test_every_final_state_of_the_service_models_means_something_here() -> None:
    session = botocore_session.get_session()
    glue = set(session.get_service_model("glue").shape_for("JobRunState").enum)
    emr = set(session.get_service_model("emr-serverless").shape_for("JobRunState").enum)
    batch = set(session.get_service_model("batch").shape_for("JobStatus").enum)
    assert glue - set(GLUE_STATES) == {"STARTING", "RUNNING", "STOPPING", "WAITING"}
    assert emr - set(EMR_STATES) == {"SUBMITTED", "PENDING", "SCHEDULED", "RUNNING", "CANCELLING", "QUEUED"}
    assert batch - set(BATCH_STATES) == {"SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING"}
    assert set(GLUE_STATES) <= glue
    assert set(EMR_STATES) <= emr
    assert set(BATCH_STATES) <= batch


def test_the_worker_sizes_are_types_that_glue_has() -> None:
    known = botocore_session.get_session().get_service_model("glue").shape_for("WorkerType").enum
    assert set(data_requests.GLUE_WORKERS) <= set(known)


def test_glue_is_told_the_whole_plan() -> None:
    body = data_requests.glue_job(PLAN)
    assert (body["GlueVersion"], body["WorkerType"], body["NumberOfWorkers"]) == ("5.0", "G.2X", 10)
    assert body["SecurityConfiguration"] == "nexus-encryption"
    assert body["Command"]["ScriptLocation"] == PLAN.script
    arguments = body["DefaultArguments"]
    assert arguments["--RECIPE"] == PLAN.recipe
    assert arguments["--additional-python-modules"] == PLAN.wheels
    assert data_requests.glue_job(dataclasses.replace(PLAN, is_flexible=True))["ExecutionClass"] == "FLEX"
    assert "SecurityConfiguration" not in data_requests.glue_job(dataclasses.replace(PLAN, security_configuration=None))


def test_emr_runs_our_python_on_driver_and_executors() -> None:
    submit = data_requests.emr_run(PLAN, application_id="a", token="t")["jobDriver"]["sparkSubmit"]
    assert submit["entryPointArguments"][:2] == ["--JOB_NAME", PLAN.name]
    assert f"spark.archives={PLAN.wheels}#environment" in submit["sparkSubmitParameters"]
    for name in ("driverEnv.PYSPARK_DRIVER_PYTHON", "driverEnv.PYSPARK_PYTHON", "executorEnv.PYSPARK_PYTHON"):
        assert f"{name}=./environment/bin/python" in submit["sparkSubmitParameters"]


def test_a_glue_job_is_made_brought_up_to_date_and_run_to_its_end(account: Any) -> None:
    edge, slept = at(account)
    glue = GlueRuns(edge)
    glue.put_job(PLAN)
    glue.put_job(dataclasses.replace(PLAN, workers=4))
    job = glue.submit(data_requests.glue_run(PLAN))
    assert run_to_end(glue, job, SilentProgress()).state == "SUCCEEDED"
    assert job.startswith(f"{PLAN.name}/")
    assert len(slept) < 5


def test_the_documents_become_a_table_that_follows_the_newest_artifact(account: Any) -> None:
    for number in (1, 2):
        put_table(account("glue"), "nexus", "demo", location=f"s3://bucket/{number}/", artifact_id=f"id-{number}")
    table = account("glue").get_table(DatabaseName="nexus", Name="demo")["Table"]
    assert table["StorageDescriptor"]["Location"] == "s3://bucket/2/"
    assert table["Parameters"]["nexus.artifact_id"] == "id-2"
    assert [column["Name"] for column in table["StorageDescriptor"]["Columns"]][:2] == ["ordinal", "id"]


def test_an_emr_run_is_started_on_a_new_application_and_read_back(account: Any) -> None:
    class Finished:
        """moto's runs never leave RUNNING; the real service ends them."""

        def __init__(self, real: Any) -> None:
            self.real, self.requests = real, []

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def get_job_run(self, **body: Any) -> Any:
            answer = self.real.get_job_run(**body)
            self.requests.append(answer["jobRun"]["jobDriver"])
            answer["jobRun"]["state"] = "SUCCESS"
            return answer

    emr = Finished(account("emr-serverless"))
    launcher = EmrRuns(at(lambda name: NoLogs() if name == "logs" else emr)[0])
    made = launcher.make_application(PLAN)
    job = launcher.submit(data_requests.emr_run(PLAN, application_id=made, token="t"))
    assert run_to_end(launcher, job, SilentProgress()).state == "SUCCESS"
    assert emr.requests[0]["sparkSubmit"]["entryPoint"] == PLAN.script
    (application,) = account("emr-serverless").list_applications()["applications"]
    assert application["releaseLabel"] == data_requests.EMR_RELEASE


def test_a_batch_job_runs_the_same_script_on_one_machine() -> None:
    command = data_requests.batch_run(PLAN, queue="large", definition="d")["containerOverrides"]["command"]
    assert command[:3] == ["python", "-m", "nexus_llm.cli.glue_job"]
    assert command[command.index("--RECIPE") + 1] == PLAN.recipe
    assert command[-2:] == ["--ENGINE", "embedded"]


def test_a_batch_job_is_followed_to_its_end() -> None:
    states = ["SUBMITTED", "RUNNABLE", "RUNNING", "SUCCEEDED"]
    batch = Scripted(
        submit_job=[{"jobId": "j-1"}],
        describe_jobs=[{"jobs": [{"status": state, "container": {}}]} for state in states],
    )
    edge, slept = at(lambda _: batch)
    launcher = BatchJobs(edge)
    job = launcher.submit(data_requests.batch_run(PLAN, queue="large", definition="nexus"))
    assert (job, run_to_end(launcher, job, SilentProgress()).state) == ("j-1", "SUCCEEDED")
    assert len(slept) == 3


def test_a_failed_run_names_its_reason_and_its_log() -> None:
    glue = glue_that_answers(
        {"JobRunState": "RUNNING"},
        {"JobRunState": "FAILED", "ErrorMessage": "out of disk", "LogGroupName": "/aws-glue/jobs"},
    )
    with pytest.raises(DataError) as caught:
        run_glue(glue)
    assert "jr_1" in caught.value.what
    assert "out of disk" in caught.value.what
    assert "/aws-glue/jobs/error" in caught.value.fix


@pytest.mark.parametrize(("outcome", "kind"), [("stopped", TryAgainError), ("late", DataError), ("failed", DataError)])
def test_each_bad_end_has_its_exit_code(outcome: Any, kind: type[NexusError]) -> None:
    error = failure("run 1", JobState("X", outcome, " why\n", "group"))
    assert isinstance(error, kind)
    assert error.what == "run 1 ended as X: why"


def test_a_busy_service_is_asked_again_and_a_refusal_is_not() -> None:
    busy = glue_that_answers(refusal("ThrottlingException"), {"JobRunState": "SUCCEEDED"})
    assert run_glue(busy) == [5.0]
    refused = glue_that_answers(refusal("AccessDeniedException", "GetJobRun"))
    with pytest.raises(StorageError, match="jr_1"):
        run_glue(refused)


def test_a_second_run_of_one_job_is_a_reason_to_try_again() -> None:
    glue = Scripted(start_job_run=[refusal("ConcurrentRunsExceededException")])
    with pytest.raises(TryAgainError, match="glue:StartJobRun"):
        run_glue(glue)


def test_somebody_who_stops_waiting_is_told_that_the_run_goes_on() -> None:
    glue = glue_that_answers({"JobRunState": "RUNNING"})
    with pytest.raises(TryAgainError, match=r"SIGTERM.*goes on"):
        run_glue(glue, stop_requested=lambda: "SIGTERM")


def test_polls_grow_from_five_seconds_to_a_minute() -> None:
    first = [pause for pause, _ in zip(waits(), range(12), strict=False)]
    assert first[0] == 5
    assert max(first) == 60
    assert first == sorted(first)

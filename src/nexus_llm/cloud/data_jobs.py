"""Starts the data stage on Glue, EMR Serverless or Batch and waits for its end: the boto3 calls around `data_requests`.

A job that fails becomes a NexusError that names the run, the reason that AWS gives and where its log lies. Waiting
costs one Describe call every 5 to 60 seconds.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from nexus_llm.cloud import data_requests
from nexus_llm.cloud.data_requests import CloudDataPlan
from nexus_llm.errors import DataError, MissingExtraError, NexusError, StorageError, TryAgainError

Outcome = Literal["waiting", "done", "failed", "stopped", "late"]

_FIRST_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 60.0
_WAIT_FACTOR = 1.5

# State of the service → what it means here. A state that is not listed is still on its way.
GLUE_STATES: dict[str, Outcome] = {
    "SUCCEEDED": "done",
    "FAILED": "failed",
    "ERROR": "failed",
    "TIMEOUT": "late",
    "EXPIRED": "late",
    "STOPPED": "stopped",
}
EMR_STATES: dict[str, Outcome] = {"SUCCESS": "done", "FAILED": "failed", "CANCELLED": "stopped"}
BATCH_STATES: dict[str, Outcome] = {"SUCCEEDED": "done", "FAILED": "failed"}

# The service is busy, not wrong: the same request succeeds later.
_BUSY = frozenset(
    {
        "ConcurrentRunsExceededException",
        "InternalServerException",
        "InternalServiceException",
        "OperationTimeoutException",
        "RequestLimitExceeded",
        "ResourceNumberLimitExceededException",
        "ServiceQuotaExceededException",
        "ServiceUnavailableException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)


@dataclass(frozen=True, slots=True)
class JobState:
    """What a service says about a run."""

    state: str
    """In the service's words."""
    outcome: Outcome
    reason: str
    """Why it ended, in the service's words; may be empty."""
    log: str
    """Where to read on: log group and stream, or an S3 prefix."""


@dataclass(frozen=True)
class DataJobs:
    """The data stage on one AWS account and region."""

    client: Callable[[str], Any]
    """boto3 client of a service by its name."""
    sleep: Callable[[float], None] = time.sleep
    stop_requested: Callable[[], str | None] = lambda: None
    """Asked between polls; a reason stops the waiting (the run goes on)."""

    def put_glue_job(self, plan: CloudDataPlan) -> str:
        """Creates the job, or brings the existing one up to date; gives its name."""
        glue = self.client("glue")
        with _explained("glue:CreateJob", plan.name):
            try:
                glue.create_job(**data_requests.glue_job(plan))
            except glue.exceptions.ClientError as error:
                if _code(error) not in ("AlreadyExistsException", "IdempotentParameterMismatchException"):
                    raise
                glue.update_job(**data_requests.glue_job_update(plan))
        return plan.name

    def run_glue(self, plan: CloudDataPlan) -> str:
        """Starts the job and waits for it; gives the run's id.

        Raises:
            DataError: it failed or took too long.
            TryAgainError: AWS is busy, or somebody stopped it.
        """
        glue = self.client("glue")
        with _explained("glue:StartJobRun", plan.name):
            run = glue.start_job_run(JobName=plan.name, Arguments=data_requests.job_arguments(plan))["JobRunId"]

        def describe() -> JobState:
            answer = glue.get_job_run(JobName=plan.name, RunId=run)["JobRun"]
            group = answer.get("LogGroupName", "/aws-glue/jobs")
            state = answer["JobRunState"]
            log = f"CloudWatch group {group}/error, stream {run}"
            return JobState(state, GLUE_STATES.get(state, "waiting"), answer.get("ErrorMessage", ""), log)

        self._wait(f"Glue job run {run}", describe)
        return str(run)

    def run_emr(self, plan: CloudDataPlan, *, application_id: str | None = None) -> str:
        """Runs on an EMR Serverless application (a new one where none is named); gives the run's id. Raises as above.

        An application that was made here is left: idle, it stops by itself after 5 minutes and costs nothing.
        """
        emr = self.client("emr-serverless")
        if application_id is None:
            with _explained("emr-serverless:CreateApplication", plan.name):
                body = data_requests.emr_application(plan)
                application_id = str(emr.create_application(**body, clientToken=uuid.uuid4().hex)["applicationId"])
        # A new token a command: boto3's retries of one request start one run, a second command starts another.
        request = data_requests.emr_run(plan, application_id=application_id, token=uuid.uuid4().hex)
        with _explained("emr-serverless:StartJobRun", plan.name):
            run = emr.start_job_run(**request)["jobRunId"]

        def describe() -> JobState:
            answer = emr.get_job_run(applicationId=application_id, jobRunId=run)["jobRun"]
            place = f"{plan.logs.rstrip('/')}/applications/{application_id}/jobs/{run}/" if plan.logs else "no logs"
            state = answer["state"]
            return JobState(state, EMR_STATES.get(state, "waiting"), answer.get("stateDetails", ""), place)

        self._wait(f"EMR Serverless run {run} of application {application_id}", describe)
        return str(run)

    def run_batch(self, plan: CloudDataPlan, *, queue: str, definition: str) -> str:
        """Submits the embedded engine as a Batch job and waits for it; gives the job's id. Raises as above."""
        batch = self.client("batch")
        with _explained("batch:SubmitJob", plan.name):
            job = batch.submit_job(**data_requests.batch_run(plan, queue=queue, definition=definition))["jobId"]

        def describe() -> JobState:
            found = batch.describe_jobs(jobs=[job])["jobs"]
            if not found:  # Batch forgets finished jobs after a day
                raise DataError(f"Batch knows no job {job} any more", fix="look at its log group /aws/batch/job")
            container = found[0].get("container", {})
            reason = found[0].get("statusReason", "") or container.get("reason", "")
            log = f"CloudWatch group /aws/batch/job, stream {container.get('logStreamName', 'none yet')}"
            state = found[0]["status"]
            return JobState(state, BATCH_STATES.get(state, "waiting"), reason, log)

        self._wait(f"Batch job {job}", describe)
        return str(job)

    def put_table(self, database: str, name: str, *, location: str, artifact_id: str) -> None:
        """Makes the documents below `location` a table of the Glue Data Catalog, or points the table there."""
        glue = self.client("glue")
        table = data_requests.catalog_table(name, location=location, artifact_id=artifact_id)
        with _explained("glue:CreateTable", f"{database}.{name}"):
            with contextlib.suppress(glue.exceptions.AlreadyExistsException):
                glue.create_database(DatabaseInput={"Name": database})
            try:
                glue.create_table(DatabaseName=database, TableInput=table)
            except glue.exceptions.AlreadyExistsException:
                glue.update_table(DatabaseName=database, TableInput=table)

    def _wait(self, name: str, describe: Callable[[], JobState]) -> None:
        for pause in waits():
            try:
                now = describe()
            except Exception as error:
                if _code(error) not in _BUSY:
                    raise _error_of(error, "describing", name) from error
            else:
                if now.outcome == "done":
                    return
                if now.outcome != "waiting":
                    raise failure(name, now)
            if reason := self.stop_requested():
                raise TryAgainError(
                    f"stopped waiting for {name} ({reason}); it goes on", fix="look at it in the console"
                )
            self.sleep(pause)


def boto3_clients(region: str | None) -> Callable[[str], Any]:
    """boto3's clients by name, with its own retries of single requests.

    Raises:
        MissingExtraError: boto3 is not installed.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise MissingExtraError.for_extra("aws", "boto3") from error
    session = boto3.session.Session(region_name=region)
    retries = Config(retries={"mode": "standard", "total_max_attempts": 5})
    return lambda service: session.client(service, config=retries)


def waits() -> Iterator[float]:
    """Seconds between polls: 5, growing to a minute, for ever."""
    pause = _FIRST_WAIT_SECONDS
    while True:
        yield pause
        pause = min(pause * _WAIT_FACTOR, _LONGEST_WAIT_SECONDS)


def failure(name: str, state: JobState) -> NexusError:
    """The error for a run that ended badly."""
    what = f"{name} ended as {state.state}" + (f": {state.reason.strip()}" if state.reason.strip() else "")
    if state.outcome == "stopped":
        return TryAgainError(what, fix="run the same command again; finished artifacts are not made twice")
    if state.outcome == "late":
        return DataError(what, fix=f"raise the timeout or the number of workers; log: {state.log}")
    return DataError(what, fix=f"read its log: {state.log}")


class _explained:
    """Turns AWS' refusals inside the block into errors that name the call and its object."""

    def __init__(self, call: str, name: str) -> None:
        self.call, self.name = call, name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, NexusError):
            raise _error_of(error, self.call, self.name) from error


def _error_of(error: Exception, call: str, name: str) -> NexusError:
    code = _code(error)
    message = " ".join(str(error).split())
    if code in _BUSY:
        return TryAgainError(f"{call} of {name}: AWS is busy ({message})", fix="run the same command again later")
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "ExpiredTokenException"):
        return StorageError(f"not allowed: {call} of {name} ({message})", fix=f"give the caller the action {call}")
    if code or type(error).__module__.startswith("botocore"):
        return DataError(f"{call} of {name} failed ({message})", fix="check data.aws of the recipe, region and account")
    raise error


def _code(error: BaseException) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""

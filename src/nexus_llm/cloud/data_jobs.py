"""The data stage's jobs behind the port `Launcher`: Glue, EMR Serverless and Batch.

Facts about the services: docs.aws.amazon.com, API references of Glue (GetJobRun), EMR Serverless (GetJobRun) and Batch
(DescribeJobs), and Glue's developer guide ("Logging for AWS Glue jobs"), read 2026-11.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

from nexus_llm.cloud import data_requests
from nexus_llm.cloud.aws_errors import error_code, explained
from nexus_llm.cloud.data_requests import CloudDataPlan
from nexus_llm.cloud.job_log import LogStreams
from nexus_llm.cloud.launcher import JobState, Launcher, Outcome, Usage
from nexus_llm.errors import DataError, UsageError

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
_GLUE_MINIMUM_SECONDS = 60  # billed at least (pricing page; not looked up again)
_BATCH_FARGATE = "Batch has not said yet how long it ran"
_BATCH_MACHINES = "Batch bills the machines that it started, which other jobs may share, and does not name them"
_MIB_PER_GIB = 1024
_MILLISECONDS_PER_HOUR = 3_600_000
_FARGATE_MINIMUM_HOURS = 1 / 60  # Fargate bills a minute at least (pricing page; not looked up again)


class GlueRuns(Launcher):
    """Runs of Glue jobs, as `JOB/RUN`."""

    service: ClassVar[str] = "glue"
    label: ClassVar[str] = "Glue run"
    describe_call: ClassVar[str] = "glue:GetJobRun"

    def put_job(self, plan: CloudDataPlan) -> None:
        """Creates the job's definition, or brings the existing one up to date."""
        glue = self.account.client("glue")
        with self.explained("glue:CreateJob", plan.name):
            try:
                glue.create_job(**data_requests.glue_job(plan))
            except glue.exceptions.ClientError as error:
                if error_code(error) not in ("AlreadyExistsException", "IdempotentParameterMismatchException"):
                    raise
                with self.explained("glue:UpdateJob", plan.name):
                    glue.update_job(**data_requests.glue_job_update(plan))

    def submit(self, body: Mapping[str, Any]) -> str:
        """Starts a run of a job; `body` is StartJobRun's."""
        with self.explained("glue:StartJobRun", body["JobName"]):
            return f"{body['JobName']}/{self.account.client('glue').start_job_run(**body)['JobRunId']}"

    def describe(self, job: str) -> JobState:
        name, run = _two(job, "glue/JOB/RUN")
        return glue_state(self.account.client("glue").get_job_run(JobName=name, RunId=run)["JobRun"], run)

    def stop(self, job: str) -> None:
        name, run = _two(job, "glue/JOB/RUN")
        with self.explained("glue:BatchStopJobRun", job):
            answer = self.account.client("glue").batch_stop_job_run(JobName=name, JobRunIds=[run])
        for error in answer.get("Errors", []):
            detail = error.get("ErrorDetail", {})
            if detail.get("ErrorCode") != "InvalidJobRunStateException":  # it has ended already
                raise DataError(
                    f"Glue run {job} cannot be stopped ({detail.get('ErrorMessage', detail)})",
                    fix="nexus jobs list names the runs",
                )


class EmrRuns(Launcher):
    """Runs on EMR Serverless applications, as `APPLICATION/RUN`."""

    service: ClassVar[str] = "emr-serverless"
    label: ClassVar[str] = "EMR Serverless run"
    describe_call: ClassVar[str] = "emr-serverless:GetJobRun"

    def make_application(self, plan: CloudDataPlan) -> str:
        """The id of a new application. It is left: idle, it stops by itself after 5 minutes and costs nothing."""
        with self.explained("emr-serverless:CreateApplication", plan.name):
            body = data_requests.emr_application(plan)
            client = self.account.client("emr-serverless")
            return str(client.create_application(**body, clientToken=uuid.uuid4().hex)["applicationId"])

    def submit(self, body: Mapping[str, Any]) -> str:
        """Starts a run; `body` is StartJobRun's."""
        with self.explained("emr-serverless:StartJobRun", str(body.get("name"))):
            run = self.account.client("emr-serverless").start_job_run(**body)["jobRunId"]
        return f"{body['applicationId']}/{run}"

    def describe(self, job: str) -> JobState:
        application, run = _two(job, "emr-serverless/APPLICATION/RUN")
        client = self.account.client("emr-serverless")
        return emr_state(client.get_job_run(applicationId=application, jobRunId=run)["jobRun"])

    def stop(self, job: str) -> None:
        application, run = _two(job, "emr-serverless/APPLICATION/RUN")
        if self.state(job).outcome == "waiting":
            with self.explained("emr-serverless:CancelJobRun", job):
                self.account.client("emr-serverless").cancel_job_run(applicationId=application, jobRunId=run)


class BatchJobs(Launcher):
    """Jobs of AWS Batch, by their ids."""

    service: ClassVar[str] = "batch"
    label: ClassVar[str] = "Batch job"
    describe_call: ClassVar[str] = "batch:DescribeJobs"

    def submit(self, body: Mapping[str, Any]) -> str:
        """Submits a job; `body` is SubmitJob's."""
        with self.explained("batch:SubmitJob", body["jobName"]):
            return str(self.account.client("batch").submit_job(**body)["jobId"])

    def describe(self, job: str) -> JobState:
        found = self.account.client("batch").describe_jobs(jobs=[job])["jobs"]
        if not found:  # Batch forgets finished jobs after some days
            raise DataError(f"Batch knows no job {job} (any more)", fix="look at its log group /aws/batch/job")
        return batch_state(found[0])

    def stop(self, job: str) -> None:
        """See `Launcher.stop`; a job that waits is cancelled, one that runs is terminated."""
        with self.explained("batch:TerminateJob", job):
            self.account.client("batch").terminate_job(jobId=job, reason="nexus jobs stop")


def put_table(client: Any, database: str, name: str, *, location: str, artifact_id: str) -> None:
    """Makes the documents below `location` a table of the Glue Data Catalog, or points the table there.

    `client` is boto3's for Glue.
    """
    table = data_requests.catalog_table(name, location=location, artifact_id=artifact_id)
    with explained("glue:CreateTable", f"{database}.{name}"):
        with contextlib.suppress(client.exceptions.AlreadyExistsException):
            client.create_database(DatabaseInput={"Name": database})
        try:
            client.create_table(DatabaseName=database, TableInput=table)
        except client.exceptions.AlreadyExistsException:
            client.update_table(DatabaseName=database, TableInput=table)


def glue_state(run: Mapping[str, Any], run_id: str) -> JobState:
    """What GetJobRun's answer means.

    `DPUSeconds` is there where workers come and go (auto scaling, FLEX); elsewhere all workers are billed for the whole
    time, a minute at least.
    """
    state = str(run["JobRunState"])
    # What the script prints goes to `output`, what Spark says to `error`.
    streams = LogStreams(f"{str(run.get('LogGroupName', '/aws-glue/jobs')).rstrip('/')}/output", run_id)
    sku = "dpu flex" if run.get("ExecutionClass") == "FLEX" else "dpu"
    hours = _dpu_seconds(run) / 3600
    usage = (Usage("glue", sku, hours, "DPU-hour"),) if hours else ()
    return JobState(
        state,
        GLUE_STATES.get(state, "waiting"),
        reason=str(run.get("ErrorMessage", "")),
        log=f"CloudWatch group {streams.group.removesuffix('/output')}/error, stream {run_id}",
        streams=streams,
        started_at=run["StartedOn"].timestamp() if "StartedOn" in run else None,
        usage=usage,
        unbilled="" if usage else "Glue has not said yet how long it ran",
        tags={"nexus:key": key} if (key := run.get("Arguments", {}).get(data_requests.KEY_ARGUMENT)) else {},
        answer=run,
    )


def emr_state(run: Mapping[str, Any]) -> JobState:
    """What EMR Serverless' GetJobRun says: billed is what was used, rounded up to a minute a worker."""
    state, place = str(run["state"]), f"applications/{run['applicationId']}/jobs/{run['jobRunId']}/"
    monitoring = run.get("configurationOverrides", {}).get("monitoringConfiguration", {})
    live = monitoring.get("cloudWatchLoggingConfiguration", {})
    streams = None
    if live.get("enabled") and live.get("logStreamNamePrefix"):
        streams = LogStreams(live.get("logGroupName", data_requests.EMR_LOG_GROUP), live["logStreamNamePrefix"])
    uri = monitoring.get("s3MonitoringConfiguration", {}).get("logUri", "")
    used = run.get("billedResourceUtilization") or run.get("totalResourceUtilization") or {}
    kinds = (
        ("vCPUHour", "vcpu", "vCPU-hour"),
        ("memoryGBHour", "memory", "GB-hour"),
        ("storageGBHour", "storage", "GB-hour"),
    )
    usage = tuple(Usage("emr-serverless", sku, float(used[name]), unit) for name, sku, unit in kinds if used.get(name))
    return JobState(
        state,
        EMR_STATES.get(state, "waiting"),
        reason=str(run.get("stateDetails", "")),
        log=f"{uri.rstrip('/')}/{place}" if uri else str(streams or "no logs are kept"),
        streams=streams,
        started_at=run["startedAt"].timestamp() if "startedAt" in run else None,
        usage=usage,
        unbilled=_emr_unbilled(run, is_known=bool(usage)),
        tags=run.get("tags", {}),
        answer=run,
    )


def batch_state(job: Mapping[str, Any]) -> JobState:
    """What DescribeJobs says of one job; on Fargate all attempts are billed, on EC2 the machines that Batch started."""
    container = job.get("container", {})
    state = str(job["status"])
    options = container.get("logConfiguration", {}).get("options", {})
    group, stream = options.get("awslogs-group", "/aws/batch/job"), container.get("logStreamName")
    is_fargate = "FARGATE" in job.get("platformCapabilities", [])
    is_stopped = bool(job.get("isTerminated") or job.get("isCancelled"))
    usage = _fargate_usage(job, container) if is_fargate else ()
    starts = [one["startedAt"] for one in (*job.get("attempts", ()), job) if one.get("startedAt")]
    return JobState(
        state,
        "stopped" if is_stopped and state == "FAILED" else BATCH_STATES.get(state, "waiting"),
        reason=str(job.get("statusReason", "") or container.get("reason", "")),
        log=f"CloudWatch group {group}, stream {stream or 'none yet'}",
        streams=LogStreams(group, stream) if stream else None,
        started_at=min(starts) / 1000 if starts else None,
        usage=usage,
        unbilled="" if usage else _BATCH_FARGATE if is_fargate else _BATCH_MACHINES,
        tags=job.get("tags", {}),
        answer=job,
    )


def _dpu_seconds(run: Mapping[str, Any]) -> float:
    if run.get("DPUSeconds"):
        return float(run["DPUSeconds"])
    seconds = float(run.get("ExecutionTime", 0))
    return dpus(run) * max(seconds, _GLUE_MINIMUM_SECONDS) if seconds else 0.0


def dpus(run: Mapping[str, Any]) -> float:
    """Data processing units that a run of Glue holds while it runs."""
    of_workers = data_requests.GLUE_DPUS.get(str(run.get("WorkerType")), 0) * int(run.get("NumberOfWorkers", 0))
    return float(run.get("MaxCapacity") or of_workers)


def _emr_unbilled(run: Mapping[str, Any], *, is_known: bool) -> str:
    if not is_known:
        return "EMR Serverless has not said yet what it used"
    return "" if run.get("billedResourceUtilization") else "used, not yet billed: EMR rounds up"


def _fargate_usage(job: Mapping[str, Any], container: Mapping[str, Any]) -> tuple[Usage, ...]:
    attempts = job.get("attempts") or [job]
    times = [(one["startedAt"], one["stoppedAt"]) for one in attempts if one.get("startedAt") and one.get("stoppedAt")]
    hours = sum(max((end - start) / _MILLISECONDS_PER_HOUR, _FARGATE_MINIMUM_HOURS) for start, end in times)
    wanted = {one["type"]: float(one["value"]) for one in container.get("resourceRequirements", [])}
    if not hours or not {"VCPU", "MEMORY"} <= wanted.keys():
        return ()
    return (
        Usage("fargate", "vcpu", hours * wanted["VCPU"], "vCPU-hour"),
        Usage("fargate", "memory", hours * wanted["MEMORY"] / _MIB_PER_GIB, "GB-hour"),
    )


def _two(job: str, form: str) -> tuple[str, str]:
    """Both parts of a job's name."""
    first, _, second = job.partition("/")
    if not (first and second) or not re.fullmatch(r"[^/\s]+", second):
        raise UsageError(f"{job!r} names no job of this kind", fix=f"write it as {form}; nexus jobs list names them")
    return first, second

"""A training job watched from anywhere: its state, its output from CloudWatch, its metrics, until it ends.

Nothing of the watching is kept on this machine: the job's name is enough to go on from another one. Sources:
docs.aws.amazon.com, SageMaker API reference (DescribeTrainingJob), CloudWatch Logs API reference (DescribeLogStreams,
GetLogEvents), read 2026-11.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nexus_llm.cloud.aws_errors import error_code, is_busy
from nexus_llm.cloud.metrics_progress import MetricsProgress
from nexus_llm.cloud.sagemaker_errors import explained, is_missing
from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.ports import Progress

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
POLL_SECONDS = 5.0
MAX_PAGES = 1000  # of one stream in one poll: 10,000 lines each
FINAL_STATUSES = frozenset({"Completed", "Failed", "Stopped", "Deleting"})
_REFUSED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
# DescribeTrainingJob's SecondaryStatus in words, where the word alone does not say what is waited for.
STATE_WORDS = {
    "Starting": "starting a machine",
    "Pending": "waiting for capacity",
    "LaunchingMLInstances": "starting a machine",
    "PreparingTrainingStack": "preparing the machine",
    "Downloading": "copying model and data",
    "DownloadingTrainingImage": "pulling the image",
    "Training": "training",
    "Uploading": "uploading the result",
    "Interrupted": "interrupted: waiting for another spot machine",
    "Restarting": "restarting",
    "Stopping": "stopping",
}


@dataclass(frozen=True)
class TrainingJobs:
    """SageMaker's training jobs of one account and region."""

    client: Callable[[str], Any]
    """boto3 client of a service by its name."""
    region: str | None = None
    """For the commands that errors suggest; None is what the environment says."""
    sleep: Callable[[float], None] = time.sleep
    stop_requested: Callable[[], str | None] = lambda: None
    """Asked between polls; a reason ends the watching, the job goes on."""

    def create(self, body: Mapping[str, Any]) -> None:
        """Starts a job; one of that name that exists already is the same job, started by somebody else just now.

        Raises:
            NexusError: AWS refuses; see `sagemaker_errors`.
        """
        name = str(body["TrainingJobName"])
        with explained("sagemaker:CreateTrainingJob", name, region=self.region):
            client = self.client("sagemaker")
            try:
                client.create_training_job(**body)
            except Exception as error:
                if error_code(error) != "ResourceInUse":
                    raise

    def describe(self, name: str) -> dict[str, Any] | None:
        """What SageMaker says of a job; None where it knows none of that name."""
        with explained("sagemaker:DescribeTrainingJob", name, region=self.region):
            try:
                return dict(self.client("sagemaker").describe_training_job(TrainingJobName=name))
            except Exception as error:
                if is_missing(error):
                    return None
                raise

    def stop(self, name: str) -> str:
        """Asks a job to save and end; gives the state that it was in.

        Raises:
            TrainingError: there is no such job.
        """
        found = self.known(name)
        status = str(found["TrainingJobStatus"])
        if status == "InProgress":
            with explained("sagemaker:StopTrainingJob", name, region=self.region):
                self.client("sagemaker").stop_training_job(TrainingJobName=name)
        return status

    def known(self, name: str) -> dict[str, Any]:
        """As `describe`.

        Raises:
            TrainingError: there is no such job.
        """
        found = self.describe(name)
        if found is None:
            place = f"region {self.region}" if self.region else "the region of the environment"
            raise TrainingError(
                f"SageMaker has no training job {name} in {place}",
                fix="aws sagemaker list-training-jobs names them; another region: --region",
            )
        return found


@dataclass
class JobLog:
    """What a job has printed: every line once, from all its streams (one a machine and start)."""

    logs: Any
    """The boto3 client of CloudWatch Logs."""
    job: str
    _tokens: dict[str, str] = field(default_factory=dict)
    _last: dict[str, int] = field(default_factory=dict)
    """Stream → time of its newest line, in milliseconds."""

    def new_lines(self) -> list[str]:
        """Lines since the last call, in the order of their times; none before the job's first."""
        try:
            streams = list(self._streams())
        except Exception as error:
            if error_code(error) == "ResourceNotFoundException":
                return []
            raise
        found = [event for stream in streams for event in self._events(stream)]
        return [text for _, text in sorted(found, key=lambda event: event[0])]

    def _streams(self) -> Iterator[str]:
        request: dict[str, Any] = {"logGroupName": LOG_GROUP, "logStreamNamePrefix": f"{self.job}/"}
        for _ in range(MAX_PAGES):
            answer = self.logs.describe_log_streams(**request)
            yield from (stream["logStreamName"] for stream in answer["logStreams"])
            if not answer.get("nextToken"):
                return
            request["nextToken"] = answer["nextToken"]

    def _events(self, stream: str) -> Iterator[tuple[int, str]]:
        for _ in range(MAX_PAGES):
            answer = self._page(stream)
            for event in answer["events"]:
                self._last[stream] = max(event["timestamp"], self._last.get(stream, 0))
                yield event["timestamp"], event["message"]
            token = answer["nextForwardToken"]
            # The end of a stream gives back the token that it was asked with; a page before it may be empty.
            if token == self._tokens.get(stream):
                return
            self._tokens[stream] = token

    def _page(self, stream: str) -> dict[str, Any]:
        request: dict[str, Any] = {"logGroupName": LOG_GROUP, "logStreamName": stream, "startFromHead": True}
        if stream in self._tokens:
            try:
                return dict(self.logs.get_log_events(**request, nextToken=self._tokens[stream]))
            except Exception as error:
                if error_code(error) != "InvalidParameterException":
                    raise
                del self._tokens[stream]  # tokens live for a day: a laptop may sleep longer
        return dict(self.logs.get_log_events(**request, startTime=self._last.get(stream, -1) + 1))


def follow(jobs: TrainingJobs, name: str, progress: Progress) -> dict[str, Any]:
    """What DescribeTrainingJob says of the job when it has ended, however it did.

    A busy service and a lost line are waited out. Who may not read the log sees the job's state and, at its end, its
    metrics.

    Raises:
        TryAgainError: somebody asked to stop watching; the job goes on.
        StorageError: the credentials ran out; the job goes on.
    """
    again = f"nexus train attach {name} goes on watching, nexus train stop {name} ends the job"
    found = jobs.known(name)
    steps = found.get("HyperParameters", {}).get("train.max_steps", "")
    shown = MetricsProgress(progress, label=f"SageMaker {name}", total=float(steps) if steps.isdecimal() else None)
    sagemaker, log = jobs.client("sagemaker"), JobLog(jobs.client("logs"), name)
    can_read = True
    while True:
        with explained("sagemaker:DescribeTrainingJob", name, region=jobs.region, fix=again):
            try:
                found = sagemaker.describe_training_job(TrainingJobName=name)
                if can_read:
                    can_read = _show_lines(log, shown)
            except Exception as error:
                if not is_busy(error):
                    raise
                shown.state("AWS does not answer, asking again")
            else:
                shown.state(_state(found, can_read=can_read))
        if found["TrainingJobStatus"] in FINAL_STATUSES:
            shown.finish(_ending(found, shown))
            return dict(found)
        if reason := jobs.stop_requested():
            raise TryAgainError(f"stopped watching SageMaker job {name} ({reason}); the job goes on", fix=again)
        jobs.sleep(POLL_SECONDS)


def _show_lines(log: JobLog, shown: MetricsProgress) -> bool:
    """Shows what is new; gives False where this user may not read the log."""
    try:
        for line in log.new_lines():
            shown.line(line)
    except Exception as error:
        if error_code(error) not in _REFUSED:
            raise
        return False
    return True


def _state(found: Mapping[str, Any], *, can_read: bool) -> str:
    second = str(found.get("SecondaryStatus", found["TrainingJobStatus"]))
    return STATE_WORDS.get(second, second) + ("" if can_read else " (its log may not be read: logs:GetLogEvents)")


def _ending(found: Mapping[str, Any], shown: MetricsProgress) -> str:
    """One line: the last loss, and how much of the time is billed."""
    final = {one["MetricName"]: one["Value"] for one in found.get("FinalMetricDataList", [])}
    loss = shown.last.get("loss", final.get("train:loss"))
    words = [str(found["TrainingJobStatus"])] + ([] if loss is None else [f"loss {loss:.3f}"])
    total, billed = found.get("TrainingTimeInSeconds"), found.get("BillableTimeInSeconds")
    if total and billed is not None:
        words.append(f"billed {billed} of {total} s ({1 - billed / total:.0%} saved)")
    return ", ".join(words)

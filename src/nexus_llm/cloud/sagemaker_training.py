"""SageMaker's training jobs: what their states mean. The job's name is enough to go on from another machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nexus_llm.cloud.job_log import LogStreams
from nexus_llm.cloud.launcher import JobState, Outcome, Usage
from nexus_llm.cloud.sagemaker_errors import ended_badly
from nexus_llm.cloud.sagemaker_jobs import SageMakerJobs
from nexus_llm.errors import NexusError

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
STATUSES: dict[str, Outcome] = {"Completed": "done", "Failed": "failed", "Stopped": "stopped", "Deleting": "stopped"}
"""TrainingJobStatus → what it means here; one that is not listed is still on its way."""
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


class TrainingJobs(SageMakerJobs):
    """SageMaker's training jobs of one account and region, by their names."""

    service: ClassVar[str] = "training"
    label: ClassVar[str] = "SageMaker"
    describe_call: ClassVar[str] = "sagemaker:DescribeTrainingJob"
    word: ClassVar[str] = "Training"

    def told(self, found: Mapping[str, Any]) -> JobState:
        return job_state(found)

    def ended_badly(self, job: str, state: JobState) -> NexusError:
        return ended_badly(job, state.answer, region=self.account.region)

    def command(self, verb: str, job: str) -> str:
        return f"nexus train {verb} {job}"


def job_state(found: Mapping[str, Any]) -> JobState:
    """What DescribeTrainingJob's answer means.

    SageMaker bills `BillableTimeInSeconds` of every machine at the on-demand price: spot's saving is in the seconds
    (Developer Guide, "Managed Spot Training").
    """
    name, status = str(found["TrainingJobName"]), str(found["TrainingJobStatus"])
    second = str(found.get("SecondaryStatus", status))
    steps = str(found.get("HyperParameters", {}).get("train.max_steps", ""))
    metrics = {one["MetricName"]: float(one["Value"]) for one in found.get("FinalMetricDataList", [])}
    resources = found.get("ResourceConfig", {})
    total, billed = found.get("TrainingTimeInSeconds"), found.get("BillableTimeInSeconds")
    machine = resources.get("InstanceType")
    streams = LogStreams(LOG_GROUP, f"{name}/")
    usage: tuple[Usage, ...] = ()
    if billed is not None and machine:
        hours = billed * int(resources.get("InstanceCount", 1)) / 3600
        usage = (Usage("sagemaker", f"{machine} training", hours, "hour"),)
    return JobState(
        status,
        STATUSES.get(status, "waiting"),
        words=STATE_WORDS.get(second, second),
        reason=str(found.get("FailureReason", "")),
        log=str(streams),
        streams=streams,
        started_at=started.timestamp() if (started := found.get("TrainingStartTime")) else None,
        usage=usage,
        unbilled="" if usage else "SageMaker has not said yet how many seconds it bills",
        ending=f"billed {billed} of {total} s ({1 - billed / total:.0%} saved)" if total and billed is not None else "",
        loss=metrics.get("train:loss"),
        steps=float(steps) if steps.isdecimal() else None,
        answer=found,
    )

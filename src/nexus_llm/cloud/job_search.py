"""Which jobs of ours an account has, and whom to ask for one.

Found by the tag that every job of ours carries, through the Resource Groups Tagging API: one paginated call for all
services. Runs of Glue carry no tags, so all runs of tagged Glue jobs are ours. Source: docs.aws.amazon.com, Resource
Groups Tagging API reference (GetResources), read 2026-11; that AWS itself lists every kind of job there was not tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nexus_llm.cloud.account import Account
from nexus_llm.cloud.aws_errors import error_code, explained
from nexus_llm.cloud.data_jobs import BatchJobs, EmrRuns, GlueRuns
from nexus_llm.cloud.launcher import PROJECT_TAG, JobState, Launcher
from nexus_llm.cloud.sagemaker_errors import is_missing
from nexus_llm.cloud.sagemaker_processing import ProcessingJobs
from nexus_llm.cloud.sagemaker_training import TrainingJobs
from nexus_llm.cloud.sagemaker_transform import TransformJobs
from nexus_llm.errors import NexusError, UsageError

SERVICES: dict[str, type[Launcher]] = {
    kind.service: kind for kind in (TrainingJobs, ProcessingJobs, TransformJobs, GlueRuns, EmrRuns, BatchJobs)
}
MAX_RUNS_OF_A_GLUE_JOB = 20
# What follows `arn:aws:SERVICE:REGION:ACCOUNT:` of each kind → service of the full id.
_RESOURCES = (
    (re.compile(r"sagemaker:training-job/(?P<job>[^/]+)$"), "training"),
    (re.compile(r"sagemaker:processing-job/(?P<job>[^/]+)$"), "processing"),
    (re.compile(r"sagemaker:transform-job/(?P<job>[^/]+)$"), "transform"),
    (re.compile(r"emr-serverless:/applications/(?P<app>[^/]+)/jobruns/(?P<job>[^/]+)$"), "emr-serverless"),
    (re.compile(r"batch:job/(?P<job>[^/]+)$"), "batch"),
    (re.compile(r"glue:job/(?P<job>[^/]+)$"), "glue"),
)


def launcher_of(full_id: str, account: Account) -> tuple[Launcher, str]:
    """Whom to ask for a job, and its name there. An id without a service is a training job's name.

    Raises:
        UsageError: the id names no service that we know.
    """
    service, slash, job = full_id.partition("/")
    if not slash:
        return TrainingJobs(account), full_id
    if service not in SERVICES or not job:
        raise UsageError(
            f"{full_id!r} is no job's id",
            fix=f"it begins with {', '.join(sorted(SERVICES))}; nexus jobs list names all",
        )
    return SERVICES[service](account), job


def our_jobs(account: Account, *, run: str | None = None, key: str | None = None) -> list[tuple[str, JobState]]:
    """Full id and state of every job of ours, sorted by id; of one run or artifact where they are named.

    A job that vanished between two calls is left out.
    """
    found = []
    for full_id, tags in sorted(_tagged(account, run), key=lambda one: one[0]):
        launcher, job = launcher_of(full_id, account)
        try:
            state = launcher.state(job)
        except NexusError as error:
            cause = error.__cause__
            if cause is not None and not is_missing(cause) and error_code(cause) != "EntityNotFoundException":
                raise
            continue
        state = replace(state, tags={**tags, **state.tags})
        if key is None or state.tags.get("nexus:key") == key:
            found.append((full_id, state))
    return found


def _tagged(account: Account, run: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    name, value = PROJECT_TAG
    filters = [{"Key": name, "Values": [value]}] + ([{"Key": "recipe", "Values": [run]}] if run else [])
    with explained("tag:GetResources", "jobs"):
        client = account.client("resourcegroupstaggingapi")
        pages = client.get_paginator("get_resources").paginate(TagFilters=filters)
        mappings: list[dict[str, Any]] = [one for page in pages for one in page["ResourceTagMappingList"]]
    for one in mappings:
        tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])}
        yield from ((full_id, tags) for full_id in _ids(one["ResourceARN"], account))


def _ids(arn: str, account: Account) -> list[str]:
    """Full ids of the jobs that an ARN stands for: none, one, or a Glue job's newest runs."""
    parts = arn.split(":", 5)
    if len(parts) != 6:
        return []
    for pattern, service in _RESOURCES:
        match = pattern.search(f"{parts[2]}:{parts[5]}")
        if match is None:
            continue
        job = match["job"]
        if service == "glue":
            with explained("glue:GetJobRuns", job):
                answer = account.client("glue").get_job_runs(JobName=job, MaxResults=MAX_RUNS_OF_A_GLUE_JOB)
            return [f"glue/{job}/{run['Id']}" for run in answer["JobRuns"]]
        return [f"{service}/{match['app']}/{job}" if service == "emr-serverless" else f"{service}/{job}"]
    return []

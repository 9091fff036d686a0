"""What AWS answers when it refuses a training job, in two lines: what is wrong, and what to do about it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from nexus_llm.cloud import aws_errors
from nexus_llm.cloud.aws_errors import error_code, is_denied, message_of
from nexus_llm.errors import NexusError, RecipeError, TrainingError, TryAgainError

_QUOTA = re.compile(
    r"service limit '(?P<name>[^']+)' is (?P<limit>[\d.]+).*?utilization of (?P<used>[\d.]+)"
    r".*?delta of (?P<more>[\d.]+)",
    re.DOTALL,
)


def is_missing(error: BaseException) -> bool:
    """Whether SageMaker says that there is no such job; it has no code of its own for that."""
    message = str(error).lower()
    is_unknown = "not found" in message or "could not find" in message or "does not exist" in message
    return error_code(error) in ("ResourceNotFound", "ResourceNotFoundException") or (
        error_code(error) == "ValidationException" and is_unknown
    )


def no_such_job(kind: str, name: str, region: str | None) -> TrainingError:
    """The error for a job that SageMaker does not know; `kind` is training, processing or transform."""
    place = f"region {region}" if region else "the region of the environment"
    return TrainingError(
        f"SageMaker has no {kind} job {name} in {place}",
        fix=f"aws sagemaker list-{kind}-jobs names them; another region: --region",
    )


@contextlib.contextmanager
def explained(call: str, name: str, *, region: str | None = None, fix: str | None = None) -> Iterator[None]:
    """As of `aws_errors`, with SageMaker's own refusals explained too."""
    try:
        yield
    except NexusError:
        raise
    except Exception as error:
        raise error_of(error, call, name, region=region, fix=fix) from error


def error_of(
    error: Exception, call: str, name: str, *, region: str | None = None, fix: str | None = None
) -> NexusError:
    """The error that a user can act on. What is not AWS' is raised again."""
    message = message_of(error)
    if error_code(error) == "ResourceLimitExceeded":
        return _quota_error(message, name, region)
    if "assume" in message.lower() and "role" in message.lower() and not is_denied(error):
        return RecipeError(
            f"{call} of {name}: SageMaker cannot use the role of train.sagemaker.role_arn ({message})",
            fix="check that the role exists and that its trust policy names sagemaker.amazonaws.com",
        )
    return aws_errors.error_of(
        error,
        call,
        name,
        fix=fix,
        failed=partial(TrainingError, fix="check train.sagemaker of the recipe, the region and the account"),
    )


def ended_badly(name: str, description: Mapping[str, Any], *, region: str | None = None) -> NexusError:
    """The error for a job that ended as Failed or Stopped, from what DescribeTrainingJob says."""
    status = str(description.get("TrainingJobStatus"))
    second = str(description.get("SecondaryStatus", status))
    reason = " ".join(str(description.get("FailureReason", "")).split())
    what = f"SageMaker job {name} ended as {second if status == 'Stopped' else status}" + (
        f": {reason}" if reason else ""
    )
    if second in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
        field = "max_run_hours" if second == "MaxRuntimeExceeded" else "max_wait_hours"
        return TryAgainError(
            what, fix=f"the same command continues at its last checkpoint; or raise train.sagemaker.{field}"
        )
    if status == "Stopped":
        return TryAgainError(what, fix="the same command starts the next attempt at the last checkpoint")
    if "CapacityError" in reason or "InsufficientCapacity" in reason:
        return TryAgainError(
            what, fix="run the same command later, or set another train.sagemaker.instance_type, subnets or region"
        )
    if "InternalServerError" in reason or reason.endswith("exit code: 75"):
        return TryAgainError(what, fix="the same command starts the next attempt at the last checkpoint")
    if "ResourceLimitExceeded" in reason:
        return _quota_error(reason, name, region)
    own = re.search(r"fix: (?P<fix>.+?)(?:, exit code.*)?$", reason)  # what the container itself has written
    return TrainingError(what, fix=own["fix"] if own else f"read its log: {log_place(name)}")


def log_place(name: str) -> str:
    """Where the job's output lies."""
    return f"CloudWatch group /aws/sagemaker/TrainingJobs, streams {name}/…"


def _quota_error(message: str, name: str, region: str | None) -> NexusError:
    found = _QUOTA.search(message)
    if not found:
        return TrainingError(
            f"{name} is beyond a quota of the account ({message})", fix="ask for more in Service Quotas"
        )
    wanted = float(found["used"]) + float(found["more"])
    place = f" --region {region}" if region else ""
    code = (
        f"$(aws service-quotas list-service-quotas --service-code sagemaker{place} --output text "
        f"--query \"Quotas[?QuotaName=='{found['name']}'].QuotaCode\")"
    )
    return TrainingError(
        f"{name} needs the quota '{found['name']}' to be {wanted:g}; it is {float(found['limit']):g}, and "
        f"{float(found['used']):g} are in use",
        fix=f"aws service-quotas request-service-quota-increase --service-code sagemaker{place} "
        f"--desired-value {wanted:g} --quota-code {code}",
    )

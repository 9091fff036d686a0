"""What AWS answers when it refuses a training job, in two lines: what is wrong, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nexus_llm.errors import NexusError, RecipeError, StorageError, TrainingError, TryAgainError

# Busy, not wrong: the same request succeeds later.
BUSY = frozenset(
    {
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
    }
)
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"})
_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "RequestExpired", "UnrecognizedClientException"}
)
_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "SSOTokenLoadError",
     "UnauthorizedSSOTokenError", "CredentialRetrievalError", "LoginRefreshRequired"}
)  # fmt: skip
_NO_WAY = frozenset(
    {"ConnectTimeoutError", "ConnectionClosedError", "EndpointConnectionError", "ProxyConnectionError",
     "ReadTimeoutError"}
)  # fmt: skip
_QUOTA = re.compile(
    r"service limit '(?P<name>[^']+)' is (?P<limit>[\d.]+).*?utilization of (?P<used>[\d.]+)"
    r".*?delta of (?P<more>[\d.]+)",
    re.DOTALL,
)


def error_code(error: BaseException) -> str:
    """AWS' code of an error, `ResourceLimitExceeded` for instance; empty for any other error."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def is_busy(error: BaseException) -> bool:
    """Whether asking again later helps."""
    return error_code(error) in BUSY or type(error).__name__ in _NO_WAY


def is_missing(error: BaseException) -> bool:
    """Whether SageMaker says that there is no such job; it has no code of its own for that."""
    message = str(error).lower()
    is_unknown = "not found" in message or "could not find" in message or "does not exist" in message
    return error_code(error) in ("ResourceNotFound", "ResourceNotFoundException") or (
        error_code(error) == "ValidationException" and is_unknown
    )


class explained:
    """Turns AWS' refusals inside the block into errors that name the call and its object."""

    def __init__(self, call: str, name: str, *, region: str | None = None, fix: str | None = None) -> None:
        """`fix` replaces the remedy for lost credentials and busy services: what to do when the job goes on."""
        self._call, self._name, self._region, self._fix = call, name, region, fix

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, NexusError):
            raise error_of(error, self._call, self._name, region=self._region, fix=self._fix) from error


def error_of(
    error: Exception, call: str, name: str, *, region: str | None = None, fix: str | None = None
) -> NexusError:
    """The error that a user can act on. What is not AWS' is raised again."""
    code = error_code(error)
    if not code and not type(error).__module__.startswith(("botocore", "boto3", "aiobotocore")):
        raise error
    message = " ".join(_message(error).split())
    if code == "ResourceLimitExceeded":
        return _quota_error(message, name, region)
    if unheard := _unheard(error, f"{call} of {name}", message, fix):
        return unheard
    if code in _DENIED:
        return StorageError(f"not allowed: {call} of {name} ({message})", fix=_permission(call, message))
    if "assume" in message.lower() and "role" in message.lower():
        return RecipeError(
            f"{call} of {name}: SageMaker cannot use the role of train.sagemaker.role_arn ({message})",
            fix="check that the role exists and that its trust policy names sagemaker.amazonaws.com",
        )
    return TrainingError(
        f"{call} of {name} failed ({message})", fix="check train.sagemaker of the recipe, the region and the account"
    )


def _unheard(error: Exception, asked: str, message: str, fix: str | None) -> NexusError | None:
    """The error where AWS did not get as far as the request: no region, no credentials, no time, no way."""
    kind = type(error).__name__
    if kind == "NoRegionError":
        return RecipeError(f"{asked}: no AWS region is set", fix="--set train.sagemaker.region=…, or set AWS_REGION")
    if error_code(error) in _EXPIRED or kind in _NO_CREDENTIALS:
        return StorageError(
            f"{asked}: AWS does not know who asks ({message})",
            fix=fix or "renew the credentials (aws sso login, or aws configure), then run the same command again",
        )
    if is_busy(error):
        return TryAgainError(
            f"{asked}: AWS is busy or out of reach ({message})", fix=fix or "run the same command again later"
        )
    return None


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


def _permission(call: str, message: str) -> str:
    """The action that AWS says is missing; its message may name another one than the call's (iam:PassRole)."""
    named = re.search(r"perform: (?P<action>[a-z0-9-]+:\w+)", message)
    return f"give the caller the action {named['action'] if named else call}"


def _message(error: Exception) -> str:
    response = getattr(error, "response", None)
    text = response.get("Error", {}).get("Message") if isinstance(response, dict) else None
    return str(text or error)

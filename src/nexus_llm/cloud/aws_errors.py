"""What AWS answers when it refuses, in two lines: what is wrong, and what to do about it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from nexus_llm.errors import NexusError, RecipeError, StorageError, TryAgainError

# Busy, or full, not wrong: the same request succeeds later.
BUSY = frozenset(
    {"500", "502", "503", "504", "ConcurrentRunsExceededException", "InternalFailure", "InternalServerError",
     "InternalServerException", "InternalServiceException", "OperationTimeoutException", "RequestLimitExceeded",
     "RequestTimeout", "ResourceNumberLimitExceededException", "ServiceQuotaExceededException", "ServiceUnavailable",
     "ServiceUnavailableException", "Throttling", "ThrottlingException", "ThrottledException",
     "TooManyRequestsException"}
)  # fmt: skip
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"})
_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "RequestExpired", "UnrecognizedClientException"}
)
_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "SSOTokenLoadError",
     "UnauthorizedSSOTokenError", "CredentialRetrievalError", "LoginRefreshRequired", "ProfileNotFound"}
)  # fmt: skip
_NO_WAY = frozenset(
    {"ConnectTimeoutError", "ConnectionClosedError", "EndpointConnectionError", "ProxyConnectionError",
     "ReadTimeoutError"}
)  # fmt: skip


def error_code(error: BaseException) -> str:
    """AWS' code of an error, `ResourceLimitExceeded` for instance; empty for any other error."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def is_busy(error: BaseException) -> bool:
    """Whether asking again later helps."""
    return error_code(error) in BUSY or type(error).__name__ in _NO_WAY


def is_denied(error: BaseException) -> bool:
    """Whether an action is missing in the caller's permissions."""
    return error_code(error) in _DENIED


def message_of(error: BaseException) -> str:
    """What AWS says, on one line."""
    response = getattr(error, "response", None)
    text = response.get("Error", {}).get("Message") if isinstance(response, dict) else None
    if text and text.lstrip().startswith("<"):  # a balancer's or an emulator's page, not AWS' words
        return f"HTTP {error_code(error)}"
    return " ".join(str(text or error).split())


@contextlib.contextmanager
def explained(
    call: str, name: str, *, fix: str | None = None, failed: Callable[[str], NexusError] | None = None
) -> Iterator[None]:
    """Turns AWS' refusals inside the block into errors that name the call (`s3:PutObject`) and its object; `fix` and
    `failed` as in `error_of`."""
    try:
        yield
    except NexusError:
        raise
    except Exception as error:
        raise error_of(error, call, name, fix=fix, failed=failed) from error


def error_of(
    error: Exception,
    call: str,
    name: str,
    *,
    fix: str | None = None,
    failed: Callable[[str], NexusError] | None = None,
) -> NexusError:
    """The error that a user can act on; `failed` makes the one for a reason that only the service knows.

    `fix` replaces the remedy for lost credentials and busy services: what to do when the job goes on. What is not AWS'
    is raised again.
    """
    if not error_code(error) and not type(error).__module__.startswith(("botocore", "boto3", "aiobotocore")):
        raise error
    message = message_of(error)
    if unheard := _unheard(error, f"{call} of {name}", message, fix):
        return unheard
    if is_denied(error):
        return StorageError(f"not allowed: {call} of {name} ({message})", fix=_permission(call, message))
    what = f"{call} of {name} failed ({message})"
    return failed(what) if failed else StorageError(what, fix="check the region and the account")


def _unheard(error: Exception, asked: str, message: str, fix: str | None) -> NexusError | None:
    """The error where AWS did not get as far as the request: no region, no credentials, no time, no way."""
    kind = type(error).__name__
    if kind == "NoRegionError":
        return RecipeError(
            f"{asked}: no AWS region is set", fix="--set train.sagemaker.region=…, or set AWS_DEFAULT_REGION"
        )
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


def _permission(call: str, message: str) -> str:
    """The action that AWS says is missing, and where to add it: its message may name another action than the call's
    (iam:PassRole), who was refused, and a policy that forbids it, which no further permission overrules."""
    named = re.search(r"perform: (?P<action>[a-z0-9-]+:\w+)", message)
    action = named["action"] if named else call
    if denied := re.search(r"explicit deny in an? (?P<policy>[a-z][a-z -]*?(policy|boundary))", message):
        return f"{action} is forbidden by a {denied['policy']}: ask its owner to except this caller"
    who = re.search(r"User: arn:[\w-]+:(?:iam|sts)::\d+:(?P<kind>user|assumed-role|role)/(?P<name>[^/\s]+)", message)
    where = f", in a policy of the {who['kind'].removeprefix('assumed-')} {who['name']}" if who else ""
    return f"give the caller the action {action}{where}"

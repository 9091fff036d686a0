"""What terraform's error diagnostics mean, as one error that a user can act on. Pure: text in, error out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_llm.errors import DeploymentError, NexusError, TryAgainError

# Service as the SDK names it → prefix of its IAM actions, where lower case alone is not it.
# Source: Service Authorization Reference, read 2026-11.
_PREFIXES = {
    "application auto scaling": "application-autoscaling",
    "auto scaling": "autoscaling",
    "cloudwatch": "cloudwatch",
    "cloudwatch logs": "logs",
    "config service": "config",
    "cost explorer": "ce",
    "elastic load balancing v2": "elasticloadbalancing",
    "emr serverless": "emr-serverless",
    "eventbridge": "events",
    "secrets manager": "secretsmanager",
}
_DENIED = re.compile(r"AccessDenied|not authorized to perform|UnauthorizedOperation|\bForbidden\b|StatusCode: 403")
_EXPIRED = re.compile(
    r"ExpiredToken|InvalidClientTokenId|UnrecognizedClient|security token included in the request|"
    r"No valid credential sources|failed to refresh cached credentials|SSO session has expired|RequestExpired"
)


# How it reads, the error, and what helps.
_KNOWN: tuple[tuple[re.Pattern[str], type[NexusError], str, str], ...] = (
    (
        _EXPIRED, DeploymentError, "{place}: AWS does not know who asks ({line})",
        "renew the credentials (aws sso login, or aws configure), then run the same command again",
    ),
    (
        re.compile(r"AWS account ID not allowed"), DeploymentError, "{place}: {line}",
        "use the credentials of the account that --account names",
    ),
    (
        re.compile(r"Throttl|RequestLimitExceeded|TooManyRequests|Rate exceeded|SlowDown|ServiceUnavailable"),
        TryAgainError, "{place}: AWS is busy ({line})", "the same command again continues",
    ),
    (
        re.compile(r"BucketNotEmpty|RepositoryNotEmpty|is not empty|recovery points"), DeploymentError,
        "{place}: it still holds something ({line})", "nexus aws down --yes-delete-data deletes that, too",
    ),
    (
        re.compile(r"AlreadyExists|AlreadyOwnedByYou|already exists|ResourceInUse|DuplicateRecord"), DeploymentError,
        "{place}: the name is taken ({line})",
        "take another --name; or, if an earlier run made it: terraform import in the stage's working folder",
    ),
    (
        re.compile(r"Failed to (query available|install) provider|provider registry|no available releases match"),
        DeploymentError, "{stage}: the AWS provider cannot be had ({line})",
        "let this machine reach registry.terraform.io, or set NEXUS_TERRAFORM_PLUGINS to a mirror's folder",
    ),
    (
        re.compile(r"Saved plan is stale"), TryAgainError, "{stage}: the state changed after the plan was shown",
        "run it again: plan, look, agree",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lock:
    """Who holds a state."""

    id: str
    who: str
    """`user@host`."""
    since: str
    """As terraform writes it, UTC."""
    operation: str


def held_lock(diagnostics: Sequence[Mapping[str, Any]]) -> Lock | None:
    """The lock that stood in the way; None where none did.

    >>> held_lock([{"summary": "Error acquiring the state lock", "detail": "Lock Info:\\n  ID:        8f\\n"
    ...             "  Who:       ann@box\\n  Created:   2026-11-22 10:00:00 UTC\\n  Operation: Apply"}])
    Lock(id='8f', who='ann@box', since='2026-11-22 10:00:00 UTC', operation='Apply')
    """
    text = _text(diagnostics)
    if "state lock" not in text:
        return None
    found = dict(re.findall(r"^[\s│]*(ID|Who|Created|Operation): +(.+?)\s*$", text, re.MULTILINE))
    if "ID" not in found:
        return None
    return Lock(found["ID"], found.get("Who", "somebody"), found.get("Created", "?"), found.get("Operation", "?"))


class LockedError(TryAgainError):
    """Somebody else works on the state, or died doing so."""

    def __init__(self, what: str, *, fix: str, lock: Lock | None = None) -> None:
        super().__init__(what, fix=fix)
        self.lock = lock


def refusal(diagnostics: Sequence[Mapping[str, Any]], *, stage: str, during: str) -> NexusError:
    """The error to raise: what the first diagnostic says, and its fix. `during` is terraform's verb."""
    if lock := held_lock(diagnostics):
        return LockedError(
            f"{stage}: {lock.who} holds the state since {lock.since} ({lock.operation})",
            fix=f"wait for it; if nothing works there any more: nexus aws up --stage {stage} --break-lock {lock.id}",
            lock=lock,
        )
    first = diagnostics[0] if diagnostics else {"summary": f"terraform {during} ended without a word"}
    address = str(first.get("address") or "")
    place = f"{stage}: {address}" if address else stage
    return _known(_text([first]), place, stage) or DeploymentError(
        f"{place}: {_line(_text([first]))}{_more(diagnostics)}",
        fix="see the whole message in the stage's working folder; what was made is in the state: run it again",
    )


def _known(text: str, place: str, stage: str) -> NexusError | None:
    """The error for what users meet; None for anything else."""
    line = _line(text)
    if _DENIED.search(text) and not _EXPIRED.search(text):
        action, caller = missing_action(text), re.search(r"User: (\S+)", text)
        return DeploymentError(
            f"{place}: not allowed: {action or 'an action'} ({line})",
            fix=f"add {action or 'it'} to a policy of {caller[1] if caller else 'the caller'}: see nexus aws iam",
        )
    for words, kind, what, fix in _KNOWN:
        if words.search(text):
            return kind(what.format(place=place, stage=stage, line=line), fix=fix)
    return None


def missing_action(text: str) -> str | None:
    """The IAM action that a refusal is about; None where it does not say.

    >>> missing_action("operation error KMS: CreateKey, api error AccessDeniedException: User: arn:aws:iam::1:user/a "
    ...                "is not authorized to perform: kms:TagResource on resource: *")
    'kms:TagResource'
    >>> missing_action("operation error CloudWatch Logs: CreateLogGroup, StatusCode: 403, AccessDenied")
    'logs:CreateLogGroup'
    """
    if named := re.search(r"perform: ([a-z0-9-]+:\w+)", text):
        return named[1]
    if asked := re.search(r"operation error ([\w ]+): (\w+)", text):
        service = asked[1].lower()
        return f"{_PREFIXES.get(service, service.replace(' ', ''))}:{asked[2]}"
    return None


def _text(diagnostics: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(f"{one.get('summary', '')}\n{one.get('detail', '')}" for one in diagnostics).strip()


def _line(text: str) -> str:
    """One line without terraform's frame, short enough to read."""
    words = " ".join(re.sub(r"\x1b\[\d*m|[│╷╵]", " ", text).split()).removeprefix("Error: ")
    return words if len(words) <= 400 else f"{words[:397]}..."


def _more(diagnostics: Sequence[Mapping[str, Any]]) -> str:
    return f" (and {len(diagnostics) - 1} more)" if len(diagnostics) > 1 else ""

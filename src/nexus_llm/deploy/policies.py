"""IAM policies from recordings: what each principal was heard to need becomes documents, and nothing else does.

Recordings lie in `iam_recordings.json` with placeholders (NAME, ACCOUNT, REGION); `benchmarks/aws_permissions.py` makes
them. Sources: IAM user guide, "IAM JSON policy reference" and "IAM and AWS STS quotas", read 2026-11.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from nexus_llm.deploy.authorization import Action, Need, Reference
from nexus_llm.deploy.policy_evaluation import missing
from nexus_llm.errors import UsageError

MAX_POLICY_CHARACTERS = 6_144  # of a managed policy, white space not counted
# Services that answer in one region for all: a condition on the region would close them. As modules/boundary has it.
_GLOBAL = frozenset({"budgets", "ce", "iam", "s3", "sts"})
_ANYWHERE = "*"
# Actions that end something or open it: only where the thing is tagged as the platform's. Terraform tags what it makes
# while it makes it, so what lacks the tag is somebody else's.
_KEPT_TO_TAG = re.compile(r"ec2:(Delete|Release|Terminate|Stop)\w+|kms:(?!TagResource|PutKeyPolicy)\w+")
# Actions that could be kept to a resource, and why they are not.
WIDE: Mapping[str, str] = {
    "ec2:DisassociateRouteTable": "the request names an association, of which AWS has no ARN",
    "rds:DescribeDBClusterSnapshots": "`nexus aws down` asks for all, to see what is left",
    "rds:DescribeDBClusters": "`nexus aws down` asks for all, to see what is left",
    "rds:DescribeDBInstances": "`nexus aws down` asks for all, to see what is left",
    "rds:DescribeGlobalClusters": "Terraform asks for all, to see whether the database belongs to one",
    "sagemaker:ListModelPackages": "the request names a group, and the reference knows only its versions",
}
# Who may make roles may do everything, unless each role stands below the ceiling of modules/boundary.
_BELOW_THE_CEILING = frozenset({"iam:AttachRolePolicy", "iam:CreateRole", "iam:PutRolePolicy"})
# Asked of one region about all of them.
_ABOUT_ALL_REGIONS = frozenset({"ec2:DescribeRegions"})
# Keys of conditions whose values are gathered in one statement.
_GATHERED = frozenset({"ec2:CreateAction", "iam:AWSServiceName", "iam:PassedToService"})


@dataclass(frozen=True)
class Role:
    """A principal, and what it was heard to need."""

    title: str
    needs: tuple[Need, ...]
    """With the placeholders NAME, ACCOUNT and REGION."""
    gaps: tuple[str, ...]
    """What could not be recorded."""


@dataclass(frozen=True)
class Recordings:
    """All that was recorded."""

    made: Mapping[str, str]
    """With which versions, and when."""
    roles: Mapping[str, Role]
    reference: Reference


@dataclass(frozen=True)
class Place:
    """Whose policies: `*` where nobody said."""

    name: str
    """Prefix of everything that the platform makes."""
    account: str = _ANYWHERE
    regions: tuple[str, ...] = (_ANYWHERE,)


def recordings() -> Recordings:
    """What ships with the package."""
    folder = resources.files("nexus_llm.deploy")
    heard = json.loads(folder.joinpath("iam_recordings.json").read_text(encoding="utf-8"))
    known = json.loads(folder.joinpath("iam_actions.json").read_text(encoding="utf-8"))
    roles = {
        name: Role(one["title"], tuple(needs_of(one["needs"])), tuple(one["gaps"]))
        for name, one in heard["roles"].items()
    }
    return Recordings(heard["made"], roles, reference_of(known))


def reference_of(document: Mapping[str, Any]) -> Reference:
    """The reference as it is written in `iam_actions.json`."""
    return Reference(
        {
            name: Action(tuple(one.get("required", ())), tuple(one.get("optional", ())))
            for name, one in document["actions"].items()
        }
    )


def needs_of(document: Mapping[str, Sequence[Sequence[str]]]) -> list[Need]:
    """Needs as they are written: action → resources, each with the key and value of its condition where it has one."""
    return [
        Need(action, one[0], (one[1], one[2]) if len(one) == 3 else ("", ""))
        for action, found in document.items()
        for one in found
    ]


def documents(role: str, heard: Recordings, place: Place) -> list[dict[str, Any]]:
    """The policies of a role, each small enough for a managed policy; together they allow what was heard.

    Raises:
        UsageError: there is no such role.
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for action, wanted in _by_action(_role(role, heard).needs, place).items():
        for condition, arns in wanted.items():
            found[(json.dumps(sorted(arns)), condition)].append(action)
    statements = [
        _statement(sorted(actions), json.loads(arns), json.loads(condition))
        for (arns, condition), actions in found.items()
    ]
    statements.sort(key=lambda one: (one["Resource"] == "*", json.dumps(one["Action"]).lstrip("["), json.dumps(one)))
    return _split(statements)


def place_needs(needs: Iterable[Need], place: Place) -> list[Need]:
    """Needs with the names of a place, in each of its regions, sorted."""
    return sorted(
        {
            Need(
                need.action,
                _placed(need.resource, place, region),
                (need.condition[0], _placed(need.condition[1], place, region)),
            )
            for need in needs
            for region in place.regions
        }
    )


def lacking(role: str, heard: Recordings, place: Place, own: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Action → resources that a role needs and somebody's own policies do not allow; nothing is asked of AWS.

    Raises:
        UsageError: there is no such role, or a policy uses what is not evaluated here.
    """
    context = {
        "aws:RequestedRegion": place.regions[0],
        "aws:ResourceTag/platform": place.name,
        "iam:PermissionsBoundary": f"arn:aws:iam::{place.account}:policy/{place.name}-boundary",
    }
    found: dict[str, list[str]] = defaultdict(list)
    for need in missing(own, place_needs(_role(role, heard).needs, place), context):
        found[need.action].append(need.resource)
    return dict(found)


def wide_actions(role: str, heard: Recordings) -> dict[str, str]:
    """Why an action of a role is allowed on `*`: the reason of each."""
    return {
        need.action: wide_reason(need.action, heard.reference)
        for need in heard.roles[role].needs
        if need.resource == "*"
    }


def wide_reason(action: str, reference: Reference) -> str:
    """Why an action cannot be kept to a resource; empty where it could be."""
    if action in WIDE:
        return WIDE[action]
    known = reference.of(action)
    if known.required or known.optional:
        return ""
    return "AWS defines no resource for the action (Service Authorization Reference)"


def _role(role: str, heard: Recordings) -> Role:
    if role not in heard.roles:
        raise UsageError(f"there is no role {role!r}", fix=f"--role takes {', '.join(heard.roles)}")
    return heard.roles[role]


def _by_action(needs: Iterable[Need], place: Place) -> dict[str, dict[str, set[str]]]:
    """Action → condition as JSON → ARNs, for this place."""
    needs = list(needs)
    tagged = {_kind(need) for need in needs if need.condition[0] == "ec2:CreateAction"}
    gathered: dict[tuple[str, str], set[str]] = defaultdict(set)
    for need in needs:
        gathered[(need.action, need.condition[0])].add(need.condition[1])
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for need in needs:
        key, value = need.condition
        values = gathered[(need.action, key)] if key in _GATHERED else {value}
        for region in place.regions:
            condition = _condition(need, sorted(values), place, region, tagged)
            found[need.action][json.dumps(condition, sort_keys=True)].add(_placed(need.resource, place, region))
    return found


def _condition(
    need: Need, values: Sequence[str], place: Place, region: str, tagged: set[str]
) -> dict[str, dict[str, Any]]:
    equal: dict[str, Any] = {}
    like: dict[str, Any] = {}
    if key := need.condition[0]:
        placed = [_placed(one, place, region) for one in values]
        (like if "*" in placed[0] else equal)[key] = placed[0] if len(placed) == 1 else placed
    if _KEPT_TO_TAG.fullmatch(need.action) and (":key/" in need.resource or _kind(need) in tagged):
        equal["aws:ResourceTag/platform"] = place.name
    if need.action in _BELOW_THE_CEILING:
        arn = f"arn:aws:iam::{place.account}:policy/{place.name}-boundary"
        (like if "*" in arn else equal)["iam:PermissionsBoundary"] = arn
    has_region = need.action.partition(":")[0] not in _GLOBAL and need.action not in _ABOUT_ALL_REGIONS
    if need.resource == "*" and has_region and place.regions != (_ANYWHERE,):
        equal["aws:RequestedRegion"] = list(place.regions)
    return {name: block for name, block in (("StringEquals", equal), ("StringLike", like)) if block}


def _placed(resource: str, place: Place, region: str) -> str:
    """A text with this place's names where the placeholders stand."""
    known = {"NAME": place.name, "UNDERSCORED": place.name.replace("-", "_"), "ACCOUNT": place.account}
    return re.sub(r"NAME|UNDERSCORED|ACCOUNT|REGION", lambda word: (known | {"REGION": region})[word[0]], resource)


def _kind(need: Need) -> str:
    """`vpc` of `arn:aws:ec2:REGION:ACCOUNT:vpc/*`."""
    return need.resource.split(":", 5)[-1].partition("/")[0] if need.action.startswith("ec2:") else ""


def _statement(actions: list[str], arns: list[str], condition: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Action": actions[0] if len(actions) == 1 else actions,
        "Resource": arns[0] if len(arns) == 1 else arns,
        **({"Condition": condition} if condition else {}),
    }


def _split(statements: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Documents that hold the statements in their order, each below IAM's limit."""
    made: list[dict[str, Any]] = []
    current: list[dict[str, Any]] = []
    for statement in (part for one in statements for part in _parts(one)):
        if current and _characters(_document([*current, statement])) > MAX_POLICY_CHARACTERS:
            made.append(_document(current))
            current = []
        current.append(statement)
    return [*made, _document(current)] if current else made


def _parts(statement: dict[str, Any]) -> list[dict[str, Any]]:
    """A statement that is too large by itself, in two or more."""
    actions = statement["Action"]
    if _characters(_document([statement])) <= MAX_POLICY_CHARACTERS or isinstance(actions, str):
        return [statement]
    half = len(actions) // 2
    return [part for piece in (actions[:half], actions[half:]) for part in _parts({**statement, "Action": piece})]


def _document(statements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sids say the first service and a number: letters and digits only, unique in the document."""
    named = []
    for number, one in enumerate(statements, start=1):
        first = one["Action"] if isinstance(one["Action"], str) else one["Action"][0]
        service = re.sub(r"[^A-Za-z0-9]", "", first.partition(":")[0].title())
        named.append({"Sid": f"{service}{number}", **one})
    return {"Version": "2012-10-17", "Statement": named}


def _characters(document: Mapping[str, Any]) -> int:
    return len(json.dumps(document, separators=(",", ":")))

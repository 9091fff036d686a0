"""What IAM answers for a policy: an evaluation of documents against one permission that is needed, without AWS.

Only what our own policies use: Allow and Deny, Action and NotAction, Resource, and the operators below. Anything else
is an error, never a silent yes. Source: IAM user guide, "Policy evaluation logic", "Condition operators", read 2026-11.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nexus_llm.deploy.authorization import Need
from nexus_llm.errors import UsageError

_NEGATED = {"StringNotEquals": "StringEquals", "StringNotLike": "StringLike"}


def is_allowed(documents: Iterable[Mapping[str, Any]], need: Need, context: Mapping[str, str]) -> bool:
    """Whether some statement allows it and none denies it; `context` is what a request brings along.

    Raises:
        UsageError: a statement uses what this evaluation does not know.
    """
    given = dict(context) | ({need.condition[0]: need.condition[1]} if need.condition[0] else {})
    effects = {
        str(statement["Effect"])
        for document in documents
        for statement in listed(document.get("Statement", []))
        if _applies(statement, need, given)
    }
    return "Allow" in effects and "Deny" not in effects


def missing(documents: Sequence[Mapping[str, Any]], needs: Iterable[Need], context: Mapping[str, str]) -> list[Need]:
    """The needs that the documents do not allow, sorted."""
    return sorted(need for need in needs if not is_allowed(documents, need, context))


def listed(value: Any) -> list[Any]:
    """A value of a policy, which may stand alone or in a list, as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _applies(statement: Mapping[str, Any], need: Need, context: Mapping[str, str]) -> bool:
    if unknown := set(statement) - {"Sid", "Effect", "Action", "NotAction", "Resource", "Condition"}:
        raise UsageError(f"a statement has {', '.join(sorted(unknown))}", fix="only identity policies are evaluated")
    is_named = "Action" in statement
    names = listed(statement["Action"] if is_named else statement["NotAction"])
    if any(_matches(one.lower(), need.action.lower()) for one in names) is not is_named:
        return False
    # A need on `a/*` is met only by what covers all of it: `*` in the need is matched as a character.
    is_resource = any(_matches(one, need.resource) for one in listed(statement["Resource"]))
    return is_resource and _holds(statement.get("Condition", {}), context)


def _holds(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    return all(
        _compare(operator, context.get(key), [str(one) for one in listed(wanted)])
        for operator, block in conditions.items()
        for key, wanted in block.items()
    )


def _compare(operator: str, given: str | None, wanted: Sequence[str]) -> bool:
    if operator in _NEGATED:
        return not _compare(_NEGATED[operator], given, wanted)
    if operator in ("StringEquals", "Bool", "ArnEquals"):
        return given is not None and given in wanted
    if operator in ("StringLike", "ArnLike"):
        return given is not None and any(_matches(one, given) for one in wanted)
    if operator == "ForAllValues:StringEquals":
        return given is None or given in wanted
    raise UsageError(
        f"a policy has the condition operator {operator}", fix="it is not evaluated here; see docs/aws-iam.md"
    )


def _matches(pattern: str, text: str) -> bool:
    """IAM's wildcards: `*` is any run of characters, colons and slashes too; `?` is one."""
    return pattern == text or (("*" in pattern or "?" in pattern) and _wild(pattern).fullmatch(text) is not None)


@functools.cache
def _wild(pattern: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in pattern))

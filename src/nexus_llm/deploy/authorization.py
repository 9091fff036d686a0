"""A permission, and what AWS' Service Authorization Reference says of the action that it names (`iam_actions.json`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nexus_llm.errors import NexusError


class UnknownActionError(NexusError):
    """A call asks for an action that `iam_actions.json` does not know."""


@dataclass(frozen=True, order=True)
class Need:
    """One permission that a call asks for."""

    action: str
    resource: str
    """An ARN, parts that nobody can know beforehand being `*`; `*` alone where the action takes no resource."""
    condition: tuple[str, str] = ("", "")
    """Key and value that the request brings along: whom a role is passed to, through which service a key is used."""


@dataclass(frozen=True)
class Action:
    """What the reference says of an action."""

    required: tuple[str, ...] = ()
    """ARNs of the kinds of resources that are always checked, as `arn:${Partition}:glue:${Region}:…`."""
    optional: tuple[str, ...] = ()
    """ARNs of kinds that are checked where the request names one."""


@dataclass(frozen=True)
class Reference:
    """The Service Authorization Reference, as far as it is used."""

    actions: Mapping[str, Action]

    def of(self, action: str) -> Action:
        """What is known of an action.

        Raises:
            UnknownActionError: nothing.
        """
        if action not in self.actions:
            raise UnknownActionError(
                f"no action {action} is known to nexus_llm/deploy/iam_actions.json",
                fix="record again with benchmarks/aws_permissions.py, which asks the whole reference",
            )
        return self.actions[action]

"""An account whose services are given: what tests put in the place of boto3's session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nexus_llm.cloud.account import Account, Watch


@dataclass(frozen=True)
class GivenServices:
    """The part of boto3's session that an account uses."""

    find: Callable[[str], Any]

    def client(self, service: str, **_: Any) -> Any:
        """What was given for the service."""
        return self.find(service)


def account_of(find: Callable[[str], Any], region: str | None = None, **watch: Any) -> Account:
    """An account that asks `find` for each service; `watch` are fields of `Watch`."""
    return Account(GivenServices(find), region, watch=Watch(**watch))

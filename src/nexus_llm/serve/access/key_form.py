"""What may be asked of a new key or of a usage report, checked for both the command line and `/admin`."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from nexus_llm.serve.access.limits import NANO_PER_USD, Limits
from nexus_llm.serve.request_parts import Part

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}$")]
ModelPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/@*?-]{1,200}$")]
EndpointPath = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]{1,100}$")]
_DURATION = re.compile(r"([1-9][0-9]{0,5})([hdw])")
_UNIT_SECONDS = {"h": 3_600, "d": 86_400, "w": 604_800}


class NewKey(Part):
    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Name
    """Unique among living keys."""
    models: list[ModelPattern] = Field([], max_length=100)
    """Models that it may use, `*` and `?` allowed; empty: all."""
    endpoints: list[EndpointPath] = Field([], max_length=100)
    """Paths that it may call, such as `/v1/chat/completions`; empty: all but `/admin`."""
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Prompt and answer together; an answer counts with its max_tokens until it has ended."""
    usd_per_month: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """For each calendar month in UTC, at the gateway's prices."""
    expires: Annotated[str, Field(max_length=40)] | None = None
    """`12h`, `30d`, `8w` from now, or a moment such as `2027-01-31` or `2027-01-31T12:00:00Z`."""
    admin: bool = False
    """May use `/admin`."""

    def rights(self) -> dict[str, Any]:
        """What `create_key` takes besides the name and the end."""
        budget = None if self.usd_per_month is None else max(1, round(self.usd_per_month * NANO_PER_USD))
        return {
            "limits": Limits(self.requests_per_minute, self.tokens_per_minute, budget),
            "models": tuple(self.models),
            "endpoints": tuple(self.endpoints),
            "is_admin": self.admin,
        }


def expiry(given: str | None, *, now: float | None = None) -> int | None:
    """When a key ends, in seconds since 1970; None: never.

    >>> expiry("2d", now=0)
    172800
    >>> expiry("1970-01-02")
    Traceback (most recent call last):
    ValueError: lies in the past

    Raises:
        ValueError: it is neither a time span nor a moment, or has passed.
    """
    if given is None:
        return None
    now = time.time() if now is None else now
    if span := _DURATION.fullmatch(given):
        return int(now) + int(span[1]) * _UNIT_SECONDS[span[2]]
    try:
        moment = datetime.fromisoformat(given)
        seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise ValueError("is neither a time span (12h, 30d, 8w) nor a moment (2027-01-31)") from None
    if seconds <= now:
        raise ValueError("lies in the past")
    return seconds


def day(given: str | None) -> str | None:
    """A day as the usage table writes it, from `2026-11-22`.

    Raises:
        ValueError: it is no day.
    """
    if given is None:
        return None
    try:
        return datetime.strptime(given, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        raise ValueError("is no day such as 2026-11-22") from None

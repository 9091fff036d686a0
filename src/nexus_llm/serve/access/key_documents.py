"""Keys as JSON, without what could be used or guessed from."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from nexus_llm.serve.access.keys import KeyRecord
from nexus_llm.serve.access.limits import NANO_PER_USD


def key_document(record: KeyRecord) -> dict[str, Any]:
    """All that is known about a key but its hash."""
    budget = record.limits.nano_usd_per_month
    return {
        "id": record.id,
        "name": record.name,
        "status": status_of(record),
        "created": moment(record.created_at),
        "expires": moment(record.expires_at),
        "revoked": moment(record.revoked_at),
        "admin": record.is_admin,
        "models": list(record.models),
        "endpoints": list(record.endpoints),
        "requests_per_minute": record.limits.requests_per_minute,
        "tokens_per_minute": record.limits.tokens_per_minute,
        "usd_per_month": None if budget is None else budget / NANO_PER_USD,
    }


def status_of(record: KeyRecord) -> str:
    """`active`, `expired` or `revoked`."""
    if record.revoked_at is not None:
        return "revoked"
    return "expired" if record.expires_at is not None and record.expires_at <= time.time() else "active"


def moment(seconds: int | None) -> str | None:
    """A time in ISO 8601, UTC.

    >>> moment(0)
    '1970-01-01T00:00:00Z'
    """
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

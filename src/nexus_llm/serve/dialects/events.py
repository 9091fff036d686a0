"""Server-sent events with a name, as the responses and messages APIs stream them."""

from __future__ import annotations

from typing import Any

import orjson


def event(name: str, data: dict[str, Any]) -> str:
    """One event of a stream.

    >>> event("ping", {"type": "ping"})
    'event: ping\\ndata: {"type":"ping"}\\n\\n'

    Source: HTML Living Standard, section 9.2 (server-sent events).
    """
    return f"event: {name}\ndata: {compact(data)}\n\n"


def compact(value: object) -> str:
    """JSON without spaces, in UTF-8."""
    return orjson.dumps(value).decode()

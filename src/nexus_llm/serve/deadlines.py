"""When a client stops waiting, as far as it tells, so that nobody works for clients that have gone.

There is no standard field. Read are our own `x-request-timeout-ms`, Envoy's `x-envoy-expected-rq-timeout-ms` (Envoy
sets it on what it forwards), and what OpenAI's and Anthropic's clients send by themselves: `x-stainless-read-timeout`
(Python) and `x-stainless-timeout` (JavaScript), in seconds, both 600 by default. The shortest counts.

Sources: envoyproxy.io, "Router" (http_filters/router_filter), and the clients' `_base_client.py` and `core.ts`, read
2026-11.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from starlette.types import Scope

SECONDS_BY_HEADER = {
    b"x-request-timeout-ms": 1e-3,
    b"x-envoy-expected-rq-timeout-ms": 1e-3,
    b"x-stainless-read-timeout": 1.0,
    b"x-stainless-timeout": 1.0,
}
"""Field → seconds of its unit."""
_MAX_DIGITS = 12  # of a number that is read; more means nothing

_CURRENT: ContextVar[float | None] = ContextVar("nexus_deadline", default=None)


def told_seconds(scope: Scope) -> float | None:
    """How long the client waits for the answer to begin; None where it does not say, or nothing that makes sense.

    >>> told_seconds({"headers": [(b"x-request-timeout-ms", b"1500"), (b"x-stainless-read-timeout", b"600")]})
    1.5
    """
    told = [
        float(value) * SECONDS_BY_HEADER[name]
        for name, value in scope["headers"]
        if name in SECONDS_BY_HEADER and value.replace(b".", b"", 1).isdigit() and len(value) <= _MAX_DIGITS
    ]
    return min(told, default=None)


def current_deadline() -> float | None:
    """When the client of the running task stops waiting, by the loop's clock."""
    return _CURRENT.get()


@contextmanager
def until(seconds: float | None) -> Iterator[None]:
    """Makes the deadline so many seconds from now the current one for a block."""
    token = _CURRENT.set(None if seconds is None else asyncio.get_running_loop().time() + seconds)
    try:
        yield
    finally:
        _CURRENT.reset(token)

"""Where a request stands in a trace: the header `traceparent` read and written (W3C Trace Context, level 1,
Recommendation of 23 November 2021, section 3.2).

`tracestate` is not passed on (the Recommendation lets a service drop it): whatever a client writes there would
otherwise go to the collector.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

_HEADER = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_SHARE_BITS = 64


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One request's place in a trace; ids in lower-case hex."""

    trace_id: str
    parent_id: str | None
    """Span of whoever called; None where the trace begins here."""
    span_id: str | None
    """Span of the request itself; None where this server only passes a trace on."""
    engine_span_id: str | None
    """Span of the engine's or the upstream's work for it."""
    is_sampled: bool

    def header(self) -> str:
        """`traceparent` for the upstream: below the engine's span, or just as it came where there is none."""
        return f"00-{self.trace_id}-{self.engine_span_id or self.parent_id}-{'01' if self.is_sampled else '00'}"


def trace_context(headers: Iterable[tuple[bytes, bytes]], *, is_tracing: bool, share: float) -> TraceContext | None:
    """The request's place in the trace that its headers name, else in a new one; None where there is none to join and
    this server does not trace.

    A caller's decision to record or not is kept. Of new traces, `share` (0 to 1) is recorded, chosen by the trace id.

    >>> caller = (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    >>> trace_context([caller], is_tracing=False, share=1.0).header()
    '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
    """
    given = [value.decode("latin-1").strip() for name, value in headers if name == b"traceparent"]
    found = _HEADER.fullmatch(given[0]) if len(given) == 1 else None
    # A longer header is right only in a later version than ours, whose first four parts mean the same.
    if found is not None and not (found[5] and found[1] == "00"):
        is_sampled = bool(int(found[4], 16) & _SAMPLED)
        span_id, engine_span_id = (new_span_id(), new_span_id()) if is_tracing else (None, None)
        return TraceContext(found[2], found[3], span_id, engine_span_id, is_sampled)
    if not is_tracing:
        return None
    trace_id = secrets.token_hex(16)
    is_sampled = int(trace_id[-16:], 16) < share * 2**_SHARE_BITS
    return TraceContext(trace_id, None, new_span_id(), new_span_id(), is_sampled=is_sampled)


def new_span_id() -> str:
    """A random span id, 16 hex digits, never all zeros."""
    return f"{secrets.randbits(64) or 1:016x}"

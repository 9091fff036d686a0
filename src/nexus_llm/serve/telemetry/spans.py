"""The spans of a finished request, as plain values: pure, so that what a trace can hold is seen in one place.

    POST /v1/chat/completions      server: the whole request
    ├─ encode                      prompt → token ids
    ├─ queue                       from its place in the queue to its turn
    └─ chat MODEL                  client: the engine's process, or the upstream
       ├─ prefill                  to the first token
       └─ decode                   from the first token to the last

Names and attributes: OpenTelemetry's GenAI conventions, status Development, `docs/gen-ai/client-inference.md` of
github.com/open-telemetry/semantic-conventions-genai at commit 024a4f9 (read 22 November 2026; they left the common
conventions in May 2026 and had no release of their own yet), and the HTTP conventions of version 1.44.0. Left out on
purpose: all that holds content (`gen_ai.input.messages`, `gen_ai.request.stop_sequences`, …) or may (`url.path`,
`url.query`, `user_agent.original`, `client.address`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from nexus_llm.serve.telemetry.record import Moment, RequestRecord
from nexus_llm.serve.telemetry.trace_context import new_span_id

Value = str | int | float | bool | list[str]


@dataclass(frozen=True, slots=True)
class PlannedSpan:
    """One span; times in nanoseconds since 1970."""

    name: str
    kind: Literal["server", "client", "internal"]
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    attributes: dict[str, Value] = field(default_factory=dict)
    is_error: bool = False


def planned_spans(record: RequestRecord, *, new_id: Callable[[], str] = new_span_id) -> list[PlannedSpan]:
    """All spans of a finished request, parents first; none where it is not traced."""
    trace = record.trace
    if trace is None or trace.span_id is None or trace.engine_span_id is None:
        return []
    start, end = _nanoseconds(record, record.started_at), _nanoseconds(record, record.moments["ended"])
    name = f"{record.method} {record.route}"
    spans = [PlannedSpan(name, "server", trace.span_id, trace.parent_id, start, end, _http(record), record.is_failure)]

    def add(name: str, parent_id: str, first: Moment, last: Moment) -> None:
        if first in record.moments:
            until = record.moments.get(last, record.moments["ended"])
            times = (_nanoseconds(record, record.moments[first]), _nanoseconds(record, until))
            spans.append(PlannedSpan(name, "internal", new_id(), parent_id, *times))

    add("encode", trace.span_id, "encoding", "encoded")
    add("queue", trace.span_id, "queued", "submitted")
    if "submitted" in record.moments:
        begin = _nanoseconds(record, record.moments["submitted"])
        name = f"{record.operation} {record.model}"
        attributes = _generation(record)
        spans.append(
            PlannedSpan(
                name, "client", trace.engine_span_id, trace.span_id, begin, end, attributes, "error.type" in attributes
            )
        )
        add("prefill", trace.engine_span_id, "submitted", "first_token")
        add("decode", trace.engine_span_id, "first_token", "ended")
    return spans


def _nanoseconds(record: RequestRecord, moment: float) -> int:
    return record.started_unix_ns + int((moment - record.started_at) * 1e9)


def _http(record: RequestRecord) -> dict[str, Value]:
    attributes: dict[str, Value] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "nexus.request.id": record.request_id,
    }
    if record.is_failure:
        attributes["error.type"] = record.error_code or str(record.status)
    if record.key_id is not None:
        attributes["nexus.key.id"] = record.key_id
    if record.receipt is not None:
        attributes["nexus.receipt"] = record.receipt
    return attributes


def _generation(record: RequestRecord) -> dict[str, Value]:
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": record.operation or "chat",
        "gen_ai.provider.name": record.provider,
        "gen_ai.request.model": record.model or "",
        "gen_ai.response.model": record.model or "",
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
    }
    if record.choice_count != 1:
        attributes["gen_ai.request.choice.count"] = record.choice_count
    if record.is_stream:
        attributes["gen_ai.request.stream"] = True
        if record.seconds_to_first_token is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = record.seconds_to_first_token
    if record.finish_reasons:
        attributes["gen_ai.response.finish_reasons"] = list(record.finish_reasons)
    if record.error_code is not None:
        attributes["error.type"] = record.error_code
    return attributes

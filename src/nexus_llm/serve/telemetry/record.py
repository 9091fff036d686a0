"""What may be told of one request: who, when, how long, how many tokens. Never a prompt, never an answer.

The edge makes a record for each request and finishes it; whoever works on the request fills in what it knows, through
`current_record()`. A context variable carries it, as with the caller: every part of the way needs it and no parameter
is about it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nexus_llm.serve.requests import AnyRequest, ChatRequest, EmbeddingRequest
from nexus_llm.serve.telemetry.trace_context import TraceContext

if TYPE_CHECKING:
    from nexus_llm.serve.lanes import Tally
    from nexus_llm.serve.model_folder import ServedModel
    from nexus_llm.serve.telemetry.samples import Sample

Moment = Literal["queued", "encoding", "encoded", "submitted", "first_token", "ended"]
"""queued: it has a place in the queue; encoding, encoded: its prompt becomes token ids; submitted: the engine, or the
upstream, has it; first_token: something came back; ended: the last token came, or it was given up."""

CLIENT_GONE = 499  # nginx counts clients that leave before the answer begins so; it is never sent
DISCONNECTED = "client_disconnected"
_OPERATIONS = ("text_completion", "chat")  # by whether it is a chat request
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))


@dataclass(slots=True)
class RequestRecord:
    """One request. Times are `time.monotonic()`, in seconds."""

    request_id: str = ""
    method: str = ""
    path_is_api: bool = False
    """Whether it asks for something that models do: a POST that is not about keys."""
    trace: TraceContext | None = None
    """Where the request stands in a trace; None where nobody traces."""
    started_at: float = field(default_factory=time.monotonic)
    started_unix_ns: int = field(default_factory=time.time_ns)
    moments: dict[Moment, float] = field(default_factory=dict)
    route: str = "unknown"
    """The route's template, never the path: a path may hold anything."""
    status: int = 0
    """HTTP status; 499 where the client left before there was one."""
    key_id: str | None = None
    """The part of the key that lets nobody in."""
    operation: str | None = None
    """`chat`, `text_completion` or `embeddings`."""
    model: str | None = None
    """As the client called it, once it is known to be served here."""
    provider: str = "nexus_llm"
    is_stream: bool = False
    choice_count: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    error_code: str | None = None
    """Code of the error that was answered, also in the middle of a stream."""
    receipt: str | None = None
    """Which weights answered: the header `x-nexus-receipt`."""
    tally: Tally | None = None
    """Of the lane that answers, where that counts."""
    sample: Sample | None = None
    """Collects prompt and answer, where this request was chosen for it."""

    def mark(self, moment: Moment) -> None:
        """Notes the time of a moment; the first of several counts."""
        self.moments.setdefault(moment, time.monotonic())

    def asked(self, request: AnyRequest) -> None:
        """What the request is for. Call it once its model is known to be served here: names come from clients."""
        is_embedding = isinstance(request, EmbeddingRequest)
        self.operation = "embeddings" if is_embedding else _OPERATIONS[isinstance(request, ChatRequest)]
        self.model = request.model
        self.is_stream = not isinstance(request, EmbeddingRequest) and bool(request.stream)

    def opened(self, model: ServedModel, *, prompts: list[list[int]], prompt_tokens: int) -> None:
        """Who will answer what; there is a prompt for each of the answers. Prompts only go into a sample."""
        self.prompt_tokens, self.choice_count = prompt_tokens, len(prompts)
        if model.receipt is not None:
            self.receipt = model.receipt.header(adapter=self.model if self.model in model.adapters else None)
        if self.sample is not None:
            self.sample.tokenizer = model.tokenizer
            self.sample.prompts = list({id(prompt): prompt for prompt in prompts}.values())

    def finish(self, *, route: str, status: int, key_id: str | None) -> None:
        """What is known once the response is over."""
        self.mark("ended")
        self.route, self.status, self.key_id = route, status or CLIENT_GONE, key_id
        if not status:
            self.error_code = self.error_code or DISCONNECTED

    @property
    def seconds(self) -> float:
        """From arrival to the end."""
        return self.moments.get("ended", time.monotonic()) - self.started_at

    @property
    def seconds_to_first_token(self) -> float | None:
        """From arrival; None where there was no token."""
        first = self.moments.get("first_token")
        return None if first is None else first - self.started_at

    @property
    def is_failure(self) -> bool:
        """Whether the server failed: a 5xx, or a stream that broke off. A client's mistake or departure is none."""
        is_broken = self.status < 400 and self.error_code not in (None, DISCONNECTED)
        return self.status >= 500 or is_broken

    def fields(self) -> dict[str, Any]:
        """The access log's fields; those that do not apply are left out.

        >>> record = RequestRecord("r1", "GET", started_at=0.0, moments={"ended": 0.25})
        >>> record.finish(route="/health", status=200, key_id=None)
        >>> record.fields()
        {'request_id': 'r1', 'method': 'GET', 'route': '/health', 'status': 200, 'key': None, 'seconds': 0.25}
        """
        first = self.seconds_to_first_token
        known = {
            "trace_id": None if self.trace is None else self.trace.trace_id,
            "model": self.model,
            "prompt_tokens": self.prompt_tokens if self.model else None,
            "completion_tokens": self.completion_tokens if self.model else None,
            "ttft_seconds": None if first is None else round(first, 4),
            "finish_reasons": self.finish_reasons or None,
            "error_code": self.error_code,
            "receipt": self.receipt,
        }
        return {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "key": self.key_id,
            "seconds": round(self.seconds, 3),
            **{name: value for name, value in known.items() if value is not None},
        }


def known_method(method: str) -> str:
    """The method, or `_OTHER`: a client may call a method what it likes.

    >>> known_method("GET"), known_method("MY-SECRET")
    ('GET', '_OTHER')
    """
    return method if method in _METHODS else "_OTHER"


_CURRENT: ContextVar[RequestRecord | None] = ContextVar("nexus_request_record", default=None)


def current_record() -> RequestRecord:
    """The record of the request that the running task works on; outside of one, a record that nobody reads."""
    return _CURRENT.get() or RequestRecord()


@contextmanager
def recording(record: RequestRecord) -> Iterator[None]:
    """What works on the request inside of the block finds `record` by `current_record`."""
    token = _CURRENT.set(record)
    try:
        yield
    finally:
        _CURRENT.reset(token)

"""Errors as OpenAI's API words them: `{"error": {"message", "type", "param", "code"}}` with the right HTTP status.

A message says what is wrong and what would be right; it never carries a prompt or the text of an exception.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

MAX_RETRY_AFTER_SECONDS = 60  # OpenAI's and Anthropic's clients take a longer time for none and try again at once


@dataclass(eq=False)
class ApiError(Exception):
    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        values = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": values}, ensure_ascii=False).encode(errors="replace")


def retry_after(seconds: float) -> int:
    """What the header `retry-after` tells for a wait of so many seconds.

    >>> retry_after(0.2), retry_after(60.4)
    (1, 60)
    """
    return max(1, math.ceil(min(seconds, MAX_RETRY_AFTER_SECONDS)))


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, reason: str) -> ApiError:
    """400: the request is right, but this server cannot do it. Ignoring the parameter would be worse."""
    return invalid(f"{param} is not supported: {reason}.", param=param, code="unsupported_parameter")


def model_not_found(asked: str, served: str) -> ApiError:
    message = f"The model {asked[:200]!r} does not exist here; this server answers as {served!r}."
    return ApiError(404, message, param="model", code="model_not_found")


def context_length_exceeded(*, prompt_tokens: int, max_tokens: int, context_tokens: int, param: str) -> ApiError:
    """400: prompt and answer together are longer than the model's context; `param` is what to shorten."""
    message = (
        f"This model's context is {context_tokens} tokens, but {prompt_tokens + max_tokens} are asked for: "
        f"{prompt_tokens} in the prompt and {max_tokens} for the answer. Shorten one of them."
    )
    return invalid(message, param=param, code="context_length_exceeded")


def prompt_too_long(*, characters: int, tokens: int, context_tokens: int, param: str) -> ApiError:
    """400: a text that need not be encoded to know that it does not fit; `tokens` is the least that it can be."""
    message = (
        f"This model's context is {context_tokens} tokens, but {characters} characters are at least {tokens}. "
        "Shorten the text."
    )
    return invalid(message, param=param, code="context_length_exceeded")


_NOT_ADMITTED = {
    "queue_full": (429, "rate_limit_error", "Too many requests are waiting already"),
    "deadline_unreachable": (503, "server_error", "This request's turn would come after its deadline"),
    "queue_timeout": (503, "server_error", "This request's turn did not come in time"),
}


def not_admitted(reason: str, *, waiting: int, retry_after_seconds: int) -> ApiError:
    """429 or 503: no room in the queue, or not in time."""
    status, kind, what = _NOT_ADMITTED[reason]
    message = f"{what} ({waiting} before it). Try again in {retry_after_seconds} s."
    return ApiError(status, message, type=kind, code=reason, headers={"retry-after": str(retry_after_seconds)})


_TIMEOUTS = {
    "header": (408, "The request's head did not come in time."),
    "body": (408, "The request's body did not come in time."),
    "deadline": (504, "The answer did not begin before the request's deadline."),
    "first_token": (504, "The engine took too long to begin its answer."),
    "between_tokens": (504, "The engine paused for too long in the middle of its answer."),
    "answer": (504, "The answer took longer than this server lets any answer take."),
}


def timed_out(phase: str) -> ApiError:
    """408 or 504: a phase of the request took too long; its code is `<phase>_timeout`."""
    status, message = _TIMEOUTS[phase]
    kind = "invalid_request_error" if status == 408 else "server_error"
    headers = {"connection": "close"} if status == 408 else {}
    return ApiError(status, message, type=kind, code=f"{phase}_timeout", headers=headers)


def body_too_large(limit_bytes: int) -> ApiError:
    return ApiError(
        413, f"The body is larger than {limit_bytes} bytes.", code="body_too_large", headers={"connection": "close"}
    )


def headers_too_large() -> ApiError:
    return ApiError(431, "The request's head is too large.", code="headers_too_large", headers={"connection": "close"})


def bodies_too_large() -> ApiError:
    """503: the bodies of all open requests together take more memory than they may."""
    headers = {"connection": "close", "retry-after": "1"}
    message = "Too many large requests are open. Try again in 1 s."
    return ApiError(503, message, type="server_error", code="memory_full", headers=headers)


def priority_not_allowed(priority: int, lowest: int) -> ApiError:
    message = f"Priority {priority} is more urgent than this caller may ask for: {lowest} is the lowest."
    return ApiError(403, message, param="priority", code="priority_not_allowed")


def unavailable(message: str, *, retry_after_seconds: int | None = None) -> ApiError:
    """503: not now (loading, stopping, or no engine)."""
    headers = {} if retry_after_seconds is None else {"retry-after": str(retry_after_seconds)}
    return ApiError(503, message, type="server_error", code="engine_unavailable", headers=headers)


def engine_died() -> ApiError:
    return ApiError(500, "The engine died while it worked on this request.", type="server_error", code="engine_died")


def internal_error() -> ApiError:
    return ApiError(500, "The server failed on this request.", type="server_error", code="internal_error")

"""Errors as OpenAI's API words them: `{"error": {"message", "type", "param", "code"}}` with the right HTTP status.

A message says what is wrong and what would be right; it never carries a prompt or the text of an exception.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(eq=False)
class ApiError(Exception):
    """An answer that is an error."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The JSON document."""
        values = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": values}, ensure_ascii=False).encode(errors="replace")


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request is wrong."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, reason: str) -> ApiError:
    """400: the request is right, but this server cannot do it. Ignoring the parameter would be worse."""
    return invalid(f"{param} is not supported: {reason}.", param=param, code="unsupported_parameter")


def model_not_found(asked: str, served: str) -> ApiError:
    message = f"The model {asked[:200]!r} does not exist here; this server answers as {served!r}."
    return ApiError(404, message, param="model", code="model_not_found")


def context_length_exceeded(*, prompt_tokens: int, max_tokens: int, context_tokens: int, param: str) -> ApiError:
    message = (
        f"This model's context is {context_tokens} tokens, but {prompt_tokens + max_tokens} are asked for: "
        f"{prompt_tokens} in the prompt and {max_tokens} for the answer. Shorten one of them."
    )
    return invalid(message, param=param, code="context_length_exceeded")


def queue_full(*, waiting: int, retry_after_seconds: int) -> ApiError:
    return ApiError(
        429,
        f"{waiting} requests are waiting already. Try again in {retry_after_seconds} s.",
        type="rate_limit_error",
        code="queue_full",
        headers={"retry-after": str(retry_after_seconds)},
    )


def unavailable(message: str, *, retry_after_seconds: int | None = None) -> ApiError:
    """503: not now (loading, stopping, or no engine)."""
    headers = {} if retry_after_seconds is None else {"retry-after": str(retry_after_seconds)}
    return ApiError(503, message, type="server_error", code="engine_unavailable", headers=headers)


def engine_died() -> ApiError:
    return ApiError(500, "The engine died while it worked on this request.", type="server_error", code="engine_died")


def internal_error() -> ApiError:
    return ApiError(500, "The server failed on this request.", type="server_error", code="internal_error")

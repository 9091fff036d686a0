"""What an upstream sends, read with suspicion: events, documents, usage, errors. Nothing that it says is trusted.

What is no such answer, or has no end, is an ApiError, 502.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from nexus_llm.serve.api_errors import ApiError, retry_after
from nexus_llm.serve.generation import Usage

MAX_ANSWER_BYTES = 64 << 20
MAX_EVENT_BYTES = 1 << 20  # a logprobs chunk with 20 alternatives is 5 kB
MAX_MESSAGE_CHARACTERS = 500
_FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter")


async def events(response: httpx.Response) -> AsyncIterator[str]:
    """The data of each event of a stream."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        raise bad_upstream("sent something else than a stream")
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise bad_upstream("sent an event without end")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[len(b"data:") :].strip().decode("utf-8", errors="replace")


async def read_answer(response: httpx.Response, *, limit_bytes: int = MAX_ANSWER_BYTES) -> bytes:
    """The whole body.

    Raises:
        ApiError: 502, it is longer than `limit_bytes`.
    """
    content = b""
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > limit_bytes:
            raise bad_upstream("sent an answer without end")
    return content


def document_of(content: bytes) -> dict[str, Any]:
    """The JSON object that an upstream sent."""
    try:
        document = json.loads(content)
    except ValueError:
        raise bad_upstream("sent something that is not JSON") from None
    if not isinstance(document, dict):
        raise bad_upstream("sent something that is no answer")
    return document


def told_usage(document: dict[str, Any]) -> Usage | None:
    """What the upstream says it took; None where it says nothing that makes sense."""
    told = document.get("usage")
    if not isinstance(told, dict):
        return None
    counts = [told.get("prompt_tokens"), told.get("completion_tokens", 0)]
    if not all(type(count) is int and count >= 0 for count in counts):
        return None
    return Usage(*counts)


def finish_reasons(document: dict[str, Any]) -> list[str]:
    """Of those that the API knows; anything else would be text of the upstream's making."""
    told = [choice.get("finish_reason") for choice in _objects(document.get("choices"))]
    return [reason for reason in told if reason in _FINISH_REASONS]


def said_bytes(document: dict[str, Any]) -> int:
    """Length of what a piece of a streamed answer says: text, reasoning, arguments of calls."""
    choices = _objects(document.get("choices"))
    deltas = _objects([choice.get("delta") for choice in choices])
    calls = [call for delta in deltas for call in _objects(delta.get("tool_calls"))]
    texts = [choice.get("text") for choice in choices]
    texts += [value for delta in deltas for name, value in delta.items() if name != "role"]
    texts += [function.get("arguments") for function in _objects([call.get("function") for call in calls])]
    return sum(len(text.encode(errors="surrogatepass")) for text in texts if isinstance(text, str))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


async def explain(response: httpx.Response) -> ApiError:
    """Our error for the upstream's. Its message is passed on only where it speaks of the request."""
    status = response.status_code
    if status == 429:
        wait = response.headers.get("retry-after", "")
        headers = {"retry-after": str(retry_after(float(wait) if wait.isdecimal() else 1))}
        message = "The upstream has too many requests. Try again later."
        return ApiError(429, message, type="rate_limit_error", code="upstream_rate_limited", headers=headers)
    if status in (400, 404, 413, 422):
        told = await _told_error(response)
        return ApiError(
            400 if status != 413 else 413, told.get("message") or "The upstream refuses this request.",
            param=told.get("param"), code=told.get("code") or "upstream_refused",
        )  # fmt: skip
    if status in (401, 403):
        # Ours to mend, not the client's: the key is the server's own.
        return ApiError(502, "The upstream refuses this server's key.", type="server_error", code="upstream_key")
    return bad_upstream(f"answered {status}")


async def _told_error(response: httpx.Response) -> dict[str, str]:
    """`message`, `param` and `code` of an error document, as far as they are texts."""
    try:
        error = document_of(await read_answer(response, limit_bytes=MAX_EVENT_BYTES)).get("error")
    except (ApiError, httpx.HTTPError):
        return {}
    values = error if isinstance(error, dict) else {}
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    return {name: value[:MAX_MESSAGE_CHARACTERS] for name, value in texts.items()}


def bad_upstream(reason: str) -> ApiError:
    """502: the upstream did what no such server should."""
    return ApiError(502, f"The upstream {reason}.", type="server_error", code="upstream_failed")


def unreachable(error: httpx.HTTPError) -> ApiError:
    """504 where it takes too long, else 502."""
    if isinstance(error, httpx.TimeoutException):
        return ApiError(504, "The upstream takes too long.", type="server_error", code="upstream_timeout")
    return bad_upstream("cannot be reached, or hung up")

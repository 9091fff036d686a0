"""Answers and errors as Anthropic's Messages API words them.

Source: docs.anthropic.com, API reference, Messages, Streaming and Errors (read November 2026).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from nexus_llm.serve.answers import WholeChoice, Writer, compact, event
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.generation import ChoiceDelta, Usage
from nexus_llm.serve.text import AnsweredCall

PATHS = "/v1/messages"
"""What is below answers errors in Anthropic's shape."""
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}


def anthropic_error(error: ApiError) -> bytes:
    """The JSON document of an error: `{"type": "error", "error": {"type", "message"}}`."""
    kind = _ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    document = {"type": "error", "error": {"type": kind, "message": error.message}}
    return json.dumps(document, ensure_ascii=False).encode(errors="replace")


def error_body(error: ApiError, *, path: str) -> bytes:
    """The JSON document of an error, as the clients of this path read it."""
    return anthropic_error(error) if path.startswith(PATHS) else error.body()


class MessageWriter(Writer):
    """Writes one message, whole or as events. A block is opened when its first piece comes."""

    def __init__(self, *, model: str, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._head = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._blocks = 0
        self._open = ""
        """Kind of the block that is open; empty between blocks."""
        self._stop: dict[str, str | None] = {"stop_reason": None, "stop_sequence": None}

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> bytes:
        choice = choices[0]
        text: list[dict[str, Any]] = [{"type": "text", "text": choice.text}] if choice.text else []
        document = {
            **self._head,
            "content": text + [{**_tool_use(call), "input": _arguments(call)} for call in choice.calls],
            **_stop(choice.finish_reason, choice.stop_string),
            "usage": _usage(usage.prompt_tokens, usage.completion_tokens),
        }
        return compact(document).encode()

    def opening(self, choice_count: int) -> bytes:  # noqa: ARG002
        # The first usage counts the one token that was made before anything is sent.
        message: dict[str, Any] = {**self._head, "content": [], **self._stop, "usage": _usage(self._prompt_tokens, 1)}
        return event("message_start", {"type": "message_start", "message": message}).encode()

    def chunks(self, news: Sequence[ChoiceDelta]) -> bytes:
        parts = []
        for one in news:
            if one.delta.text:
                if self._open != "text":
                    parts.append(self._open_block({"type": "text", "text": ""}))
                parts.append(self._delta({"type": "text_delta", "text": one.delta.text}))
            for call in one.delta.calls:
                parts.append(self._open_block({**_tool_use(call), "input": {}}))
                parts.append(self._delta({"type": "input_json_delta", "partial_json": call.arguments}))
            if one.delta.finish_reason:
                self._stop = _stop(one.delta.finish_reason, one.delta.stop_string)
        return "".join(parts).encode()

    def closing(self, usage: Usage) -> bytes:
        told = _usage(usage.prompt_tokens, usage.completion_tokens)
        end = event("message_delta", {"type": "message_delta", "delta": self._stop, "usage": told})
        return (self._close_block() + end + event("message_stop", {"type": "message_stop"})).encode()

    def failure(self, error: ApiError) -> bytes:
        return b"event: error\ndata: " + anthropic_error(error) + b"\n\n"

    def refusal(self, error: ApiError) -> bytes:
        return anthropic_error(error)

    def _open_block(self, block: dict[str, Any]) -> str:
        closing, self._open = self._close_block(), block["type"]
        ping = event("ping", {"type": "ping"}) if self._blocks == 0 else ""  # where Anthropic sends its first
        data = {"type": "content_block_start", "index": self._blocks, "content_block": block}
        return closing + event("content_block_start", data) + ping

    def _delta(self, delta: dict[str, Any]) -> str:
        return event("content_block_delta", {"type": "content_block_delta", "index": self._blocks, "delta": delta})

    def _close_block(self) -> str:
        if not self._open:
            return ""
        index, self._open = self._blocks, ""
        self._blocks += 1
        return event("content_block_stop", {"type": "content_block_stop", "index": index})


def _tool_use(call: AnsweredCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name}


def _stop(finish_reason: str, stop_string: str | None) -> dict[str, str | None]:
    if stop_string is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop_string}
    return {"stop_reason": _STOP_REASONS.get(finish_reason, "end_turn"), "stop_sequence": None}


def _usage(input_tokens: int, output_tokens: int) -> dict[str, int]:
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _arguments(call: AnsweredCall) -> dict[str, Any]:
    """As an object; empty where a model wrote none, or something else."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return {}
    return arguments if isinstance(arguments, dict) else {}

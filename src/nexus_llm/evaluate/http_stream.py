"""A streamed answer of an OpenAI-compatible server, put together as if it had come whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

FIRST_PIECE_AT = "first_piece_at"
"""Where the document says when its first piece of text, or of a call, was there; None: it has none."""


def joined(lines: Iterable[str], *, now: Callable[[], float]) -> dict[str, Any]:
    """The document of the events in `lines`.

    Raises:
        ValueError: an event is no JSON or tells an error, or the stream ends before the answer does.
    """
    text, calls = "", dict[int, dict[str, Any]]()
    usage = reason = first = None
    for line in lines:
        told = line.removeprefix("data:").strip()
        if not line.startswith("data:") or told == "[DONE]":
            continue
        event = json.loads(told)
        if error := event.get("error"):
            raise ValueError(error.get("message", error) if isinstance(error, dict) else error)
        usage = event.get("usage") or usage  # in the last event, which has no choices
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            piece, parts = delta.get("content") or choice.get("text") or "", delta.get("tool_calls") or ()
            first = now() if first is None and (piece or parts) else first
            text += piece
            for part in parts:
                call = calls.setdefault(part.get("index", 0), {"id": "", "function": {"name": "", "arguments": ""}})
                call["id"] = part.get("id") or call["id"]
                for name in call["function"]:
                    call["function"][name] += (part.get("function") or {}).get(name) or ""
            reason = choice.get("finish_reason") or reason
    if reason is None:
        raise ValueError("the stream ended before the answer did")
    message = {"content": text, "tool_calls": [call for _, call in sorted(calls.items())]}
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": usage, FIRST_PIECE_AT: first}

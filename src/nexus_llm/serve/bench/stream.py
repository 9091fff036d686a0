"""What a streamed chat says, read from raw bytes as fast as Python can: the client must not slow what it measures."""

from __future__ import annotations

import orjson

MAX_LINE_BYTES = 1 << 20


class BadStreamError(ValueError):
    """The bytes are no server-sent events of a streamed chat."""


class ChatStream:
    """The state of one streamed answer. Feed it bytes however they are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self.pieces = 0
        """Events with text in them so far."""
        self.completion_tokens: int | None = None
        """As the server's usage says; None while it has said nothing."""
        self.prompt_tokens: int | None = None
        self.has_ended = False
        """Whether it said why it ended, or [DONE]: a stream that just stops was broken off."""
        self.error: str | None = None
        """The server's message where it broke off."""

    def feed(self, data: bytes) -> int:
        """How many pieces of text came with these bytes.

        Raises:
            BadStreamError: a line is no JSON, no object, or without end.
        """
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            raise BadStreamError("a line without end")
        before = self.pieces
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())
        return self.pieces - before

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.has_ended = True
            return
        try:
            event = orjson.loads(data)
            if event.get("error"):
                self.error = "error event"
                return
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {}
                # reasoning_content: what vLLM and others call the tokens of a model that thinks first.
                if delta.get("content") or delta.get("reasoning_content") or delta.get("tool_calls"):
                    self.pieces += 1
                if choice.get("finish_reason"):
                    self.has_ended = True
            if usage := event.get("usage"):
                self.completion_tokens = _count(usage.get("completion_tokens"))
                self.prompt_tokens = _count(usage.get("prompt_tokens"))
        except (ValueError, AttributeError, TypeError) as error:
            raise BadStreamError(str(error)) from error


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None

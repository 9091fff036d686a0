"""Answers as OpenAI's API shapes them: whole documents, and the chunks of a stream.

A stream of 32 answers writes 400 chunks a second here, so the parts of a chunk that never change are joined once.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nexus_llm.serve.generation import ChoiceDelta
from nexus_llm.serve.text import TextDelta, TokenLogprob

STREAM_END = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took, in tokens."""

    prompt_tokens: int
    completion_tokens: int

    def document(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True, slots=True)
class WholeChoice:
    """One finished answer."""

    text: str
    logprobs: list[TokenLogprob]
    finish_reason: str


class Dialect(Protocol):
    """How one of the two endpoints words what both do."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def opening(self) -> str | None:
        """The delta that each choice of a stream begins with, as JSON; None where there is none."""

    def piece(self, delta: TextDelta, *, with_logprobs: bool) -> str:
        """A piece of text as the members of a chunk's choice, without index and finish reason."""

    def ending(self) -> str:
        """The members of a choice that only tells the finish reason."""

    def choice(self, choice: WholeChoice, *, with_logprobs: bool) -> dict[str, Any]:
        """A whole answer as the members of a choice, without index and finish reason."""


class ChatDialect:
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> str | None:
        return '"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null'

    def piece(self, delta: TextDelta, *, with_logprobs: bool) -> str:
        logprobs = _compact(_chat_logprobs(delta.logprobs)) if with_logprobs else "null"
        return f'"delta":{{"content":{_quoted(delta.text)}}},"logprobs":{logprobs}'

    def ending(self) -> str:
        return '"delta":{},"logprobs":null'

    def choice(self, choice: WholeChoice, *, with_logprobs: bool) -> dict[str, Any]:
        return {
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": _chat_logprobs(choice.logprobs) if with_logprobs else None,
        }


class CompletionDialect:
    """`/v1/completions`."""

    id_prefix = "cmpl-"
    whole_object = chunk_object = "text_completion"

    def opening(self) -> str | None:
        return None

    def piece(self, delta: TextDelta, *, with_logprobs: bool) -> str:
        logprobs = _compact(_completion_logprobs(delta.logprobs)) if with_logprobs else "null"
        return f'"text":{_quoted(delta.text)},"logprobs":{logprobs}'

    def ending(self) -> str:
        return '"text":"","logprobs":null'

    def choice(self, choice: WholeChoice, *, with_logprobs: bool) -> dict[str, Any]:
        logprobs = _completion_logprobs(choice.logprobs) if with_logprobs else None
        return {"text": choice.text, "logprobs": logprobs}


class AnswerWriter:
    """Writes one answer, whole or in chunks."""

    def __init__(
        self, dialect: Dialect, *, model: str, fingerprint: str | None, with_logprobs: bool, include_usage: bool
    ) -> None:
        self._dialect = dialect
        self._with_logprobs = with_logprobs
        self._include_usage = include_usage
        self._head = {
            "id": f"{dialect.id_prefix}{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        chunk_head = _compact({"object": dialect.chunk_object, **self._head}).removesuffix("}")
        self._before = f'data: {chunk_head},"choices":['
        self._after = '],"usage":null}\n\n' if include_usage else "]}\n\n"

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> bytes:
        """The JSON document of an answer that was not streamed."""
        listed = [
            {
                "index": index,
                **self._dialect.choice(choice, with_logprobs=self._with_logprobs),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]
        document = {"object": self._dialect.whole_object, **self._head, "choices": listed, "usage": usage.document()}
        return _compact(document).encode()

    def opening(self, choice_count: int) -> bytes:
        """The first chunks of a stream."""
        opening = self._dialect.opening()
        if opening is None:
            return b""
        return "".join(self._chunk(index, opening, "null") for index in range(choice_count)).encode()

    def chunks(self, news: Sequence[ChoiceDelta]) -> bytes:
        """Chunks for what is new; nothing for a delta without text."""
        parts = []
        for one in news:
            delta = one.delta
            if delta.text or (self._with_logprobs and delta.logprobs):
                piece = self._dialect.piece(delta, with_logprobs=self._with_logprobs)
                parts.append(self._chunk(one.index, piece, "null"))
            if delta.finish_reason:
                parts.append(self._chunk(one.index, self._dialect.ending(), f'"{delta.finish_reason}"'))
        return "".join(parts).encode()

    def closing(self, usage: Usage) -> bytes:
        """The last chunks of a stream that is whole."""
        if not self._include_usage:
            return STREAM_END
        document = {"object": self._dialect.chunk_object, **self._head, "choices": [], "usage": usage.document()}
        return f"data: {_compact(document)}\n\n".encode() + STREAM_END

    def _chunk(self, index: int, members: str, finish_reason: str) -> str:
        return f'{self._before}{{"index":{index},{members},"finish_reason":{finish_reason}}}{self._after}'


EndpointKind = Literal["chat", "completion"]
DIALECTS: dict[EndpointKind, Dialect] = {"chat": ChatDialect(), "completion": CompletionDialect()}


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [
        {
            "token": token.text,
            "logprob": token.logprob,
            # A token may be a part of a character, which has no text of its own.
            "bytes": None if "�" in token.text else list(token.text.encode()),
            "top_logprobs": [],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _completion_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": None,
        "text_offset": [],
    }


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_quoted = json.encoder.encode_basestring

"""Answers as OpenAI's API shapes them: whole documents, and the chunks of a stream.

A stream of 32 answers writes 400 chunks a second here, so the parts of a chunk that never change are joined once.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import orjson

from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.generation import ChoiceDelta
from nexus_llm.serve.text import AnsweredCall, TextDelta, TokenLogprob

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
    calls: Sequence[AnsweredCall] = ()
    embedding: Sequence[float] = ()
    stop_string: str | None = None


class Dialect(Protocol):
    """How one of the two endpoints words what both do."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def opening(self) -> str | None:
        """The delta that each choice of a stream begins with, as JSON; None where there is none."""

    def piece(self, delta: TextDelta, *, with_logprobs: bool) -> str:
        """A piece of text as the members of a chunk's choice, without index and finish reason."""

    def call(self, call: AnsweredCall) -> str:
        """A whole call as the members of a chunk's choice."""

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

    def call(self, call: AnsweredCall) -> str:
        return f'"delta":{{"tool_calls":[{_compact({"index": call.index, **_chat_call(call)})}]}},"logprobs":null'

    def ending(self) -> str:
        return '"delta":{},"logprobs":null'

    def choice(self, choice: WholeChoice, *, with_logprobs: bool) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message |= {"content": choice.text or None, "tool_calls": [_chat_call(call) for call in choice.calls]}
        return {
            "message": message,
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

    def call(self, call: AnsweredCall) -> str:
        raise AssertionError(f"a completion has no tools, but calls {call.name}")

    def ending(self) -> str:
        return '"text":"","logprobs":null'

    def choice(self, choice: WholeChoice, *, with_logprobs: bool) -> dict[str, Any]:
        logprobs = _completion_logprobs(choice.logprobs) if with_logprobs else None
        return {"text": choice.text, "logprobs": logprobs}


class AnswerWriter:
    """Writes one answer, whole or in chunks."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        model: str,
        fingerprint: str | None,
        with_logprobs: bool,
        include_usage: bool,
        usage_so_far: Callable[[], Usage] | None = None,
    ) -> None:
        """`usage_so_far` is told with every chunk where it is given."""
        self._dialect = dialect
        self._with_logprobs = with_logprobs
        self._include_usage = include_usage
        self._usage_so_far = usage_so_far
        self._head = {
            "id": f"{dialect.id_prefix}{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._after = '],"usage":null}\n\n' if include_usage else "]}\n\n"

    @cached_property
    def _before(self) -> str:
        head = _compact({"object": self._dialect.chunk_object, **self._head}).removesuffix("}")
        return f'data: {head},"choices":['

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
        return orjson.dumps(document)

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
            parts += [self._chunk(one.index, self._dialect.call(call), "null") for call in delta.calls]
            if delta.finish_reason:
                parts.append(self._chunk(one.index, self._dialect.ending(), f'"{delta.finish_reason}"'))
        return "".join(parts).encode()

    def closing(self, usage: Usage) -> bytes:
        """The last chunks of a stream that is whole."""
        if not self._include_usage:
            return STREAM_END
        document = {"object": self._dialect.chunk_object, **self._head, "choices": [], "usage": usage.document()}
        return f"data: {_compact(document)}\n\n".encode() + STREAM_END

    def failure(self, error: ApiError) -> bytes:
        """The last chunk of a stream that breaks off."""
        return b"data: " + error.body() + b"\n\n"

    def refusal(self, error: ApiError) -> bytes:
        """The JSON document of an answer that did not begin."""
        return error.body()

    def _chunk(self, index: int, members: str, finish_reason: str) -> str:
        after = self._after
        if self._usage_so_far is not None:
            after = f'],"usage":{_compact(self._usage_so_far().document())}}}\n\n'
        return f'{self._before}{{"index":{index},{members},"finish_reason":{finish_reason}}}{after}'


EndpointKind = Literal["chat", "completion"]
DIALECTS: dict[EndpointKind, Dialect] = {"chat": ChatDialect(), "completion": CompletionDialect()}


def _chat_call(call: AnsweredCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [
        {**_chat_token(token.text, token.logprob), "top_logprobs": [_chat_token(*other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _chat_token(text: str, logprob: float | None) -> dict[str, Any]:
    # A token may be a part of a character, which has no text of its own.
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


def _completion_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    # Of two tokens with the same text, the likelier one counts.
    tops = [dict(reversed(token.top)) if token.top else None for token in tokens]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": [token.offset for token in tokens],
    }


def _compact(value: object) -> str:
    return orjson.dumps(value).decode()


_quoted = json.encoder.encode_basestring

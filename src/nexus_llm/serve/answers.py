"""Answers as OpenAI's API shapes them: whole documents, and the chunks of a stream.

A stream of 32 answers writes 400 chunks a second here, so the parts of a chunk that never change are joined once.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import orjson

from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.generation import ChoiceDelta, Usage
from nexus_llm.serve.text import AnsweredCall, TextDelta, TokenLogprob

STREAM_END = b"data: [DONE]\n\n"


@dataclass(slots=True)
class WholeChoice:
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str = ""
    calls: Sequence[AnsweredCall] = ()
    embedding: Sequence[float] = ()
    stop_string: str | None = None

    def add(self, delta: TextDelta) -> None:
        """What is new; the last delta tells the end."""
        self.text += delta.text
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason or ""
        if delta.calls:
            self.calls = (*self.calls, *delta.calls)
        self.embedding = delta.embedding
        self.stop_string = delta.stop_string


class Writer:
    """How an endpoint words what all of them do: one writer for each answer, which may remember what it wrote.

    A stream is `opening`, `chunks` as often as there is news, then `closing`, or `failure` in its place.
    """

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> bytes:
        raise NotImplementedError

    def opening(self, choice_count: int) -> bytes:  # noqa: ARG002
        """The first events of a stream."""
        return b""

    def chunks(self, news: Sequence[ChoiceDelta]) -> bytes:
        """Events for what is new; may be nothing."""
        raise NotImplementedError

    def closing(self, usage: Usage) -> bytes:
        """The last events of a stream that is whole."""
        raise NotImplementedError

    def failure(self, error: ApiError) -> bytes:
        """The last events of a stream that breaks off."""
        return b"data: " + error.body() + b"\n\n"

    def refusal(self, error: ApiError) -> bytes:
        return error.body()


class AnswerWriter(Writer):
    """An answer of `/v1/chat/completions` or `/v1/completions`."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]
    begin: ClassVar[str | None] = None
    """The delta that each choice of a stream begins with, as JSON."""
    end: ClassVar[str]
    """The members of a choice that only tells the finish reason."""

    def __init__(
        self,
        *,
        model: str,
        fingerprint: str | None,
        with_logprobs: bool,
        include_usage: bool,
        usage_so_far: Callable[[], Usage] | None = None,
    ) -> None:
        """`usage_so_far` is told with every chunk where it is given."""
        self._with_logprobs = with_logprobs
        self._include_usage = include_usage
        self._usage_so_far = usage_so_far
        self._head = {
            "id": f"{self.id_prefix}{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._after = '],"usage":null}\n\n' if include_usage else "]}\n\n"

    def _piece(self, delta: TextDelta) -> str:
        """A piece of text as the members of a chunk's choice, without index and finish reason."""
        raise NotImplementedError

    def _call(self, call: AnsweredCall) -> str:
        """A whole call as the members of a chunk's choice."""
        raise NotImplementedError

    def _choice(self, choice: WholeChoice) -> dict[str, Any]:
        """A whole answer as the members of a choice, without index and finish reason."""
        raise NotImplementedError

    @cached_property
    def _before(self) -> str:
        head = compact({"object": self.chunk_object, **self._head}).removesuffix("}")
        return f'data: {head},"choices":['

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> bytes:
        listed = [
            {"index": index, **self._choice(choice), "finish_reason": choice.finish_reason}
            for index, choice in enumerate(choices)
        ]
        return orjson.dumps({"object": self.whole_object, **self._head, "choices": listed, "usage": usage.document()})

    def opening(self, choice_count: int) -> bytes:
        if self.begin is None:
            return b""
        return "".join(self._chunk(index, self.begin, "null") for index in range(choice_count)).encode()

    def chunks(self, news: Sequence[ChoiceDelta]) -> bytes:
        parts = []
        for one in news:
            delta = one.delta
            if delta.text or (self._with_logprobs and delta.logprobs):
                parts.append(self._chunk(one.index, self._piece(delta), "null"))
            parts += [self._chunk(one.index, self._call(call), "null") for call in delta.calls]
            if delta.finish_reason:
                parts.append(self._chunk(one.index, self.end, f'"{delta.finish_reason}"'))
        return "".join(parts).encode()

    def closing(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return STREAM_END
        document = {"object": self.chunk_object, **self._head, "choices": [], "usage": usage.document()}
        return f"data: {compact(document)}\n\n".encode() + STREAM_END

    def _chunk(self, index: int, members: str, finish_reason: str) -> str:
        after = self._after
        if self._usage_so_far is not None:
            after = f'],"usage":{compact(self._usage_so_far().document())}}}\n\n'
        return f'{self._before}{{"index":{index},{members},"finish_reason":{finish_reason}}}{after}'


class ChatWriter(AnswerWriter):
    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    begin = '"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null'
    end = '"delta":{},"logprobs":null'

    def _piece(self, delta: TextDelta) -> str:
        logprobs = compact(_chat_logprobs(delta.logprobs)) if self._with_logprobs else "null"
        return f'"delta":{{"content":{_quoted(delta.text)}}},"logprobs":{logprobs}'

    def _call(self, call: AnsweredCall) -> str:
        return f'"delta":{{"tool_calls":[{compact({"index": call.index, **_chat_call(call)})}]}},"logprobs":null'

    def _choice(self, choice: WholeChoice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message |= {"content": choice.text or None, "tool_calls": [_chat_call(call) for call in choice.calls]}
        return {"message": message, "logprobs": _chat_logprobs(choice.logprobs) if self._with_logprobs else None}


class CompletionWriter(AnswerWriter):
    id_prefix = "cmpl-"
    whole_object = chunk_object = "text_completion"
    end = '"text":"","logprobs":null'

    def _piece(self, delta: TextDelta) -> str:
        logprobs = compact(_completion_logprobs(delta.logprobs)) if self._with_logprobs else "null"
        return f'"text":{_quoted(delta.text)},"logprobs":{logprobs}'

    def _call(self, call: AnsweredCall) -> str:
        raise AssertionError(f"a completion has no tools, but calls {call.name}")

    def _choice(self, choice: WholeChoice) -> dict[str, Any]:
        logprobs = _completion_logprobs(choice.logprobs) if self._with_logprobs else None
        return {"text": choice.text, "logprobs": logprobs}


class EmbeddingWriter(Writer):
    """Writes the answer to one request, which is never streamed."""

    def __init__(self, model: str, *, is_base64: bool) -> None:
        """`is_base64`: each vector as little-endian 32-bit floats in base64, which is what official clients ask for."""
        self._model = model
        self._is_base64 = is_base64

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> bytes:
        data = [
            {"object": "embedding", "index": index, "embedding": self._spelled(normalised(choice.embedding))}
            for index, choice in enumerate(choices)
        ]
        told = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
        document = {"object": "list", "data": data, "model": self._model, "usage": told}
        return json.dumps(document, separators=(",", ":")).encode()

    def _spelled(self, vector: list[float]) -> list[float] | str:
        if not self._is_base64:
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def normalised(vector: Sequence[float]) -> list[float]:
    """The vector with length 1; a vector of zeros stays one.

    >>> normalised([3.0, 4.0])
    [0.6, 0.8]
    """
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector] if length else list(vector)


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


def compact(value: object) -> str:
    """JSON without spaces, in UTF-8."""
    return orjson.dumps(value).decode()


def event(name: str, data: dict[str, Any]) -> str:
    """One server-sent event with a name, as the responses and messages APIs stream them.

    >>> event("ping", {"type": "ping"})
    'event: ping\\ndata: {"type":"ping"}\\n\\n'

    Source: HTML Living Standard, section 9.2 (server-sent events).
    """
    return f"event: {name}\ndata: {compact(data)}\n\n"


_quoted = json.encoder.encode_basestring

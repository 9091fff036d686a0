"""How gateway and engine process talk: one JSON object a line, in both directions.

    gateway → engine   {"add": {...}} · {"cancel": id} · {"pause": seconds after each of work}
    engine → gateway   {"ready": {...}} once, then {"step": [[id, token_ids, logprobs, finish], ...], "cache": share}
                       per step, and {"fatal": reason} before it ends by itself. Where a request asked for them, a delta
                       goes on with top_logprobs, prompt_logprobs, prompt_top_logprobs and embedding

JSON, because nothing that crosses a process border should be able to run code; a step of 32 sequences is 1 kB.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineRequest, EngineStep

Message = dict[str, Any]
_encoder = json.JSONEncoder(separators=(",", ":"))  # not orjson: it has no word for the log probability of never
_REQUEST_FIELDS = tuple(field.name for field in fields(EngineRequest))


class LineSplitter:
    """Cuts a stream of bytes into JSON messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete.

        >>> splitter = LineSplitter()
        >>> splitter.feed(b'{"a":1}\\n{"b"'), splitter.feed(b':2}\\n')
        ([{'a': 1}], [{'b': 2}])
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


def encode(message: Message) -> bytes:
    return _encoder.encode(message).encode() + b"\n"


def add_message(request: EngineRequest) -> Message:
    # Not `asdict`: it copies token by token, a fifth of a short request's profile and much more of a long one's.
    return {"add": {name: getattr(request, name) for name in _REQUEST_FIELDS}}


def step_message(step: EngineStep) -> Message:
    return {"step": [_values(delta) for delta in step.deltas], "cache": round(step.cache_share, 6)}


def read_request(message: Message) -> EngineRequest:
    values = dict(message["add"])
    values["stop_token_ids"] = tuple(values["stop_token_ids"])
    values["logit_bias"] = {int(token): bias for token, bias in values["logit_bias"].items()}  # JSON's keys are text
    return EngineRequest(**values)


def read_facts(message: Message) -> EngineFacts:
    facts = EngineFacts(**message["ready"])
    return replace(facts, features=tuple(facts.features))


def read_step(message: Message) -> EngineStep:
    return EngineStep([_delta(*values) for values in message["step"]], message["cache"])


def _values(delta: EngineDelta) -> list[Any]:
    values = [delta.id, delta.token_ids, delta.logprobs, delta.finish]
    more = [delta.top_logprobs, delta.prompt_logprobs, delta.prompt_top_logprobs, delta.embedding]
    return [*values, *more] if any(more) else values


def _delta(*values: Any) -> EngineDelta:
    delta = EngineDelta(*values)
    if not (delta.top_logprobs or delta.prompt_top_logprobs):
        return delta
    return replace(
        delta, top_logprobs=_pairs(delta.top_logprobs), prompt_top_logprobs=_pairs(delta.prompt_top_logprobs)
    )


def _pairs(places: Sequence[Any]) -> list[list[tuple[int, float]]]:
    return [[(token, value) for token, value in place] for place in places]

"""How gateway and engine process talk: one JSON object a line, in both directions.

    gateway → engine   {"add": {...}} · {"cancel": id}
    engine → gateway   {"ready": {...}} once, then {"step": [[id, token_ids, logprobs, finish], ...], "cache": share}
                       per step, and {"fatal": reason} before it ends by itself

JSON, because nothing that crosses a process border should be able to run code; a step of 32 sequences is 1 kB.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineRequest, EngineStep

Message = dict[str, Any]


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
    """One message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def add_message(request: EngineRequest) -> Message:
    return {"add": asdict(request)}


def cancel_message(request_id: int) -> Message:
    return {"cancel": request_id}


def ready_message(facts: EngineFacts) -> Message:
    return {"ready": asdict(facts)}


def fatal_message(reason: str) -> Message:
    return {"fatal": reason}


def step_message(step: EngineStep) -> Message:
    deltas = [[delta.id, delta.token_ids, delta.logprobs, delta.finish] for delta in step.deltas]
    return {"step": deltas, "cache": round(step.cache_share, 6)}


def read_request(message: Message) -> EngineRequest:
    values = dict(message["add"])
    values["stop_token_ids"] = tuple(values["stop_token_ids"])
    return EngineRequest(**values)


def read_facts(message: Message) -> EngineFacts:
    return EngineFacts(**message["ready"])


def read_step(message: Message) -> EngineStep:
    return EngineStep([EngineDelta(*values) for values in message["step"]], message["cache"])

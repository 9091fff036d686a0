"""A deterministic engine without a model: it answers with the words of its prompt, for tests and examples.

It keeps the whole contract (batching, stop tokens, lengths, cancel, capacity), and can be told to be slow, to hang
and to die: see `FakeSettings`.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineFinish, EngineRequest, EngineStep

BLOCK_TOKENS = 32


@dataclass(frozen=True, slots=True)
class FakeSettings:
    """How the fake engine behaves."""

    capacity_tokens: int = 65_536
    step_seconds: float = 0.0
    """Time that every step takes."""
    load_seconds: float = 0.0
    end_token_id: int | None = None
    """Said once the prompt has been echoed; None echoes it again and again."""
    die_at_step: int | None = None
    """The process kills itself in this step of its life, counted from 1 (only steps with work count)."""
    die_marker: str | None = None
    """`die_at_step` happens only while this file exists; it is removed first, so the next process lives."""
    hang_at_step: int | None = None
    """This step never returns."""
    fail_to_load: bool = False


class FakeEngine:
    """Echoes each prompt, token by token; the first step of a request only reads its prompt."""

    def __init__(self, settings: FakeSettings) -> None:
        self._settings = settings
        self._live: dict[int, _Echo] = {}
        self._steps = 0

    @classmethod
    def load(cls, settings: FakeSettings) -> tuple[FakeEngine, EngineFacts]:
        """The engine, after the time that its settings name."""
        time.sleep(settings.load_seconds)
        if settings.fail_to_load:
            raise RuntimeError("told to fail")
        return cls(settings), EngineFacts("fake", settings.capacity_tokens, settings.load_seconds)

    def add(self, request: EngineRequest) -> None:
        if not request.token_ids or request.max_tokens < 1:
            raise ValueError("a request needs a prompt and room for one token")
        self._live[request.id] = _Echo(request, end_token_id=self._settings.end_token_id)

    def cancel(self, request_id: int) -> None:
        self._live.pop(request_id, None)

    def step(self) -> EngineStep:
        self._steps += bool(self._live)
        self._misbehave()
        time.sleep(self._settings.step_seconds)
        deltas = []
        for echo in list(self._live.values()):
            delta = echo.advance(self._settings.capacity_tokens)
            if delta is not None:
                deltas.append(delta)
            if delta is not None and delta.finish:
                del self._live[delta.id]
        used = sum(math.ceil(echo.held_tokens / BLOCK_TOKENS) * BLOCK_TOKENS for echo in self._live.values())
        return EngineStep(deltas, min(1.0, used / self._settings.capacity_tokens))

    def _misbehave(self) -> None:
        if self._settings.hang_at_step == self._steps:
            time.sleep(3600)
        if self._settings.die_at_step == self._steps:
            marker = self._settings.die_marker
            if marker is None or os.path.exists(marker):  # noqa: PTH110
                if marker is not None:
                    os.unlink(marker)  # noqa: PTH108
                os._exit(17)


class _Echo:
    def __init__(self, request: EngineRequest, *, end_token_id: int | None) -> None:
        self._request = request
        self._script = [*request.token_ids, *([] if end_token_id is None else [end_token_id])]
        self._said = -1  # -1: the prompt has not been read yet

    @property
    def held_tokens(self) -> int:
        return len(self._request.token_ids) + max(0, self._said)

    def advance(self, capacity_tokens: int) -> EngineDelta | None:
        if self._said < 0:
            self._said = 0
            return None
        if self.held_tokens + 1 > capacity_tokens:
            return EngineDelta(self._request.id, [], [], "capacity")
        # Another seed starts elsewhere, so that a seed can be seen to matter; greedy always starts at the beginning.
        offset = self._request.seed if self._request.temperature > 0 else 0
        token = self._script[(self._said + offset) % len(self._script)]
        self._said += 1
        finish: EngineFinish | None = None
        if token in self._request.stop_token_ids:
            finish = "stop"
        elif self._said == self._request.max_tokens:
            finish = "length"
        logprobs = [-1.0 / (1 + self._said)] if self._request.logprobs else []
        return EngineDelta(self._request.id, [token], logprobs, finish)

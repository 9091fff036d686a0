"""A deterministic engine without a model: it answers with the words of its prompt, for tests and examples.

It keeps the whole contract (batching, stop tokens, lengths, cancel, capacity), and can be told to be slow, to hang
and to die: see `FakeSettings`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineFinish, EngineRequest, EngineStep, Feature

BLOCK_TOKENS = 32
FEATURES: tuple[Feature, ...] = ("logprobs", "top_logprobs", "prompt_logprobs", "logit_bias", "embeddings")
EMBEDDING_SIZE = 8
CERTAIN = 100.0  # a bias that leaves no choice, as in OpenAI's API


@dataclass(frozen=True, slots=True)
class FakeSettings:
    capacity_tokens: int = 1 << 20
    step_seconds: float = 0.0
    """Time that every step takes."""
    load_seconds: float = 0.0
    end_token_id: int | None = None
    """Said once the prompt has been echoed; None echoes it again and again."""
    die_at_step: int | None = None
    """The process kills itself in this step of its life, counted from 1 (only steps with work count)."""
    die_marker: str | None = None
    """`die_at_step` happens only while this file exists; it is removed first, so the next process lives."""
    raise_at_step: int | None = None
    """This step raises an error that quotes the prompts, as a careless library's would."""
    hang_at_step: int | None = None
    """This step never returns."""
    fail_to_load: bool = False
    features: Sequence[Feature] = FEATURES
    """What it says that it can do; `json_schema` is added where it knows `byte_token_ids`."""
    script: Sequence[int] | None = None
    """Token ids that it says instead of the prompt's."""
    byte_token_ids: Sequence[int] | None = None
    """The token of each of the 256 bytes, so that it can spell JSON."""


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
        features = (*settings.features, *(("json_schema",) if settings.byte_token_ids else ()))
        return cls(settings), EngineFacts("fake", settings.capacity_tokens, settings.load_seconds, features)

    def add(self, request: EngineRequest) -> None:
        if not request.token_ids or (request.max_tokens < 1 and not request.embed):
            raise ValueError("a request needs a prompt and room for one token")
        self._live[request.id] = _Echo(request, self._script(request))

    def cancel(self, request_id: int) -> None:
        self._live.pop(request_id, None)

    def close(self) -> None:
        pass

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

    def _script(self, request: EngineRequest) -> list[int]:
        """The tokens that answer a request; ValueError where a schema or the bias leaves none."""
        end = [] if self._settings.end_token_id is None else [self._settings.end_token_id]
        if request.json_schema is not None and self._settings.byte_token_ids:
            document = example(request.json_schema).encode()
            return [*(self._settings.byte_token_ids[byte] for byte in document), *end]
        forced = [token for token, bias in request.logit_bias.items() if bias >= CERTAIN]
        script = forced or self._settings.script or request.token_ids
        script = [token for token in script if request.logit_bias.get(token, 0.0) > -CERTAIN] + end
        if not script:
            raise ValueError("the bias leaves no token to say")
        return script

    def _misbehave(self) -> None:
        if self._settings.raise_at_step == self._steps:
            raise RuntimeError(f"cannot go on with {[echo.prompt for echo in self._live.values()]}")
        if self._settings.hang_at_step == self._steps:
            time.sleep(3600)
        if self._settings.die_at_step == self._steps:
            marker = self._settings.die_marker
            if marker is None or os.path.exists(marker):  # noqa: PTH110
                if marker is not None:
                    os.unlink(marker)  # noqa: PTH108
                os._exit(17)


class _Echo:
    def __init__(self, request: EngineRequest, script: list[int]) -> None:
        self._request = request
        self._script = script
        self._said = -1  # -1: the prompt has not been read yet

    @property
    def prompt(self) -> list[int]:
        return self._request.token_ids

    @property
    def held_tokens(self) -> int:
        return len(self._request.token_ids) + max(0, self._said)

    def advance(self, capacity_tokens: int) -> EngineDelta | None:
        if self._said < 0:
            self._said = 0
            return None
        request = self._request
        if request.embed:
            return EngineDelta(request.id, [], [], "stop", embedding=embedding(request.token_ids))
        if self.held_tokens + 1 > capacity_tokens:
            return EngineDelta(request.id, [], [], "capacity")
        # Another seed starts elsewhere, so that a seed can be seen to matter; greedy always starts at the beginning.
        offset = request.seed if request.temperature > 0 and request.json_schema is None else 0
        token = self._script[(self._said + offset) % len(self._script)]
        self._said += 1
        finish: EngineFinish | None = None
        if token in request.stop_token_ids:
            finish = "stop"
        elif self._said == request.max_tokens:
            finish = "length"
        delta = EngineDelta(request.id, [token], [], finish)
        if request.logprobs:
            top = likeliest(token, request.top_logprobs, is_chosen=True)
            delta = replace(delta, logprobs=[logprob(token)], top_logprobs=[top] if top else [])
        return self._with_prompt(delta) if request.prompt_logprobs and self._said == 1 else delta

    def _with_prompt(self, delta: EngineDelta) -> EngineDelta:
        top = self._request.top_logprobs
        prompt = self._request.token_ids[1:]
        return replace(
            delta,
            prompt_logprobs=[logprob(one) for one in prompt],
            prompt_top_logprobs=[likeliest(one, top) for one in prompt] if top else [],
        )


def logprob(token: int) -> float:
    """The log probability of a token, between -1 and -1/7."""
    return -1.0 / (1 + token % 7)


def likeliest(token: int, count: int, *, is_chosen: bool = False) -> list[tuple[int, float]]:
    """The `count` likeliest tokens where `token` stands: one that was chosen or is even comes first, an odd second."""
    value = logprob(token)
    first = [(token, value)] if is_chosen or token % 2 == 0 else [(token + 1, value / 2), (token, value)]
    rest = [(token + 1 + more, value - more) for more in range(1, count + 1)]
    return [*first, *rest][:count]


def embedding(token_ids: Sequence[int]) -> list[float]:
    """How often the tokens with each remainder occur."""
    return [
        sum(token % EMBEDDING_SIZE == place for token in token_ids) / len(token_ids) for place in range(EMBEDDING_SIZE)
    ]


def example(schema_json: str) -> str:
    """The smallest document that a JSON Schema allows, as JSON; ValueError where this cannot compile it."""
    schema = json.loads(schema_json)
    try:
        return json.dumps(_value(schema, schema))
    except (KeyError, AttributeError, TypeError, IndexError, RecursionError) as error:
        raise ValueError("this schema cannot be compiled") from error


def _value(schema: Any, root: Any) -> Any:
    if schema is True or not schema:
        return {}
    if "$ref" in schema:
        place = root
        for part in schema["$ref"].removeprefix("#").split("/")[1:]:
            place = place[part]
        return _value(place, root)
    for name in ("anyOf", "allOf"):
        if name in schema:
            return _value(schema[name][0], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    return _plain(kind[0] if isinstance(kind, list) else kind, schema, root)


def _plain(kind: str, schema: Any, root: Any) -> Any:
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _value(properties.get(name, {}), root) for name in schema.get("required", properties)}
    if kind == "array":
        return [_value(schema.get("items", {}), root)] * int(schema.get("minItems", 0))
    if kind == "string" and "pattern" in schema:
        raise KeyError("pattern")  # stands for all that a real grammar cannot compile
    simple = {"string": "x" * int(schema.get("minLength", 1)), "boolean": True, "null": None}
    return simple[kind] if kind in simple else int(schema.get("minimum", 1))

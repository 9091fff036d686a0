"""What every engine does: it takes requests as token ids and advances all of them by one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

EngineFinish = Literal["stop", "length", "capacity", "refused"]
Feature = Literal["logprobs", "top_logprobs", "prompt_logprobs", "logit_bias", "json_schema", "adapters", "embeddings"]
"""What some engines can do and others cannot: the gateway refuses a parameter whose feature is missing, by its name.

`top_logprobs` is about any answer. An engine with `prompt_logprobs` gives them also without that feature, for a request
that scores its prompt: `EngineRequest.is_scoring`.
"""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence to continue."""

    id: int
    """Unique among all requests that this engine ever gets."""
    token_ids: list[int]
    max_tokens: int
    """Tokens to generate at most; prompt and answer together fit into `EngineFacts.capacity_tokens`."""
    stop_token_ids: tuple[int, ...] = ()
    """The answer ends after the first of these, which is delivered too. Empty: only `max_tokens` ends it."""
    temperature: float = 0.0
    """0 always takes the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0 leaves the choice open to the whole vocabulary."""
    seed: int = 0
    """The same seed gives the same tokens, whatever else runs beside it."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: bool = False
    """Also deliver the log probability (natural logarithm) of each token, before temperature and penalties."""
    top_logprobs: int = 0
    """Also deliver that many of the likeliest tokens at each place, with their log probabilities."""
    prompt_logprobs: bool = False
    """Also deliver the log probability of each prompt token but the first, before the first new token; with
    `top_logprobs`, the likeliest tokens at each of their places too."""
    logit_bias: dict[int, float] = field(default_factory=dict)
    """Token id → what is added to its logit before sampling, -100 to 100."""
    json_schema: str | None = None
    """A JSON Schema as JSON: the answer is a document that it allows, enforced token by token. `{}` allows any."""
    adapter: str | None = None
    """The LoRA adapter to answer with; None is the model itself."""
    embed: bool = False
    """Deliver no tokens but the prompt's embedding, in a single delta that says `stop`."""

    @property
    def is_scoring(self) -> bool:
        """Whether it asks how likely its prompt is, and for no more than the one likeliest token behind it."""
        is_plain = not (self.presence_penalty or self.frequency_penalty or self.logit_bias or self.json_schema)
        is_short = self.max_tokens == 1 and self.temperature == 0
        return self.prompt_logprobs and is_short and is_plain and self.repetition_penalty == 1


@dataclass(slots=True)  # not frozen: a frozen one takes 0.6 µs to make instead of 0.1, for each token
class EngineDelta:
    id: int
    token_ids: list[int]
    logprobs: Sequence[float] = ()
    """One per token where the request asked for them, else empty."""
    finish: EngineFinish | None = None
    """Set on the last delta. `capacity`: there was no room for the sequence, so it was dropped. `refused`: the
    engine did not take the request at all."""
    top_logprobs: Sequence[list[tuple[int, float]]] = ()
    """(token id, log probability) of the likeliest tokens at each place, likeliest first; empty unless asked for."""
    prompt_logprobs: Sequence[float] = ()
    """Of the prompt's tokens from the second on, in the first delta of a request that asked for them."""
    prompt_top_logprobs: Sequence[list[tuple[int, float]]] = ()
    """(token id, log probability) of the likeliest tokens at the places of `prompt_logprobs`."""
    embedding: Sequence[float] = ()
    """The mean over the prompt's tokens of the hidden states that the output layer reads, not normalised."""


@dataclass(frozen=True, slots=True)
class EngineStep:
    deltas: list[EngineDelta]
    cache_share: float
    """Part of the key-value cache in use, 0 to 1."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is known once an engine is loaded."""

    name: str
    capacity_tokens: int
    """Tokens that the key-value cache holds, all sequences together."""
    load_seconds: float
    features: tuple[Feature, ...] = ("logprobs",)


class Engine(Protocol):
    """Continuous batching, one step at a time. Any other exception than ValueError ends the engine's process."""

    def add(self, request: EngineRequest) -> None:
        """Takes a request; the next steps advance it.

        Raises:
            ValueError: its settings do not fit. Nothing has happened then, and the engine goes on.
        """

    def cancel(self, request_id: int) -> None:
        """Forgets a request and frees what it holds; unknown and finished ids are fine."""

    def step(self) -> EngineStep:
        """Advances every sequence, by a piece of its prompt or by a token."""

    def close(self) -> None:
        """Ends what was started outside of this process."""

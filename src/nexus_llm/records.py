"""What crosses the borders between stages: plain values without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Role = Literal["system", "user", "assistant", "tool"]


class ToolFunction(TypedDict):
    """The function that a tool call names."""

    name: str
    arguments: dict[str, Any] | str
    """The values by parameter, or their JSON text as OpenAI's API sends it."""


class ToolCall(TypedDict):
    """One call of a tool, in the shape of OpenAI's chat API."""

    type: Literal["function"]
    function: ToolFunction
    id: NotRequired[str]


class Message(TypedDict):
    """One turn of a conversation, in the shape of OpenAI's chat API."""

    role: Role
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    """What the assistant calls in this turn."""
    tool_call_id: NotRequired[str]
    """Of a `tool` message: the call that it answers."""
    name: NotRequired[str]
    """Of a `tool` message: the function that it answers for."""
    reasoning_content: NotRequired[str]
    """What the assistant thought before it answered; some templates write it, and only in the last turn."""


@dataclass(frozen=True, slots=True)
class Document:
    """One record of training text: either running text or a conversation, never both."""

    id: str
    """128-bit hash of source name and origin as 32 hex digits: the same record has the same id in every run."""
    source: str
    """Name of the recipe's source that it came from."""
    origin: str
    """Where in the source: `path:line`, `path`, or a dotted Python name."""
    text: str
    """Running text; for a conversation, what it says and calls, joined by newlines (what filters and dedup judge)."""
    messages: tuple[Message, ...] = ()
    """The conversation, in order; empty for running text."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the source says about it, out of `url`, `license` and `date`."""
    rejected: tuple[Message, ...] = ()
    """The same conversation with the worse answer of a preference; empty where there is no such answer."""
    tools: tuple[dict[str, Any], ...] = ()
    """JSON Schema of the tools that the conversation may call, as chat templates take them; empty where none."""


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """How well one model predicts one document."""

    id: str
    tokens: int
    """Predicted tokens; the first one of a document has no context and is not counted."""
    negative_log_likelihood: float
    """Sum over those tokens, in nats."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt and what two models answer to it."""

    prompt: str
    base: str
    tuned: str


@dataclass(frozen=True, slots=True)
class Question:
    """Something that a model is asked: a conversation, or running text to go on with."""

    id: str
    messages: tuple[Message, ...] = ()
    text: str = ""
    """What to continue, where there are no messages; no template is applied."""
    tools: tuple[dict[str, Any], ...] = ()
    """JSON Schema of the tools that may be called."""
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    """Strings that end the answer; they are not part of it."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a `Question`."""

    id: str
    """The question's."""
    text: str
    finish_reason: Literal["stop", "length", "tool_calls", "error"]
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int | None = None
    tokens: int | None = None
    """Generated tokens; None where the server does not say."""
    seconds: float = 0.0
    first_token_seconds: float | None = None
    """None where nobody measured it."""
    error: str | None = None
    """Why there is no answer, with `finish_reason` error: an item is counted, never skipped."""
    cut_tokens: int = 0
    """Tokens of the prompt left out at its start because the context of the model is shorter."""
    at_once: int = 1
    """Answers that were made side by side, this one counted: what each takes of its machine's time."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """Two pieces of text: how likely is the second after the first?"""

    id: str
    context: str
    text: str


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a model finds a `Continuation`."""

    id: str
    """The continuation's."""
    log_probability: float
    """Of all its tokens after the context, in nats."""
    tokens: int
    is_greedy: bool
    """Each of its tokens is the one that the model would have said."""
    cut_tokens: int = 0
    """Tokens left out at the start because the context of the model is shorter."""
    error: str | None = None
    """Why there is no number, which is then NaN."""


@dataclass(frozen=True, slots=True)
class CompleterFacts:
    """Who answers, as reports and comparisons name it."""

    model: str
    road: Literal["transformers", "openai", "scripted"]
    precision: str | None = None
    """`float32`, `bfloat16`, `q8_0`; None where the server does not say."""
    template_sha256: str | None = None
    """Of the chat template; None where there is none or the server does not say. Answers under different templates
    are not compared."""
    context_tokens: int | None = None
    weights_sha256: str | None = None
    """Of the model's manifest, else of its files: tells it from an earlier one of the same name. None for a server."""
    address: str | None = None
    """Of a server whose weights nobody knows: two servers often give their models the same name."""

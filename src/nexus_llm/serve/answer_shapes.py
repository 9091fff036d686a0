"""The shapes of answers, for the OpenAPI document only: what is sent is written by the writers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """A JSON object with exactly these members."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetails(Shape):
    """What is wrong, and where."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Shape):
    """An error as OpenAI's API words it."""

    error: ErrorDetails


class AnthropicErrorDetails(Shape):
    """What is wrong."""

    type: str
    message: str


class AnthropicErrorAnswer(Shape):
    """An error as Anthropic's API words it."""

    type: Literal["error"]
    error: AnthropicErrorDetails


class OpenShape(BaseModel):
    """A JSON object with at least these members."""

    model_config = ConfigDict(extra="allow")


class UsageShape(OpenShape):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessageShape(OpenShape):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class ChatChoiceShape(OpenShape):
    """One of `n` answers."""

    index: int
    message: ChatMessageShape
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatAnswer(OpenShape):
    """`chat.completion`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoiceShape]
    usage: UsageShape


class CompletionChoiceShape(OpenShape):
    """One of the continuations."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class CompletionAnswer(OpenShape):
    """`text_completion`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[CompletionChoiceShape]
    usage: UsageShape


class EmbeddingShape(Shape):
    """The vector of one input."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """As numbers, or as little-endian 32-bit floats in base64."""


class EmbeddingUsageShape(Shape):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(Shape):
    """An answer of /v1/embeddings."""

    object: Literal["list"]
    data: list[EmbeddingShape]
    model: str
    usage: EmbeddingUsageShape


class ResponsesUsageShape(OpenShape):
    """Tokens."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponsesAnswer(OpenShape):
    """`response`."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    error: None
    incomplete_details: dict[str, str] | None
    usage: ResponsesUsageShape


class MessageUsageShape(OpenShape):
    """Tokens."""

    input_tokens: int
    output_tokens: int


class MessageAnswer(OpenShape):
    """`message`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsageShape


class GenerateAnswer(Shape):
    """What `/generate` gives."""

    response: str
    tokens_generated: int


class SamplingShape(OpenShape):
    """What holds where a request says nothing."""

    temperature: float
    top_p: float


class PricesShape(OpenShape):
    """What tokens cost."""

    usd_per_million_prompt_tokens: float
    usd_per_million_completion_tokens: float


class NexusShape(OpenShape):
    """What this server tells of a model beyond OpenAI's members."""

    engine: str | None
    features: list[str]
    sampling: SamplingShape | None
    prices: PricesShape | None
    is_adapter: bool


class ModelCard(OpenShape):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    nexus: NexusShape


class ModelList(OpenShape):
    """All models."""

    object: Literal["list"]
    data: list[ModelCard]


class StatusAnswer(Shape):
    """In which state the server is."""

    status: str

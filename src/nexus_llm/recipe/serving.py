"""The parts of how a model answers: its engine's settings, its upstream, who goes first, how long anything may take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nexus_llm.recipe.section import Section

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Priority = Annotated[int, Field(ge=-100, le=100)]


class VllmRecipe(Section):
    """Settings of the vLLM engine; `max_running` is its `--max-num-seqs`."""

    gpu_memory_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Part of each GPU's memory for weights and cache."""
    gpus: Annotated[int, Field(ge=1)] = 1
    """GPUs that share the model (tensor parallel)."""
    context_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest prompt and answer together; None is the model's own."""
    program: str = "vllm"
    """Its program. vLLM pins a torch of its own, so it lives in an environment of its own, or in vLLM's container."""
    arguments: list[str] = []
    """Further flags of `vllm serve`, word by word."""


class UpstreamRecipe(Section):
    """Where the `openai` engine sends requests."""

    url: Annotated[str, Field(pattern=r"^(https?://[^\s@]+)?$")] = ""
    """Base URL that ends before `/chat/completions`, like `https://api.openai.com/v1`; without user or password."""
    model: str | None = None
    """What the model is called there; None: as here."""
    key_variable: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    """Environment variable that holds the key. The key itself never stands in a recipe."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Longest silence between two pieces of an answer."""


class PrioritiesRecipe(Section):
    """How urgent requests may call themselves: `priority` in a body, as vLLM's; a lower number runs sooner."""

    lowest: Priority = 0
    """The lowest number that requests may carry. Higher ones, which let others go first, are open to everybody."""
    keys: dict[str, Priority] = {}
    """The lowest number for a key, by its name, in place of `lowest`. Above 0 it is also what requests of that key
    get that name none: a key for batches goes behind the others by itself."""


class TimeoutsRecipe(Section):
    """How long each phase of a request may take, in seconds. The queue's is `serve.max_waiting_seconds`."""

    header_seconds: Seconds = 15.0
    """From the connection, or the first byte of a further request, to the end of its head."""
    body_seconds: Seconds = 60.0
    """From the head to the end of the body: 16 MiB then take 2.2 Mbit/s."""
    first_token_seconds: Seconds = 300.0
    """From the engine to the first token, an engine's restart included."""
    between_tokens_seconds: Seconds = 120.0
    """Longest silence of the engine in the middle of an answer."""
    answer_seconds: Seconds = 3_600.0
    """From the request to its last token."""
    write_seconds: Seconds = 60.0
    """How long a client may leave the network's buffers full before it is cut off, and how long one that vanished
    without a word goes unnoticed while its answer is sent."""

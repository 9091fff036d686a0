"""What clients may ask for: OpenAI's chat and completion requests, and which parts of them this server can do.

Bodies are checked for form by pydantic, then for support: a parameter that would have to be ignored is refused by
name, unless it has no effect on the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from nexus_llm.records import Message
from nexus_llm.serve.api_errors import invalid, unsupported

MAX_CHOICES = 16
MAX_STOP_STRINGS = 16  # OpenAI allows 4; ours cost a scan of the text each
MAX_STOP_CHARACTERS = 1_000

_NO_EFFECT = frozenset(
    {
        "metadata", "moderation", "name", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user",
    }
)  # fmt: skip
"""Parameters that an answer does not depend on, or only together with others that are refused: accepted."""

_REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "audio": ("this model reads and writes text", (None,)),
    "best_of": ("ask for several choices with n", (None, 1)),
    "echo": ("the answer never repeats the prompt", (None, False)),
    "function_call": ("this server does not call tools", (None, "none")),
    "functions": ("this server does not call tools", (None, [])),
    "logit_bias": ("the engine cannot shift single tokens", (None, {})),
    "modalities": ("this model reads and writes text", (None, ["text"])),
    "prediction": ("the engine does not use predicted output", (None,)),
    "reasoning_effort": ("this model does not reason before it answers", (None, "none")),
    "response_format": ("only plain text is available", (None, {"type": "text"})),
    "suffix": ("this model only continues text", (None, "")),
    "tool_choice": ("this server does not call tools", (None, "none", "auto")),
    "tools": ("this server does not call tools", (None, [])),
    "top_logprobs": ("the engine tells the chosen token's log probability only", (None, 0)),
    "verbosity": ("say in the prompt how long the answer should be", (None,)),
    "web_search_options": ("this server does not search", (None,)),
}
"""Parameter → why not, and the values that ask for nothing and therefore pass."""


def _encodable(text: str) -> str:
    # JSON can spell half a surrogate pair, which is no character and breaks every encoder behind.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half a surrogate pair, which is no text") from error
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
StopText = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


class _Body(BaseModel):
    # `extra` is allowed here and judged by `refuse_unsupported`, which can tell why.
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    text: Text


class ChatMessage(_Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def text(self) -> str:
        """The content in one piece."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What a stream carries besides the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationRequest(_Body):
    """What both kinds of requests have in common."""

    model: Text
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOP_STRINGS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """vLLM's: only the likeliest `top_k` tokens; 0 and -1 mean all."""
    seed: int | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    """vLLM's: 1 changes nothing."""
    ignore_eos: bool | None = None
    """vLLM's: go on to `max_tokens` even when the model ends its answer. For load tests."""

    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def refuse_unsupported(self) -> None:
        """Looks at all fields without a place above.

        Raises:
            ApiError: one of them cannot be done, or is unknown.
        """
        refuse_unsupported(self.model_extra or {})


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None

    def conversation(self) -> list[Message]:
        """The messages as the chat template takes them: `developer` is the newer name of `system`."""
        return [
            {"role": "system" if message.role == "developer" else message.role, "content": message.text()}
            for message in self.messages
        ]

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        for index, message in enumerate(self.messages):
            refuse_unsupported(message.model_extra or {}, place=f"messages[{index}].")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise invalid("Give max_completion_tokens or max_tokens, not both.", param="max_tokens")


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt: Text | Tokens | Annotated[list[Text | Tokens], Field(min_length=1, max_length=MAX_CHOICES)]
    """A text, its token ids, or several of either: each gets its own choices."""
    logprobs: Annotated[int, Field(ge=0)] | None = None

    def prompts(self) -> list[str | list[int]]:
        """Each prompt as text or token ids."""
        several = [one for one in self.prompt if not isinstance(one, int)] if isinstance(self.prompt, list) else []
        return several or [cast("str | list[int]", self.prompt)]

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.logprobs:
            raise unsupported("logprobs", "above 0 it asks for other tokens than the chosen one; 0 works")


def refuse_unsupported(fields: Mapping[str, Any], *, place: str = "") -> None:
    """Judges fields that no schema names.

    Raises:
        ApiError: 400, naming the first field that would have an effect that this server cannot give.
    """
    for name, value in fields.items():
        if value is None or name in _NO_EFFECT:
            continue
        if name not in _REFUSED:
            raise invalid(
                f"Unrecognized request argument: {place}{name[:100]}", param=f"{place}{name[:100]}",
                code="unknown_parameter",
            )  # fmt: skip
        reason, harmless = _REFUSED[name]
        if value not in harmless:
            raise unsupported(f"{place}{name}", reason)

"""What clients may ask for: OpenAI's chat, completion and embedding requests, and which parts this server can do.

Bodies are checked for form by pydantic, then for support: a parameter that would have to be ignored is refused by
name, unless it has no effect on the answer. What depends on the engine is named by `needs`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from nexus_llm.records import Message
from nexus_llm.serve.api_errors import invalid, unsupported
from nexus_llm.serve.engines.port import Feature
from nexus_llm.serve.json_schemas import SchemaError, check_schema
from nexus_llm.serve.request_parts import (
    MAX_TOOLS,
    Body,
    ChatMessage,
    Part,
    ResponseFormat,
    Several,
    Support,
    Text,
    ToolChoice,
    ToolDefinition,
)
from nexus_llm.serve.tools.choice import forced_call_schema

MAX_CHOICES = 16
MAX_INPUTS = 2_048  # OpenAI's
MAX_STOP_STRINGS = 16  # OpenAI allows 4; ours cost a scan of the text each
MAX_STOP_CHARACTERS = 1_000
MAX_TOP_LOGPROBS = 20  # OpenAI's
MAX_BIASED_TOKENS = 1_024

_SUPPORT = Support(
    # An answer does not depend on these, or only together with others that are refused.
    no_effect=frozenset(
        {
            "annotations", "metadata", "name", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
            "safety_identifier", "service_tier", "store", "user",
        }
    ),
    refused={
        "audio": ("this model reads and writes text", ()),
        "best_of": ("ask for several choices with n", (1,)),
        "dimensions": ("the model's hidden states have one size", ()),
        "echo": ("only /v1/completions repeats the prompt", (False,)),
        "function_call": ("it is the older form of tool_choice: use that", ("none",)),
        "functions": ("it is the older form of tools: use those", ([],)),
        "modalities": ("this model reads and writes text", (["text"],)),
        "moderation": ("this server does not moderate", ()),
        "prediction": ("the engine does not use predicted output", ()),
        "reasoning_effort": ("this model does not reason before it answers", ("none",)),
        "response_format": ("only /v1/chat/completions has it", ({"type": "text"},)),
        "suffix": ("this model only continues text", ("",)),
        "tool_choice": ("only /v1/chat/completions has it", ("none", "auto")),
        "tools": ("only /v1/chat/completions has it", ([],)),
        "top_logprobs": ("ask with logprobs, which is a number here", (0,)),
        "verbosity": ("say in the prompt how long the answer should be", ()),
        "web_search_options": ("this server does not search", ()),
    },
)  # fmt: skip

Tokens = Annotated[Several[Annotated[int, Field(ge=0)]], Field(min_length=1)]
StopText = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


class _Request(Body):
    def refuse_unsupported(self) -> None:
        """Looks at all that a schema cannot say, and at fields without a place in it.

        Raises:
            ApiError: one of them cannot be done, or is unknown.
        """
        _SUPPORT.judge(self)


class StreamOptions(Part):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    """vLLM's: the usage so far in every chunk."""
    include_obfuscation: bool = False


class GenerationRequest(_Request):
    model: Text
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: StopText | Annotated[Several[StopText], Field(max_length=MAX_STOP_STRINGS)] | None = None
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
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    """vLLM's: a lower number runs sooner."""
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=MAX_BIASED_TOKENS),
        ]
        | None
    ) = None
    """Token id as text → what is added to its logit."""

    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def bias(self) -> dict[int, float]:
        """What is added to the logits, by token id."""
        return {int(token): value for token, value in (self.logit_bias or {}).items()}

    def needs(self) -> Iterator[tuple[str, Feature]]:
        """The parameters that not every engine can do, each with the feature that it takes."""
        if self.logit_bias:
            yield "logit_bias", "logit_bias"


class ChatRequest(GenerationRequest):
    messages: Annotated[Several[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[Several[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """False: the answer ends with its first call."""

    def conversation(self) -> list[Message]:
        """The messages as the chat template takes them."""
        conversation = [message.for_template() for message in self.messages]
        called = {call.id: call.function.name for message in self.messages for call in message.tool_calls or ()}
        for message, told in zip(self.messages, conversation, strict=True):
            # Trained conversations name the function of a result, and some templates write it; clients seldom do.
            if message.role == "tool" and (name := message.name or called.get(message.tool_call_id or "")):
                told["name"] = name
        return conversation

    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told of, as the chat template takes them."""
        return [] if self.tool_choice == "none" else [tool.for_template() for tool in self.tools or ()]

    @property
    def is_call_forced(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, ToolChoice)

    def schema_param(self) -> str | None:
        """The parameter that a schema for the answer comes from, or None."""
        if self.is_call_forced:
            return "tools"
        if self.response_format is None or self.response_format.type == "text":
            return None
        return "response_format"

    def answer_schema(self) -> str | None:
        """The JSON Schema that the answer has to keep, as JSON; None where it is free text."""
        if self.is_call_forced:
            return json.dumps(forced_call_schema([tool.function.model_dump() for tool in self._forced_tools()]))
        if self.response_format is None or self.response_format.type == "text":
            return None
        named = self.response_format.json_schema
        return json.dumps(named.answer_schema if named else {"type": "object"})

    def needs(self) -> Iterator[tuple[str, Feature]]:
        yield from super().needs()
        if self.logprobs:
            yield "logprobs", "logprobs"
        if self.top_logprobs:
            yield "top_logprobs", "top_logprobs"
        if self.is_call_forced:
            yield "tool_choice", "json_schema"
        elif self.schema_param():
            yield "response_format", "json_schema"

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        for index, message in enumerate(self.messages):
            _SUPPORT.judge(message, place=f"messages[{index}].")
            message.check(f"messages[{index}]")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise invalid("Give max_completion_tokens or max_tokens, not both.", param="max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs only goes with logprobs: true.", param="top_logprobs")
        self._check_tools()
        self._check_format()

    def _forced_tools(self) -> list[ToolDefinition]:
        tools, choice = self.tools or [], self.tool_choice
        name = choice.function.name if isinstance(choice, ToolChoice) else None
        return [tool for tool in tools if name in (None, tool.function.name)]

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise invalid("Each tool needs a name of its own.", param="tools", code="invalid_value")
        if self.is_call_forced and not self._forced_tools():
            raise invalid("tool_choice names no function of tools.", param="tool_choice", code="invalid_value")
        for index, tool in enumerate(self.tools or ()):
            place = f"tools[{index}].function"
            if self.is_call_forced:
                _check_enforceable(tool.function.parameters or {}, f"{place}.parameters")
            elif tool.function.strict and self.tool_choice != "none":
                why = 'arguments are only enforced where a call is, with tool_choice "required" or a named function'
                raise unsupported(f"{place}.strict", why)

    def _check_format(self) -> None:
        wanted = self.response_format
        if wanted is None:
            return
        if (wanted.type == "json_schema") != (wanted.json_schema is not None):
            message = "json_schema goes with the type json_schema, and only with it."
            raise invalid(message, param="response_format.json_schema", code="invalid_value")
        if wanted.type != "text" and self.offered_tools():
            raise unsupported("response_format", "an answer that is JSON has no room for calls: send no tools with it")
        if wanted.json_schema is not None:
            _check_enforceable(wanted.json_schema.answer_schema, "response_format.json_schema.schema")
        if wanted.type != "text" and self.ignore_eos:
            raise invalid("ignore_eos would go on behind the JSON document.", param="ignore_eos")


class CompletionRequest(GenerationRequest):
    prompt: Text | Tokens | Annotated[Several[Text | Tokens], Field(min_length=1, max_length=MAX_CHOICES)]
    """A text, its token ids, or several of either: each gets its own choices."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """0 goes with `echo` only: then the prompt is all of the answer."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    """The answer begins with the prompt, and with its log probabilities where `logprobs` asks for them."""

    def prompts(self) -> list[str | list[int]]:
        return _inputs(self.prompt)

    @property
    def is_scoring(self) -> bool:
        """Whether it asks how likely its prompt is, and for no more than the one likeliest token behind it."""
        is_short = self.max_tokens == 0 or (self.max_tokens == 1 and self.temperature == 0)
        has_penalty = self.presence_penalty or self.frequency_penalty or self.repetition_penalty not in (None, 1)
        return bool(self.echo) and self.logprobs is not None and is_short and not (has_penalty or self.logit_bias)

    def needs(self) -> Iterator[tuple[str, Feature]]:
        yield from super().needs()
        if self.logprobs is not None:
            yield "logprobs", "logprobs"
        if self.logprobs is not None and self.echo:
            yield "echo", "prompt_logprobs"
        if self.logprobs and not self.is_scoring:
            yield "logprobs", "top_logprobs"

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.max_tokens == 0 and not self.echo:
            raise invalid("max_tokens: 0 only goes with echo: true.", param="max_tokens", code="invalid_value")


class EmbeddingRequest(_Request):
    model: Text
    input: Text | Tokens | Annotated[Several[Text | Tokens], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None

    def prompts(self) -> list[str | list[int]]:
        return _inputs(self.input)

    def needs(self) -> Iterator[tuple[str, Feature]]:
        """Embeddings as such."""
        yield "input", "embeddings"


AnyRequest = ChatRequest | CompletionRequest | EmbeddingRequest


def _inputs(given: Any) -> list[str | list[int]]:
    several = [one for one in given if not isinstance(one, int)] if isinstance(given, list) else []
    return several or [cast("str | list[int]", given)]


def _check_enforceable(schema: Mapping[str, Any], place: str) -> None:
    try:
        check_schema(schema)
    except SchemaError as error:
        param = f"{place}{error.place}"
        raise invalid(f"Invalid schema at {param}: {error}.", param=param, code="invalid_json_schema") from None

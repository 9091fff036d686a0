"""Requests of OpenAI's Responses API, and the chat requests that they mean.

Source: platform.openai.com, API reference, Responses; the types of the official client 3.54 (November 2026).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from nexus_llm.serve.api_errors import unsupported
from nexus_llm.serve.dialects.conversion import converted
from nexus_llm.serve.request_parts import Body, JsonObject, Several, Support, Text
from nexus_llm.serve.requests import ChatRequest

NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "tool_choice": "tool_choice",
    "tools": "tools",
}
"""The chat request's names of fields → the Responses API's, also those whose inside differs."""

_KEEPS_NOTHING = "this server keeps nothing between requests: send the whole conversation as input"
_NO_REASONING = "this model does not reason before it answers"
_BODY = Support(
    no_effect=frozenset(
        {
            "image", "max_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
            "safety_identifier", "service_tier", "user",
        }
    ),
    refused={
        "background": (_KEEPS_NOTHING, (False,)),
        "background_options": (_KEEPS_NOTHING, ({},)),
        "context_management": (_KEEPS_NOTHING, ([],)),
        "conversation": (_KEEPS_NOTHING, ()),
        # What reasoning there was, sealed: there is none, so that nothing is left out.
        "include": ("there is nothing more to include", ([], ["reasoning.encrypted_content"])),
        "moderation": ("this server does not moderate", ()),
        "previous_response_id": (_KEEPS_NOTHING, ()),
        "prompt": (_KEEPS_NOTHING, ()),
        "store": (_KEEPS_NOTHING, (False,)),
        "top_logprobs": ("the chat completions endpoint tells log probabilities", (0,)),
        "truncation": ("a conversation that is too long is refused, not cut", ("disabled",)),
    },
)  # fmt: skip
_ITEM = Support(no_effect=frozenset({"id", "phase", "status"}))
_PART = Support(no_effect=frozenset({"annotations", "logprobs"}))
_TOOL = Support(
    refused={
        "allowed_callers": ("tools are called by the model only", (["direct"],)),
        "async": ("the client runs the tools", (False,)),
        "defer_loading": ("all tools are shown to the model at once", (False,)),
        "output_schema": ("the model does not see what a tool gives back beforehand", ()),
    }
)
_NOTHING = Support()
_TEXT_PARTS = ("input_text", "output_text", "text", "refusal")


class Part(Body):
    """A piece of a message: text; an image or a file is refused by name."""

    type: Text
    text: Text | None = None
    refusal: Text | None = None


class MessageItem(Body):
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Several[Part]


class FunctionCallItem(Body):
    """A call of a function that the model made before."""

    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Text


class FunctionOutputItem(Body):
    type: Literal["function_call_output"]
    call_id: Text
    output: Text | Several[Part]


class OtherItem(Body):
    """A call of a built-in tool, a reference to something kept: refused by name."""

    type: Text


def _item_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if kind in (None, "message"):
        return "message-item"
    return f"{kind}-item" if kind in ("function_call", "function_call_output") else "other-item"


Item = Annotated[
    Annotated[MessageItem, Tag("message-item")]
    | Annotated[FunctionCallItem, Tag("function_call-item")]
    | Annotated[FunctionOutputItem, Tag("function_call_output-item")]
    | Annotated[OtherItem, Tag("other-item")],
    Discriminator(_item_tag),
]


class FunctionTool(Body):
    """A function that the client runs. A tool with another `type` would be built in: refused."""

    type: Text
    name: Text | None = None
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class NamedChoice(Body):
    type: Text
    name: Text | None = None


class TextFormat(Body):
    type: Literal["text", "json_schema", "json_object"]
    name: Text | None = None
    description: Text | None = None
    schema_: Annotated[JsonObject | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextConfig(Body):
    format: TextFormat | None = None
    verbosity: Text | None = None


class Reasoning(Body):
    """How much the model may think: not at all."""

    effort: Text | None = None
    summary: Text | None = None


class ResponseStreamOptions(Body):
    """What a stream carries besides the answer. `include_obfuscation` is accepted: nothing is hidden or added here."""

    include_obfuscation: bool | None = None


class ResponsesRequest(Body):
    model: Text
    input: Text | Annotated[Several[Item], Field(min_length=1)]
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: dict[Text, Text] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    text: TextConfig | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    tools: Several[FunctionTool] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None

    def chat_request(self) -> ChatRequest:
        """The same as a chat request; what cannot be done here is an ApiError with the Responses API's names."""
        _BODY.judge(self)
        self._refuse_reasoning()
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        tools = [_chat_tool(tool, f"tools[{index}]") for index, tool in enumerate(self.tools or [])]
        fields = {
            "model": self.model,
            "messages": system + self._messages(),
            "max_completion_tokens": self.max_output_tokens,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": _response_format(self.text),
            "stream": self.stream,
            "temperature": self.temperature,
            "tool_choice": _chat_tool_choice(self.tool_choice),
            "tools": tools or None,
            "top_p": self.top_p,
        }
        return converted(ChatRequest, fields, names=NAMES)

    def _refuse_reasoning(self) -> None:
        if self.stream_options is not None:
            _NOTHING.judge(self.stream_options, place="stream_options.")
        if self.reasoning is not None:
            _NOTHING.judge(self.reasoning, place="reasoning.")
            if self.reasoning.effort not in (None, "none"):
                raise unsupported("reasoning.effort", _NO_REASONING)

    def _messages(self) -> list[dict[str, Any]]:
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        messages: list[dict[str, Any]] = []
        for index, item in enumerate(self.input):
            _add_item(messages, item, f"input[{index}]")
        return messages


def _add_item(messages: list[dict[str, Any]], item: Body, place: str) -> None:
    if isinstance(item, OtherItem):
        why = _KEEPS_NOTHING if item.type == "item_reference" else "messages, function calls and their outputs are read"
        raise unsupported(f"{place}.type", why)
    _ITEM.judge(item, place=f"{place}.")
    if isinstance(item, MessageItem):
        messages.append({"role": item.role, "content": _text_of(item.content, f"{place}.content")})
    elif isinstance(item, FunctionOutputItem):
        output = _text_of(item.output, f"{place}.output")
        messages.append({"role": "tool", "tool_call_id": item.call_id, "content": output})
    elif isinstance(item, FunctionCallItem):
        function = {"name": item.name, "arguments": item.arguments}
        # What the assistant says and calls in one turn are several items here, and one message there.
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": ""})
        calls = messages[-1].setdefault("tool_calls", [])
        calls.append({"id": item.call_id, "type": "function", "function": function})


def _text_of(content: str | list[Part], place: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content):
        where = f"{place}[{index}]"
        if part.type not in _TEXT_PARTS:
            raise unsupported(f"{where}.type", "this model reads and writes text")
        _PART.judge(part, place=f"{where}.")
        texts.append((part.refusal if part.type == "refusal" else part.text) or "")
    return "".join(texts)


def _chat_tool(tool: FunctionTool, place: str) -> dict[str, Any]:
    if tool.type != "function":
        raise unsupported(f"{place}.type", "this server runs no tools itself: give functions")
    _TOOL.judge(tool, place=f"{place}.")
    told = tool.model_dump(include={"name", "description", "parameters", "strict"}, exclude_none=True)
    return {"type": "function", "function": told}


def _chat_tool_choice(choice: str | NamedChoice | None) -> str | dict[str, Any] | None:
    if not isinstance(choice, NamedChoice):
        return choice
    if choice.type != "function":
        raise unsupported("tool_choice.type", "this server runs no tools itself: name a function")
    _NOTHING.judge(choice, place="tool_choice.")
    return {"type": "function", "function": {"name": choice.name or ""}}


def _response_format(text: TextConfig | None) -> dict[str, Any] | None:
    if text is None:
        return None
    _NOTHING.judge(text, place="text.")
    if text.verbosity not in (None, "medium"):
        raise unsupported("text.verbosity", "say in the input how long the answer should be")
    if text.format is None or text.format.type == "text":
        return None
    _NOTHING.judge(text.format, place="text.format.")
    if text.format.type == "json_object":
        return {"type": "json_object"}
    told = text.format.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
    return {"type": "json_schema", "json_schema": told}

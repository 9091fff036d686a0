"""Requests of Anthropic's Messages API, and the chat requests that they mean.

Source: docs.anthropic.com, API reference, Messages; the types of the official client 2.12 (November 2026).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from nexus_llm.serve.api_errors import unsupported
from nexus_llm.serve.dialects.conversion import converted
from nexus_llm.serve.request_parts import Body, JsonObject, Several, Support, Text
from nexus_llm.serve.requests import MAX_STOP_STRINGS, ChatRequest, StopText

NAMES = {
    "max_completion_tokens": "max_tokens",
    "messages": "messages",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "tool_choice": "tool_choice",
    "tools": "tools",
}
"""The chat request's names of fields → the Messages API's, also those whose inside differs."""

_KEEPS_NOTHING = "this server keeps nothing between requests"
_BODY = Support(
    no_effect=frozenset({"cache_control", "diagnostics", "inference_geo", "metadata", "service_tier", "speed"}),
    refused={
        "container": (_KEEPS_NOTHING, ()),
        "context_management": (_KEEPS_NOTHING, ({},)),
        "mcp_servers": ("this server runs no tools itself", ([],)),
        "thinking": ("this model does not think before it answers", ({"type": "disabled"},)),
    },
)
_BLOCK = Support(
    no_effect=frozenset({"cache_control"}),
    refused={
        "citations": ("the model cites nothing", ([], {"enabled": False})),
        "toolset_name": ("there are no toolsets here", ()),
        "caller": ("tools are called by the model only", ({"type": "direct"},)),
    },
)
_TOOL = Support(
    no_effect=frozenset({"cache_control", "eager_input_streaming"}),
    refused={
        "allowed_callers": ("tools are called by the model only", (["direct"],)),
        "defer_loading": ("all tools are shown to the model at once", (False,)),
        "input_examples": ("put examples into the description", ([],)),
    },
)
_NOTHING = Support()


class TextBlock(Body):
    type: Literal["text"]
    text: Text


class ToolUseBlock(Body):
    """A call of a tool that the model made before."""

    type: Literal["tool_use"]
    id: Text
    name: Text
    input: JsonObject


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: Text
    content: Text | Several[TextBlock] | None = None
    is_error: bool | None = None


class OtherBlock(Body):
    """An image, a document, a thought: refused by name."""

    type: Text


def _block_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"{kind}-block" if kind in ("text", "tool_use", "tool_result") else "other-block"


Block = Annotated[
    Annotated[TextBlock, Tag("text-block")]
    | Annotated[ToolUseBlock, Tag("tool_use-block")]
    | Annotated[ToolResultBlock, Tag("tool_result-block")]
    | Annotated[OtherBlock, Tag("other-block")],
    Discriminator(_block_tag),
]


class Turn(Body):
    role: Literal["user", "assistant", "system"]
    content: Text | Several[Block]


class CustomTool(Body):
    """A function that the client runs. A tool that Anthropic's servers would run has another `type`: refused."""

    type: Text | None = None
    name: Text
    description: Text | None = None
    input_schema: JsonObject | None = None
    strict: bool | None = None


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: Text | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: Annotated[JsonObject, Field(alias="schema")]


class OutputConfig(Body):
    format: OutputFormat | None = None


class CountTokensRequest(Body):
    model: Text
    messages: Annotated[Several[Turn], Field(min_length=1)]
    system: Text | Several[TextBlock] | None = None
    tools: Several[CustomTool] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None

    def chat_request(self) -> ChatRequest:
        """The same as a chat request; what cannot be done here is an ApiError with the Messages API's names."""
        return converted(ChatRequest, self._chat_fields(), names=NAMES)

    def _chat_fields(self) -> dict[str, Any]:
        _BODY.judge(self)
        turns = [one for index, turn in enumerate(self.messages) for one in _chat_turns(turn, f"messages[{index}]")]
        if self.messages[-1].role == "assistant":
            raise unsupported(f"messages[{len(self.messages) - 1}].role", "the last turn must not be the assistant's")
        system = [{"role": "system", "content": self._system_text()}] if self.system else []
        return {
            "model": self.model,
            "messages": system + _combined(turns),
            "tools": [_chat_tool(tool, f"tools[{index}]") for index, tool in enumerate(self.tools or [])] or None,
            **_chat_tool_choice(self.tool_choice),
            "response_format": _response_format(self.output_config),
        }

    def _system_text(self) -> str:
        if isinstance(self.system, str):
            return self.system
        for index, block in enumerate(self.system or []):
            _BLOCK.judge(block, place=f"system[{index}].")
        return "\n\n".join(block.text for block in self.system or [])


class MessagesRequest(CountTokensRequest):
    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: Annotated[Several[StopText], Field(max_length=MAX_STOP_STRINGS)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None

    def _chat_fields(self) -> dict[str, Any]:
        return {
            **super()._chat_fields(),
            "max_completion_tokens": self.max_tokens,
            "stop": self.stop_sequences or None,
            "stream": self.stream,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }


def _chat_turns(turn: Turn, place: str) -> list[dict[str, Any]]:
    """One turn as chat messages: results of tools are turns of their own there, and come first."""
    _NOTHING.judge(turn, place=f"{place}.")
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    texts, calls, results = [], [], []
    for index, block in enumerate(turn.content):
        where = f"{place}.content[{index}]"
        if isinstance(block, TextBlock):
            _BLOCK.judge(block, place=f"{where}.")
            texts.append(block.text)
        elif isinstance(block, ToolUseBlock) and turn.role == "assistant":
            _BLOCK.judge(block, place=f"{where}.")
            calls.append(_chat_call(block))
        elif isinstance(block, ToolResultBlock) and turn.role == "user":
            _BLOCK.judge(block, place=f"{where}.")
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": _result_text(block, where)})
        else:
            raise unsupported(f"{where}.type", f"{turn.role} turns are made of text, calls of tools and their results")
    if calls:
        return [{"role": "assistant", "content": "".join(texts), "tool_calls": calls}]
    own = [{"role": turn.role, "content": "".join(texts)}] if texts or not results else []
    return results + own


def _chat_call(block: ToolUseBlock) -> dict[str, Any]:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _result_text(block: ToolResultBlock, place: str) -> str:
    if isinstance(block.content, list):
        for index, part in enumerate(block.content):
            _BLOCK.judge(part, place=f"{place}.content[{index}].")
        text = "".join(part.text for part in block.content)
    else:
        text = block.content or ""
    # Chat messages have no mark for a failed call, and the model has to learn of it.
    return f"Error: {text}" if block.is_error else text


def _combined(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns of the same role in a row become one, as the API promises; many chat templates refuse them."""
    done: list[dict[str, Any]] = []
    for turn in turns:
        last = done[-1] if done else None
        if last is not None and last["role"] == turn["role"] in ("user", "assistant"):
            calls = last.get("tool_calls", []) + turn.get("tool_calls", [])
            last["content"] = "\n\n".join(text for text in (last["content"], turn["content"]) if text)
            last |= {"tool_calls": calls} if calls else {}
        else:
            done.append(dict(turn))
    return done


def _chat_tool(tool: CustomTool, place: str) -> dict[str, Any]:
    if tool.type not in (None, "custom") or tool.input_schema is None:
        raise unsupported(f"{place}.type", "this server runs no tools itself: give custom tools with an input_schema")
    _TOOL.judge(tool, place=f"{place}.")
    told = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema, "strict": tool.strict}
    return {"type": "function", "function": {name: value for name, value in told.items() if value is not None}}


def _chat_tool_choice(choice: ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    _NOTHING.judge(choice, place="tool_choice.")
    named = {"type": "function", "function": {"name": choice.name or ""}}
    words: dict[str, Any] = {"auto": "auto", "any": "required", "none": "none", "tool": named}
    parallel = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    return {"tool_choice": words[choice.type], **parallel}


def _response_format(config: OutputConfig | None) -> dict[str, Any] | None:
    if config is None:
        return None
    Support(refused={"effort": ("this model does not think before it answers", ())}).judge(
        config, place="output_config."
    )
    if config.format is None:
        return None
    schema = {"name": "answer", "schema": config.format.schema_, "strict": True}
    return {"type": "json_schema", "json_schema": schema}

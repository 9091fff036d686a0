"""The parts of requests: texts, messages with calls of tools, definitions of tools, formats of answers."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from nexus_llm.records import Message, ToolCall
from nexus_llm.serve.api_errors import invalid

MAX_TOOLS = 128  # OpenAI's


def _encodable(text: str) -> str:
    # JSON can spell half a surrogate pair, which is no character and breaks every encoder behind.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half a surrogate pair, which is no text") from error
    return text


def _encodable_json(value: dict[str, Any]) -> dict[str, Any]:
    _encodable(json.dumps(value, ensure_ascii=False))
    return value


Text = Annotated[str, AfterValidator(_encodable)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
JsonObject = Annotated[dict[str, Any], AfterValidator(_encodable_json)]


class Part(BaseModel):
    """A part with no other fields than these."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Part):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class CalledFunction(Part):
    """Which function an assistant called in a turn that is past."""

    name: FunctionName
    arguments: Text
    """A JSON object as text."""


class CallPart(Part):
    """A call in a turn that is past."""

    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    # `extra` is judged by `requests.refuse_unsupported`, which can tell why.
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    tool_calls: Annotated[list[CallPart], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Text | None = None
    name: Text | None = None
    """Of a `tool` message: the function that it answers for. Of others it changes nothing."""

    def text(self) -> str:
        """The content in one piece."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)

    def for_template(self) -> Message:
        """The message as the chat template takes it: `developer` is the newer name of `system`."""
        message: Message = {"role": "system" if self.role == "developer" else self.role, "content": self.text()}
        if self.tool_calls:
            message["tool_calls"] = [_tool_call(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message

    def check(self, place: str) -> None:
        """Looks whether the fields fit the role.

        Raises:
            ApiError: they do not; `place` is the message's.
        """
        if self.content is None and not self.tool_calls:
            message = f"Missing required parameter: {place}.content."
            raise invalid(message, param=f"{place}.content", code="missing_required_parameter")
        if self.tool_calls and self.role != "assistant":
            raise invalid("Only the assistant calls tools.", param=f"{place}.tool_calls", code="invalid_value")
        if (self.role == "tool") != (self.tool_call_id is not None):
            message = "A message of the role tool, and no other, names the call that it answers."
            raise invalid(message, param=f"{place}.tool_call_id", code="invalid_value")
        for number, call in enumerate(self.tool_calls or ()):
            if not _is_json_object(call.function.arguments):
                where = f"{place}.tool_calls[{number}].function.arguments"
                raise invalid("Arguments are a JSON object as text.", param=where, code="invalid_value")


class FunctionDefinition(Part):
    """A function that the assistant may call."""

    name: FunctionName
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ToolDefinition(Part):
    """A tool."""

    type: Literal["function"]
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        """The definition as chat templates take it; `strict` is nothing that a model needs to know."""
        function = self.function.model_dump(exclude={"strict"}, exclude_none=True)
        function.setdefault("description", "")
        function.setdefault("parameters", {"type": "object", "properties": {}})
        return {"type": "function", "function": function}


class ChosenFunction(Part):
    """The name in a tool choice."""

    name: FunctionName


class ToolChoice(Part):
    """A function that has to be called."""

    type: Literal["function"]
    function: ChosenFunction


class NamedSchema(Part):
    """A JSON Schema for the answer."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Text | None = None
    answer_schema: JsonObject = Field(alias="schema", default_factory=dict)
    strict: bool | None = None
    """Changes nothing: a schema is enforced in any case."""


class ResponseFormat(Part):
    """What the answer has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


PARTS: tuple[type[BaseModel], ...] = (
    TextPart, CalledFunction, CallPart, ChatMessage, FunctionDefinition, ToolDefinition, ChosenFunction, ToolChoice,
    NamedSchema, ResponseFormat,
)  # fmt: skip


def _tool_call(call: CallPart) -> ToolCall:
    function = call.function
    return {
        "type": "function",
        "function": {"name": function.name, "arguments": function.arguments},
        "id": call.id,
    }


def _is_json_object(text: str) -> bool:
    try:
        return not text.strip() or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False

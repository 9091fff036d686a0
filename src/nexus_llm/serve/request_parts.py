"""The parts of requests: texts, messages, tools and their calls, formats of answers, and fields that nobody reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from nexus_llm.records import Message, ToolCall
from nexus_llm.serve.api_errors import invalid, unsupported

MAX_TOOLS = 128  # OpenAI's
_MAX_NAME = 100  # characters of a client's own field name in an error

FIELD_NAMES: set[str] = set()
"""Fields of all bodies, as clients name them: errors tell them from pydantic's own marks for alternatives."""


def _encodable(text: str) -> str:
    # JSON can spell half a surrogate pair, which is no character and breaks every encoder behind.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half a surrogate pair, which is no text") from error
    return text


def _sendable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError("holds what JSON cannot say: half a surrogate pair, NaN, or too many levels") from error
    return value


Text = Annotated[str, AfterValidator(_encodable)]
_Item = TypeVar("_Item")
Several = Annotated[list[_Item], Field(fail_fast=True)]
"""A list whose first fault is told: all those of a body of 1 MiB took half a gigabyte, and seconds of the loop."""
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
JsonObject = Annotated[dict[str, Any], AfterValidator(_sendable)]
"""Any JSON object that can be written again."""


class Body(BaseModel):
    """A body, or a part of one, of which other fields are judged by a `Support`, which can tell why not."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_on_complete__(cls) -> None:
        FIELD_NAMES.update(field.alias or name for name, field in cls.model_fields.items())


class Part(Body):
    """One with no other fields than these."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Support:
    """What becomes of the fields of an API that this server does not read."""

    no_effect: frozenset[str] = frozenset()
    """Accepted: the answer does not depend on them."""
    refused: Mapping[str, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)
    """Name → why not, and the values that ask for nothing and therefore pass."""

    def judge(self, body: BaseModel, *, place: str = "") -> None:
        """Looks at the fields that the body's schema does not name.

        Raises:
            ApiError: 400, naming the first field that would have an effect that this server cannot give.
        """
        for name, value in (body.model_extra or {}).items():
            if value is None or name in self.no_effect:
                continue
            param = f"{place}{name[:_MAX_NAME]}"
            if name not in self.refused:
                raise invalid(f"Unrecognized request argument: {param}", param=param, code="unknown_parameter")
            reason, harmless = self.refused[name]
            if value not in harmless:
                raise unsupported(param, reason)


class TextPart(Part):
    type: Literal["text"]
    text: Text


class CalledFunction(Part):
    name: FunctionName
    arguments: Text
    """A JSON object as text."""


class CallPart(Part):
    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Several[TextPart] | None = None
    tool_calls: Annotated[Several[CallPart], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Text | None = None
    name: Text | None = None
    """Of a `tool` message: the function that it answers for. Of others it changes nothing."""

    def text(self) -> str:
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
        """Refuses fields that do not fit the role of the message at `place`: ApiError."""
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
    name: FunctionName
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ToolDefinition(Part):
    type: Literal["function"]
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        """The definition as chat templates take it; `strict` is nothing that a model needs to know."""
        function = self.function.model_dump(exclude={"strict"}, exclude_none=True)
        function.setdefault("description", "")
        function.setdefault("parameters", {"type": "object", "properties": {}})
        return {"type": "function", "function": function}


class ChosenFunction(Part):
    name: FunctionName


class ToolChoice(Part):
    type: Literal["function"]
    function: ChosenFunction


class NamedSchema(Part):
    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Text | None = None
    answer_schema: JsonObject = Field(alias="schema", default_factory=dict)
    strict: bool | None = None
    """Changes nothing: a schema is enforced in any case."""


class ResponseFormat(Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


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

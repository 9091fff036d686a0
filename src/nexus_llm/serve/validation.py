"""What pydantic says about a bad body, in the words of OpenAI's error shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nexus_llm.serve.api_errors import ApiError, invalid
from nexus_llm.serve.request_parts import FIELD_NAMES


def explain_validation(errors: Sequence[Any]) -> ApiError:
    """The 400 for the first place that is wrong. Values are never quoted: they may be prompts."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return invalid("The body is not valid JSON.", code="invalid_json")
    # A field that may be one of several things fails once for each; the deepest failure is what was meant.
    field = param_name(first["loc"])
    param = max((name for error in errors if (name := param_name(error["loc"])).startswith(field)), key=len)
    if not param:
        return invalid("Send a JSON object, with the header content-type: application/json.", code="invalid_body")
    if first["type"] == "missing":
        return invalid(f"Missing required parameter: {param}.", param=param, code="missing_required_parameter")
    there = [error for error in errors if param_name(error["loc"]) == param]
    if there[0]["type"] == "extra_forbidden":
        return invalid(f"Unrecognized request argument: {param}", param=param, code="unknown_parameter")
    own = [error for error in there if error["type"] == "value_error"]
    messages = dict.fromkeys(_lower(error["msg"]) for error in own or there)
    return invalid(f"Invalid {param}: {', or '.join(messages)}.", param=param, code="invalid_value")


def param_name(location: Sequence[str | int]) -> str:
    """A place in the body as OpenAI writes it; pydantic's own marks for alternatives are left out.

    >>> param_name(("body", "messages", 0, "content", "constrained-str"))
    'messages[0].content'
    """
    name = ""
    for part in location[1:]:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part in FIELD_NAMES:
            name += f".{part}" if name else part
    return name


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]

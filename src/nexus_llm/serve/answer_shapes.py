"""The shapes of answers as JSON Schemas, for the OpenAPI document only: what is sent is written by the writers."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_ANY: Schema = {"type": "object"}


def _object(**members: Schema) -> Schema:
    """A JSON object with at least these members."""
    return {"type": "object", "properties": members, "required": list(members)}


def _closed(**members: Schema) -> Schema:
    """A JSON object with exactly these members."""
    return _object(**members) | {"additionalProperties": False}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _openai(kind: str, **members: Schema) -> Schema:
    """An answer with a head as OpenAI's older endpoints have it."""
    usage = _object(prompt_tokens=_WHOLE, completion_tokens=_WHOLE, total_tokens=_WHOLE)
    choice = _object(index=_WHOLE, logprobs=_or_null(_ANY), **members)
    return _object(
        id=_TEXT, object=_one_of(kind), created=_WHOLE, model=_TEXT, system_fingerprint=_or_null(_TEXT),
        choices=_list(choice), usage=usage,
    )  # fmt: skip


_MODEL = _object(
    id=_TEXT, object=_one_of("model"), created=_WHOLE, owned_by=_TEXT, max_model_len=_WHOLE,
    nexus=_object(
        engine=_or_null(_TEXT),
        features=_list(_TEXT),
        sampling=_or_null(_object(temperature=_NUMBER, top_p=_NUMBER)),
        prices=_or_null(_object(usd_per_million_prompt_tokens=_NUMBER, usd_per_million_completion_tokens=_NUMBER)),
        is_adapter={"type": "boolean"},
    ),
)  # fmt: skip

SHAPES: dict[str, Schema] = {
    "ErrorAnswer": _closed(
        error=_closed(message=_TEXT, type=_TEXT, param=_or_null(_TEXT), code=_or_null(_TEXT)),
    ),
    "AnthropicErrorAnswer": _closed(type=_one_of("error"), error=_closed(type=_TEXT, message=_TEXT)),
    "ChatAnswer": _openai(
        "chat.completion",
        message=_object(role=_one_of("assistant"), content=_or_null(_TEXT), refusal=_or_null(_TEXT)),
        finish_reason=_one_of("stop", "length", "tool_calls"),
    ),
    "CompletionAnswer": _openai("text_completion", text=_TEXT, finish_reason=_one_of("stop", "length")),
    "EmbeddingAnswer": _closed(
        object=_one_of("list"),
        # As numbers, or as little-endian 32-bit floats in base64.
        data=_list(
            _closed(object=_one_of("embedding"), index=_WHOLE, embedding={"anyOf": [_list(_NUMBER), _TEXT]}),
        ),
        model=_TEXT,
        usage=_closed(prompt_tokens=_WHOLE, total_tokens=_WHOLE),
    ),
    "ResponsesAnswer": _object(
        id=_TEXT, object=_one_of("response"), created_at=_WHOLE, status=_one_of("completed", "incomplete"),
        model=_TEXT, output=_list(_ANY), error={"type": "null"}, incomplete_details=_or_null(_map(_TEXT)),
        usage=_object(
            input_tokens=_WHOLE, input_tokens_details=_map(_WHOLE),
            output_tokens=_WHOLE, output_tokens_details=_map(_WHOLE), total_tokens=_WHOLE,
        ),
    ),
    "MessageAnswer": _object(
        id=_TEXT, type=_one_of("message"), role=_one_of("assistant"), model=_TEXT, content=_list(_ANY),
        stop_reason=_one_of("end_turn", "max_tokens", "stop_sequence", "tool_use"), stop_sequence=_or_null(_TEXT),
        usage=_object(input_tokens=_WHOLE, output_tokens=_WHOLE),
    ),
    "GenerateAnswer": _closed(response=_TEXT, tokens_generated=_WHOLE),
    "ModelCard": _MODEL,
    "ModelList": _object(object=_one_of("list"), data=_list(_MODEL)),
    "StatusAnswer": _closed(status=_TEXT),
}  # fmt: skip

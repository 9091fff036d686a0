"""`/openapi.json`: every route with its body, its answers and its errors, as they really are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from nexus_llm.serve.answer_shapes import SHAPES
from nexus_llm.serve.dialects.anthropic_answer import PATHS as ANTHROPIC_PATHS

_ANSWERS: dict[tuple[str, str], str] = {
    ("post", "/v1/chat/completions"): "ChatAnswer",
    ("post", "/v1/completions"): "CompletionAnswer",
    ("post", "/v1/embeddings"): "EmbeddingAnswer",
    ("post", "/v1/responses"): "ResponsesAnswer",
    ("post", "/v1/messages"): "MessageAnswer",
    ("post", "/generate"): "GenerateAnswer",
    ("get", "/v1/models"): "ModelList",
    ("get", "/v1/models/{name}"): "ModelCard",
    ("get", "/health"): "StatusAnswer",
    ("get", "/ready"): "StatusAnswer",
}
"""The answers of routes that write their documents themselves; other routes declare theirs to FastAPI."""

_STREAMS = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/generate"}
_STATES = {"/health", "/ready"}
_ERRORS = {
    "400": "The request is wrong; the message says where.",
    "401": "No key, or none that is known.",
    "403": "The key may not do this.",
    "404": "There is no such model.",
    "408": "The request did not come in time.",
    "413": "The body is too large.",
    "429": "Too many requests; `retry-after` says when.",
    "431": "The request's head is too large.",
    "500": "The server or its engine failed on this request.",
    "503": "The model is loading, the server stops, the engine is down, or the turn would come too late.",
    "504": "The answer did not begin in time.",
}


def describe(app: FastAPI) -> None:
    """Makes the application's OpenAPI document true. Call it last: it covers the routes that are there when asked."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _complete(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own form of error, which nobody gets here
        schemas.pop(unused, None)
    schemas.update(SHAPES)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _complete_operation(operation, method=method, path=path)


def _complete_operation(operation: dict[str, Any], *, method: str, path: str) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    if path == "/metrics":
        responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    elif (method, path) in _ANSWERS:
        responses["200"] = {"description": "Done.", "content": _json(_ANSWERS[method, path])}
    if path in _STREAMS:
        events = {"schema": {"type": "string", "description": "Server-sent events, with `stream: true`."}}
        responses["200"]["content"]["text/event-stream"] = events
    if path in _STATES:
        responses["503"] = {"description": "Not now.", "content": _json("StatusAnswer")}
    error = "AnthropicErrorAnswer" if path.startswith(ANTHROPIC_PATHS) else "ErrorAnswer"
    for status, description in _ERRORS.items():
        responses.setdefault(status, {"description": description, "content": _json(error)})


def _json(shape: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape}"}}}

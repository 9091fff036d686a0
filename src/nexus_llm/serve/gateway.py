"""The web application: OpenAI's endpoints, health, metrics and the chat page."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from nexus_llm.serve import api_errors
from nexus_llm.serve.answers import DIALECTS, AnswerWriter, EndpointKind
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.edge import MAX_BODY_BYTES, Edge
from nexus_llm.serve.embeddings import EmbeddingWriter
from nexus_llm.serve.engines.supervisor import EngineState
from nexus_llm.serve.generation import Generator
from nexus_llm.serve.metrics import CONTENT_TYPE
from nexus_llm.serve.requests import ChatRequest, CompletionRequest, EmbeddingRequest, GenerationRequest
from nexus_llm.serve.responses import GenerationResponse
from nexus_llm.serve.validation import explain_validation


def create_app(generator: Generator) -> Edge:
    """The ASGI application around one model."""
    app = FastAPI(title="Nexus LLM", docs_url=None, redoc_url=None)
    _add_error_handlers(app)
    _add_model_routes(app, generator)
    _add_generation_routes(app, generator)
    _add_operations_routes(app, generator)
    _add_page(app)
    return Edge(app, metrics=generator.metrics)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_request: Request, error: ApiError) -> Response:
        return _error_response(error)

    @app.exception_handler(Exception)
    async def unexpected_error(_request: Request, _error: Exception) -> Response:
        return _error_response(api_errors.internal_error())  # raised again behind this, and logged at the edge

    @app.exception_handler(RequestValidationError)
    async def validation_error(_request: Request, error: RequestValidationError) -> Response:
        return _error_response(explain_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        place = f"{request.method} {request.url.path[:200]}"
        if error.status_code == 404:
            return _error_response(ApiError(404, f"There is nothing at {place}.", code="not_found"))
        if error.status_code == 405:
            allow = dict(error.headers or {})
            answer = ApiError(405, f"{place} is not allowed.", code="method_not_allowed", headers=allow)
            return _error_response(answer)
        if error.status_code == 413:
            message = f"The body is larger than {MAX_BODY_BYTES} bytes."
            answer = ApiError(413, message, code="body_too_large", headers=dict(error.headers or {}))
            return _error_response(answer)
        return _error_response(ApiError(error.status_code, "The body could not be read as JSON.", code="invalid_body"))


def _add_model_routes(app: FastAPI, generator: Generator) -> None:
    model = generator.model
    card = {
        "id": model.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "nexus-llm",
        "max_model_len": model.context_tokens,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != model.name:
            raise api_errors.model_not_found(name, model.name)
        return card


def _add_generation_routes(app: FastAPI, generator: Generator) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatRequest) -> Response:
        return await _generate(body, "chat", with_logprobs=bool(body.logprobs))

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest) -> Response:
        return await _generate(body, "completion", with_logprobs=body.logprobs is not None)

    @app.post("/v1/embeddings", response_model=None)
    async def embeddings(body: EmbeddingRequest) -> Response:
        writer = EmbeddingWriter(generator.model.name, is_base64=body.encoding_format == "base64")
        return GenerationResponse(await generator.open(body), writer, generator=generator, is_stream=False)

    async def _generate(body: GenerationRequest, kind: EndpointKind, *, with_logprobs: bool) -> Response:
        assert isinstance(body, ChatRequest | CompletionRequest)
        if body.stream_options is not None and not body.stream:
            raise api_errors.invalid("stream_options only goes with stream: true.", param="stream_options")
        writer = AnswerWriter(
            DIALECTS[kind],
            model=generator.model.name,
            fingerprint=generator.model.fingerprint,
            with_logprobs=with_logprobs,
            include_usage=body.stream_options is not None and body.stream_options.include_usage,
        )
        generation = await generator.open(body)
        return GenerationResponse(generation, writer, generator=generator, is_stream=bool(body.stream))


def _add_operations_routes(app: FastAPI, generator: Generator) -> None:
    @app.get("/health")
    async def health() -> Response:
        """Alive: 200 until the engine is given up for good, so that an orchestrator replaces the process then."""
        is_down = generator.engine.state is EngineState.FAILED
        return JSONResponse({"status": "failed" if is_down else "ok"}, status_code=503 if is_down else 200)

    @app.get("/ready")
    async def ready() -> Response:
        """Willing: 200 while new requests are welcome."""
        state = "draining" if generator.is_draining else str(generator.engine.state)
        return JSONResponse({"status": state}, status_code=200 if state == "ready" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generator.metrics.render(), headers={"content-type": CONTENT_TYPE})


def _add_page(app: FastAPI) -> None:
    page = resources.files("nexus_llm.serve").joinpath("page.html").read_text(encoding="utf-8")
    headers = {
        "content-security-policy": _content_security_policy(page),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    @app.get("/", include_in_schema=False)
    async def chat_page() -> Response:
        return Response(page, media_type="text/html", headers=headers)


def _content_security_policy(page: str) -> str:
    """Allows exactly the page's own script and style, by their hashes, and talk to this server."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in found)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _error_response(error: ApiError) -> Response:
    return Response(error.body(), error.status, headers=error.headers, media_type="application/json")

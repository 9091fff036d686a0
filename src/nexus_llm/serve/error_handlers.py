"""Whatever goes wrong in a route becomes an error document in the shape that the clients of its path read."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from nexus_llm.serve import api_errors
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.dialects.anthropic import PATHS as ANTHROPIC_PATHS
from nexus_llm.serve.dialects.anthropic_answer import anthropic_error
from nexus_llm.serve.edge import BodyRefusedError
from nexus_llm.serve.telemetry.record import current_record
from nexus_llm.serve.validation import explain_validation


def add_error_handlers(app: FastAPI) -> None:
    """Our own errors, bad bodies, unknown paths, and faults of ours."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error_response(error, request)

    @app.exception_handler(Exception)
    async def unexpected_error(request: Request, _error: Exception) -> Response:
        return error_response(api_errors.internal_error(), request)  # raised again behind this, and logged at the edge

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return error_response(explain_validation(error.errors()), request)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if isinstance(error, BodyRefusedError):
            return error_response(error.error, request)
        place = f"{request.method} {request.url.path[:200]}"
        if error.status_code == 404:
            return error_response(ApiError(404, f"There is nothing at {place}.", code="not_found"), request)
        if error.status_code == 405:
            allow = dict(error.headers or {})
            answer = ApiError(405, f"{place} is not allowed.", code="method_not_allowed", headers=allow)
            return error_response(answer, request)
        unread = ApiError(error.status_code, "The body could not be read as JSON.", code="invalid_body")
        return error_response(unread, request)


def error_body(error: ApiError, *, path: str) -> bytes:
    """The JSON document of an error, as the clients of this path read it."""
    return anthropic_error(error) if path.startswith(ANTHROPIC_PATHS) else error.body()


def error_response(error: ApiError, request: Request) -> Response:
    """The same as a response."""
    current_record().error_code = error.code
    body = error_body(error, path=request.url.path)
    return Response(body, error.status, headers=error.headers, media_type="application/json")

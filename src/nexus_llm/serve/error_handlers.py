"""Whatever goes wrong in a route becomes an error document in the shape that the clients of its path read."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from nexus_llm.serve import api_errors
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.dialects.anthropic_answer import error_body
from nexus_llm.serve.edge import BodyRefusedError
from nexus_llm.serve.telemetry.record import current_record
from nexus_llm.serve.validation import explain_validation

EXPECTED_ERRORS = (ApiError, RequestValidationError, HTTPException)
"""What ends a request without a fault of ours: our own errors, bad bodies, unknown paths."""


def add_error_handlers(app: FastAPI) -> None:
    """Every error leaves as the API's own document: `EXPECTED_ERRORS` explained, any other as a bare 500."""

    async def expected(request: Request, error: Exception) -> Response:
        return explained(error, request)

    async def unexpected(request: Request, _error: Exception) -> Response:
        return error_response(api_errors.internal_error(), request)  # raised again behind this, and logged at the edge

    for kind in EXPECTED_ERRORS:
        app.add_exception_handler(kind, expected)
    app.add_exception_handler(Exception, unexpected)


def explained(error: Exception, request: Request) -> Response:
    """The response to one of `EXPECTED_ERRORS`."""
    if isinstance(error, HTTPException):
        return error_response(_http_error(error, request), request)
    if isinstance(error, RequestValidationError):
        return error_response(explain_validation(error.errors()), request)
    assert isinstance(error, ApiError)
    return error_response(error, request)


def _http_error(error: HTTPException, request: Request) -> ApiError:
    if isinstance(error, BodyRefusedError):
        return error.error
    place = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        return ApiError(404, f"There is nothing at {place}.", code="not_found")
    if error.status_code == 405:
        allow = dict(error.headers or {})
        return ApiError(405, f"{place} is not allowed.", code="method_not_allowed", headers=allow)
    return ApiError(error.status_code, "The body could not be read as JSON.", code="invalid_body")


def error_response(error: ApiError, request: Request) -> Response:
    current_record().error_code = error.code
    body = error_body(error, path=request.url.path)
    return Response(body, error.status, headers=error.headers, media_type="application/json")

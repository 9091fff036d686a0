"""What the dialects share: bodies, what they refuse, and the way to a chat or completion request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError

from nexus_llm.serve.answers import Writer
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.generation import Generation
from nexus_llm.serve.generator import Generator
from nexus_llm.serve.requests import ChatRequest, CompletionRequest, GenerationRequest
from nexus_llm.serve.responses import GenerationResponse
from nexus_llm.serve.validation import explain_validation

Request = TypeVar("Request", bound=GenerationRequest)


@contextmanager
def errors_named(names: Mapping[str, str]) -> Iterator[None]:
    """Errors inside name a field as the dialect's clients know it: {the chat request's name: the dialect's}."""
    try:
        yield
    except ApiError as error:
        raise _renamed(error, names) from None


def converted(
    kind: type[Request], fields: Mapping[str, Any], *, names: Mapping[str, str] = MappingProxyType({})
) -> Request:
    """A chat or completion request with these fields; None means that the client said nothing.

    `names`: the fields' names in errors, {the chat request's: the dialect's}.

    Raises:
        ApiError: 400, this server's chat or completion requests do not allow it.
    """
    try:
        return kind.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        found = [{**wrong, "loc": ("body", *wrong["loc"])} for wrong in error.errors(include_context=False)]
        raise _renamed(explain_validation(found), names) from None


async def answer(
    generator: Generator,
    request: ChatRequest | CompletionRequest,
    writer: Callable[[Generation], Writer],
    *,
    names: Mapping[str, str] = MappingProxyType({}),
) -> GenerationResponse:
    """The response to a converted request: the one place where dialects open a generation."""
    with errors_named(names):
        generation = await generator.open(request)
    return GenerationResponse(generation, writer(generation), generator=generator, is_stream=bool(request.stream))


def _renamed(error: ApiError, names: Mapping[str, str]) -> ApiError:
    head = re.match(r"\w+", error.param or "")
    if head is None or head[0] not in names:
        return error
    old, new = error.param or "", names[head[0]]
    # Places inside a converted field are the chat request's, not the client's: only the field itself is told.
    message = re.sub(rf"{re.escape(old)}(?!\w)", new, error.message, count=1) if old in error.message else error.message
    return replace(error, message=message, param=new)

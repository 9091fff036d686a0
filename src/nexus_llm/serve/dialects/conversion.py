"""What the dialects share: bodies, what they refuse, and the way to a chat or completion request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from nexus_llm.serve.answers import Writer
from nexus_llm.serve.api_errors import ApiError, invalid, unsupported
from nexus_llm.serve.generation import Generation
from nexus_llm.serve.generator import Generator
from nexus_llm.serve.requests import ChatRequest, CompletionRequest, GenerationRequest
from nexus_llm.serve.responses import GenerationResponse
from nexus_llm.serve.validation import explain_validation, name_fields

Request = TypeVar("Request", bound=GenerationRequest)
_MAX_NAME = 100  # characters of a client's own field name in an error


def _sendable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError("holds what JSON cannot say: half a surrogate pair, NaN, or too many levels") from error
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_sendable)]
"""Any JSON object that can be written again."""


class DialectBody(BaseModel):
    """A body of which other fields are judged by a `Support`, which can tell why not."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_on_complete__(cls) -> None:
        name_fields(cls)


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


@contextmanager
def errors_named(names: Mapping[str, str]) -> Iterator[None]:
    """Errors inside name a field as the dialect's clients know it: {the chat request's name: the dialect's}.

    Raises:
        ApiError: the same as inside, with the dialect's names.
    """
    try:
        yield
    except ApiError as error:
        raise _renamed(error, names) from None


def converted(kind: type[Request], fields: Mapping[str, Any], *, names: Mapping[str, str]) -> Request:
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
    *,
    writer: Callable[[Generation], Writer],
    names: Mapping[str, str],
) -> GenerationResponse:
    """The response to a converted request: the one place where dialects open a generation.

    Raises:
        ApiError: the request is wrong or too long, the queue is full, or there is no engine.
    """
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

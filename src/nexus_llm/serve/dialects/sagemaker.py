"""SageMaker's contract for containers, on a port of its own: `/ping` and `/invocations`.

SageMaker's endpoint lets callers in by IAM and passes no key on, so that this port asks for none: it must be reached
by SageMaker only.

Source: AWS, SageMaker developer guide, "Use Your Own Inference Code with Hosting Services" and "Invoke models for
real-time inference" (read November 2026): a ping is answered within 2 s, an invocation within 60 s.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Response
from pydantic import Discriminator, Tag
from starlette.types import Message, Receive, Scope, Send

from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.dialects.brief_generate import GenerateRequest, generate_answer
from nexus_llm.serve.edge import Edge
from nexus_llm.serve.engines.supervisor import EngineState
from nexus_llm.serve.error_handlers import add_error_handlers
from nexus_llm.serve.gateway import openai_answer
from nexus_llm.serve.generator import Generator
from nexus_llm.serve.request_parts import Text
from nexus_llm.serve.requests import ChatRequest, CompletionRequest
from nexus_llm.serve.responses import send_document
from nexus_llm.serve.telemetry.record import current_record

INVOCATION_SECONDS = 59.0
"""One less than SageMaker waits, so that its caller gets our error in place of a bare timeout."""


class ChatInvocation(ChatRequest):
    """A chat request; the endpoint has one model, so that naming it is optional."""

    model: Text = ""


def _kind(body: Any) -> str:
    if isinstance(body, dict):
        return "chat-body" if "messages" in body else "completion-body" if "model" in body else "generate-body"
    return "chat-body" if isinstance(body, ChatRequest) else "generate-body"


Invocation = Annotated[
    Annotated[ChatInvocation, Tag("chat-body")]
    | Annotated[CompletionRequest, Tag("completion-body")]
    | Annotated[GenerateRequest, Tag("generate-body")],
    Discriminator(_kind),
]


def create_sagemaker_app(generator: Generator) -> Edge:
    """What a container answers on SageMaker: `/ping` and `/invocations`."""
    # SageMaker passes its caller's content type on, which is often missing.
    app = FastAPI(
        title="Nexus LLM on SageMaker", docs_url=None, redoc_url=None, openapi_url=None, strict_content_type=False
    )
    add_error_handlers(app)

    @app.get("/ping", response_model=None)
    async def ping() -> Response:
        """200 while invocations are welcome, 503 while the model loads or the server stops."""
        is_ready = generator.engine.state is EngineState.READY and not generator.is_draining
        return Response(status_code=200 if is_ready else 503)

    @app.post("/invocations", response_model=None)
    async def invocations(body: Invocation) -> Response:
        """A chat, completion or generate body; answered as the endpoint of that kind does, streams included."""
        if isinstance(body, GenerateRequest):
            inner: Response = await generate_answer(body, generator)
        else:
            named = body if body.model else body.model_copy(update={"model": generator.model.name})
            inner = await openai_answer(named, generator)
        return _InTime(inner, seconds=INVOCATION_SECONDS)

    return Edge(app, metrics=generator.metrics, telemetry=generator.telemetry, timeouts=generator.timeouts)


class _InTime(Response):
    """A response that becomes an error when it has not begun in time; what has begun may take longer."""

    def __init__(self, inner: Response, *, seconds: float) -> None:
        super().__init__()
        self._inner = inner
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            limit.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._seconds) as limit:
                await self._inner(scope, receive, sent)
        except TimeoutError:
            if not limit.expired():
                raise
            message = (
                f"No answer within {self._seconds:.0f} s, which SageMaker allows: ask for fewer tokens, or stream."
            )
            error = ApiError(504, message, type="server_error", code="invocation_timeout")
            current_record().error_code = error.code
            await send_document(send, error.status, error.body())

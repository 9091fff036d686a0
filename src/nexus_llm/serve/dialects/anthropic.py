"""`/v1/messages` and `/v1/messages/count_tokens`: Anthropic's Messages API."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel

from nexus_llm.serve.body_route import add_body_route
from nexus_llm.serve.dialects.anthropic_answer import PATHS, MessageWriter
from nexus_llm.serve.dialects.anthropic_body import NAMES, CountTokensRequest, MessagesRequest
from nexus_llm.serve.dialects.conversion import answer, errors_named
from nexus_llm.serve.generation import Generation
from nexus_llm.serve.generator import Generator


class TokenCount(BaseModel):
    """How long a prompt is."""

    input_tokens: int


def add_routes(app: FastAPI, generator: Generator) -> None:
    """Adds both routes."""

    async def messages(body: MessagesRequest) -> Response:
        """A conversation in, the next message out; streams with `stream: true`."""
        request = body.chat_request()

        def writer(generation: Generation) -> MessageWriter:
            return MessageWriter(model=body.model, prompt_tokens=generation.prompt_tokens)

        return await answer(generator, request, writer=writer, names=NAMES)

    add_body_route(app, PATHS, messages)

    @app.post(f"{PATHS}/count_tokens")
    async def count_tokens(body: CountTokensRequest) -> TokenCount:
        """Tokens that a conversation takes, counted and not generated."""
        request = body.chat_request()
        with errors_named(NAMES):
            return TokenCount(input_tokens=sum(map(len, await generator.prompt_token_ids(request))))

"""`/v1/responses`: OpenAI's Responses API, without its memory and its built-in tools."""

from __future__ import annotations

from fastapi import FastAPI, Response

from nexus_llm.serve.body_route import add_body_route
from nexus_llm.serve.dialects.conversion import answer
from nexus_llm.serve.dialects.openai_responses_answer import ResponseWriter
from nexus_llm.serve.dialects.openai_responses_body import NAMES, ResponsesRequest
from nexus_llm.serve.generation import Generation
from nexus_llm.serve.generator import Generator


def add_routes(app: FastAPI, generator: Generator) -> None:
    """Adds the route."""

    async def responses(body: ResponsesRequest) -> Response:
        """Text or a conversation in, a response out; streams with `stream: true`. Nothing is kept."""

        def writer(_generation: Generation) -> ResponseWriter:
            return ResponseWriter(body, model=generator.model)

        return await answer(generator, body.chat_request(), writer=writer, names=NAMES)

    add_body_route(app, "/v1/responses", responses)

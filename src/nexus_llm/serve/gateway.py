"""The web application: OpenAI's endpoints, health, metrics and the chat page."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from nexus_llm.recipe import KeysRecipe
from nexus_llm.serve import api_errors
from nexus_llm.serve.access.access import Access
from nexus_llm.serve.access.admin import add_admin_routes
from nexus_llm.serve.access.caller import current_caller
from nexus_llm.serve.access.gate import AccessGate
from nexus_llm.serve.answers import ChatWriter, CompletionWriter, EmbeddingWriter
from nexus_llm.serve.body_route import BodyRoutesFirst, add_body_route
from nexus_llm.serve.dialects import anthropic_body, openai_responses_body
from nexus_llm.serve.dialects.anthropic_answer import PATHS as ANTHROPIC_PATHS
from nexus_llm.serve.dialects.anthropic_answer import MessageWriter
from nexus_llm.serve.dialects.anthropic_body import CountTokensRequest, MessagesRequest
from nexus_llm.serve.dialects.brief_generate import GenerateRequest, generate_answer
from nexus_llm.serve.dialects.conversion import answer, errors_named
from nexus_llm.serve.dialects.openai_responses_answer import ResponseWriter
from nexus_llm.serve.dialects.openai_responses_body import ResponsesRequest
from nexus_llm.serve.edge import Edge
from nexus_llm.serve.engine_requests import wants_logprobs
from nexus_llm.serve.engines.port import EngineFacts
from nexus_llm.serve.engines.supervisor import EngineState
from nexus_llm.serve.error_handlers import add_error_handlers
from nexus_llm.serve.generation import Generation
from nexus_llm.serve.generator import Generator
from nexus_llm.serve.metrics import CONTENT_TYPE
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.openapi import describe
from nexus_llm.serve.page.document import page_headers, read_page
from nexus_llm.serve.requests import AnyRequest, ChatRequest, CompletionRequest, EmbeddingRequest, StreamOptions
from nexus_llm.serve.responses import GenerationResponse
from nexus_llm.serve.rollout import ModelRollout, add_rollout_routes
from nexus_llm.serve.telemetry.record import current_record
from nexus_llm.serve.tokenize import add_tokenize_route


def create_app(
    generator: Generator,
    access: Access | None = None,
    *,
    rollout: ModelRollout | None = None,
    admin_token: str | None = None,
) -> Edge:
    """The ASGI application around one model, open to everybody without `access`.

    Another model can take over by `rollout`; `admin_token` is who may, where there are no keys.
    """
    app = FastAPI(title="Nexus LLM", docs_url=None, redoc_url=None)
    add_error_handlers(app)
    _add_model_routes(app, generator)
    _add_generation_routes(app, generator)
    _add_dialect_routes(app, generator)
    add_tokenize_route(app, generator)
    _add_operations_routes(app, generator)
    _add_page(app)
    if rollout is not None:
        add_rollout_routes(app, rollout, token=admin_token)
    if access is not None:
        access.count_refusal = generator.metrics.refused
        add_admin_routes(app, access)
    describe(app)
    routed = BodyRoutesFirst(app)
    gated = routed if access is None else AccessGate(routed, access)
    return Edge(gated, metrics=generator.metrics, telemetry=generator.telemetry, timeouts=generator.timeouts)


def _add_model_routes(app: FastAPI, generator: Generator) -> None:
    created = int(time.time())

    def cards() -> dict[str, dict[str, Any]]:
        # Asked each time: a swap changes both.
        return model_cards(generator.model, generator.engine.facts, created=created, keys=generator.recipe.keys)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": list(cards().values())}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        card = cards().get(name)
        if card is None:
            raise api_errors.model_not_found(name, generator.model.name)
        receipt = generator.model.receipt
        return card if receipt is None else card | {"nexus": card["nexus"] | receipt.document()}


def model_cards(
    model: ServedModel, facts: EngineFacts | None, *, created: int, keys: KeysRecipe
) -> dict[str, dict[str, Any]]:
    """Name → card, of the model first and then of its adapters; `created` is in seconds since 1970.

    The member `nexus` holds what the engine can do beyond plain answers (nothing while it loads), what sampling holds
    where a request says nothing (null where that is not known), and what tokens cost in US dollars (null where no price
    is configured).
    """
    prices = {
        "usd_per_million_prompt_tokens": keys.usd_per_million_prompt_tokens,
        "usd_per_million_completion_tokens": keys.usd_per_million_completion_tokens,
    }
    is_known = facts is not None and facts.name != "openai"  # an upstream does not tell its defaults
    sampling = {"temperature": model.sampling.temperature, "top_p": model.sampling.top_p} if is_known else None
    nexus = {
        "engine": facts.name if facts is not None else None,
        "features": sorted(facts.features) if facts is not None else [],
        "sampling": sampling,
        "prices": prices if any(prices.values()) else None,
    }
    card = {"object": "model", "created": created, "owned_by": "nexus-llm", "max_model_len": model.context_tokens}
    return {
        name: {"id": name, **card, "nexus": {**nexus, "is_adapter": name in model.adapters}}
        for name in (model.name, *model.adapters)
    }


def _add_generation_routes(app: FastAPI, generator: Generator) -> None:
    async def chat_completions(body: ChatRequest) -> Response:
        return await openai_answer(body, generator)

    async def completions(body: CompletionRequest) -> Response:
        return await openai_answer(body, generator)

    async def embeddings(body: EmbeddingRequest) -> Response:
        if generator.relay is not None:
            return await relayed("embeddings", body, generator)
        writer = EmbeddingWriter(generator.model.name, is_base64=body.encoding_format == "base64")
        return GenerationResponse(await generator.open(body), writer, generator=generator, is_stream=False)

    add_body_route(app, "/v1/chat/completions", chat_completions)
    add_body_route(app, "/v1/completions", completions)
    add_body_route(app, "/v1/embeddings", embeddings)


class TokenCount(BaseModel):
    input_tokens: int


def _add_dialect_routes(app: FastAPI, generator: Generator) -> None:
    async def responses(body: ResponsesRequest) -> Response:
        """Text or a conversation in, a response out; streams with `stream: true`. Nothing is kept."""

        def writer(_generation: Generation) -> ResponseWriter:
            return ResponseWriter(body, model=generator.model)

        return await answer(generator, body.chat_request(), writer, names=openai_responses_body.NAMES)

    async def messages(body: MessagesRequest) -> Response:
        """A conversation in, the next message out; streams with `stream: true`."""

        def writer(generation: Generation) -> MessageWriter:
            return MessageWriter(model=body.model, prompt_tokens=generation.prompt_tokens)

        return await answer(generator, body.chat_request(), writer, names=anthropic_body.NAMES)

    async def generate(body: GenerateRequest) -> Response:
        """A prompt in, its continuation out."""
        return await generate_answer(body, generator)

    add_body_route(app, "/v1/responses", responses)
    add_body_route(app, ANTHROPIC_PATHS, messages)
    add_body_route(app, "/generate", generate)

    @app.post(f"{ANTHROPIC_PATHS}/count_tokens")
    async def count_tokens(body: CountTokensRequest) -> TokenCount:
        """Tokens that a conversation takes, counted and not generated."""
        request = body.chat_request()
        with errors_named(anthropic_body.NAMES):
            return TokenCount(input_tokens=sum(map(len, await generator.prompt_token_ids(request))))


async def openai_answer(body: ChatRequest | CompletionRequest, generator: Generator) -> Response:
    """The response to a chat or completion request, in OpenAI's words."""
    if body.stream_options is not None and not body.stream:
        raise api_errors.invalid("stream_options only goes with stream: true.", param="stream_options")
    is_chat = isinstance(body, ChatRequest)
    if generator.relay is not None:
        return await relayed("chat/completions" if is_chat else "completions", body, generator)
    generation = await generator.open(body)
    options = body.stream_options or StreamOptions()
    writer = (ChatWriter if is_chat else CompletionWriter)(
        model=body.model,
        fingerprint=generation.model.fingerprint,
        with_logprobs=wants_logprobs(body),
        include_usage=options.include_usage,
        usage_so_far=generation.usage if options.continuous_usage_stats else None,
    )
    return GenerationResponse(generation, writer, generator=generator, is_stream=bool(body.stream))


async def relayed(endpoint: str, body: AnyRequest, generator: Generator) -> Response:
    """The upstream's response to a request; `endpoint` is like `chat/completions`."""
    assert generator.relay is not None
    caller = current_caller()
    if caller is not None:
        caller.check_model(body.model)
    generator.check_open()
    ticket = generator.take_ticket(body)
    response = generator.relay.respond(endpoint, body.model_dump(exclude_unset=True), ticket)
    current_record().asked(body)
    if caller is not None:
        await response.reserve(caller, body.model)
    return response


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
    page = read_page()
    headers = page_headers(page)

    @app.get("/", include_in_schema=False)
    async def chat_page() -> Response:
        return Response(page, media_type="text/html", headers=headers)

"""A client's request as what the engine is asked and what its answers are made of; what does not fit is an ApiError."""

from __future__ import annotations

import random

from nexus_llm.serve import api_errors
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.engines.port import EngineFacts, EngineRequest
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.requests import AnyRequest, ChatRequest, CompletionRequest, EmbeddingRequest
from nexus_llm.serve.text import AnswerWishes
from nexus_llm.serve.tools.formats import CALLS_ALONE, CallFormat, format_of_template

GREEDY_BELOW = 1e-4  # smaller temperatures overflow float32 logits; they mean "always the likeliest"
SEEDS = 2**63

_WHY_NOT = {
    "top_logprobs": "this engine tells the chosen token's log probability only",
    "prompt_logprobs": "this engine does not tell how likely the prompt was",
    "logprobs": "this engine tells no log probabilities",
    "logit_bias": "this engine cannot shift single tokens",
    "json_schema": "this engine cannot hold its answer to a schema",
    "embeddings": "this engine does not give out hidden states",
}


def refuse_missing_features(request: AnyRequest, facts: EngineFacts) -> None:
    """Looks whether the engine can do all that a request asks for."""
    for param, feature in request.needs():
        if feature not in facts.features:
            raise api_errors.unsupported(param, _WHY_NOT[feature])


def call_format(request: AnyRequest, model: ServedModel) -> CallFormat | None:
    """How calls in the answer are spelled; None where there are none."""
    if not isinstance(request, ChatRequest) or not request.offered_tools():
        return None
    spelled = format_of_template(model.tokenizer.template)
    if spelled is None:
        raise api_errors.unsupported("tools", "this model's chat template spells no calls that this server can read")
    return CALLS_ALONE if request.is_call_forced else spelled


def engine_request(request: AnyRequest, model: ServedModel) -> EngineRequest:
    """What all choices of a request have in common; id, prompt, length and seed are filled in for each."""
    if isinstance(request, EmbeddingRequest):
        return EngineRequest(id=0, token_ids=[], max_tokens=0, embed=True)
    defaults = model.sampling
    temperature = defaults.temperature if request.temperature is None else request.temperature
    if request.max_tokens == 0:
        temperature = 0.0  # only the prompt is wanted
    bias = request.bias()
    if bias and max(bias) >= model.tokenizer.vocabulary_size:
        message = f"Token ids lie below {model.tokenizer.vocabulary_size}."
        raise api_errors.invalid(message, param="logit_bias", code="invalid_value")
    has_logprobs = wants_logprobs(request)
    return EngineRequest(
        id=0,
        token_ids=[],
        max_tokens=0,
        stop_token_ids=() if request.ignore_eos else model.stop_token_ids,
        temperature=temperature if temperature >= GREEDY_BELOW else 0.0,
        top_p=defaults.top_p if request.top_p is None else request.top_p,
        # More than the vocabulary means all of it; an engine's own integers end somewhere, and its process with them.
        top_k=min(max(0, defaults.top_k if request.top_k is None else request.top_k), model.tokenizer.vocabulary_size),
        seed=random.randrange(SEEDS) if request.seed is None else request.seed % SEEDS,  # noqa: S311
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        logprobs=has_logprobs,
        top_logprobs=(request.top_logprobs if isinstance(request, ChatRequest) else request.logprobs) or 0,
        prompt_logprobs=isinstance(request, CompletionRequest) and bool(request.echo) and has_logprobs,
        logit_bias=bias,
        adapter=request.model if request.model in model.adapters else None,
        json_schema=request.answer_schema() if isinstance(request, ChatRequest) else None,
    )


def answer_wishes(request: AnyRequest, spelled: CallFormat | None) -> AnswerWishes:
    """What the request wants of its answer's text; `spelled` is how its tools are called, where it has some."""
    if isinstance(request, EmbeddingRequest):
        return AnswerWishes()
    return AnswerWishes(
        stop=request.stop_strings(),
        calls=spelled,
        is_one_call=isinstance(request, ChatRequest)
        and (request.is_call_forced or request.parallel_tool_calls is False),
        has_echo=isinstance(request, CompletionRequest) and bool(request.echo),
        is_prompt_only=request.max_tokens == 0,
        has_logprobs=wants_logprobs(request),
    )


def wants_logprobs(request: ChatRequest | CompletionRequest) -> bool:
    """Whether log probabilities are asked for; a completion's `logprobs: 0` asks for those of its tokens."""
    return bool(request.logprobs) if isinstance(request, ChatRequest) else request.logprobs is not None


def answer_tokens(request: AnyRequest, *, prompt_tokens: int, context_tokens: int, default: int) -> int:
    """Room for the answer: what was asked for, or the default as far as it fits."""
    if isinstance(request, EmbeddingRequest):
        _check_room(prompt_tokens, 0, context_tokens, "input")
        return 0
    newer = request.max_completion_tokens if isinstance(request, ChatRequest) else None
    asked = request.max_tokens if newer is None else newer
    if asked is not None:
        asked = max(1, asked)  # an engine gives one token at least; who asked for none does not get it
    param = "messages" if isinstance(request, ChatRequest) else "prompt"
    if prompt_tokens < context_tokens and asked is not None:
        param = "max_tokens" if newer is None else "max_completion_tokens"
    _check_room(prompt_tokens, asked or 1, context_tokens, param)
    return asked or min(default, context_tokens - prompt_tokens)


def explain_refusal(request: AnyRequest) -> ApiError:
    """The 400 for a request that the engine did not take."""
    param = request.schema_param() if isinstance(request, ChatRequest) else None
    if param is None:
        return api_errors.invalid("The engine refuses these sampling settings.")
    message = f"Invalid schema at {param}: the engine cannot compile it: look at its patterns and references."
    return api_errors.invalid(message, param=param, code="invalid_json_schema")


def _check_room(prompt_tokens: int, answer_tokens: int, context_tokens: int, param: str) -> None:
    if prompt_tokens + answer_tokens > context_tokens:
        raise api_errors.context_length_exceeded(
            prompt_tokens=prompt_tokens, max_tokens=answer_tokens, context_tokens=context_tokens, param=param
        )

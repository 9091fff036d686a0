"""The way from a request to its generation: judged, encoded, and given a place in the queue."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from nexus_llm.chat.conversations import strings
from nexus_llm.errors import ModelError
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve import api_errors
from nexus_llm.serve.access.caller import current_caller
from nexus_llm.serve.admission import Admission, refusals_told
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.deadlines import current_deadline
from nexus_llm.serve.engine_requests import (
    SEEDS,
    answer_tokens,
    answer_wishes,
    call_format,
    engine_request,
    explain_refusal,
    refuse_missing_features,
)
from nexus_llm.serve.engines.port import EngineRequest
from nexus_llm.serve.engines.supervisor import EngineState, EngineSupervisor
from nexus_llm.serve.fair_queue import Ticket
from nexus_llm.serve.generation import Choice, Generation
from nexus_llm.serve.lanes import Lane, Lanes
from nexus_llm.serve.metrics import ServerMetrics
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.requests import AnyRequest, ChatRequest, CompletionRequest, EmbeddingRequest
from nexus_llm.serve.telemetry.record import current_record
from nexus_llm.serve.telemetry.telemetry import Telemetry
from nexus_llm.serve.text import Answer, AnswerWishes

if TYPE_CHECKING:
    from nexus_llm.serve.relay import Relay

LOADING_RETRY_SECONDS = 2
SHORT_TEXT_CHARACTERS = 2_048  # less than 1 ms of encoding, half of which a thread would cost
LONG_TEXT_CHARACTERS = 65_536  # some 50 ms of encoding: longer texts go to a thread of their own

Value = TypeVar("Value")
Asked = TypeVar("Asked", bound=AnyRequest)


class Generator:
    """Turns requests into generations: one model behind one engine, or two while another one takes over."""

    def __init__(
        self,
        lanes: Lanes,
        recipe: ServeRecipe,
        *,
        admission: Admission,
        metrics: ServerMetrics,
        telemetry: Telemetry,
        relay: Relay | None = None,
    ) -> None:
        self.lanes = lanes
        self.admission = admission
        self.metrics = metrics
        self.telemetry = telemetry
        self.relay = relay
        """Where requests go instead of to an engine of ours."""
        self.is_draining = False
        """No new requests are taken; those that run may finish."""
        self.open_generations = 0
        self.recipe = recipe
        self.timeouts = recipe.timeouts
        self._ids = itertools.count(1)
        # One thread: a core for encoding is enough, and the others belong to the engine. Long texts have their own,
        # or a short one would wait a second behind each of them.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._long_encoder = ThreadPoolExecutor(1, thread_name_prefix="encode-long")

    @property
    def model(self) -> ServedModel:
        """The one that speaks for the server."""
        return self.lanes.live.model

    @property
    def engine(self) -> EngineSupervisor:
        """That model's."""
        return self.lanes.live.engine

    @property
    def open_answers(self) -> int:
        """Answers that are being given, by the engine or by the upstream."""
        return self.open_generations + (self.relay.open_answers if self.relay is not None else 0)

    async def open(self, request: AnyRequest) -> Generation:
        """A generation that has its place in the queue.

        Raises:
            ApiError: the request is wrong or too long, its key may not do it or has reached a limit, the queue is
                full or would take too long, or there is no engine that can do it.
        """
        request, named = self._refuse(request)
        is_named = named is not None
        self.check_open()
        record = current_record()
        record.asked(request)
        ticket = self.take_ticket(request, 1 if isinstance(request, EmbeddingRequest) else _choice_count(request))
        record.mark("queued")
        try:
            lane = None
            record.mark("encoding")
            while lane not in self.lanes.all:  # a lane that went meanwhile took its tokenizer and its engine with it
                lane = named or self.lanes.pick()
                named = None
                template, wishes = self._asked(request, lane)
                prompts = await self._encode(request, lane.model)
            record.mark("encoded")
            choices = self._choices(request, prompts, template, wishes, lane)
            with refusals_told(self.metrics):
                self.admission.enter(ticket, tokens=sum(choice.held_tokens for choice in choices))
        except BaseException:
            self.admission.leave(ticket)
            raise
        if not is_named:
            record.tally = lane.tally
        generation = Generation(
            self,
            lane,
            ticket,
            choices,
            prompt_tokens=sum(map(len, prompts)),
            refusal=explain_refusal(request),
            deadline=current_deadline(),
        )
        caller = current_caller()
        if caller is not None:
            await generation.reserve(caller, request.model)
        return generation

    async def prompt_token_ids(self, request: ChatRequest | CompletionRequest) -> list[list[int]]:
        """Token ids of each of a request's prompts, control tokens included; the engine is not asked. It counts as a
        request of its key, without tokens.

        Raises:
            ApiError: the request is wrong, or for another model, or its key has reached a limit.
        """
        request, named = self._refuse(request)
        caller = current_caller()
        if caller is not None:
            charge = await caller.reserve(model=request.model, prompt_tokens=0, completion_tokens=0)
            charge.settle(prompt_tokens=0, completion_tokens=0, is_finished=True)
        return await self._encode(request, (named or self.lanes.live).model)

    def close(self) -> None:
        for encoder in (self._encoder, self._long_encoder):
            encoder.shutdown(wait=False, cancel_futures=True)

    def _asked(self, request: AnyRequest, lane: Lane) -> tuple[EngineRequest, AnswerWishes]:
        assert lane.engine.facts is not None
        refuse_missing_features(request, lane.engine.facts)
        spelled = call_format(request, lane.model)
        return engine_request(request, lane.model), answer_wishes(request, spelled)

    def _refuse(self, request: Asked) -> tuple[Asked, Lane | None]:
        """The request by its model's own name, and the lane that it wants; refuses what nobody here can answer."""
        if self.relay is not None:
            message = "Behind this server is another one; only chat, completions and embeddings are passed on to it."
            raise ApiError(404, message, code="not_relayed")
        request.refuse_unsupported()
        caller = current_caller()
        name, lane = self.lanes.named(request.model)
        if lane is not None and (caller is None or (caller.key is not None and caller.key.is_admin)):
            request = cast("Asked", request.model_copy(update={"model": name}))
        if caller is not None:
            caller.check_model(request.model)
        if request.model not in (self.model.name, *self.model.adapters):
            raise api_errors.model_not_found(request.model, self.model.name)
        return request, lane

    def check_open(self) -> None:
        """Looks whether new requests are welcome.

        Raises:
            ApiError: the server loads or stops, or has no engine any more.
        """
        if self.is_draining:
            self.metrics.refused("draining")
            raise api_errors.unavailable("The server is stopping.", retry_after_seconds=1)
        if self.engine.state is EngineState.LOADING:
            self.metrics.refused("loading")
            raise api_errors.unavailable("The model is still being loaded.", retry_after_seconds=LOADING_RETRY_SECONDS)
        if self.engine.state in (EngineState.FAILED, EngineState.STOPPED):
            self.metrics.refused("no_engine")
            raise api_errors.unavailable("The engine is down.")

    def take_ticket(self, request: AnyRequest, count: int = 1) -> Ticket:
        """A ticket for the running task's caller and deadline, with room for `count` sequences.

        Raises:
            ApiError: it is too urgent or too much for this server, or the queue is full.
        """
        if count > self.admission.max_running:
            raise api_errors.invalid(
                f"{count} choices at once are more than this server runs ({self.admission.max_running}).", param="n"
            )
        caller = current_caller()
        key = None if caller is None else caller.key
        priorities = self.recipe.priorities
        lowest = priorities.lowest if key is None else priorities.keys.get(key.name, priorities.lowest)
        asked = None if isinstance(request, EmbeddingRequest) else request.priority
        priority = max(0, lowest) if asked is None else asked
        if priority < lowest:
            self.metrics.refused("priority")
            raise api_errors.priority_not_allowed(priority, lowest)
        owner = "" if caller is None else caller.key_id
        with refusals_told(self.metrics):
            return self.admission.arrive(key=owner, places=count, priority=priority, deadline=current_deadline())

    async def _encode(self, request: AnyRequest, model: ServedModel) -> list[list[int]]:
        """Token ids of each prompt; long ones are made beside the event loop, or they would stop other streams."""
        tokenizer = model.tokenizer
        if isinstance(request, ChatRequest):
            conversation, tools = request.conversation(), request.offered_tools()
            characters = sum(map(len, strings([conversation, tools])))
            self._check_length(model, characters, "messages")
            encode = partial(tokenizer.encode_prompt, conversation, tools=tools or None)
            try:
                return [await self._beside(encode, characters=characters)]
            except (ModelError, RecursionError):  # arguments of a call may be nested deeper than templates can write
                beside = " or its tools" if tools or any(message.get("tool_calls") for message in conversation) else ""
                raise api_errors.invalid(
                    f"The model's chat template refuses this conversation{beside}: check the order and roles of its "
                    "messages.",
                    param="messages",
                ) from None
        param = "input" if isinstance(request, EmbeddingRequest) else "prompt"
        prompts = []
        for prompt in request.prompts():
            ids = prompt if isinstance(prompt, list) else await self._encode_text(model, prompt, param)
            if not ids or max(ids) >= tokenizer.vocabulary_size:
                raise api_errors.invalid(
                    f"Each {param} needs at least one token, and ids below {tokenizer.vocabulary_size}.", param=param
                )
            prompts.append(ids)
        return prompts

    async def _encode_text(self, model: ServedModel, text: str, param: str) -> list[int]:
        self._check_length(model, len(text), param)
        return await self._beside(partial(model.tokenizer.encode_text, text), characters=len(text))

    def _check_length(self, model: ServedModel, characters: int, param: str) -> None:
        """Refuses what cannot fit however well it is encoded: 10 MB take the tokenizer ten seconds."""
        tokens = characters // model.tokenizer.longest_token_characters
        if tokens > model.context_tokens:
            raise api_errors.prompt_too_long(
                characters=characters, tokens=tokens, context_tokens=model.context_tokens, param=param
            )

    async def _beside(self, work: Callable[[], Value], *, characters: int) -> Value:
        if characters < SHORT_TEXT_CHARACTERS:
            return work()
        encoder = self._encoder if characters < LONG_TEXT_CHARACTERS else self._long_encoder
        return await asyncio.get_running_loop().run_in_executor(encoder, work)

    def _choices(
        self,
        request: AnyRequest,
        prompts: list[list[int]],
        template: EngineRequest,
        wishes: AnswerWishes,
        lane: Lane,
    ) -> list[Choice]:
        assert lane.engine.facts is not None
        context_tokens = min(lane.model.context_tokens, lane.engine.facts.capacity_tokens)
        is_embedding = isinstance(request, EmbeddingRequest)
        each = 1 if isinstance(request, EmbeddingRequest) else request.n or 1
        count = len(prompts) * each
        choices = []
        for index in range(count):
            prompt = prompts[index // each]
            one = replace(
                template,
                id=next(self._ids),
                token_ids=prompt,
                max_tokens=answer_tokens(
                    request,
                    prompt_tokens=len(prompt),
                    context_tokens=context_tokens,
                    default=self.recipe.max_new_tokens,
                ),
                seed=(template.seed + index) % SEEDS,
            )
            held = len(prompt) + one.max_tokens
            if is_embedding:
                held = sum(map(len, prompts)) if index == count - 1 else 0
            choices.append(Choice(index, one, Answer(lane.model.tokenizer, wishes, prompt=prompt), held))
        return choices


def _choice_count(request: ChatRequest | CompletionRequest) -> int:
    return (request.n or 1) * (len(request.prompts()) if isinstance(request, CompletionRequest) else 1)

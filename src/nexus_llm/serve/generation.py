"""The answers to one request while they are made: they wait their turn, run in the engine, are read and measured."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexus_llm.serve import api_errors
from nexus_llm.serve.access.caller import Caller, Charge
from nexus_llm.serve.admission import refusals_told
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.engines.port import EngineDelta, EngineRequest
from nexus_llm.serve.engines.supervisor import EngineDiedError, EngineDownError, TokenStream
from nexus_llm.serve.fair_queue import Ticket
from nexus_llm.serve.lanes import Lane
from nexus_llm.serve.telemetry.record import current_record
from nexus_llm.serve.text import Answer, TextDelta

if TYPE_CHECKING:
    from nexus_llm.serve.generator import Generator


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took, in tokens."""

    prompt_tokens: int
    completion_tokens: int

    def document(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(slots=True)  # not frozen, as `EngineDelta`
class ChoiceDelta:
    """What is new in one of the answers of a request."""

    index: int
    delta: TextDelta


@dataclass(slots=True)
class Choice:
    index: int
    request: EngineRequest
    answer: Answer
    held_tokens: int
    """The part of the ticket that its end gives back with its place. 0 is no place of its own, as all embeddings of
    a request but the last: the engine makes them one by one, in one place."""
    first_token_at: float = 0.0
    last_token_at: float = 0.0


class PhaseTimeoutError(Exception):
    """A phase of the generation took too long."""


class Generation:
    """All answers to one request. Call `next` until it gives nothing, and `close` in any case."""

    def __init__(
        self,
        generator: Generator,
        lane: Lane,
        ticket: Ticket,
        choices: list[Choice],
        *,
        prompt_tokens: int,
        refusal: ApiError,
        deadline: float | None = None,
    ) -> None:
        """`refusal` is the answer where the engine does not take the request. The answer has to begin before
        `deadline`, by the loop's clock."""
        self._ticket = ticket
        self._deadline = deadline
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = False
        self._refusal = refusal
        self.prompt_tokens = prompt_tokens
        self.model = lane.model
        """That answers; a later swap does not change it."""
        self._generator = generator
        self._engine = lane.engine
        self._engine.open_generations += 1
        self._choices = choices
        self._open = {choice.request.id: choice for choice in choices}
        self._stream: TokenStream | None = None
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._arrived_at = self._submitted_at = self._clock()
        self._is_closed = False
        self._is_over_limit = False
        self._charge: Charge | None = None
        generator.open_generations += 1
        self._record = current_record()
        prompts = [choice.request.token_ids for choice in choices]
        self._record.opened(self.model, prompts=prompts, prompt_tokens=prompt_tokens)

    @property
    def choice_count(self) -> int:
        return len(self._choices)

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far, end tokens included."""
        return sum(choice.answer.tokens for choice in self._choices)

    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.completion_tokens)

    async def reserve(self, caller: Caller, model: str) -> None:
        """Counts the request against its key, at the most that it can take; closes it where that is too much."""
        most = sum(choice.request.max_tokens for choice in self._choices)
        try:
            self._charge = await caller.reserve(model=model, prompt_tokens=self.prompt_tokens, completion_tokens=most)
        except BaseException:
            self._is_over_limit = True
            self.close()
            raise

    async def next(self) -> list[ChoiceDelta]:
        """What is new since the last call, at least one delta; empty once every answer is whole.

        Raises:
            ApiError: the engine died, or stopped, or gave up on this request.
        """
        while self._open:
            try:
                if self._stream is None:
                    self._stream = await self._submit()
                news = [self._read(delta) for delta in await self._stream.next()]
            except PhaseTimeoutError as timeout:
                raise api_errors.timed_out(str(timeout)) from None
            except EngineDiedError:
                raise api_errors.engine_died() from None
            except EngineDownError:
                raise api_errors.unavailable("The engine is down.") from None
            told = [one for one in news if one is not None]
            if told:
                return told
        return []

    def lift_deadline(self) -> None:
        """The answer has begun, which is all that the client's deadline is about."""
        self._deadline = None
        self._watch()

    def close(self) -> None:
        """Frees what is still held, in the queue and in the engine. A second time changes nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._record.completion_tokens = self.completion_tokens
        self._record.mark("ended")
        self._generator.open_generations -= 1
        self._engine.open_generations -= 1
        if self._charge is not None:
            prompt_tokens = 0 if self._stream is None else self.prompt_tokens
            self._charge.settle(
                prompt_tokens=prompt_tokens, completion_tokens=self.completion_tokens, is_finished=not self._open
            )
        for choice in list(self._open.values()):
            self._release(choice)
            if not self._is_over_limit:
                self._generator.metrics.finished("abort")
        self._generator.admission.leave(self._ticket)

    async def _submit(self) -> TokenStream:
        with refusals_told(self._generator.metrics):
            await self._generator.admission.wait(self._ticket)
        stream = TokenStream(self._give_back_place)
        for choice in self._choices:
            self._engine.submit(choice.request, stream)
        self._stream = stream
        self._submitted_at = self._clock()
        self._record.mark("submitted")
        metrics = self._generator.metrics
        metrics.queue_time.observe(self._submitted_at - self._arrived_at)
        metrics.prompt_tokens.inc(self.prompt_tokens)
        metrics.request_prompt_tokens.observe(self.prompt_tokens)
        self._watch()
        return stream

    def _watch(self) -> None:
        """Ends the generation when a phase takes too long, and looks again when that could next be.

        One timer for all tokens: one for each would cost the gateway a tenth of what a token does.
        """
        if self._timer is not None:
            self._timer.cancel()
        if self._stream is None or self._is_closed or self._is_late:
            return
        at, phase = self._due()
        if self._clock() < at:
            self._timer = self._loop.call_at(at, self._watch)
            return
        self._is_late = True
        self._generator.metrics.timed_out(phase)
        for request_id in self._open:
            self._engine.cancel(request_id)
        self._generator.admission.leave(self._ticket)
        self._stream.fail(PhaseTimeoutError(phase))

    def _due(self) -> tuple[float, str]:
        """When patience ends, and with which phase."""
        assert self._stream is not None
        timeouts = self._generator.timeouts
        at, phase = self._arrived_at + timeouts.answer_seconds, "answer"
        told_at = self._stream.last_push_at
        if told_at is None:
            at, phase = min((at, phase), (self._submitted_at + timeouts.first_token_seconds, "first_token"))
        else:
            at, phase = min((at, phase), (told_at + timeouts.between_tokens_seconds, "between_tokens"))
        return (at, phase) if self._deadline is None else min((at, phase), (self._deadline, "deadline"))

    def _give_back_place(self, request_id: int) -> None:
        """The engine is done with one sequence; its client may take its time to read it."""
        choice = self._open.get(request_id)
        if choice is not None and choice.held_tokens:
            self._generator.admission.free(self._ticket, tokens=choice.held_tokens)
            choice.held_tokens = 0

    def _read(self, delta: EngineDelta) -> ChoiceDelta | None:
        choice = self._open.get(delta.id)
        if choice is None:
            return None  # it met a stop string; the engine had gone on meanwhile
        if delta.finish == "refused":
            raise self._refusal
        if delta.finish == "capacity":
            raise api_errors.unavailable("The engine has no room for this request now.", retry_after_seconds=1)
        text = choice.answer.push(delta)
        self._measure(choice, len(delta.token_ids))
        if self._record.sample is not None:
            self._record.sample.add(choice.index, text)
        if text.finish_reason is not None:
            self._finish(choice, text.finish_reason)
        return ChoiceDelta(choice.index, text)

    def _measure(self, choice: Choice, tokens: int) -> None:
        metrics, now = self._generator.metrics, self._clock()
        metrics.generation_tokens.inc(tokens)
        if not choice.first_token_at:
            choice.first_token_at = now
            self._watch()  # patience between tokens may be shorter than with the first
            self._record.mark("first_token")
            metrics.time_to_first_token.observe(now - self._arrived_at)
            metrics.prefill_time.observe(now - self._submitted_at)
        else:
            metrics.inter_token_latency.observe(now - choice.last_token_at)
        choice.last_token_at = now

    def _finish(self, choice: Choice, reason: str) -> None:
        metrics = self._generator.metrics
        metrics.finished(reason)
        self._record.finish_reasons.append(reason)
        metrics.request_generation_tokens.observe(choice.answer.tokens)
        metrics.e2e_latency.observe(choice.last_token_at - self._arrived_at)
        decode_seconds = choice.last_token_at - choice.first_token_at
        metrics.decode_time.observe(decode_seconds)
        if choice.answer.tokens > 1:
            metrics.time_per_output_token.observe(decode_seconds / (choice.answer.tokens - 1))
        self._release(choice)

    def _release(self, choice: Choice) -> None:
        del self._open[choice.request.id]
        self._engine.cancel(choice.request.id)
        if choice.held_tokens:
            self._generator.admission.free(self._ticket, tokens=choice.held_tokens)
            choice.held_tokens = 0

"""The answers to one request while they are made: they wait their turn, run in the engine, are read and measured."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexus_llm.serve import api_errors
from nexus_llm.serve.access.caller import Caller, Charge
from nexus_llm.serve.admission import Ticket
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.engines.port import EngineDelta, EngineRequest
from nexus_llm.serve.engines.supervisor import EngineDiedError, EngineDownError, TokenStream
from nexus_llm.serve.telemetry.record import current_record
from nexus_llm.serve.text import Answer, TextDelta

if TYPE_CHECKING:
    from nexus_llm.serve.generator import Generator


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """What is new in one of the answers of a request."""

    index: int
    delta: TextDelta


@dataclass(slots=True)
class Choice:
    """One of the answers of a request."""

    index: int
    ticket: Ticket | None
    """None for all embeddings of a request but the last: the engine makes them one by one, in one place."""
    request: EngineRequest
    answer: Answer
    first_token_at: float = 0.0
    last_token_at: float = 0.0


class Generation:
    """All answers to one request. Call `next` until it gives nothing, and `close` in any case."""

    def __init__(self, generator: Generator, choices: list[Choice], *, prompt_tokens: int, refusal: ApiError) -> None:
        """`refusal` is the answer where the engine does not take the request."""
        self._refusal = refusal
        self.prompt_tokens = prompt_tokens
        self.model = generator.model
        """That answers; a later swap does not change it."""
        self._generator = generator
        self._engine = generator.engine
        self._engine.open_generations += 1
        self._choices = choices
        self._open = {choice.request.id: choice for choice in choices}
        self._stream: TokenStream | None = None
        self._clock = asyncio.get_running_loop().time
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

    async def reserve(self, caller: Caller, model: str) -> None:
        """Counts the request against its key, at the most that it can take; closes it where that is too much.

        Raises:
            ApiError: 429, a limit or the budget has no room for it; 503, the database does not answer.
        """
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
            except EngineDiedError:
                raise api_errors.engine_died() from None
            except EngineDownError:
                raise api_errors.unavailable("The engine is down.") from None
            told = [one for one in news if one is not None]
            if told:
                return told
        return []

    def close(self) -> None:
        """Frees what is still held, in the queue and in the engine. A second time changes nothing."""
        if self._is_closed:
            return
        self._is_closed = True
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

    async def _submit(self) -> TokenStream:
        for choice in self._choices:
            if choice.ticket is not None:
                await choice.ticket.turn.wait()
        self._submitted_at = self._clock()
        self._record.mark("submitted")
        metrics = self._generator.metrics
        metrics.queue_time.observe(self._submitted_at - self._arrived_at)
        metrics.prompt_tokens.inc(self.prompt_tokens)
        stream = TokenStream()
        for choice in self._choices:
            self._engine.submit(choice.request, stream)
        return stream

    def _read(self, delta: EngineDelta) -> ChoiceDelta | None:
        choice = self._open.get(delta.id)
        if choice is None:
            return None  # it met a stop string; the engine had gone on meanwhile
        if delta.finish == "refused":
            raise self._refusal
        if delta.finish == "capacity":
            raise api_errors.unavailable("The engine's memory is full.", retry_after_seconds=1)
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
        metrics.e2e_latency.observe(choice.last_token_at - self._arrived_at)
        decode_seconds = choice.last_token_at - choice.first_token_at
        metrics.decode_time.observe(decode_seconds)
        if choice.answer.tokens > 1:
            metrics.time_per_output_token.observe(decode_seconds / (choice.answer.tokens - 1))
        self._release(choice)

    def _release(self, choice: Choice) -> None:
        del self._open[choice.request.id]
        self._engine.cancel(choice.request.id)
        if choice.ticket is not None:
            self._generator.admission.leave(choice.ticket)

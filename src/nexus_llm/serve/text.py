"""One answer in the making: token ids in; pieces of text out, cut at stop strings, and calls of tools."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nexus_llm.chat import ChatTokenizer, StreamDecoder
from nexus_llm.serve.engines.port import EngineDelta
from nexus_llm.serve.stop_strings import StopStrings
from nexus_llm.serve.tools.formats import CallFormat
from nexus_llm.serve.tools.parser import CallParser

FinishReason = Literal["stop", "length", "tool_calls"]
_CALL_ID_BYTES = 5  # cut to nine letters and digits: the only ids that Mistral's templates take back


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with its log probability (natural logarithm)."""

    text: str
    logprob: float | None
    """None for the first token of a prompt, which nothing predicts."""
    top: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens at its place, likeliest first, where they were asked for."""
    offset: int = 0
    """Characters of the answer before it; of an echoed prompt and its answer, where there is one."""


@dataclass(frozen=True, slots=True)
class AnsweredCall:
    index: int
    id: str
    name: str
    arguments: str
    """A JSON object as text."""


@dataclass(slots=True)  # not frozen, as `EngineDelta`
class TextDelta:
    text: str
    logprobs: Sequence[TokenLogprob] = ()
    finish_reason: FinishReason | None = None
    calls: tuple[AnsweredCall, ...] = ()
    embedding: Sequence[float] = ()
    stop_string: str | None = None
    """Which stop string ended the answer, where one did."""


@dataclass(frozen=True, slots=True)
class AnswerWishes:
    stop: Sequence[str] = ()
    calls: CallFormat | None = None
    """How calls are spelled, where the answer may have some."""
    is_one_call: bool = False
    """The answer ends with its first call."""
    has_echo: bool = False
    """It begins with its prompt."""
    is_prompt_only: bool = False
    """Nothing follows the prompt: what the engine generates is dropped."""
    has_logprobs: bool = False


class Answer:
    """Collects one answer; `tokens` counts what the engine generated for it, its end token included."""

    def __init__(self, tokenizer: ChatTokenizer, wishes: AnswerWishes, *, prompt: Sequence[int] = ()) -> None:
        self.tokens = 0
        self._tokenizer = tokenizer
        self._wishes = wishes
        self._prompt = list(prompt) if wishes.has_echo else []
        self._decoder = StreamDecoder(tokenizer)
        self._offsets = StreamDecoder(tokenizer)
        self._characters = 0
        self._stops = StopStrings(wishes.stop)
        self._parser = CallParser(wishes.calls) if wishes.calls else None
        self._marks = _hidden_marks(tokenizer, wishes.calls)
        self._call_count = 0

    def push(self, delta: EngineDelta) -> TextDelta:
        """The text that these tokens complete. With a `finish_reason`, the answer is whole."""
        if delta.embedding:
            return TextDelta("", finish_reason="stop", embedding=delta.embedding)
        before, logprobs = self._echo(delta) if self._prompt else ("", [])
        if self._wishes.is_prompt_only:
            return TextDelta(before, logprobs, "length")
        self.tokens += len(delta.token_ids)
        text = self._stops.push(self._decode(delta.token_ids))
        finish: FinishReason | None = None
        if delta.finish and not self._stops.found:
            text += self._stops.push(self._decoder.flush())
            text += self._stops.flush()
            finish = "length" if delta.finish == "length" else "stop"
        if self._stops.found:
            finish = "stop"
        if delta.logprobs:
            logprobs += self._logprobs(delta.token_ids, delta.logprobs, delta.top_logprobs)
        if self._parser is not None:
            return self._with_calls(self._parser, text, logprobs, finish)
        return TextDelta(before + text if before else text, logprobs, finish, stop_string=self._stops.met)

    def _with_calls(
        self, parser: CallParser, piece: str, logprobs: list[TokenLogprob], finish: FinishReason | None
    ) -> TextDelta:
        parsed = parser.push(piece)
        text, found = parsed.text, list(parsed.calls)
        if finish:
            last = parser.flush()
            text += last.text
            found += last.calls
        if self._wishes.is_one_call and parser.has_calls:
            found, finish = found[: 1 - self._call_count], finish or "stop"
        calls = []
        for call in found:
            number = self._call_count
            calls.append(AnsweredCall(number, secrets.token_hex(_CALL_ID_BYTES)[:9], call.name, call.arguments))
            self._call_count += 1
        if finish == "stop" and self._call_count:
            finish = "tool_calls"
        return TextDelta(text, logprobs, finish, tuple(calls), stop_string=self._stops.met)

    def _decode(self, token_ids: Sequence[int]) -> str:
        if not self._marks or self._marks.keys().isdisjoint(token_ids):
            return self._decoder.push(token_ids)
        text = ""
        for token_id in token_ids:
            if token_id in self._marks:
                text += self._decoder.flush() + self._marks[token_id]
                self._decoder = StreamDecoder(self._tokenizer)
            else:
                text += self._decoder.push([token_id])
        return text

    def _echo(self, delta: EngineDelta) -> tuple[str, list[TokenLogprob]]:
        """The prompt, once, as text and with its log probabilities."""
        prompt, self._prompt = self._prompt, []
        logprobs = []
        if self._wishes.has_logprobs:
            values = [None, *delta.prompt_logprobs]
            tops = [[], *delta.prompt_top_logprobs] if delta.prompt_top_logprobs else []
            logprobs = self._logprobs(prompt, values, tops)
        return self._tokenizer.decode(prompt), logprobs

    def _logprobs(
        self,
        token_ids: Sequence[int],
        values: Sequence[float | None],
        tops: Sequence[Sequence[tuple[int, float]]],
    ) -> list[TokenLogprob]:
        told = []
        for place, (token_id, value) in enumerate(zip(token_ids, values, strict=True)):
            top = tuple((self._spelled(other), likely) for other, likely in tops[place]) if tops else ()
            told.append(TokenLogprob(self._spelled(token_id), value, top, self._characters))
            self._characters += len(self._offsets.push([token_id]))
        return told

    def _spelled(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], keep_control_tokens=True)


def _hidden_marks(tokenizer: ChatTokenizer, call_format: CallFormat | None) -> dict[int, str]:
    """Tokens that spell calls but are left out of decoded text, by id."""
    marks = call_format.marks if call_format else ()
    return {tokenizer.control_tokens[mark]: mark for mark in marks if tokenizer.is_special(mark)}

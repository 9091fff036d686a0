"""One answer in the making: token ids in, pieces of text out, cut at stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from nexus_llm.chat import ChatTokenizer, StreamDecoder
from nexus_llm.serve.engines.port import EngineDelta
from nexus_llm.serve.stop_strings import StopStrings

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token with its log probability (natural logarithm)."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What is new in an answer."""

    text: str
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Answer:
    """Collects one answer; `tokens` counts what the engine generated for it, its end token included."""

    def __init__(self, tokenizer: ChatTokenizer, *, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopStrings(stop)
        self.tokens = 0

    def push(self, delta: EngineDelta) -> TextDelta:
        """The text that these tokens complete. With a `finish_reason`, the answer is whole."""
        self.tokens += len(delta.token_ids)
        text = self._stops.push(self._decoder.push(delta.token_ids))
        finish: FinishReason | None = None
        if delta.finish and not self._stops.found:
            text += self._stops.push(self._decoder.flush())
            text += self._stops.flush()
            finish = "length" if delta.finish == "length" else "stop"
        if self._stops.found:
            finish = "stop"
        return TextDelta(text, self._logprobs(delta), finish)

    def _logprobs(self, delta: EngineDelta) -> list[TokenLogprob]:
        pairs = zip(delta.token_ids, delta.logprobs, strict=bool(delta.logprobs))
        return [
            TokenLogprob(self._tokenizer.decode([token], keep_control_tokens=True), value) for token, value in pairs
        ]

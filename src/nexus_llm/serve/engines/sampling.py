"""The next token from a vector of logits, for engines that leave the choice to us: one meaning of every parameter.

Order: log probabilities are told of the logits as the model gave them; then bias, grammar, penalties, temperature,
top_k, top_p and the draw. Penalties are vLLM's: presence and frequency count the answer, repetition the prompt too.

Source: vLLM, "Sampling Parameters" (docs.vllm.ai, read 2026-11).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nexus_llm.serve.engines.grammar import SchemaGrammars
from nexus_llm.serve.engines.port import EngineDelta, EngineFinish, EngineRequest, Feature

Logits = NDArray[np.float32]


class TokenSampler:
    """Chooses the tokens of one request, in order."""

    def __init__(
        self, request: EngineRequest, *, vocabulary: int, adapters: Collection[str], grammars: SchemaGrammars | None
    ) -> None:
        """A sampler at the start of the answer.

        Raises:
            ValueError: a setting makes no sense, or asks for what this engine has not.
        """
        check_sampling(request)
        ids = (*request.token_ids, *request.logit_bias)
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise ValueError("a token id is outside the vocabulary")
        if request.adapter is not None and request.adapter not in adapters:
            raise ValueError("there is no adapter of that name")
        if request.json_schema is not None and grammars is None:
            raise ValueError("JSON schemas need llguidance and the tokenizer's file")
        self._mask = grammars.compile(request.json_schema) if grammars and request.json_schema is not None else None
        self._request = request
        self._random = np.random.Generator(np.random.Philox(request.seed % 2**64))
        self._said: Counter[int] = Counter()
        self._count = 0
        self._prompt_ids = np.unique(np.asarray(request.token_ids, dtype=np.int64))

    def say(self, logits: Logits, scores: PromptScores | None = None) -> EngineDelta:
        """The next token for these logits, of shape (vocabulary,), which are left as they are; `scores` go with it."""
        request = self._request
        shaped = self._shape(logits)
        token = int(shaped.argmax()) if request.temperature == 0 else self._draw(shaped)
        self._said[token] += 1
        self._count += 1
        if self._mask is not None:
            self._mask.accept(token)
        finish: EngineFinish | None = None
        if token in request.stop_token_ids or (self._mask is not None and self._mask.is_done):
            finish = "stop"
        elif self._count == request.max_tokens:
            finish = "length"
        normaliser = log_sum_exp(logits) if request.logprobs or request.top_logprobs else 0.0
        return EngineDelta(
            request.id,
            [token],
            [float(logits[token]) - normaliser] if request.logprobs else [],
            finish,
            [top_logprobs(logits, request.top_logprobs, normaliser=normaliser)] if request.top_logprobs else [],
            scores.logprobs if scores else [],
            scores.top_logprobs if scores else [],
        )

    def _shape(self, logits: Logits) -> Logits:
        request = self._request
        has_penalty = request.presence_penalty or request.frequency_penalty or request.repetition_penalty != 1.0
        if not (has_penalty or request.logit_bias or self._mask is not None):
            return logits
        shaped = logits.copy()
        for token, bias in request.logit_bias.items():
            shaped[token] += bias
        if has_penalty:
            self._penalise(shaped)
        if self._mask is not None:
            allowed = self._mask.allowed()
            shaped[: len(allowed)][~allowed[: len(shaped)]] = -np.inf
            shaped[len(allowed) :] = -np.inf
        return shaped

    def _penalise(self, shaped: Logits) -> None:
        request = self._request
        said = np.fromiter(self._said, dtype=np.int64, count=len(self._said))
        counts = np.fromiter(self._said.values(), dtype=np.float32, count=len(self._said))
        if request.repetition_penalty != 1.0:
            known = np.union1d(said, self._prompt_ids)
            values = shaped[known]
            shaped[known] = np.where(
                values > 0, values / request.repetition_penalty, values * request.repetition_penalty
            )
        shaped[said] -= request.presence_penalty + request.frequency_penalty * counts

    def _draw(self, shaped: Logits) -> int:
        """A token drawn from the tempered, truncated distribution."""
        request = self._request
        values = shaped.astype(np.float64) / request.temperature
        ids: NDArray[np.int64] | None = None
        if 0 < request.top_k < len(values):
            ids = np.argpartition(values, -request.top_k)[-request.top_k :]
            ids.sort()
            values = values[ids]
        weights = np.exp(values - values.max())
        if request.top_p < 1:
            order = np.argsort(-weights, kind="stable")
            sums = weights[order].cumsum()
            # The token that reaches top_p belongs to it, so there is always one.
            kept = int(np.searchsorted(sums, request.top_p * sums[-1])) + 1
            order = order[:kept]
            ids = order if ids is None else ids[order]
            weights = weights[order]
        sums = weights.cumsum()
        place = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        place = min(place, len(sums) - 1)
        return place if ids is None else int(ids[place])


def sampling_features(grammars: SchemaGrammars | None, adapters: Collection[str]) -> tuple[Feature, ...]:
    """What an engine can do that chooses its tokens here."""
    features: list[Feature] = ["logprobs", "top_logprobs", "prompt_logprobs", "logit_bias"]
    if grammars is not None:
        features.append("json_schema")
    if adapters:
        features.append("adapters")
    return tuple(features)


def check_sampling(request: EngineRequest) -> None:
    """Refuses settings without a meaning.

    Raises:
        ValueError: one has none.
    """
    is_sound = (
        request.token_ids
        and request.max_tokens >= 1
        and request.temperature >= 0
        and 0 < request.top_p <= 1
        and request.repetition_penalty > 0
        and -2 <= request.presence_penalty <= 2
        and -2 <= request.frequency_penalty <= 2
    )
    if not is_sound:
        raise ValueError("a request needs a prompt, room for one token, and sampling settings within their bounds")


def log_sum_exp(logits: Logits) -> float:
    """The logarithm of the sum of exponentials, in double precision."""
    highest = float(logits.max())
    return highest + float(np.log(np.exp(logits - highest, dtype=np.float64).sum()))


def top_logprobs(logits: Logits, count: int, *, normaliser: float) -> list[tuple[int, float]]:
    """(token id, log probability) of the `count` likeliest tokens, likeliest first; ties by id."""
    count = min(count, len(logits))
    ids = np.argpartition(logits, -count)[-count:]
    ranked = sorted(ids.tolist(), key=lambda token: (-float(logits[token]), token))
    return [(token, float(logits[token]) - normaliser) for token in ranked]


@dataclass(slots=True)
class PromptScores:
    """How likely each token of a prompt is after those before it, collected in order."""

    top: int
    """How many of the likeliest tokens are kept for each place."""
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    """Empty where `top` is 0."""

    def add(self, logits: Logits, token: int) -> None:
        """Scores the token that follows these logits, of shape (vocabulary,)."""
        normaliser = log_sum_exp(logits)
        self.logprobs.append(float(logits[token]) - normaliser)
        if self.top:
            self.top_logprobs.append(top_logprobs(logits, self.top, normaliser=normaliser))

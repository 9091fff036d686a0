"""llama.cpp on the CPU with continuous batching of our own: a step reads one token of each sequence and pieces of
prompts, up to `batch_tokens`, and chooses the next tokens with `sampling`.

A full cache sets back the youngest sequence: it waits, and its tokens are read again later. Only a sequence that does
not fit alone ends as `capacity`. Sequences of different adapters are read one adapter after the other. A prompt that
begins as an earlier one did takes over what the cache still holds of that: see `llama_prefixes`.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nexus_llm.serve.engines.grammar import SchemaGrammars
from nexus_llm.serve.engines.llama_adapter import write_gguf_adapter
from nexus_llm.serve.engines.llama_library import MAX_SEQUENCES, CacheFullError, LlamaModel
from nexus_llm.serve.engines.llama_prefixes import KeptPrefixes, Prefix
from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineRequest, EngineStep
from nexus_llm.serve.engines.sampling import PromptScores, TokenSampler, sampling_features


@dataclass(frozen=True, slots=True)
class LlamaCppSettings:
    weights: str
    """Path of a GGUF file."""
    kv_cache_gib: float
    max_running: int = 64
    """Sequences that are worked on at once; more wait inside the engine."""
    batch_tokens: int = 512
    threads: int = 0
    """0: one per core that this process may use."""
    tokenizer: str | None = None
    """Path of tokenizer.json, for JSON schemas."""
    stop_token_ids: tuple[int, ...] = ()
    """What may end a JSON document."""
    adapters: dict[str, str] = field(default_factory=dict)
    """Name → LoRA adapter: a folder as PEFT writes it, or a GGUF file."""
    cache_tokens: int | None = None
    """Overrules `kv_cache_gib`."""


@dataclass(slots=True, eq=False)
class _Sequence:
    request: EngineRequest
    sampler: TokenSampler
    token_ids: list[int]
    """Prompt and answer so far."""
    slot: int = -1
    read: int = 0
    """How many of `token_ids` the cache holds."""
    shared: int = 0
    """How many of those another sequence brought there."""
    scores: PromptScores = field(init=False)
    """Of the prompt, as far as it was read."""
    is_answer_begun: bool = False

    def __post_init__(self) -> None:
        self.forget_scores()

    def forget_scores(self) -> None:
        """Before the prompt is read, once more or for the first time."""
        self.scores = PromptScores(self.request.top_logprobs)

    def prefix(self) -> Prefix:
        return Prefix(self.slot, self.token_ids[: self.read], self.request.adapter, self.read - self.shared)


class LlamaCppEngine:
    def __init__(
        self, model: LlamaModel, settings: LlamaCppSettings, *, grammars: SchemaGrammars | None = None
    ) -> None:
        self._model = model
        self._batch_tokens = settings.batch_tokens
        self._grammars = grammars
        self._adapters = {
            name: _load_adapter(model, Path(path), base=Path(settings.weights).parent)
            for name, path in settings.adapters.items()
        }
        self._adapter_in_use: str | None = None
        self._running: list[_Sequence] = []
        self._waiting: deque[_Sequence] = deque()
        self._kept = KeptPrefixes()
        self._free_slots = list(range(min(settings.max_running, MAX_SEQUENCES)))

    @classmethod
    def load(cls, settings: LlamaCppSettings) -> tuple[LlamaCppEngine, EngineFacts]:
        """The engine with its weights read and warmed up by one token."""
        started = time.monotonic()
        model = LlamaModel(
            Path(settings.weights),
            cache_tokens=settings.cache_tokens,
            cache_bytes=int(settings.kv_cache_gib * 2**30),
            sequences=min(settings.max_running, MAX_SEQUENCES),
            batch=settings.batch_tokens,
            threads=settings.threads or len(os.sched_getaffinity(0)),
        )
        grammars = SchemaGrammars.load(Path(settings.tokenizer or ""), stop_token_ids=settings.stop_token_ids)
        engine = cls(model, settings, grammars=grammars)
        model.decode([(0, 0, 0, True)])
        model.forget(0)
        features = sampling_features(grammars, settings.adapters)
        return engine, EngineFacts("llama.cpp", model.cache_tokens, time.monotonic() - started, features)

    def add(self, request: EngineRequest) -> None:
        sampler = TokenSampler(
            request, vocabulary=self._model.vocabulary, adapters=self._adapters, grammars=self._grammars
        )
        self._waiting.append(_Sequence(request, sampler, list(request.token_ids)))

    def cancel(self, request_id: int) -> None:
        for sequence in itertools.chain(self._running, self._waiting):
            if sequence.request.id == request_id:
                self._leave(sequence)
                return

    def close(self) -> None:
        pass

    def step(self) -> EngineStep:
        while self._waiting and self._has_room_for(self._waiting[0]) and (self._free_slots or self._give_up_oldest()):
            sequence = self._waiting.popleft()
            sequence.slot = self._free_slots.pop()
            self._take_over(sequence)
            self._running.append(sequence)
        deltas: list[EngineDelta] = []
        for adapter, members in self._by_adapter():
            self._use(adapter)
            deltas += self._advance(members)
        return EngineStep(deltas, min(1.0, self._held_tokens() / self._model.cache_tokens))

    def _by_adapter(self) -> Iterator[tuple[str | None, list[_Sequence]]]:
        for adapter in dict.fromkeys(sequence.request.adapter for sequence in self._running):
            yield adapter, [one for one in self._running if one.request.adapter == adapter]

    def _use(self, adapter: str | None) -> None:
        if adapter != self._adapter_in_use:
            self._model.use_adapter(None if adapter is None else self._adapters[adapter])
            self._adapter_in_use = adapter

    def _advance(self, members: list[_Sequence]) -> list[EngineDelta]:
        """One batch for these sequences, as much of it as the cache holds."""
        while members := [one for one in members if one in self._running]:
            pieces = self._share_out(members)
            tokens = [token for piece in pieces for token in piece.tokens()]
            while self._held_tokens() + self._kept.tokens + len(tokens) > self._model.cache_tokens:
                if not self._give_up_oldest():
                    break
            if self._held_tokens() + len(tokens) <= self._model.cache_tokens:
                try:
                    self._model.decode(tokens)
                except CacheFullError:
                    pass  # padding may make the cache smaller than its name says
                else:
                    return self._read_answers(pieces)
            if self._give_up_oldest():
                continue
            if len(self._running) == 1:
                (last,) = self._running
                self._leave(last)
                return [EngineDelta(last.request.id, [], [], "capacity")]
            self._set_back(self._running[-1])
        return []

    def _share_out(self, members: list[_Sequence]) -> list[_Piece]:
        """What each sequence reads: those that answer first, then prompts in the order of their coming."""
        left = self._batch_tokens
        pieces = []
        for sequence in sorted(members, key=lambda one: len(one.token_ids) - one.read > 1):
            count = min(left, len(sequence.token_ids) - sequence.read)
            if count > 0:
                pieces.append(_Piece(sequence, sequence.read, count))
                left -= count
        return pieces

    def _read_answers(self, pieces: list[_Piece]) -> list[EngineDelta]:
        deltas = []
        place = 0
        for piece in pieces:
            sequence = piece.sequence
            if piece.wants_prompt_logprobs:
                self._score(piece, place)
            place += piece.count
            sequence.read += piece.count
            if sequence.read == len(sequence.token_ids):
                deltas.append(self._say(sequence, place - 1))
        return deltas

    def _score(self, piece: _Piece, place: int) -> None:
        """Tells how likely the prompt's tokens are that follow those of this piece."""
        sequence = piece.sequence
        followers = sequence.request.token_ids[piece.start + 1 : piece.start + piece.count + 1]
        for index, token in enumerate(followers):
            sequence.scores.add(self._model.logits(place + index), token)

    def _say(self, sequence: _Sequence, place: int) -> EngineDelta:
        scores = None if sequence.is_answer_begun else sequence.scores
        delta = sequence.sampler.say(self._model.logits(place), scores)
        sequence.token_ids += delta.token_ids
        sequence.is_answer_begun = True
        if delta.finish:
            self._leave(sequence)
        return delta

    def _held_tokens(self) -> int:
        return sum(sequence.read - sequence.shared for sequence in self._running)

    def _has_room_for(self, sequence: _Sequence) -> bool:
        wanted = sum(len(one.token_ids) for one in self._running) + len(sequence.token_ids)
        return not self._running or wanted + len(self._running) < self._model.cache_tokens

    def _take_over(self, sequence: _Sequence) -> None:
        """Spares a sequence the tokens that it shares with another one in the cache."""
        request = sequence.request
        if request.prompt_logprobs:
            return  # each token has to be read to say how likely the next one was
        running = (one.prefix() for one in self._running)
        found = self._kept.longest(sequence.token_ids, adapter=request.adapter, running=running)
        if found is not None:
            prefix, sequence.shared = found
            sequence.read = sequence.shared
            self._model.share(prefix.slot, sequence.slot, tokens=sequence.shared)

    def _give_up_oldest(self) -> bool:
        slot = self._kept.give_up_oldest()
        if slot is None:
            return False
        self._model.forget(slot)
        self._free_slots.append(slot)
        return True

    def _set_back(self, sequence: _Sequence) -> None:
        """Frees a sequence's cache; it reads everything again when there is room."""
        self._free(sequence)
        sequence.read = sequence.shared = 0
        if not sequence.is_answer_begun:
            sequence.forget_scores()
        self._waiting.appendleft(sequence)

    def _leave(self, sequence: _Sequence) -> None:
        if sequence not in self._running:
            self._waiting.remove(sequence)
        elif self._kept.keep(sequence.prefix()):
            self._running.remove(sequence)
        else:
            self._free(sequence)

    def _free(self, sequence: _Sequence) -> None:
        self._running.remove(sequence)
        self._model.forget(sequence.slot)
        self._free_slots.append(sequence.slot)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of one sequence in one batch."""

    sequence: _Sequence
    start: int
    count: int

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.sequence.request.prompt_logprobs and not self.sequence.is_answer_begun

    def tokens(self) -> Iterator[tuple[int, int, int, bool]]:
        """(token id, position, slot, are its logits wanted)."""
        sequence = self.sequence
        for position in range(self.start, self.start + self.count):
            is_last = position == len(sequence.token_ids) - 1
            yield sequence.token_ids[position], position, sequence.slot, is_last or self.wants_prompt_logprobs


def _load_adapter(model: LlamaModel, path: Path, *, base: Path) -> int:
    if path.is_file():
        return model.load_adapter(path)
    with tempfile.TemporaryDirectory() as folder:  # llama.cpp keeps a copy in memory
        write_gguf_adapter(path, base, Path(folder) / "adapter.gguf")
        return model.load_adapter(Path(folder) / "adapter.gguf")

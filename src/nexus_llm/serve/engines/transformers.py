"""The reference: transformers on the CPU, one forward pass a sequence and step, nothing clever.

For equivalence tests and for models that no faster engine reads. Its log probabilities are what others are measured
against, so the weights are read in float32.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_llm.serve.engines.grammar import SchemaGrammars
from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineRequest, EngineStep
from nexus_llm.serve.engines.sampling import PromptScores, TokenSampler, sampling_features


@dataclass(frozen=True, slots=True)
class TransformersSettings:
    folder: str
    """A model folder in the Hugging Face layout."""
    kv_cache_gib: float
    max_running: int = 64
    stop_token_ids: tuple[int, ...] = ()
    """What may end a JSON document."""
    adapters: dict[str, str] = field(default_factory=dict)
    """Name → folder of a LoRA adapter as PEFT writes it."""
    cache_tokens: int | None = None
    """Overrules `kv_cache_gib`."""


@dataclass(slots=True, eq=False)
class _Sequence:
    request: EngineRequest
    sampler: TokenSampler
    next_ids: list[int]
    cache: Any = None
    held_tokens: int = 0


class TransformersEngine:
    """One model; sequences advance one after the other."""

    def __init__(self, model: Any, settings: TransformersSettings, *, grammars: SchemaGrammars | None = None) -> None:
        self._model = model
        self._settings = settings
        self._grammars = grammars
        self._live: dict[int, _Sequence] = {}
        self._capacity_tokens = settings.cache_tokens or int(
            settings.kv_cache_gib * 2**30 // _bytes_per_token(model.config)
        )

    @classmethod
    def load(cls, settings: TransformersSettings) -> tuple[TransformersEngine, EngineFacts]:
        started = time.monotonic()
        import torch
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(settings.folder, dtype=torch.float32)
        model.eval()
        for name, path in settings.adapters.items():
            model.load_adapter(path, adapter_name=name)
        if settings.adapters:
            model.disable_adapters()
        grammars = SchemaGrammars.load(Path(settings.folder) / "tokenizer.json", stop_token_ids=settings.stop_token_ids)
        engine = cls(model, settings, grammars=grammars)
        features = sampling_features(grammars, settings.adapters)
        return engine, EngineFacts("transformers", engine._capacity_tokens, time.monotonic() - started, features)

    def add(self, request: EngineRequest) -> None:
        vocabulary = self._model.config.vocab_size
        sampler = TokenSampler(
            request, vocabulary=vocabulary, adapters=self._settings.adapters, grammars=self._grammars
        )
        self._live[request.id] = _Sequence(request, sampler, list(request.token_ids))

    def cancel(self, request_id: int) -> None:
        self._live.pop(request_id, None)

    def close(self) -> None:
        pass

    def step(self) -> EngineStep:
        deltas = []
        for sequence in list(self._live.values())[: self._settings.max_running]:
            delta = self._advance(sequence)
            deltas.append(delta)
            if delta.finish:
                del self._live[delta.id]
        return EngineStep(deltas, min(1.0, self._held_tokens() / self._capacity_tokens))

    def _held_tokens(self) -> int:
        return sum(sequence.held_tokens for sequence in self._live.values())

    def _advance(self, sequence: _Sequence) -> EngineDelta:
        request = sequence.request
        if self._held_tokens() + len(sequence.next_ids) > self._capacity_tokens:
            return EngineDelta(request.id, [], [], "capacity")
        is_prompt = sequence.cache is None
        logits = self._forward(sequence)
        scores = PromptScores(request.top_logprobs)
        if is_prompt and request.prompt_logprobs:
            for row, token in zip(logits[:-1], request.token_ids[1:], strict=True):
                scores.add(row, token)
        delta = sequence.sampler.say(logits[-1], scores)
        sequence.next_ids = delta.token_ids
        return delta

    def _forward(self, sequence: _Sequence) -> Any:
        """Logits of shape (tokens, vocabulary), of all tokens where the prompt is scored, else of the last one."""
        import torch

        self._use(sequence.request.adapter)
        wants_all = sequence.cache is None and sequence.request.prompt_logprobs
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([sequence.next_ids]),
                past_key_values=sequence.cache,
                use_cache=True,
                logits_to_keep=0 if wants_all else 1,
            )
        sequence.cache = output.past_key_values
        sequence.held_tokens += len(sequence.next_ids)
        return output.logits[0].float().numpy()

    def _use(self, adapter: str | None) -> None:
        if not self._settings.adapters:
            return
        if adapter is None:
            self._model.disable_adapters()
        else:
            self._model.enable_adapters()
            self._model.set_adapter(adapter)


def _bytes_per_token(config: Any) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * heads * size * 2 * 4)  # keys and values in float32

"""OpenVINO GenAI's continuous batching on the CPU, fed with token ids.

What was seen of version 2026.4.1 and is handled here:
- a sequence that outgrows the cache ends as IGNORED, without an exception or a word: reported as `capacity`;
- the seed defaults to 0, so every unseeded sampled answer would be the same: the gateway always names a seed;
- `max_num_seqs` does not cap what runs: the gateway does;
- the size of the cache in tokens is nowhere told: the warm-up request measures it;
- a schema that does not compile breaks the pipeline for good: `openvino_schemas` tries it first;
- the prefix cache hides the log probabilities of prompts: `openvino_prompts` reads those.
It can neither shift single tokens nor tell other tokens than the chosen one, so it does not say that it could.
"""

from __future__ import annotations

import logging
import math
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.serve.engines.openvino_prompts import PromptReader, PromptReading
from nexus_llm.serve.engines.openvino_schemas import SchemaTrial, UncompilableSchemaError
from nexus_llm.serve.engines.port import EngineDelta, EngineFacts, EngineFinish, EngineRequest, EngineStep, Feature
from nexus_llm.serve.logs import place_of

if TYPE_CHECKING:
    import openvino_genai

log = logging.getLogger("nexus_llm.serve.engine")

WARM_UP_TOKENS = 256  # 8 cache blocks of 32: enough to read the share that one block takes
BESIDE_SECONDS = 0.02  # how long a step waits for what is done beside it where it has nothing else to do
FEATURES: tuple[Feature, ...] = ("logprobs", "prompt_logprobs", "json_schema", "embeddings")
FINISHES: dict[str, EngineFinish] = {"STOP": "stop", "LENGTH": "length"}
CACHE_READ_SECONDS = 0.25  # how often the cache's fill is asked for; the answer costs 9 µs


@dataclass(frozen=True, slots=True)
class OpenVinoSettings:
    weights: str
    """Path of a GGUF file (Q8_0) without rope scaling, or of a folder with OpenVINO's own files."""
    kv_cache_gib: float
    max_num_batched_tokens: int = 512
    """Prompt tokens and sequences in one step. 512 gave the best time to first token at equal throughput."""


class OpenVinoEngine:
    """One `ContinuousBatchingPipeline`."""

    def __init__(self, pipeline: openvino_genai.ContinuousBatchingPipeline, weights: Path) -> None:
        self._pipeline = pipeline
        self._schemas = SchemaTrial(pipeline.get_tokenizer())
        self._prompts = PromptReader(weights)
        self._beside: dict[int, tuple[EngineRequest, Future[PromptReading] | Future[None]]] = {}
        """Requests whose schema is being tried, or whose prompt is being read, in another thread."""
        self._read_prompts: dict[int, PromptReading] = {}
        """Those that were read and belong to an answer that has not begun."""
        self._handles: dict[int, Any] = {}
        self._cancelled: list[Any] = []
        self._cache_share = 0.0
        self._cache_read_at = 0.0

    @classmethod
    def load(cls, settings: OpenVinoSettings) -> tuple[OpenVinoEngine, EngineFacts]:
        """The engine with its weights read and warmed up by one request."""
        import openvino_genai

        started = time.monotonic()
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = math.ceil(settings.kv_cache_gib)  # whole GiB only
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = settings.max_num_batched_tokens
        scheduler.enable_prefix_caching = True
        pipeline = openvino_genai.ContinuousBatchingPipeline(str(Path(settings.weights)), scheduler, "CPU", {}, {}, {})
        engine = cls(pipeline, Path(settings.weights))
        capacity_tokens = engine._measure_capacity()
        return engine, EngineFacts("openvino", capacity_tokens, time.monotonic() - started, FEATURES)

    def add(self, request: EngineRequest) -> None:
        if (request.top_logprobs and not request.is_scoring) or request.logit_bias or request.adapter:
            raise ValueError("this engine cannot do that")
        config = None if request.embed else _generation_config(request)
        if config is not None:
            try:
                config.validate()
            except RuntimeError as error:
                raise ValueError("OpenVINO GenAI refuses the sampling settings") from error
        trial = None if request.json_schema is None else self._schemas.start(request.json_schema)
        if trial is None:
            self._take(request)
        else:
            self._beside[request.id] = request, trial

    def _take(self, request: EngineRequest) -> None:
        if request.embed or request.prompt_logprobs:
            self._beside[request.id] = request, self._prompts.start(request)
        else:
            self._begin(request)

    def _begin(self, request: EngineRequest) -> None:
        import numpy as np
        import openvino

        config = _generation_config(request)
        prompt = openvino.Tensor(np.array([request.token_ids], dtype=np.int64))
        self._handles[request.id] = self._pipeline.add_request(request.id, prompt, config)

    def cancel(self, request_id: int) -> None:
        self._read_prompts.pop(request_id, None)
        _, future = self._beside.pop(request_id, (None, None))
        if future is not None:
            future.cancel()
        handle = self._handles.pop(request_id, None)
        if handle is not None:
            handle.cancel()
            # Kept until the next step: a handle that is dropped too early frees what the step still uses.
            self._cancelled.append(handle)

    def close(self) -> None:
        pass

    def step(self) -> EngineStep:
        deltas = self._end_beside()
        if self._handles or self._cancelled or not self._beside:
            self._pipeline.step()
            self._cancelled.clear()
        for delta in [self._read(request_id, handle) for request_id, handle in self._handles.items()]:
            if delta is None:
                continue
            if delta.finish:
                del self._handles[delta.id]
            reading = self._read_prompts.pop(delta.id, None) if self._read_prompts else None
            deltas.append(delta if reading is None else _with_reading(delta, reading))
        now = time.monotonic()
        if now - self._cache_read_at > CACHE_READ_SECONDS or not self._handles:
            self._cache_read_at = now
            self._cache_share = self._pipeline.get_metrics().cache_usage / 100  # told in per cent
        return EngineStep(deltas, self._cache_share)

    def _read(self, request_id: int, handle: Any) -> EngineDelta | None:
        outputs = handle.read() if handle.can_read() else None
        if not outputs:
            is_dropped = handle.get_status().name == "IGNORED"
            return EngineDelta(request_id, [], [], "capacity") if is_dropped else None
        (output,) = outputs.values()
        finish = FINISHES.get(output.finish_reason.name)
        return EngineDelta(request_id, output.generated_ids, output.generated_log_probs, finish)

    def _end_beside(self) -> list[EngineDelta]:
        """Deltas of the requests that need no more than what was done for them; the others begin to be answered."""
        if not self._beside:
            return []
        if not self._handles:
            futures: list[Future[Any]] = [future for _, future in self._beside.values()]
            wait(futures, BESIDE_SECONDS, return_when=FIRST_COMPLETED)
        deltas = []
        for request, future in [one for one in self._beside.values() if one[1].done()]:
            del self._beside[request.id]
            error = future.exception()
            if error is not None:
                deltas.append(EngineDelta(request.id, [], [], _why_not(error)))
                continue
            reading = future.result()
            if reading is None:  # its schema is good
                self._take(request)
            elif request.embed:
                deltas.append(EngineDelta(request.id, [], [], "stop", embedding=reading.embedding))
            elif request.is_scoring:
                deltas.append(_scored(request, reading))
            else:
                self._read_prompts[request.id] = reading
                self._begin(request)
        return deltas

    def _measure_capacity(self) -> int:
        """Tokens that the cache holds, from the share that a request of known length takes."""
        self.add(EngineRequest(id=0, token_ids=[1] * WARM_UP_TOKENS, max_tokens=2))
        self._pipeline.step()
        used_share = self._pipeline.get_metrics().cache_usage / 100
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        del self._handles[0]
        return int(WARM_UP_TOKENS / used_share)


def _why_not(error: BaseException) -> EngineFinish:
    if isinstance(error, UncompilableSchemaError):
        return "refused"
    # No room on the disk or in memory for a second copy of the weights: others need not die of it.
    log.error("engine.not_begun: %s", place_of(error))
    return "capacity"


def _with_reading(delta: EngineDelta, reading: PromptReading) -> EngineDelta:
    return replace(delta, prompt_logprobs=reading.logprobs, prompt_top_logprobs=reading.top_logprobs)


def _scored(request: EngineRequest, reading: PromptReading) -> EngineDelta:
    """The whole answer to a request that scores its prompt."""
    token, logprob = reading.next_token
    finish: EngineFinish = "stop" if token in request.stop_token_ids else "length"
    top = [reading.next_top] if request.top_logprobs else []
    return _with_reading(EngineDelta(request.id, [token], [logprob], finish, top), reading)


def _generation_config(request: EngineRequest) -> openvino_genai.GenerationConfig:
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = request.max_tokens
    config.logprobs = int(request.logprobs)
    config.presence_penalty = request.presence_penalty
    config.frequency_penalty = request.frequency_penalty
    config.repetition_penalty = request.repetition_penalty
    if request.json_schema is not None:
        config.structured_output_config = openvino_genai.StructuredOutputConfig(json_schema=request.json_schema)
    if request.stop_token_ids:
        config.stop_token_ids = set(request.stop_token_ids)
    else:
        config.ignore_eos = True
    if request.temperature > 0:
        config.do_sample = True
        config.temperature = request.temperature
        config.top_p = request.top_p
        config.rng_seed = request.seed
        if request.top_k > 0:
            config.top_k = request.top_k
    return config

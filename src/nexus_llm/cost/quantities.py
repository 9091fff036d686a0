"""What cost and capacity are computed from. The name of each number carries its unit."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from typing import Literal, Protocol

from nexus_llm.errors import CostError

Provenance = Literal["measured", "published", "roofline"]
"""Where a throughput comes from. Figures of different provenance are never mixed without a label on each."""


MAX_REQUESTS_PER_MONTH = 1e11
_LATENCIES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What users ask of a service in a month of 730 hours."""

    requests_per_month: float
    input_tokens: float
    """Mean tokens of a prompt."""
    output_tokens: float
    """Mean tokens of an answer."""
    peak_ratio: float = 3.0
    """Arrival rate of the busiest hour over the mean of the month."""

    def __post_init__(self) -> None:
        numbers = (self.requests_per_month, self.input_tokens, self.output_tokens)
        if not all(math.isfinite(number) and number > 0 for number in numbers) or not self.peak_ratio >= 1:
            raise CostError(
                f"{self.requests_per_month:g} requests of {self.input_tokens:g} + {self.output_tokens:g} tokens "
                f"with a peak ratio of {self.peak_ratio:g} are no traffic",
                fix="numbers must be above 0, the peak ratio 1 or more",
            )
        if self.requests_per_month > MAX_REQUESTS_PER_MONTH:
            raise CostError(
                f"{self.requests_per_month:g} requests a month are more than all people of the world would send",
                fix=f"plan up to {MAX_REQUESTS_PER_MONTH:g}",
            )


@dataclass(frozen=True, slots=True)
class LatencyObjective:
    """What 95 % of requests must stay under; None is no objective. Streaming and whole answers are kept apart."""

    ttft_seconds: float | None = None
    """From arrival to the first token."""
    tpot_seconds: float | None = None
    """Mean gap between an answer's tokens after the first."""
    e2e_seconds: float | None = None
    """From arrival to the last token."""

    def missed(self, latencies: Latencies) -> list[tuple[str, float, float]]:
        """(`ttft`, `tpot` or `e2e`; the bound; the 95th percentile) of each bound that is missed."""
        pairs = [(name, getattr(self, f"{name}_seconds"), getattr(latencies, name).p95) for name in _LATENCIES]
        return [(name, bound, seconds) for name, bound, seconds in pairs if bound is not None and seconds > bound]


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step of continuous batching, which prefills some tokens and decodes one token of each sequence.

    seconds = fixed + per_prefill_token x prefilled + per_sequence x decoding + per_context_token x cached tokens read
              + per_batch_change, where the step prefills, follows one that did, or decodes other sequences than it
    """

    fixed_seconds: float
    seconds_per_prefill_token: float
    seconds_per_sequence: float
    seconds_per_context_token: float
    provenance: Provenance
    source: str
    """Where from: a result file, a page with its date, or the names of the card's data sheet."""
    seconds_per_batch_change: float = 0.0
    """Kernels prepared for other shapes (OpenVINO), a step without its CUDA graph (GPU engines)."""

    @property
    def numbers(self) -> tuple[float, float, float, float, float]:
        """Its seconds: fixed, a prefill token, a sequence, a context token, a batch change."""
        return (*astuple(self)[:4], self.seconds_per_batch_change)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How one replica of an engine schedules (vLLM's names: max_num_seqs, max_num_batched_tokens, block_size)."""

    kv_cache_tokens: int
    max_sequences: int
    max_batched_tokens: int
    kv_block_tokens: int = 16
    admission_seconds: float = 0.0
    """From a request's arrival until the scheduler sees it: network, chat template, tokenizer."""
    batching: Literal["continuous", "static"] = "continuous"
    """Static: nobody joins a batch that runs, as in a server that calls `generate` on a list."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds."""

    p50: float
    p95: float
    p99: float


class Latencies(Protocol):
    """What users feel."""

    @property
    def ttft(self) -> Percentiles: ...
    @property
    def tpot(self) -> Percentiles: ...
    @property
    def e2e(self) -> Percentiles: ...


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """How one replica behaves at one load."""

    requests_per_second: float
    output_tokens_per_second: float
    ttft: Percentiles
    tpot: Percentiles
    e2e: Percentiles
    utilisation: float
    """Share of the time in which a step runs."""
    mean_sequences: float
    """Sequences in the batch, on average over steps."""

    @property
    def as_none(self) -> LoadPoint:
        """The same latencies at 0 requests a second: the lightest load already misses the objective."""
        return replace(self, requests_per_second=0.0, output_tokens_per_second=0.0)


@dataclass(frozen=True, slots=True)
class ReplicaCapacity:
    """The largest load at which one replica keeps an objective; `LoadPoint.as_none` where no load does."""

    at_objective: LoadPoint
    step_time: StepTime

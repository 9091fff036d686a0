"""What cost and capacity are computed from. The name of each number carries its unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Provenance = Literal["measured", "published", "roofline"]
"""Where a throughput comes from. Figures of different provenance are never mixed without a label on each."""


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


@dataclass(frozen=True, slots=True)
class LatencyObjective:
    """What 95 % of requests must stay under; None is no objective. Streaming and whole answers are kept apart."""

    ttft_seconds: float | None = None
    """From arrival to the first token."""
    tpot_seconds: float | None = None
    """Mean gap between an answer's tokens after the first."""
    e2e_seconds: float | None = None
    """From arrival to the last token."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step of continuous batching, which prefills some tokens and decodes one token of each sequence.

    seconds = fixed + per_prefill_token x prefilled + per_sequence x decoding + per_context_token x cached tokens read
    """

    fixed_seconds: float
    seconds_per_prefill_token: float
    seconds_per_sequence: float
    seconds_per_context_token: float
    provenance: Provenance
    source: str
    """Where from: a result file, a page with its date, or the names of the card's data sheet."""


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
    preemptions_per_request: float = 0.0
    """How often a sequence lost its cache to an older one and was computed again."""


@dataclass(frozen=True, slots=True)
class ReplicaCapacity:
    """The largest load at which one replica keeps an objective."""

    at_objective: LoadPoint
    saturation_requests_per_second: float
    """What it finishes when the queue never empties."""
    step_time: StepTime


@dataclass(frozen=True, slots=True)
class NothingMeets:
    """Why no load keeps an objective: one request alone on an empty replica misses it already."""

    objective: LatencyObjective
    alone: LoadPoint
    """The lowest latencies that this replica has, whatever the load."""
    missed: tuple[str, ...]
    """Fields of the objective that are missed: `ttft_seconds`, `tpot_seconds`, `e2e_seconds`."""
    nearest: LatencyObjective
    """The objective with each missed bound raised to what an empty replica gives: the nearest that can be met."""
    step_time: StepTime


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a card's data sheet says of one accelerator."""

    name: str
    memory_bytes: float
    memory_bytes_per_second: float
    flops_per_second: float
    """Dense matrix products at the precision that is computed in, without sparsity."""
    source: str

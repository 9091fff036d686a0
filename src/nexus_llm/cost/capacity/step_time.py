"""How long a step takes: fitted to measured steps, or computed from a card's data sheet. Each says which of both."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nexus_llm.arithmetic import (
    BYTES_PER_VALUE,
    Precision,
    Shape,
    active_parameters,
    forward_flops_per_token,
    kv_cache_bytes,
    weight_bytes,
)
from nexus_llm.cost.quantities import Hardware, Provenance, StepTime
from nexus_llm.errors import UsageError

Floats = NDArray[np.float64]

# What engines reach of a data sheet's numbers, where nobody measured. 75 tokens/s of Llama 3.1 8B in bf16 on an
# A100-40GB (vLLM 0.23, johnmusgrave.com's sweep) read 1.2 of its 1.56 TB/s: 77 %. The share of arithmetic is assumed.
BANDWIDTH_SHARE = 0.75
FLOPS_SHARE = 0.5
OVERHEAD_SECONDS = 1e-3


@dataclass(frozen=True, slots=True)
class StepSample:
    """One measured step, or the mean of many."""

    prefill_tokens: float
    sequences: float
    """That decode."""
    context_tokens: float
    """Cached tokens of all of them, read in the step."""
    seconds: float


@dataclass(frozen=True, slots=True)
class FittedStepTime:
    """A step time and how well it tells the samples that it was fitted to."""

    step_time: StepTime
    residual_seconds: tuple[float, ...]
    """Measured minus told, of each sample."""
    mean_error_share: float
    """Mean of |residual| over measured."""


def fit(samples: list[StepSample], *, source: str, provenance: Provenance = "measured") -> FittedStepTime:
    """The step time with the least relative squared error over the samples and no negative coefficient.

    Raises:
        UsageError: fewer samples than coefficients, or a sample without time.
    """
    if len(samples) < 4 or any(not 0 < sample.seconds < float("inf") for sample in samples):
        raise UsageError(
            f"{len(samples)} samples of steps are too few, or one has no time", fix="measure at least 4 different steps"
        )
    rows = np.array([[1.0, one.prefill_tokens, one.sequences, one.context_tokens] for one in samples])
    seconds = np.array([one.seconds for one in samples])
    found = non_negative_least_squares(rows / seconds[:, None], np.ones(len(samples)))
    residuals = seconds - rows @ found
    return FittedStepTime(
        step_time(found, provenance=provenance, source=source),
        tuple(float(value) for value in residuals),
        float(np.abs(residuals / seconds).mean()),
    )


def roofline(
    model: Shape,
    hardware: Hardware,
    precision: Precision,
    *,
    bandwidth_share: float = BANDWIDTH_SHARE,
    flops_share: float = FLOPS_SHARE,
    overhead_seconds: float = OVERHEAD_SECONDS,
    cards: int = 1,
) -> StepTime:
    """What a card's data sheet allows, at the shares of it that the caller believes in. No measurement.

    A step reads all weights once, computes twice the active parameters for each token, and reads the cache of those
    that decode. Times of memory and of arithmetic are *added*, where perfect overlap would take the larger one: at most
    twice too slow, at the knee between both. `cards` share the work evenly; what they say to each other is left out.

    Raises:
        UsageError: a share outside of 0 to 1.
    """
    for name, share in (("bandwidth_share", bandwidth_share), ("flops_share", flops_share)):
        if not 0 < share <= 1:
            raise UsageError(f"{name} {share} is no share of what the card can do", fix="from above 0 to 1")
    bandwidth = hardware.memory_bytes_per_second * bandwidth_share * cards
    flops = hardware.flops_per_second * flops_share * cards
    per_token = forward_flops_per_token(model, context_tokens=0) / flops
    # The cache stays in 16 bits where weights are quantised, as engines have it by default.
    value_bytes = max(2.0, BYTES_PER_VALUE[precision]) if precision != "float32" else 4.0
    return StepTime(
        fixed_seconds=overhead_seconds + weight_bytes(model, precision) / bandwidth,
        seconds_per_prefill_token=per_token,
        seconds_per_sequence=per_token,
        seconds_per_context_token=kv_cache_bytes(model, tokens=1, bytes_per_value=value_bytes) / bandwidth,
        provenance="roofline",
        source=f"{hardware.source}: {cards} x {hardware.name}, {bandwidth_share:.0%} of its bandwidth and "
        f"{flops_share:.0%} of its arithmetic assumed, {active_parameters(model) / 1e9:.2f} B active parameters",
    )


def kv_capacity_tokens(
    model: Shape, hardware: Hardware, precision: Precision, *, cards: int = 1, memory_share: float = 0.9
) -> int:
    """Tokens that fit into a card's memory beside the weights; `memory_share` of it is the engine's (vLLM's default).

    Raises:
        UsageError: the weights alone do not fit.
    """
    usable = hardware.memory_bytes * memory_share * cards
    left = usable - weight_bytes(model, precision)
    # 5 % for activations and graphs: assumed.
    tokens = int((left - 0.05 * usable) / kv_cache_bytes(model, tokens=1))
    if tokens < 1:
        raise UsageError(
            f"{weight_bytes(model, precision) / 2**30:.1f} GiB of weights do not fit {cards} x {hardware.name} "
            f"({hardware.memory_bytes * cards / 2**30:.0f} GiB)",
            fix="a larger card, more of them, or a smaller precision",
        )
    return tokens


def step_time(coefficients: Floats, *, provenance: Provenance, source: str) -> StepTime:
    """The step time of four numbers in the order of its fields."""
    fixed, prefill, sequence, context = (float(value) for value in coefficients[:4])
    return StepTime(fixed, prefill, sequence, context, provenance, source)


def non_negative_least_squares(rows: Floats, target: Floats) -> Floats:
    """The x ≥ 0 with the least |rows·x − target|², for a handful of columns.

    Its positive entries are the plain least-squares solution over their own columns, so trying all sets of columns
    finds it (Lawson and Hanson 1974, chapter 23).

    >>> non_negative_least_squares(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([2.0, 1.0])).round(6).tolist()
    [1.5, 0.0]
    """
    columns = rows.shape[1]
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)  # seconds beside millions of tokens
    scaled = rows / scale
    best, least = np.zeros(columns), float(target @ target)
    for size in range(1, columns + 1):
        for chosen in itertools.combinations(range(columns), size):
            part = scaled[:, chosen]
            found = np.linalg.lstsq(part, target, rcond=None)[0]
            error = float(((part @ found - target) ** 2).sum())
            if (found >= 0).all() and error < least * (1 - 1e-12):
                best, least = np.zeros(columns), error
                best[list(chosen)] = found
    solution: Floats = best / scale
    return solution

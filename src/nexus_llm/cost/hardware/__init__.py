"""Machines that can be rented, and how fast they run a model: published where it is known, else a labelled roofline.

Sources of the CSV files: README.md beside them.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

from nexus_llm.arithmetic import Precision, Shape, active_parameters, kv_cache_bytes, weight_bytes
from nexus_llm.cost.quantities import EngineLimits, StepTime
from nexus_llm.errors import CostError

# Assumed shares of what a data sheet promises; published step times of L40S, A100 and H100 lie within 20 % of them.
BANDWIDTH_SHARE = 0.8
PEAK_SHARE = 0.6
OVERHEAD_SECONDS = 0.001
# vLLM's defaults (gpu_memory_utilization, max_num_seqs, and the chunk of chunked prefill); not looked up again.
MEMORY_SHARE = 0.9
MAX_SEQUENCES = 256
MAX_BATCHED_TOKENS = 2048
WORKSPACE_BYTES = 1.5e9  # activations and CUDA graphs; assumed


@dataclass(frozen=True, slots=True)
class Card:
    """One accelerator, or the share of a socket that a CPU machine has."""

    name: str
    memory_gib: float
    bytes_per_second: float
    flops: Mapping[Precision, float]
    """Dense peak by precision; a precision that is not named is not run."""


@dataclass(frozen=True, slots=True)
class Machine:
    """An EC2 instance type; every card of it runs a replica of its own."""

    name: str
    card: Card
    cards: int


@cache
def machines() -> Mapping[str, Machine]:
    """Every machine that plans know, by its EC2 name."""
    cards = {
        row["card"]: Card(
            row["card"],
            float(row["memory_gib"]),
            float(row["bandwidth_gb_per_second"]) * 1e9,
            _flops(row),
        )
        for row in _rows("cards.csv")
    }
    rows = {row["machine"]: row for row in _rows("machines.csv")}
    return MappingProxyType({name: Machine(name, cards[row["card"]], int(row["cards"])) for name, row in rows.items()})


def machine(name: str) -> Machine:
    """The machine of that name.

    Raises:
        CostError: it is not known.
    """
    if found := machines().get(name):
        return found
    near = difflib.get_close_matches(name, machines(), n=3, cutoff=0.4) or sorted(machines())
    raise CostError(f"the machine {name!r} is not known here", fix=f"did you mean {' or '.join(near[:3])}?")


def step_time(card: Card, model: Shape, model_name: str, precision: Precision) -> StepTime:
    """How long one step takes: fitted to published points where there are any, else a roofline that says so."""
    for row in _rows("step_times.csv"):
        wanted = (row["card"], row["precision"]) == (card.name, precision)
        if wanted and row["model"].lower() == model_name.lower().removesuffix("-instruct"):
            return StepTime(
                float(row["fixed_seconds"]),
                float(row["seconds_per_prefill_token"]),
                float(row["seconds_per_sequence"]),
                float(row["seconds_per_context_token"]),
                "published",
                row["source"],
            )
    bandwidth, flops = card.bytes_per_second * BANDWIDTH_SHARE, card.flops[precision] * PEAK_SHARE
    return StepTime(
        fixed_seconds=weight_bytes(model, precision) / bandwidth + OVERHEAD_SECONDS,
        seconds_per_prefill_token=2 * active_parameters(model) / flops,
        seconds_per_sequence=2 * active_parameters(model) / flops,
        seconds_per_context_token=kv_cache_bytes(model, tokens=1) / bandwidth,
        provenance="roofline",
        source=f"{card.name} data sheet x {BANDWIDTH_SHARE:g} of its bandwidth and {PEAK_SHARE:g} of its peak, assumed",
    )


def engine_limits(card: Card, model: Shape, precision: Precision) -> EngineLimits | None:
    """What an engine on this card can hold beside the weights; None where the weights do not fit."""
    left = card.memory_gib * 2**30 * MEMORY_SHARE - weight_bytes(model, precision) - WORKSPACE_BYTES
    tokens = int(left / kv_cache_bytes(model, tokens=1))
    return EngineLimits(tokens, MAX_SEQUENCES, MAX_BATCHED_TOKENS) if tokens > 0 else None


def _flops(row: Mapping[str, str]) -> Mapping[Precision, float]:
    found: dict[Precision, float] = {"bfloat16": float(row["bfloat16_tflops"]) * 1e12}
    if row["float8_tflops"]:
        found["float8"] = float(row["float8_tflops"]) * 1e12
    return MappingProxyType(found)


def _rows(name: str) -> Iterator[dict[str, str]]:
    text = resources.files("nexus_llm.cost.hardware").joinpath(name).read_text(encoding="utf-8")
    return csv.DictReader(text.splitlines())

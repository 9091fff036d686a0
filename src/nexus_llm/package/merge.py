"""Base weights and what training made of them become one set of bfloat16 weights.

An adapter is added in float32 and rounded once: W + scale · B · A (Hu et al. 2021, arXiv:2106.09685). What a short
training adds is less than a step of bfloat16, so rounding to the nearest would take part of it away again: SmolLM2
after six steps lost a tenth of what it had learned (KL .0049 nats from the trained model). Unbiased rounding keeps it
(.00007). numpy does it one tensor at a time, so a merge needs little more memory than the largest tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm import gguf_format, weights
from nexus_llm.errors import PackagingError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_UNKNOWN_OPTIONS = ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A low-rank adapter in PEFT's layout."""

    tensors: weights.Weights
    scale: float
    rank: int
    layers: tuple[str, ...]
    """Names of the weights that it changes, sorted."""

    def change(self, name: str) -> weights.Float32:
        """What it adds to the weight `name`, of the same shape."""
        down, up = (self.tensors.float32(_adapter_name(name, letter)) for letter in "AB")
        return np.float32(self.scale) * (up @ down)


def merge(
    base: Path, trained: Path | None, file: Path, *, on_bytes: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Writes the merged weights to `file` and returns what was done.

    `base` is a model folder. `trained` holds an adapter, or all weights, or is None: then the base's are written.
    `on_bytes` hears how many bytes were written.

    Raises:
        PackagingError: a tensor is missing, of another shape, not finite, or belongs to nothing.
    """
    shapes = gguf_format.tensor_shapes(json.loads((base / "config.json").read_text(encoding="utf-8")))
    adapter = read_adapter(trained, shapes) if trained and (trained / ADAPTER_CONFIG).exists() else None
    source = weights.Weights.open(base if adapter or trained is None else trained / weights.SINGLE_FILE)
    _check_shapes(base if adapter or trained is None else trained, source, shapes)

    def merged(name: str) -> weights.Bits16:
        on_bytes(2 * math.prod(shapes[name]))
        if adapter is None or name not in adapter.layers:
            bits = source.bits(name)
        else:
            bits = weights.to_bfloat16_unbiased(source.float32(name) + adapter.change(name), name)
        if not _is_finite(bits):
            raise PackagingError(
                f"tensor {name} holds values that are not numbers after merging", fix="train again at a lower rate"
            )
        return bits

    weights.write_bfloat16(file, shapes, merged)
    if adapter is None:
        return {"method": "full" if trained else "none", "changed_tensors": len(shapes) if trained else 0}
    return {"method": "lora", "changed_tensors": len(adapter.layers), "rank": adapter.rank, "scale": adapter.scale}


def read_adapter(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Adapter:
    """The adapter in `folder`, checked against the base model's shapes.

    Raises:
        PackagingError: it needs what this merge does not do, or a tensor does not fit.
    """
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    unknown = [name for name in _UNKNOWN_OPTIONS if config.get(name)]
    if unknown or config.get("bias", "none") != "none" or config.get("peft_type") != "LORA":
        raise PackagingError(
            f"{folder / ADAPTER_CONFIG} asks for {(unknown or ['a bias, or no LoRA'])[0]}, which is not merged here",
            fix="train a plain LoRA adapter",
        )
    tensors, rank = weights.Weights.open(folder / ADAPTER_WEIGHTS), int(config["r"])
    layers = sorted({_layer_name(folder, name) for name in tensors.names})
    if not layers:
        raise PackagingError(f"{folder / ADAPTER_WEIGHTS} changes no layer", fix="train again")
    for layer in layers:
        if layer not in shapes:
            raise PackagingError(
                f"the adapter in {folder} changes {layer}, which the base model does not have",
                fix="package it with the base model that it was trained on",
            )
        outputs, inputs = shapes[layer]
        for letter, expected in (("A", (rank, inputs)), ("B", (outputs, rank))):
            name = _adapter_name(layer, letter)
            found = tensors.shape(name) if name in tensors else None
            if found != expected:
                raise PackagingError(
                    f"{folder}: tensor {name} has shape {found} where rank and base model ask for {expected}",
                    fix="package it with the base model that it was trained on, or train again",
                )
    divisor = math.sqrt(rank) if config.get("use_rslora") else rank
    return Adapter(tensors, float(config["lora_alpha"]) / divisor, rank, tuple(layers))


def _adapter_name(weight: str, letter: str) -> str:
    return f"{_PREFIX}{weight.removesuffix('.weight')}.lora_{letter}.weight"


def _layer_name(folder: Path, tensor: str) -> str:
    for letter in "AB":
        ending = f".lora_{letter}.weight"
        if tensor.startswith(_PREFIX) and tensor.endswith(ending):
            return tensor.removeprefix(_PREFIX).removesuffix(ending) + ".weight"
    raise PackagingError(f"{folder} has a tensor {tensor}, which no plain LoRA adapter has", fix="train again")


def _check_shapes(folder: Path, source: weights.Weights, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        found = source.shape(name) if name in source else None
        if found != shape:
            raise PackagingError(
                f"{folder}: tensor {name} has shape {found} where config.json says {shape}",
                fix="take weights and configuration of the same model",
            )


def _is_finite(bits: weights.Bits16) -> bool:
    return not bool(np.any((bits & 0x7F80) == 0x7F80))  # all exponent bits set: infinite or not a number

"""A LoRA adapter as PEFT writes it: `adapter_config.json` and `adapter_model.safetensors` (PEFT 0.21).

It changes a weight by scale · B · A (Hu et al. 2021, arXiv:2106.09685), with A of shape (rank, inputs) and B of shape
(outputs, rank).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from nexus_llm import weights
from nexus_llm.errors import ModelError

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

    def matrix(self, name: str, letter: Literal["A", "B"]) -> weights.Float32:
        """A or B of the weight `name`."""
        return self.tensors.float32(_adapter_name(name, letter))

    def change(self, name: str) -> weights.Float32:
        """What it adds to the weight `name`, of the same shape."""
        return np.float32(self.scale) * (self.matrix(name, "B") @ self.matrix(name, "A"))


def read_adapter(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """The adapter in `folder`, checked against the base model's shapes.

    Raises:
        ModelError: it is no plain LoRA adapter, or a tensor does not fit.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} has no readable {ADAPTER_CONFIG} ({error})", fix="give a folder that `nexus train` or PEFT wrote"
        ) from error
    unknown = [name for name in _UNKNOWN_OPTIONS if config.get(name)]
    if unknown or config.get("bias", "none") != "none" or config.get("peft_type") != "LORA":
        more = (unknown or ["a bias, or no LoRA"])[0]
        raise ModelError(
            f"{folder / ADAPTER_CONFIG} asks for {more}, which is more than plain LoRA",
            fix="train a plain LoRA adapter",
        )
    tensors, rank = weights.Weights.open(folder / ADAPTER_WEIGHTS), int(config["r"])
    layers = sorted({_layer_name(folder, name) for name in tensors.names})
    if not layers:
        raise ModelError(f"{folder / ADAPTER_WEIGHTS} changes no layer", fix="train again")
    for layer in layers:
        if layer not in shapes:
            raise ModelError(
                f"the adapter in {folder} changes {layer}, which the base model does not have",
                fix="use it with the base model that it was trained on",
            )
        outputs, inputs = shapes[layer]
        for letter, expected in (("A", (rank, inputs)), ("B", (outputs, rank))):
            name = _adapter_name(layer, letter)
            found = tensors.shape(name) if name in tensors else None
            if found != expected:
                raise ModelError(
                    f"{folder}: tensor {name} has shape {found} where rank and base model ask for {expected}",
                    fix="use it with the base model that it was trained on, or train again",
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
    raise ModelError(f"{folder} has a tensor {tensor}, which no plain LoRA adapter has", fix="train again")

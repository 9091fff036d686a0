"""Low-rank adapters in PEFT's layout: same initial values, same names, same file.

PEFT itself is not used for training: importing it takes seconds, and by default it keeps float32 adapters beside
bfloat16 weights and casts every activation for them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nexus_llm.errors import TrainingError
from nexus_llm.train.fused.decoder import Adapter, Decoder

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def add_adapters(
    decoder: Decoder, *, rank: int, alpha: float, dropout: float, target_modules: Sequence[str], seed: int
) -> dict[str, Tensor]:
    """Gives the named linear layers an adapter; its float32 start values by PEFT's names.

    As in PEFT, A is drawn by He et al. 2015 (uniform, a = √5) and B is zero, so training starts at the base model.

    Raises:
        TrainingError: no linear layer has one of the names.
    """
    known = {name.split(".")[-1] for layer in decoder.layers for part in layer.projections for name in part.names}
    if unknown := sorted(set(target_modules) - known):
        raise TrainingError(
            f"train.target_modules names {unknown[0]!r}, and the model has no such linear layer",
            fix=f"choose among {', '.join(sorted(known))}",
        )
    generator = torch.Generator().manual_seed(seed)
    start: dict[str, Tensor] = {}
    for projections in (part for layer in decoder.layers for part in layer.projections):
        projections.scaling, projections.dropout = alpha / rank, dropout
        inputs, dtype = projections.weight.shape[1], projections.weight.dtype
        for name, outputs in zip(projections.names, projections.sizes, strict=True):
            if name.split(".")[-1] not in target_modules:
                continue
            down = torch.empty(rank, inputs)
            torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
            up = torch.zeros(outputs, rank)
            start |= {_peft_name(name, "A"): down, _peft_name(name, "B"): up}
            projections.adapters[name] = Adapter(down.to(dtype), up.to(dtype))
    return start


def adapter_parameters(decoder: Decoder) -> dict[str, Tensor]:
    """The adapters' tensors that the decoder computes with, by PEFT's names."""
    return {
        _peft_name(name, letter): tensor
        for layer in decoder.layers
        for projections in layer.projections
        for name, adapter in projections.adapters.items()
        for letter, tensor in (("A", adapter.down), ("B", adapter.up))
    }


def adapter_config(*, base: str, rank: int, alpha: float, dropout: float, target_modules: Sequence[str]) -> str:
    """PEFT's `adapter_config.json`; fields that it leaves out have PEFT's defaults."""
    values = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,  # a whole number, as PEFT writes it
        "lora_dropout": dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(target_modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _peft_name(linear: str, letter: str) -> str:
    return f"base_model.model.{linear}.lora_{letter}.weight"

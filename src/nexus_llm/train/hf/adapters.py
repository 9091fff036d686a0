"""Low-rank adapters by PEFT: put into a transformers model, started from a seed, written in PEFT's layout."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nexus_llm.errors import MissingExtraError, TrainingError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.checkpoint import write_tensors

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def add(model: Any, recipe: TrainRecipe, *, seed: int, base: str) -> Any:
    """Puts adapters into `model`, which from then on trains nothing else; gives PEFT's wrapper around it.

    A is drawn from `seed` by He et al. 2015 (uniform, a = √5) in the order of the model's layers, on the CPU, so the
    same on every device; B is zero, so training starts at the base model.

    Raises:
        TrainingError: a target module does not exist.
    """
    _refuse_unknown(model, recipe.target_modules)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.lora_r,
        lora_alpha=_whole(recipe.lora_alpha),
        lora_dropout=recipe.lora_dropout,
        target_modules=list(recipe.target_modules),
        task_type="CAUSAL_LM",
        use_dora=recipe.method == "dora",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT still calls transformers' older names
        torch.manual_seed(seed)
        # Our optimizer holds the float32 copies; float32 adapters beside bfloat16 weights would cast all activations.
        wrapper = get_peft_model(model, config, autocast_adapter_dtype=False)
    wrapper.peft_config["default"].base_model_name_or_path = base
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # beside 4-bit weights PEFT leaves them float32
            parameter.data = parameter.data.to(getattr(torch, recipe.dtype))
        if ".lora_A." in name:
            start = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            with torch.no_grad():
                parameter.copy_(start)
    return wrapper


def write(wrapper: Any, weights: Mapping[str, Tensor], folder: Path) -> Path:
    """Writes `weights`, float32, named as in the model without its wrapper, as PEFT lays an adapter out.

    Gives the weights' file."""
    from peft import get_peft_model_state_dict

    # save_embedding_layers: PEFT would look the base model up on the hub to see whether its vocabulary has grown.
    tensors = get_peft_model_state_dict(
        wrapper,
        state_dict={f"base_model.model.{name}": tensor for name, tensor in weights.items()},
        save_embedding_layers=False,
    )
    config = wrapper.peft_config["default"].to_dict() | {"inference_mode": True}
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path = folder / ADAPTER_WEIGHTS
    write_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    return path


def four_bit(device: str) -> Any:
    """How transformers should read the weights for QLoRA: 4-bit normal floats, doubly quantised, bfloat16 arithmetic.

    Source: Dettmers et al. 2023, arXiv:2305.14314, sections 3 and 5.

    Raises:
        TrainingError: there is no CUDA GPU.
        MissingExtraError: bitsandbytes is not installed.
    """
    if not device.startswith("cuda"):
        raise TrainingError(
            "train.method qlora computes with 4-bit weights on a CUDA GPU, and torch finds none here",
            fix="set train.method to lora, which runs on a CPU, or train on a machine with a GPU",
        )
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError.for_extra("gpu", "bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _refuse_unknown(model: Any, target_modules: tuple[str, ...]) -> None:
    # GPT-2 has its own kind of linear layer; those of 4-bit weights are torch's with other insides.
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]
    known = sorted({name.split(".")[-1] for name in linear})
    every = {name for name, _ in model.named_modules()}
    for target in target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in every):
            near = get_close_matches(target, known, n=2, cutoff=0.4)
            raise TrainingError(
                f"train.target_modules names {target!r}, and the model has no such layer"
                + (f" (nearest: {', '.join(near)})" if near else ""),
                fix=f"choose among {', '.join(known)}",
            )


def _whole(alpha: float) -> Any:
    """A whole number as such, as PEFT's own files have it."""
    return int(alpha) if alpha == int(alpha) else alpha

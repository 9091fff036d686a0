"""What the model as it was trained predicts: the base with the adapter beside its layers, not merged into them.

Everything is float32 and goes through transformers, so a mistake of the merge, of its rounding or of a file's format
is not repeated here.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nexus_llm.weights import SINGLE_FILE

if TYPE_CHECKING:
    import torch

_ADAPTER_CONFIG, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def why_not(parameters: int) -> str | None:
    """Why the model cannot be read here in float32, without loading anything; None where it can."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{missing[0]} is not installed"
    needed, memory = 4.5 * parameters, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * memory:
        return f"the model in float32 takes {needed / 2**30:.0f} GiB, and this machine has {memory / 2**30:.0f}"
    return None


def predictions(
    folder: Path, rows: Sequence[Sequence[int]], *, trained: Path | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """For each row of token ids the log-probabilities of every next token, shape (tokens - 1, vocabulary).

    `folder` is a model folder; `trained` holds what training made of it: an adapter, or all weights.
    """
    import torch

    model = _load(folder, trained)
    with torch.inference_mode():
        for row in rows:
            logits_TV = model(input_ids=torch.tensor([list(row)]), use_cache=False).logits[0, :-1]
            yield logits_TV.float().log_softmax(-1).numpy()


def _load(folder: Path, trained: Path | None) -> Any:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    if trained is None:
        return model
    if (trained / _ADAPTER_CONFIG).exists():
        _attach(model, json.loads((trained / _ADAPTER_CONFIG).read_bytes()), load_file(trained / _ADAPTER_WEIGHTS))
    else:
        # A tied output layer is stored once, under the embedding's name.
        model.load_state_dict(load_file(trained / SINGLE_FILE), strict=False)
    return model


def _attach(model: Any, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Adds scale · B · A · x to the output of each adapted layer, as training did (arXiv:2106.09685, section 4.1)."""
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    for name in [one for one in tensors if one.endswith(".lora_A.weight")]:
        down, up = tensors[name].float(), tensors[name.replace(".lora_A.", ".lora_B.")].float()
        layer = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))

        def add(_layer: Any, inputs: Any, output: Any, down: Any = down, up: Any = up) -> Any:
            return output + (inputs[0] @ down.T) @ up.T * scale

        layer.register_forward_hook(add)

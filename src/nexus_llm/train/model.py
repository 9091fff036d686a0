"""The base model's weights from a Hugging Face folder, complete or not at all."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch

from nexus_llm.errors import ModelError

Precision = Literal["bfloat16", "float32"]


def load_model(folder: Path, *, dtype: Precision, device: str | None = None, quantization: Any = None) -> Any:
    """The transformers model in `folder`, its weights converted to `dtype` and laid on `device` (None: the CPU).

    `quantization` is transformers' configuration of weights of fewer bits.

    Raises:
        ModelError: the folder has no config or no weights, a file is damaged, or weights are missing.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json", fix="point model.base at a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no weights (no *.safetensors file)", fix="copy the model's safetensors files into the folder"
        )
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    # The command line draws the only progress bar.
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    # Straight to a GPU: the machine's memory need not hold the model. A map also asks for the package accelerate.
    placement = {} if device in (None, "cpu") else {"device_map": {"": device}}
    if quantization is not None:
        placement["quantization_config"] = quantization
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True, **placement
        )
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the weights in {folder} do not fit into the memory of {device}",
            fix="take a larger GPU, divide the model among several (train.distributed), or set train.method to qlora",
        ) from error
    except Exception as error:  # safetensors, json and transformers each raise their own kinds for a damaged file
        raise ModelError(
            f"{folder} has no readable model ({str(error).strip().splitlines()[0]})",
            fix="fetch the model again; the file may be cut off",
        ) from error
    absent = sorted(found["missing_keys"]) + sorted(str(key) for key in found["mismatched_keys"])
    if absent:
        # transformers would fill them with random numbers.
        raise ModelError(
            f"{folder} lacks {len(absent)} weights that its config.json asks for, first {absent[0]}",
            fix="fetch the model again: config and weights belong to different models",
        )
    return model

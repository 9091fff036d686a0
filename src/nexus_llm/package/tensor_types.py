"""Which type each tensor of a GGUF file gets; nothing here touches a file.

Q4_K_M is llama.cpp's mixture: most matrices Q4_K; the output layer, and the value and down projections of about half
of the layers, Q6_K; and where a row does not fill blocks of 256 values, Q5_0 and Q8_0 in their place. SmolLM2-135M,
whose rows have 576 values, is therefore mostly Q5_0.

Source: llama.cpp, src/llama-quant.cpp, `llama_tensor_get_type`, read 2026-11.
"""

from __future__ import annotations

import re
from typing import Literal

from nexus_llm.errors import PackagingError

TensorType = Literal["F32", "F16", "Q8_0", "Q5_0", "Q4_K", "Q6_K"]
"""A member of `gguf.GGMLQuantizationType`."""
GgufFormat = Literal["gguf-f16", "gguf-q8_0", "gguf-q4_k_m"]

FILE_TYPES: dict[GgufFormat, int] = {"gguf-f16": 1, "gguf-q8_0": 7, "gguf-q4_k_m": 15}
"""gguf.md, `general.file_type`: MOSTLY_F16, MOSTLY_Q8_0, MOSTLY_Q4_K_M."""
_BLOCK_VALUES: dict[TensorType, int] = {"F32": 1, "F16": 1, "Q8_0": 32, "Q5_0": 32, "Q4_K": 256, "Q6_K": 256}
_FALLBACKS: dict[TensorType, TensorType] = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}


def tensor_type(name: str, shape: tuple[int, ...], format: GgufFormat, *, layers: int, is_tied: bool) -> TensorType:
    """The type of the tensor with this Hugging Face name; vectors stay float32.

    Raises:
        PackagingError: its rows do not fill blocks of 32 values.

    >>> tensor_type("model.layers.0.mlp.down_proj.weight", (576, 1536), "gguf-q4_k_m", layers=30, is_tied=True)
    'Q6_K'
    """
    if len(shape) == 1:
        return "F32"
    wanted: TensorType = {"gguf-f16": "F16", "gguf-q8_0": "Q8_0"}.get(format) or _mixed(name, layers, is_tied)  # type: ignore[assignment]
    if shape[-1] % _BLOCK_VALUES[wanted]:
        wanted = _FALLBACKS.get(wanted, wanted)
    if shape[-1] % _BLOCK_VALUES[wanted]:
        raise PackagingError(
            f"tensor {name} has rows of {shape[-1]} values, and {wanted} needs a multiple of {_BLOCK_VALUES[wanted]}",
            fix="--set package.formats=[gguf-f16], or a model whose sizes are multiples of 32",
        )
    return wanted


def _mixed(name: str, layers: int, is_tied: bool) -> TensorType:
    if name == "lm_head.weight" or (is_tied and name == "model.embed_tokens.weight"):
        return "Q6_K"
    part = re.fullmatch(r"model\.layers\.(\d+)\.(?:self_attn\.v_proj|mlp\.down_proj)\.weight", name)
    return "Q6_K" if part and _gets_more_bits(int(part[1]), layers) else "Q4_K"


def _gets_more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2

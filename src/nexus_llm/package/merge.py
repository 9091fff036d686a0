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
from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm import gguf_format, weights
from nexus_llm.errors import PackagingError
from nexus_llm.lora import ADAPTER_CONFIG, read_adapter


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
    check_shapes(base if adapter or trained is None else trained, source, shapes)

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


def check_shapes(folder: Path, source: weights.Weights, shapes: dict[str, tuple[int, ...]]) -> None:
    """Nothing, where the weights of `folder` have these shapes.

    Raises:
        PackagingError: one is missing, or has another.
    """
    for name, shape in shapes.items():
        found = source.shape(name) if name in source else None
        if found != shape:
            raise PackagingError(
                f"{folder}: tensor {name} has shape {found} where config.json says {shape}",
                fix="take weights and configuration of the same model",
            )


def _is_finite(bits: weights.Bits16) -> bool:
    return not bool(np.any((bits & 0x7F80) == 0x7F80))  # all exponent bits set: infinite or not a number

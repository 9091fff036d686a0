"""Every tensor of a quantised file, multiplied out again and held against the merged weights it was made from.

It finds by name what a difference in the answers would only hint at: a wrong scale, two layers in each other's place,
rows in the wrong order. The `gguf` package's reading is independent of llama.cpp's rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm import gguf_format
from nexus_llm.errors import PackagingError
from nexus_llm.package.gguf_write import ROPE_TENSOR, rope_tensor
from nexus_llm.weights import Float32, Weights

# Largest root of the mean squared error, as a share of that of the values. Bell-shaped weights lose .0002, .005, .04,
# .02 and .08 (SmolLM2-135M, 2026-11); single large values in a block cost more.
_MAX_ERROR_SHARES = {"F32": 0.0, "F16": 0.001, "Q8_0": 0.02, "Q5_0": 0.1, "Q6_K": 0.06, "Q4_K": 0.2}


def check_gguf(file: Path, folder: Path, *, on_bytes: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """The types in `file`, how many tensors have each, and the largest error; `folder` holds the merged weights.

    `on_bytes` hears how many bytes of the file were read.

    Raises:
        PackagingError: a tensor is not the one that was merged; it is named.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights, counts, worst, seen = Weights.open(folder), dict[str, int](), (0.0, ""), set[str]()
    for tensor in GGUFReader(str(file)).tensors:
        on_bytes(int(tensor.n_bytes))
        kind = tensor.tensor_type.name
        found = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        name = gguf_format.hf_name(tensor.name) or tensor.name
        if tensor.name == ROPE_TENSOR:
            expected = rope_tensor(config)
        else:
            expected = weights.float32(name) if name in weights else None
            heads = gguf_format.swapped_heads(name, config)
            found = gguf_format.from_gguf_rows(found, heads=heads) if heads else found
        error = _error_share(expected, found)
        if not error <= _MAX_ERROR_SHARES.get(kind, 0.0):
            raise PackagingError(
                f"{file.name}: tensor {tensor.name} ({kind}) differs from the merged weights by {error:.3g} of their "
                f"size, and at most {_MAX_ERROR_SHARES.get(kind, 0.0)} is rounding",
                fix="package again; if it stays so, ship another format: --set package.formats=[gguf-f16]",
            )
        seen.add(name)
        counts[kind] = counts.get(kind, 0) + 1
        worst = max(worst, (error, tensor.name))
    needed = {*weights.names, *([ROPE_TENSOR] if gguf_format.rope_scaling(config) else [])}
    if missing := sorted(needed - seen):
        raise PackagingError(f"{file.name} has no tensor for {missing[0]}", fix="package again")
    return {"tensors": dict(sorted(counts.items())), "max_error_share": float(f"{worst[0]:.2g}"), "worst": worst[1]}


def _error_share(expected: Float32 | None, found: Float32) -> float:
    """Root of the mean squared difference, as a share of that of the expected values; infinite where shapes differ."""
    if expected is None or expected.shape != found.shape:
        return float("inf")
    difference, size = np.linalg.norm(found - expected), np.linalg.norm(expected)
    return float(difference / size) if size else float(difference)

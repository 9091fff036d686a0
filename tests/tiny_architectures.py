"""Tiny random models of many architectures, and learners of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nexus_llm.recipe import TrainRecipe
from tiny_training import make_model

SMALL_HEADS = {"head_dim": 16}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": SMALL_HEADS,
    "mistral": {"sliding_window": 6},
    "gemma": SMALL_HEADS,
    "gemma2": {**SMALL_HEADS, "sliding_window": 6, "query_pre_attn_scalar": 16},
    "gpt2": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "phi": {},
    "granite": {"logits_scaling": 8.0},
    "opt": {"word_embed_proj_dim": 64, "ffn_dim": 96, "dropout": 0.0},
    "mixtral": {"num_local_experts": 4},
}


def tiny(folder: Path, kind: str, **changes: Any) -> Any:
    """Writes a model of `kind`; gives the transformers model."""
    return make_model(folder, kind, **KINDS.get(kind, {}) | changes)


def recipe(**changes: Any) -> TrainRecipe:
    small = {"dtype": "float32", "max_length": 32, "per_device_train_batch_size": 2, "method": "full"}
    return TrainRecipe(**small | changes)

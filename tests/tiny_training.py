"""A tiny model and tiny token shards, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm.train.packing import Shard

VOCABULARY = 97


def make_model(folder: Path, kind: str = "llama", **changes: Any) -> Any:
    """A random model of 2 layers in `folder`; gives the transformers model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(sizes | changes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Random models start with norms of 1 and biases of 0, which would hide a mistake in either.
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.mul_(3)
    model.save_pretrained(folder)
    return model


def make_shard(lengths: list[int], *, conversations: tuple[int, ...] = (), seed: int = 5) -> Shard:
    """A shard of documents with these lengths. In a conversation, the second half is the assistant's."""
    offsets = np.cumsum([0, *lengths])
    # Counting upwards from a random start is something that a model can learn.
    starts = np.random.default_rng(seed).integers(0, VOCABULARY, len(lengths))
    tokens = [(np.arange(length) + start) % VOCABULARY for length, start in zip(lengths, starts, strict=True)]
    mask = [
        np.arange(length) >= (length // 2 if number in conversations else 0) for number, length in enumerate(lengths)
    ]
    is_conversation = np.array([number in conversations for number in range(len(lengths))], bool)
    return Shard(
        np.concatenate([*tokens, np.zeros(0, int)]).astype(np.uint16),
        offsets.astype(np.int64),
        np.concatenate([*mask, np.zeros(0, bool)]).astype(bool),
        is_conversation,
    )


def write_shard(folder: Path, split: str, shard: Shard) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokens", "offsets", "loss_mask", "is_conversation"):
        np.save(folder / f"{split}-00000.{name}.npy", getattr(shard, name))

"""Parameters, FLOPs and bytes of a Llama-shaped transformer: pure numbers, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that decide what a decoder-only transformer costs."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied_embeddings: bool

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Shape:
        """From the fields of a Hugging Face `config.json`.

        Raises:
            KeyError: a size is missing, so the architecture is not Llama-shaped.
        """
        heads = int(config["num_attention_heads"])
        return cls(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocabulary=int(config["vocab_size"]),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        )


def parameters(shape: Shape) -> int:
    """Number of weights.

    >>> parameters(Shape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64,
    ...                  vocabulary=49152, tied_embeddings=True))   # SmolLM2-135M
    134515008
    """
    attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    feed_forward = 3 * shape.hidden * shape.intermediate
    norms = 2 * shape.hidden
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied_embeddings else 2)
    return shape.layers * (attention + feed_forward + norms) + embeddings + shape.hidden


def forward_flops_per_token(shape: Shape, *, context: int) -> float:
    """Floating-point operations to read one token that sees `context` earlier ones; a multiply-add counts as 2.

    Source: Kaplan et al. 2020 (arXiv:2001.08361), table 1, with the output projection counted.
    """
    weights = parameters(shape) - (0 if shape.tied_embeddings else shape.vocabulary * shape.hidden)
    return 2.0 * weights + 4.0 * shape.layers * shape.heads * shape.head_dim * context


def kv_cache_bytes(shape: Shape, *, tokens: int, bytes_per_value: int = 2) -> int:
    """Size in bytes of the attention cache that `tokens` tokens occupy, summed over all sequences.

    Each layer keeps one key and one value of shape (kv_heads, head_dim) per token, hence the 2.

    Source: Kwon et al. 2023, "PagedAttention" (arXiv:2309.06180), section 3.

    >>> llama = Shape(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128,
    ...               vocabulary=128256, tied_embeddings=False)
    >>> kv_cache_bytes(llama, tokens=8192) / 2**30   # GiB, bf16
    1.0
    """
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_value * tokens

"""What a transformer weighs and costs, from its config.json: parameters, FLOPs, bytes, attention cache. Pure numbers.

Counted are decoders with gated feed-forward layers and root-mean-square norms: Llama, Mistral, Mixtral, Qwen2, Qwen3,
Phi-3, SmolLM3 and Gemma (1, 2, and 3 without images). `tests/test_arithmetic.py` compares the counts with real models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nexus_llm.errors import ModelError

Precision = Literal["float32", "bfloat16", "float16", "float8", "int8", "nf4"]

# Bytes of one stored value. nf4 has half a byte, one scale of 8 bits for 64 values and, the scales being quantised too,
# one float32 for 256 scales: 4.127 bits (Dettmers et al. 2023, "QLoRA", arXiv:2305.14314, section 3).
BYTES_PER_VALUE: Mapping[Precision, float] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8": 1,
    "int8": 1,
    "nf4": 0.5 + 1 / 64 + 4 / (64 * 256),
}

# What a config.json may leave out, and transformers' defaults for it (5.23, read 2026-11). None: as many as heads.
_KV_HEADS = {"mistral": 8, "mixtral": 8, "qwen2": 32, "qwen3": 32, "gemma": 16, "gemma2": 4, "gemma3_text": 4,
             "smollm3": 4}  # fmt: skip
_HEAD_DIM = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3_text": 256}
_TIED = {"gemma", "gemma2", "gemma3_text", "smollm3"}
MODEL_TYPES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3", "smollm3")


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder that decide what it weighs and costs."""

    layers: int
    channels: int
    """Width of the residual stream (hidden_size)."""
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the feed-forward layer, of each expert where there are several."""
    vocabulary: int
    tied: bool
    """The head is the embedding matrix."""
    biases: frozenset[str] = frozenset()
    """Linear layers with a bias, by name."""
    norms_per_layer: int = 2
    head_norms: bool = False
    """Queries and keys are normalised head by head."""
    experts: int = 1
    experts_per_token: int = 1

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Name → (inputs, outputs) of one layer's linear layers, of one expert."""
        query, keys, inner, channels = self.query_width, self.kv_width, self.intermediate, self.channels
        return {
            "q_proj": (channels, query),
            "k_proj": (channels, keys),
            "v_proj": (channels, keys),
            "o_proj": (query, channels),
            "gate_proj": (channels, inner),
            "up_proj": (channels, inner),
            "down_proj": (inner, channels),
        }


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters of each part, of all layers together. Every number is counted once."""

    embedding: int
    attention: int
    feed_forward: int
    """All experts and their routers."""
    norms: int
    head: int
    """0 where the head is the embedding matrix."""

    @property
    def total(self) -> int:
        return self.embedding + self.attention + self.feed_forward + self.norms + self.head


def shape(config: Mapping[str, Any]) -> Shape:
    """The sizes that a Hugging Face config.json names, or leaves to transformers' defaults.

    Raises:
        ModelError: the model is of a kind that is not counted here, or a size is missing.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ModelError(
            f"the size of a model of type {kind!r} is not known here",
            fix=f"use a model of type {', '.join(MODEL_TYPES)}",
        )
    try:
        heads = int(config["num_attention_heads"])
        found = Shape(
            layers=int(config["num_hidden_layers"]),
            channels=int(config["hidden_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or _KV_HEADS.get(kind, heads)),
            head_dim=int(config.get("head_dim") or _HEAD_DIM.get(kind, int(config["hidden_size"]) // heads)),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", kind in _TIED)),
            biases=_biases(kind, config),
            norms_per_layer=4 if kind in ("gemma2", "gemma3_text") else 2,
            head_norms=kind in ("qwen3", "gemma3_text"),
            experts=int(config.get("num_local_experts", 8)) if kind == "mixtral" else 1,
            experts_per_token=int(config.get("num_experts_per_tok", 2)) if kind == "mixtral" else 1,
        )
    except KeyError as error:
        raise ModelError(
            f"the config.json of this {kind} model has no {error.args[0]}", fix="fetch the model again"
        ) from error
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise ModelError(
            f"a size in the config.json of this {kind} model is none ({error})", fix="fetch the model again"
        ) from error
    sizes = {name: value for name, value in asdict(found).items() if type(value) is int}
    if wrong := [f"{name} {value}" for name, value in sizes.items() if value < 1]:
        raise ModelError(f"the config.json of this {kind} model makes {', '.join(wrong)}", fix="fetch the model again")
    return found


def parameters(model: Shape) -> Parameters:
    """How many parameters each part has."""
    return Parameters(
        embedding=model.vocabulary * model.channels,
        attention=model.layers * _weights(model, ATTENTION),
        feed_forward=model.layers * (model.experts * _weights(model, FEED_FORWARD) + _router(model)),
        norms=model.layers * (model.norms_per_layer * model.channels + 2 * model.head_dim * model.head_norms)
        + model.channels,
        head=0 if model.tied else model.vocabulary * model.channels,
    )


def active_parameters(model: Shape) -> int:
    """How many parameters one token meets: all but the experts that it is not sent to."""
    idle = model.experts - model.experts_per_token
    return parameters(model).total - model.layers * idle * _weights(model, FEED_FORWARD)


def adapter_parameters(model: Shape, *, rank: int, target_modules: tuple[str, ...], magnitudes: bool = False) -> int:
    """How many parameters low-rank adapters have: (in, rank) and (rank, out) for every linear layer that gets one.

    With `magnitudes` also one for every output (DoRA, Liu et al. 2024, arXiv:2402.09353).
    """
    sizes = [model.linear_layers[name] for name in target_modules if name in model.linear_layers]
    return model.layers * sum(rank * (inputs + outputs) + magnitudes * outputs for inputs, outputs in sizes)


def weight_bytes(model: Shape, precision: Precision, *, other: Precision = "bfloat16") -> int:
    """Size of all weights in bytes.

    With nf4 only the linear layers of the decoder are quantised, as bitsandbytes does it; embeddings, norms, biases and
    the head stay in `other`.

    >>> llama_3_1_8b = Shape(32, 4096, 32, 8, 128, 14336, 128256, tied=False)
    >>> weight_bytes(llama_3_1_8b, "bfloat16"), weight_bytes(llama_3_1_8b, "nf4")
    (16060522496, 5702295552)
    """
    total = parameters(model).total
    if precision != "nf4":
        return int(total * BYTES_PER_VALUE[precision])
    sizes = model.linear_layers
    quantised = model.layers * sum(
        inputs * outputs * (model.experts if name in FEED_FORWARD else 1) for name, (inputs, outputs) in sizes.items()
    )
    return int(quantised * BYTES_PER_VALUE["nf4"] + (total - quantised) * BYTES_PER_VALUE[other])


def kv_cache_bytes(model: Shape, *, tokens: int) -> int:
    """Size in bytes of the 16-bit attention cache that `tokens` tokens occupy, summed over all sequences.

    Each layer keeps one key and one value of shape (kv_heads, head_dim) per token, hence the 2. Layers that look back
    over a window only may keep less: this is the most.

    Source: Kwon et al. 2023, "PagedAttention" (arXiv:2309.06180), section 3.

    >>> kv_cache_bytes(Shape(32, 4096, 32, 8, 128, 14336, 128256, tied=False), tokens=8192) / 2**30   # GiB, bf16
    1.0
    """
    return 2 * model.layers * model.kv_width * tokens * 2


def training_flops_per_token(
    model: Shape,
    *,
    context_tokens: float,
    trained_adapter_parameters: int | None = None,
    checkpointing: bool = False,
    with_reference: bool = False,
) -> float:
    """Floating-point operations that one token costs in training: forward; as much again for the gradients of what
    flows through; and 2 for every weight that learns: all, or only the adapters when their number is given.

    With `checkpointing` the layers run forward twice; counted so, it is hardware's work and not the model's.
    `with_reference`: the frozen base model reads every token as well, as in DPO.

    >>> llama_3_1_8b = Shape(32, 4096, 32, 8, 128, 14336, 128256, tied=False)
    >>> round(training_flops_per_token(llama_3_1_8b, context_tokens=0) / 8.03e9, 2)   # 6, but for the embedding
    5.61
    """
    attention, weights = _attention_flops(model, context_tokens), _multiplied(model)
    adapters = trained_adapter_parameters or 0
    forward = 2.0 * (weights + adapters) + attention
    head = model.vocabulary * model.channels
    learned = weights if trained_adapter_parameters is None else adapters
    again = forward - 2.0 * head if checkpointing else 0.0
    again += 2.0 * weights + attention if with_reference else 0.0
    # The backward pass of attention is two products for each of the forward pass's.
    return forward + again + 2.0 * (weights + adapters) + 2.0 * learned + 2.0 * attention


def _attention_flops(model: Shape, context_tokens: float) -> float:
    return 4.0 * model.layers * model.query_width * context_tokens


def _multiplied(model: Shape) -> int:
    """Weights that a token is multiplied with: no embedding, no norms, only its own experts, always a head."""
    sizes = model.linear_layers
    attention = sum(sizes[name][0] * sizes[name][1] for name in ATTENTION)
    feed_forward = sum(sizes[name][0] * sizes[name][1] for name in FEED_FORWARD)
    layer = attention + model.experts_per_token * feed_forward + _router(model)
    return model.layers * layer + model.vocabulary * model.channels


def _router(model: Shape) -> int:
    return model.channels * model.experts if model.experts > 1 else 0


def _weights(model: Shape, names: tuple[str, ...]) -> int:
    sizes = model.linear_layers
    return sum(sizes[name][0] * sizes[name][1] + (sizes[name][1] if name in model.biases else 0) for name in names)


def _biases(kind: str, config: Mapping[str, Any]) -> frozenset[str]:
    names: tuple[str, ...] = ()
    if kind == "qwen2":
        names = ATTENTION[:3]
    elif kind in ("llama", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3") and config.get("attention_bias"):
        names = ATTENTION
    return frozenset((*names, *(FEED_FORWARD if kind in ("llama", "smollm3") and config.get("mlp_bias") else ())))

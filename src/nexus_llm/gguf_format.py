"""What a GGUF file and a Hugging Face model folder call the same things; nothing here touches a file.

Two architectures are known: `llama` (Llama 2 and 3, SmolLM2, Mistral 7B) and `qwen2`. Llama's converter reorders the
rows of the query and key projections: GGUF's rotary embedding turns neighbouring pairs of values, Hugging Face's turns
values that are half a head apart (llama.cpp, `convert_hf_to_gguf.py`, `permute`).

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nexus_llm.errors import ModelError, PackagingError

Value = TypeVar("Value", bound=np.generic)
Metadata = Mapping[str, Any]

_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_GGUF_NAMES = {hf: gguf for gguf, hf in _WHOLE_TENSORS.items()}
_GGUF_PARTS = {hf: gguf for gguf, hf in _LAYER_TENSORS.items()}


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one family of models is written."""

    name: str
    """GGUF's name and the `model_type` of its Hugging Face configuration."""
    model_class: str
    swaps_rows: bool
    """Rows of the query and key projections lie in another order in GGUF."""
    attention_bias: bool
    """The query, key and value projections add a bias."""


ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", swaps_rows=True, attention_bias=False),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", swaps_rows=False, attention_bias=True),
}


def hf_name(name: str) -> str | None:
    """The Hugging Face name of a GGUF tensor, or None where there is none.

    >>> hf_name("blk.3.attn_q.weight")
    'model.layers.3.self_attn.q_proj.weight'
    """
    part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if part and part[2] in _LAYER_TENSORS:
        return f"model.layers.{part[1]}.{_LAYER_TENSORS[part[2]]}.{part[3]}"
    return _WHOLE_TENSORS.get(name)


def gguf_name(name: str) -> str | None:
    """The GGUF name of a Hugging Face tensor, or None where there is none.

    >>> gguf_name("model.layers.3.mlp.down_proj.weight")
    'blk.3.ffn_down.weight'
    """
    part = re.fullmatch(r"model\.layers\.(\d+)\.([\w.]+)\.(weight|bias)", name)
    if part and part[2] in _GGUF_PARTS:
        return f"blk.{part[1]}.{_GGUF_PARTS[part[2]]}.{part[3]}"
    return _GGUF_NAMES.get(name)


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Hugging Face name → shape of every tensor that a model of this configuration has.

    Raises:
        ModelError: the architecture is not known, or a size is missing.
    """
    architecture = architecture_of(config)
    try:
        hidden, intermediate = int(config["hidden_size"]), int(config["intermediate_size"])
        heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        vocabulary = int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"config.json has no usable {error}", fix="it must be the model's own config.json: fetch the model again"
        ) from error
    key_heads, head = int(config.get("num_key_value_heads") or heads), head_dim(config)
    rows = {"q_proj": heads * head, "k_proj": key_heads * head, "v_proj": key_heads * head}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for projection, size in rows.items():
            shapes[f"{prefix}self_attn.{projection}.weight"] = (size, hidden)
            if architecture.attention_bias:
                shapes[f"{prefix}self_attn.{projection}.bias"] = (size,)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (hidden, heads * head)
        shapes[f"{prefix}mlp.gate_proj.weight"] = shapes[f"{prefix}mlp.up_proj.weight"] = (intermediate, hidden)
        shapes[f"{prefix}mlp.down_proj.weight"] = (hidden, intermediate)
        shapes[f"{prefix}input_layernorm.weight"] = shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """How a model of this Hugging Face configuration is written.

    Raises:
        ModelError: it is of another family, or uses what GGUF's version of that family does not have.
    """
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None:
        raise ModelError(
            f"the architecture {config.get('model_type')!r} is not known", fix=f"use one of {', '.join(ARCHITECTURES)}"
        )
    unusual = [name for name in ("attention_bias", "mlp_bias", "use_sliding_window") if config.get(name)]
    if unusual:
        raise ModelError(
            f"a {architecture.name} model with {unusual[0]} is not known", fix="use a model of the ordinary shape"
        )
    return architecture


def head_dim(config: Mapping[str, Any]) -> int:
    """Values of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope_theta(config: Mapping[str, Any]) -> float:
    """Base of the rotary embedding's frequencies; transformers 5 keeps it under `rope_parameters`."""
    return float(config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 10_000.0)


def rope_scaling(config: Mapping[str, Any]) -> str | None:
    """The kind of rope scaling (`llama3`, `yarn`, …) that a Hugging Face configuration asks for, or None."""
    for field in ("rope_scaling", "rope_parameters"):
        part = config.get(field) or {}
        kind = part.get("rope_type") or part.get("type") or "default"
        if kind != "default":
            return str(kind)
    return None


def rope_frequencies(config: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Radians per position of each pair of values of a head, shape (head_dim / 2,), with Llama 3's scaling applied.

    Raises:
        PackagingError: another kind of scaling (yarn, dynamic, …), which is not carried.

    Source: Su et al. 2021 (arXiv:2104.09864); transformers, `_compute_llama3_parameters`, read 2026-11.
    """
    half = head_dim(config) // 2
    plain = rope_theta(config) ** (-np.arange(half, dtype=np.float64) / half)
    return np.asarray(plain / rope_divisors(config), dtype=np.float32)


def rope_divisors(config: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """By how much scaling slows each frequency, shape (head_dim / 2,); all ones where there is none.

    It is what llama.cpp keeps in the tensor `rope_freqs.weight`. Errors: `rope_frequencies`.
    """
    half, kind = head_dim(config) // 2, rope_scaling(config)
    if kind is None:
        return np.ones(half)
    if kind != "llama3":
        raise PackagingError(
            f"this model needs {kind} rope scaling, which is not carried to other formats",
            fix="ship safetensors alone, for transformers and vLLM: --set package.formats=[]",
        )
    values = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    if missing := [name for name in names if name not in values]:
        raise PackagingError(
            f"config.json names llama3 rope scaling without its {missing[0]}", fix="fetch the model's own config.json"
        )
    factor, low, high, context = (float(values[name]) for name in names)
    wavelength = 2 * np.pi * rope_theta(config) ** (np.arange(half, dtype=np.float64) / half)
    turns = context / wavelength  # within the original context
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))


def to_gguf_rows(weight: npt.NDArray[Value], *, heads: int) -> npt.NDArray[Value]:
    """A query or key projection (rows, …) with its rows in GGUF's order; `heads` share the rows evenly."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def from_gguf_rows(weight: npt.NDArray[Value], *, heads: int) -> npt.NDArray[Value]:
    """The inverse of `to_gguf_rows`."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def swapped_heads(name: str, config: Mapping[str, Any]) -> int | None:
    """How many heads share the rows of the tensor with this Hugging Face name, if GGUF reorders them; else None."""
    if not architecture_of(config).swaps_rows:
        return None
    heads = int(config["num_attention_heads"])
    if ".q_proj." in name:
        return heads
    return int(config.get("num_key_value_heads") or heads) if ".k_proj." in name else None


def config_from_metadata(metadata: Metadata, *, tied_embeddings: bool) -> dict[str, Any]:
    """The Hugging Face `config.json` of a GGUF file.

    Raises:
        ModelError: another architecture, rope scaling, or a missing field.
    """
    name = str(metadata.get("general.architecture"))
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        raise ModelError(
            f"a GGUF file of the architecture {name!r} cannot be read", fix=f"use one of {', '.join(ARCHITECTURES)}"
        )
    scaling = metadata.get(f"{name}.rope.scaling.type", "none")
    if scaling != "none" or f"{name}.rope.scale_linear" in metadata or metadata.get(f"{name}.expert_count"):
        raise ModelError(
            f"this GGUF file uses rope scaling ({scaling}) or experts, which cannot be read",
            fix="pull the model's Hugging Face version: nexus model pull hf:ORG/NAME",
        )
    try:
        hidden, heads = metadata[f"{name}.embedding_length"], metadata[f"{name}.attention.head_count"]
        config = {
            "architectures": [architecture.model_class],
            "model_type": name,
            "hidden_act": "silu",
            "hidden_size": int(hidden),
            "intermediate_size": int(metadata[f"{name}.feed_forward_length"]),
            "num_hidden_layers": int(metadata[f"{name}.block_count"]),
            "num_attention_heads": int(heads),
            "num_key_value_heads": int(metadata.get(f"{name}.attention.head_count_kv", heads)),
            "head_dim": int(metadata.get(f"{name}.attention.key_length", hidden // heads)),
            "max_position_embeddings": int(metadata[f"{name}.context_length"]),
            "rms_norm_eps": _shortest(metadata[f"{name}.attention.layer_norm_rms_epsilon"]),
            "rope_theta": _shortest(metadata.get(f"{name}.rope.freq_base", 10_000.0)),
            "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
            "tie_word_embeddings": tied_embeddings,
            "torch_dtype": "bfloat16",
            "use_cache": True,
        }
    except KeyError as error:
        raise ModelError(f"this GGUF file has no field {error}", fix="use a complete GGUF file") from error
    for field, key in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        if (token_id := metadata.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[field] = int(token_id)
    return dict(sorted(config.items()))


def metadata_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a GGUF file needs to say what `config.json` says.

    Rope scaling is no field but a tensor: `rope_divisors`.

    Raises:
        ModelError: another architecture.
    """
    architecture = architecture_of(config)
    name, heads = architecture.name, int(config["num_attention_heads"])
    return {
        "general.architecture": name,
        f"{name}.block_count": int(config["num_hidden_layers"]),
        f"{name}.context_length": int(config["max_position_embeddings"]),
        f"{name}.embedding_length": int(config["hidden_size"]),
        f"{name}.feed_forward_length": int(config["intermediate_size"]),
        f"{name}.attention.head_count": heads,
        f"{name}.attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
        f"{name}.attention.key_length": head_dim(config),
        f"{name}.attention.value_length": head_dim(config),
        f"{name}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{name}.rope.freq_base": rope_theta(config),
        f"{name}.rope.dimension_count": head_dim(config),
        f"{name}.vocab_size": int(config["vocab_size"]),
    }


def _shortest(value: float) -> float:
    """The shortest decimal number that is the same float32: GGUF stores 1e-05 as 9.999999747378752e-06."""
    return float(str(np.float32(value)))

"""Any causal language model of transformers, looked over before the first step and ready to train."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nexus_llm.errors import DataError, ModelError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.hf import adapters, attention, head
from nexus_llm.train.hf.packed import Origin, PackedModel
from nexus_llm.train.model import load_model


def load(folder: Path, recipe: TrainRecipe, *, seed: int, base: str, device: str | None = None) -> PackedModel:
    """The model in `folder` with what `recipe.method` learns, on `device` (None: a CUDA GPU if there is one).

    Raises:
        ModelError: it cannot be read, has weights that are no numbers, sees fewer than `max_length` tokens, or mixes
            the documents of a packed row.
        DataError: its tokenizer has more tokens than it has embeddings.
        TrainingError: a target module does not exist, or the method needs a GPU.
        MissingExtraError: the method needs a package that is not installed.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    quantization = adapters.four_bit(device) if recipe.method == "qlora" else None
    model = load_model(folder, dtype=recipe.dtype, device=device, quantization=quantization)
    head.trunk_of(model)
    if device == "cpu":
        _own_memory(model)
    _refuse_unfit(model, folder, max_length=recipe.max_length)
    dtype = getattr(torch, recipe.dtype)
    chosen = attention.choose(model, device=device, dtype=dtype, max_length=recipe.max_length)
    origin = Origin(folder, base, total_parameters=model.num_parameters())
    adapter = None if recipe.method == "full" else adapters.add(model, recipe, seed=seed, base=base)
    if recipe.gradient_checkpointing:
        _recompute_activations(model)
    model.train()
    return PackedModel(model, attention=chosen, origin=origin, recipe=recipe, adapter=adapter)


def context_tokens(config: Any) -> int | None:
    """The longest text that a model with this config sees, its rope scaling applied; None: any.

    Configs write a scaled model's `max_position_embeddings` either way: before scaling (Qwen2.5 with YaRN) or after it
    (Llama 3.1), which only the original length beside it tells apart.
    """
    config = config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None)
    if stated is None:
        return None
    return max([int(stated), *_scaled_lengths(getattr(config, "rope_parameters", None) or {}, int(stated))])


def _scaled_lengths(rope: dict[str, Any], stated: int) -> Iterator[int]:
    for part in rope.values():
        if isinstance(part, dict):  # one for each kind of layer
            yield from _scaled_lengths(part, stated)
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if factor and original:
        yield int(original * factor)
    elif factor and rope.get("rope_type") in ("linear", "dynamic"):
        yield int(stated * factor)


def _recompute_activations(model: Any) -> None:
    if not model.supports_gradient_checkpointing:
        raise ModelError(
            f"a model of type {model.config.model_type!r} cannot compute its layers again in the backward pass",
            fix="set train.gradient_checkpointing to false",
        )
    # transformers renamed it in 5.x; the older name warns.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _own_memory(model: Any) -> None:
    """Takes weights off the mapped file, whose address may decide how a sum is rounded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def _refuse_unfit(model: Any, folder: Path, *, max_length: int) -> None:
    limit = context_tokens(model.config)
    if limit is not None and max_length > limit:
        raise ModelError(
            f"train.max_length is {max_length}, and the model in {folder} sees at most {limit} tokens",
            fix=f"set train.max_length to {limit} or less",
        )
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"{folder} has values in {name} that are not finite numbers",
                fix="fetch the model again, or go back to a checkpoint from before its training diverged",
            )
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    highest = _highest_token_id(folder / "tokenizer.json")
    if highest >= vocabulary:
        raise DataError(
            f"the tokenizer in {folder} makes token ids up to {highest}, and the model's embeddings end at "
            f"{vocabulary - 1}",
            fix="put the model's own tokenizer.json into the folder, or let the model stage add the tokens",
        )


def _highest_token_id(path: Path) -> int:
    """-1 where there is no tokenizer that can be read: then the data stage speaks up."""
    try:
        content = json.loads(path.read_bytes())
        entries = content["model"]["vocab"]
        added = [int(token["id"]) for token in content.get("added_tokens", [])]
        # Unigram models list their entries; the others map each to its id.
        ids = range(len(entries)) if isinstance(entries, list) else entries.values()
        return int(max([-1, *added, *ids]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return -1

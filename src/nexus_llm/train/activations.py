"""Bytes that a training step keeps and makes besides its weights: pure numbers, from the sizes of the model.

What each implementation keeps of a layer for its backward pass is read off its code: `fused/operations.py` for the
fused layers, the modules of transformers (5.23) for the others; `benchmarks/train_memory.py` compares with processes.

In every formula the numbers are of one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nexus_llm.arithmetic import Shape, parameters
from nexus_llm.recipe import TrainRecipe

Implementation = Literal["fused", "transformers"]
Device = Literal["cpu", "cuda"]

# As in train/loss.py and train/fused/operations.py, which import torch; tests compare.
TOKENS_AT_ONCE, TOKENS_IN_CACHE, ROWS_AT_ONCE, QUERY_BLOCK = 256, 16, 4096, 256


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes in one process, of one forward and backward pass."""

    layer: int
    """Kept of one layer until its backward pass, its input included."""
    layer_input: int
    """All that is kept of a layer under checkpointing."""
    masks: int
    """Which tokens may see which, where that is a matrix."""
    loss: int
    """Largest while the loss is computed: a chunk of logits, the gradients of hidden states and of the head."""
    head_gradients: int
    """What is left of them in the backward pass."""
    working: int
    """What the backward pass of one layer makes and drops."""


def activations(model: Shape, recipe: TrainRecipe, *, implementation: Implementation, device: Device) -> Activations:
    """What one pass over `per_device_train_batch_size` rows of `max_length` tokens keeps and makes."""
    width = 2 if recipe.dtype == "bfloat16" else 4
    rows, length = recipe.per_device_train_batch_size, recipe.max_length
    tokens, full = rows * length, recipe.method == "full"
    kept = _fused(model, recipe) if implementation == "fused" else _transformers(model, recipe, width, device)
    square = rows * length * length * width
    if implementation == "fused":
        # The probabilities of short rows, and one mask for all layers.
        kept_squares, masks = rows * model.heads * length * length * width * (length <= QUERY_BLOCK), square
    else:
        # On a CPU torch turns the mask into numbers in every layer and keeps them; kernels of a GPU have none.
        kept_squares, masks = (square, square) if device == "cpu" else (0, 0)
    head = model.vocabulary * model.channels if full else 0
    # The head's gradient is summed in float32, by rows: the fused layers sum it where the optimizer has it anyway.
    made = min(ROWS_AT_ONCE, model.vocabulary) * model.channels * (4 + width) if full else 0
    if implementation == "transformers":
        made += head * (4 + width)
    hidden = tokens * model.channels * width
    logits = min(TOKENS_AT_ONCE, tokens) * model.vocabulary * width + 2 * TOKENS_IN_CACHE * model.vocabulary * 4
    return Activations(
        layer=int(tokens * kept) + kept_squares,
        layer_input=hidden,
        masks=masks,
        loss=logits + 2 * hidden + made,
        head_gradients=2 * hidden + (2 * head * width if implementation == "transformers" else 0),
        working=_working(model, recipe, width, implementation),
    )


def _fused(model: Shape, recipe: TrainRecipe) -> float:
    """Bytes a token of a layer. Not the probabilities."""
    width = 2 if recipe.dtype == "bfloat16" else 4
    channels, query, keys, inner = model.channels, model.query_width, model.kv_width, model.intermediate
    values = 2 * channels + query + 2 * keys + 2 * inner  # inputs of two norms; turned q, k, v; gate and up
    values += query * _learns(recipe, "o_proj")
    if recipe.method != "full":  # else these are made again
        values += inner * (1 + _learns(recipe, "down_proj"))
        values += channels * _learns(recipe, "q_proj", "k_proj", "v_proj")
        values += channels * _learns(recipe, "gate_proj", "up_proj")
    return width * values + _adapters(model, recipe, width)


def _transformers(model: Shape, recipe: TrainRecipe, width: int, device: Device) -> float:
    """Bytes a token of a layer. Not the masks."""
    channels, query, keys = model.channels, model.query_width, model.kv_width
    inner = model.intermediate * model.experts_per_token
    # A norm keeps its input in float32 and one scale and, if it learns itself, what it multiplies.
    norms = model.norms_per_layer * (4 + channels * (4 + width * (recipe.method == "full")))
    norms += 4 * (query + keys) * model.head_norms
    # Queries, the result, keys and values; on a CPU the last two are repeated for every query head.
    values = 2 * query + 2 * (query if device == "cpu" else keys) + 3 * inner
    values += inner * _learns(recipe, "down_proj")
    values += channels * _learns(recipe, "q_proj", "k_proj", "v_proj")
    values += channels * _learns(recipe, "gate_proj", "up_proj")
    return norms + width * values + 4 * model.heads + _adapters(model, recipe, width)


def _adapters(model: Shape, recipe: TrainRecipe, width: int) -> float:
    """Bytes a token of a layer that adapters keep: narrow channels, what dropout left and where, DoRA's products."""
    if recipe.method == "full":
        return 0
    found = [model.linear_layers[name] for name in recipe.target_modules if name in model.linear_layers]
    narrow = width * recipe.lora_r * len(found)
    dropped = sum(inputs for inputs, _ in found) * (width + 1) if recipe.lora_dropout else 0
    scaled = sum(outputs for _, outputs in found) * 2 * width if recipe.method == "dora" else 0
    return narrow + dropped + scaled


def _working(model: Shape, recipe: TrainRecipe, width: int, implementation: Implementation) -> int:
    rows, length = recipe.per_device_train_batch_size, recipe.max_length
    inner = model.intermediate * model.experts_per_token
    made = rows * length * (5 * inner * width + model.channels * (4 * width + 8))
    if implementation == "fused":  # gradients of one block's scores
        made += 4 * rows * model.heads * min(QUERY_BLOCK, length) * length * width
    if recipe.method == "full":
        counted = parameters(model)
        made += (counted.attention + counted.feed_forward) // model.layers * width
    if recipe.method in ("qlora", "dora"):  # one linear layer's weights are unpacked, or their norms taken
        made += max(inputs * outputs for inputs, outputs in model.linear_layers.values()) * 4
    return made


def _learns(recipe: TrainRecipe, *names: str) -> bool:
    """Whether one of the linear layers needs its input in the backward pass."""
    return recipe.method == "full" or not set(names).isdisjoint(recipe.target_modules)

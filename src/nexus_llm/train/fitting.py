"""A recipe made to fit: the same mathematics in less memory, or the two lines that say why it cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nexus_llm.errors import TrainingError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.activations import Device
from nexus_llm.train.plan import GB, MemoryPlan, memory


def fits(plan: MemoryPlan, memory_bytes: int) -> bool:
    """Whether the device needs no more than that. Nothing is kept in reserve: give less where others need memory."""
    return plan.device_bytes <= memory_bytes


def fit(
    config: Mapping[str, Any], recipe: TrainRecipe, memory_bytes: int, *, device: Device = "cpu"
) -> TrainRecipe | None:
    """The recipe with fewer rows in a pass and, if it must be, checkpointing, so that it fits; None: no such fits.

    A step keeps its rows, so the loss curve stays the same but for the last digits (dropout draws other values). A
    recipe that fits comes back as it is. All divisions are tried before checkpointing, which costs a third of the time.

    Raises:
        ModelError: a model of this kind is not counted.
        TrainingError: the fused layers cannot do what the recipe asks for.
    """
    for candidate in _candidates(recipe):
        if fits(memory(config, candidate, device=device), memory_bytes):
            return candidate
    return None


def refusal(config: Mapping[str, Any], plan: MemoryPlan, memory_bytes: int) -> TrainingError | None:
    """What does not fit, in GB of each part, and the knob that helps, with the GB after turning it. None: it fits."""
    if fits(plan, memory_bytes):
        return None
    parts = sorted((part for part in plan.parts if part.place == "device"), key=lambda part: -part.bytes)
    listed = ", ".join(f"{part.name} {part.bytes / GB:.1f}" for part in parts if part.bytes >= GB / 20)
    what = f"training needs {plan.device_bytes / GB:.1f} GB and {memory_bytes / GB:.1f} GB are there: {listed}"
    found: list[tuple[int, str]] = []
    for words, recipe in _knobs(plan):
        needed = memory(config, recipe, device=plan.device).device_bytes
        if needed <= memory_bytes:
            return TrainingError(what, fix=f"{words}: {needed / GB:.1f} GB")
        found.append((needed, words))
    fix = "take a smaller model or a larger machine"
    if found:
        needed, words = min(found)
        fix += f"; the most helps: {words}: {needed / GB:.1f} GB"
    return TrainingError(what, fix=fix)


def _candidates(recipe: TrainRecipe) -> Iterator[TrainRecipe]:
    yield recipe
    rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    can_checkpoint = not recipe.gradient_checkpointing and recipe.implementation != "fused"
    for checkpointing in (False, True) if can_checkpoint else (recipe.gradient_checkpointing,):
        for at_once in range(recipe.per_device_train_batch_size, 0, -1):
            if rows % at_once == 0:
                yield recipe.model_copy(
                    update={
                        "per_device_train_batch_size": at_once,
                        "gradient_accumulation_steps": rows // at_once,
                        "gradient_checkpointing": checkpointing,
                    }
                )


def _knobs(plan: MemoryPlan) -> Iterator[tuple[str, TrainRecipe]]:
    """(What to set, the recipe with it): first what changes no result, then what does."""
    for candidate in list(_candidates(plan.recipe))[1:]:
        names = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
        changed = [name for name in names if getattr(candidate, name) != getattr(plan.recipe, name)]
        if changed:
            words = ", ".join(f"train.{name} to {str(getattr(candidate, name)).lower()}" for name in changed)
            yield f"set {words} (or --fit)", candidate
    least = list(_candidates(plan.recipe))[-1]
    if least.method == "full":
        least = least.model_copy(update={"method": "lora"})
        yield "set train.method to lora, with one row in a pass", least
    if least.method in ("lora", "dora") and plan.device == "cuda":
        least = least.model_copy(update={"method": "qlora"})
        yield "set train.method to qlora, with one row in a pass", least
    length = least.max_length // 2
    while length >= 16:
        yield (
            f"set train.max_length to {length}, with one row in a pass",
            least.model_copy(update={"max_length": length}),
        )
        length //= 2

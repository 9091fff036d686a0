"""Whose checkpoint is it? What must be equal for a run to go on from another process's checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nexus_llm.errors import TrainingError
from nexus_llm.recipe import TrainRecipe

# They decide where a run runs, how its rows are divided, and what is saved and told, not what is learned.
_WITHOUT_EFFECT: dict[str, Any] = {
    **dict.fromkeys(("save_steps", "save_total_limit", "launcher", "sagemaker", "tracking", "implementation"), True),
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"), True),
    "distributed": {"num_processes", "num_machines"},
}


def run_identity(
    recipe: TrainRecipe, *, seed: int, inputs: Mapping[str, str], processes: int, implementation: str
) -> dict[str, Any]:
    """What a checkpoint says of its run. `inputs` are ids of the model and the data."""
    return {
        "train": recipe.model_dump(mode="json", exclude=_WITHOUT_EFFECT),
        "seed": seed,
        **inputs,
        "implementation": implementation,
        "rows_per_step": rows_per_step(recipe, processes=processes),
        "processes": processes,
    }


def rows_per_step(recipe: TrainRecipe, *, processes: int) -> int:
    """Packed rows of one optimizer step, of all processes together."""
    return recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * processes


def refuse_other_run(theirs: Mapping[str, Any], ours: Mapping[str, Any], *, place: str) -> None:
    """Refuses to go on from a checkpoint of another run; another number of processes is fine.

    Raises:
        TrainingError: with the names of the fields that differ and both values, or, where only the rows of a step
            differ, with what would make them equal.
    """
    differences = [change for change in _differences(theirs, ours) if change[0] != "processes"]
    if not differences:
        return
    if [name for name, *_ in differences] == ["rows_per_step"]:
        _, before, now = differences[0]
        processes = ours["processes"]
        fix = f"use {theirs['processes']} processes again"
        if before % processes == 0:
            fix += (
                f", or make per_device_train_batch_size x gradient_accumulation_steps {before // processes} with "
                f"{processes}"
            )
        raise TrainingError(
            f"{place} is of a run with {before} rows a step ({theirs['processes']} processes), this one has {now} "
            f"({processes}): some text would be read twice, or never",
            fix=fix,
        )
    told = ", ".join(f"{name} was {before!r} and is {now!r}" for name, before, now in differences)
    raise TrainingError(
        f"{place} is of another run: {told}",
        fix="restore these values, or start in an empty folder; nothing was deleted",
    )


def _differences(before: Any, now: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted field, before, now) of every leaf that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted(before.keys() | now.keys()):
            place = f"{prefix}.{name}" if prefix else name
            yield from _differences(before.get(name), now.get(name), place)
    elif before != now:
        yield prefix, before, now

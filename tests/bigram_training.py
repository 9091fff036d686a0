"""A run of the smallest learner, in this process or in one that may be killed."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from bigram_learner import BigramLearner, batch_key
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.loop import Surroundings, Training
from nexus_llm.train.packing import PackedRows, pack
from tiny_training import make_shard

SEED = 7


def train_recipe(**changes: Any) -> TrainRecipe:
    settings = {
        "max_length": 32,
        "max_steps": 40,
        "save_steps": 5,
        "eval_steps": 10,
        "warmup_steps": 2,
        "learning_rate": 0.5,
        "guard": {"window_steps": 4},
    }
    return TrainRecipe.model_validate(settings | changes)


@lru_cache
def rows(split: str) -> PackedRows:
    lengths, seed = ([40, 12, 30, 25, 9, 31, 60, 18] * 3, 5) if split == "train" else ([20, 33], 6)
    return pack([make_shard(lengths, seed=seed)], max_length=32, objective="continued-pretraining")


def batch_of_step(step: int, *, size: int = 4) -> bytes:
    """The key of the batch of a step, counted from 1."""
    return batch_key(rows("train").batch(SEED, step - 1, size=size))


def start(folder: Path, learner: Any, recipe: TrainRecipe, **more: Any) -> Training:
    settings = {"seed": SEED, "train": rows("train"), "validation": rows("validation"), "folder": folder}
    return Training(learner, recipe=recipe, **(settings | more))


def surroundings(*, stop_at: int | None = None, seconds: Any = lambda: 0.0, seen: list[Any] | None = None) -> Any:
    """Stops after so many steps of this process."""
    seen = [] if seen is None else seen
    return Surroundings(
        on_step=seen.append,
        stop_reason=lambda: "SIGTERM" if stop_at is not None and len(seen) + 1 >= stop_at else None,
        seconds=seconds,
    )


def run(folder: Path, learner: Any, recipe: TrainRecipe, *, stop_at: int | None = None, **more: Any) -> Training:
    training = start(folder, learner, recipe, **more)
    training.run(surroundings(stop_at=stop_at))
    return training


KILLED_RECIPE = train_recipe(
    max_steps=400, save_steps=3, eval_steps=7, load_best_model_at_end=True, guard={"max_skipped_steps": 20}
)


def killed_learner() -> BigramLearner:
    """Two batches that cannot be used, a stretch that makes the loop go back, and checkpoints that take a while."""
    factors = dict.fromkeys((batch_of_step(step) for step in (30, 111)), math.nan)
    factors |= dict.fromkeys((batch_of_step(step) for step in (200, 201, 202)), 50.0)
    return BigramLearner(dropout=0.1, factors=factors, ballast=200_000)


def run_to_be_killed(folder: Path) -> None:
    """Writes `result` when it comes to its end: the digest of all that was learned, and what was recorded."""
    import torch

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    learner = killed_learner()
    made = run(folder, learner, KILLED_RECIPE)
    partial = folder / f"result.{os.getpid()}"
    partial.write_text(repr((learner.digest(), made.validation_losses, made.history, made.totals)), encoding="utf-8")
    partial.rename(folder / "result")

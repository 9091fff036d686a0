"""Training of any causal language model of transformers, on a CPU or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.recipe import TrainRecipe

if TYPE_CHECKING:
    from nexus_llm.train.hf.learner import TransformersLearner


def build(model_folder: Path, recipe: TrainRecipe, *, seed: int, base: str) -> TransformersLearner:
    """The learner for the model in `model_folder`; an adapter will name `base` as its base model. Errors: see `load`.

    Chooses a CUDA GPU if there is one.
    """
    from nexus_llm.train.hf.learner import TransformersLearner
    from nexus_llm.train.hf.load import load

    return TransformersLearner(load(model_folder, recipe, seed=seed, base=base))

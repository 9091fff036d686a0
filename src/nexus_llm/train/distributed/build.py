"""The learner that a recipe's distributed section asks for."""

from __future__ import annotations

from pathlib import Path

from nexus_llm.errors import RecipeError, UsageError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.distributed.process_group import TorchRanks
from nexus_llm.train.hf.learner import TransformersLearner


def build(model_folder: Path, recipe: TrainRecipe, ranks: TorchRanks, *, seed: int, base: str) -> TransformersLearner:
    """The learner of this process; all processes call it together. Errors: see `hf.load.load`.

    Raises:
        UsageError: there are other processes than the recipe says.
        RecipeError: a method or option that the strategy cannot do.
        MissingExtraError: DeepSpeed is not installed.
    """
    from nexus_llm.train.hf.load import load

    distributed = recipe.distributed
    expected = distributed.num_processes * distributed.num_machines
    if ranks.size != expected:
        raise UsageError(
            f"{ranks.size} processes were started, and the recipe's train.distributed says {expected}",
            fix="start as many, or set num_processes and num_machines",
        )
    strategy = distributed.strategy
    if recipe.method == "qlora" and strategy != "ddp":
        raise RecipeError(
            f"train.method qlora keeps 4-bit weights, which strategy {strategy} cannot divide",
            fix="set train.distributed.strategy to ddp, or train.method to lora",
        )
    if recipe.objective == "dpo" and strategy != "ddp":
        # Its loss reads the head outside of the forward pass, when the weight is divided again.
        raise RecipeError(
            f"train.objective dpo cannot be trained with strategy {strategy}",
            fix="set train.distributed.strategy to ddp: with LoRA every process holds the base model and little more",
        )
    on_cpu = strategy == "fsdp" or (strategy == "deepspeed" and distributed.zero_stage == 3)
    packed = load(model_folder, recipe, seed=seed, base=base, device="cpu" if on_cpu else str(ranks.device))
    if strategy == "ddp":
        from nexus_llm.train.distributed.ddp import DdpLearner

        return DdpLearner(packed, ranks)
    if strategy == "fsdp":
        from nexus_llm.train.distributed.fsdp import FsdpLearner

        return FsdpLearner(packed, ranks, offload=distributed.offload_param or distributed.offload_optimizer)
    if strategy == "deepspeed":
        from nexus_llm.train.distributed.zero import ZeroLearner

        return ZeroLearner(packed, ranks)
    raise RecipeError(f"strategy {strategy!r} is no strategy of several processes", fix="use ddp, fsdp or deepspeed")

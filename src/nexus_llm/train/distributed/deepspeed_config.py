"""A recipe as DeepSpeed's configuration.

Source: deepspeed.ai/docs/config-json and deepspeed 0.19.8, read 2026-11.
"""

from __future__ import annotations

from typing import Any

from nexus_llm.recipe import TrainRecipe


def configuration(recipe: TrainRecipe, *, processes: int) -> dict[str, Any]:
    """DeepSpeed's configuration for `recipe` in `processes` processes."""
    rows, passes = recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps
    return {
        "train_batch_size": rows * passes * processes,
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": recipe.max_grad_norm,
        # We say when a step ends: DeepSpeed's own count is lost when a step is skipped or resumed.
        "managed_gradient_accumulation": False,
        "bf16": {"enabled": recipe.dtype == "bfloat16", "check_grad_overflow": True},
        # Sums over processes and passes in float32: bfloat16 would lose the contributions of late passes.
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": _zero(recipe),
        "zero_allow_untested_optimizer": True,
        # Our AdamW runs on the CPU as well; DeepSpeed's own would have to be compiled on the spot.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
    }


def _zero(recipe: TrainRecipe) -> dict[str, Any]:
    distributed = recipe.distributed
    zero: dict[str, Any] = {
        "stage": distributed.zero_stage,
        "contiguous_gradients": True,
        # Overlap needs streams of its own; with grad accumulation in our hands DeepSpeed offers it to stage 2 alone.
        "overlap_comm": False,
    }
    if distributed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if distributed.offload_param:
        zero["offload_param"] = {"device": "cpu"}
    return zero

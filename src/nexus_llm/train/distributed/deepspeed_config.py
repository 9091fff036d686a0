"""A recipe as DeepSpeed's configuration.

Source: deepspeed.ai/docs/config-json and deepspeed 0.19.8, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_llm.errors import RecipeError
from nexus_llm.recipe import TrainRecipe

_DERIVED = {
    "train_batch_size": "per_device_train_batch_size x gradient_accumulation_steps x processes",
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
}
_REFUSED = {
    "optimizer": "the optimizer is ours, so that a checkpoint fits every strategy",
    "scheduler": "the learning rate is lr_scheduler_type's",
    "device_map": "a launcher has given each process its device",
}


def configuration(
    recipe: TrainRecipe, *, processes: int, model_dtype: str | None = None, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """DeepSpeed's configuration for `recipe` in `processes` processes, with a user's `extra` keys added to it.

    `model_dtype` is the type that the base model's config.json states.

    Raises:
        RecipeError: offload_param without stage 3, fp16 for a bfloat16 model, or an extra key that contradicts.
    """
    extra = dict(extra or {})
    _refuse(recipe, extra, model_dtype)
    rows, passes = recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps
    made: dict[str, Any] = {
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
    for key, value in extra.items():
        if key in _DERIVED and value not in ("auto", made[key]):
            raise RecipeError(
                f"DeepSpeed's {key} is given as {value!r}, and the recipe makes it {made[key]!r}",
                fix=f"leave {key} out: it follows from train.{_DERIVED[key]}",
            )
        if key not in made:
            made[key] = value
        elif isinstance(value, Mapping):
            made[key] = _joined(key, made[key], value)
    return made


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


def _refuse(recipe: TrainRecipe, extra: Mapping[str, Any], model_dtype: str | None) -> None:
    distributed = recipe.distributed
    zero = extra.get("zero_optimization") or {}
    stage = zero.get("stage", distributed.zero_stage)
    if stage != 3 and (distributed.offload_param or zero.get("offload_param")):
        raise RecipeError(
            f"train.distributed.offload_param does nothing with zero_stage {stage}",
            fix="set train.distributed.zero_stage to 3, or offload_optimizer in place of offload_param",
        )
    if (extra.get("fp16") or {}).get("enabled"):
        stated = "bfloat16" if "bfloat16" in (model_dtype, recipe.dtype) else recipe.dtype
        raise RecipeError(
            f"DeepSpeed's fp16 is enabled for a {stated} model, whose values may exceed float16's largest, 65,504",
            fix="leave fp16 out: train.dtype decides between bfloat16 and float32",
        )
    if extra.get("bf16", {}).get("enabled", recipe.dtype == "bfloat16") != (recipe.dtype == "bfloat16"):
        raise RecipeError(f"DeepSpeed's bf16 contradicts train.dtype {recipe.dtype}", fix="leave bf16 out")
    for key, reason in _REFUSED.items():
        if key in extra:
            raise RecipeError(f"DeepSpeed's {key} cannot be given: {reason}", fix=f"leave {key} out")


def _joined(key: str, made: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name in made and made[name] != value:
            raise RecipeError(
                f"DeepSpeed's {key}.{name} is given as {value!r}, and the recipe makes it {made[name]!r}",
                fix="change the recipe's train section instead",
            )
    return {**made, **given}

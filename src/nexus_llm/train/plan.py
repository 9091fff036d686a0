"""What a training run needs, before it starts: memory of each part, time, and cost. Pure numbers.

The bytes of one process are added up at five moments: loading, the loss, the first and the last layer of the backward
pass, and the update. The largest sum is the plan. docs/training-plan.md says how each number comes about, and
`benchmarks/train_memory.py` compares it with the memory that processes really took.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nexus_llm import arithmetic
from nexus_llm.arithmetic import Shape
from nexus_llm.errors import TrainingError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.activations import Activations, Device, Implementation, activations
from nexus_llm.train.run_identity import rows_per_step

GB = 10**9
# Same layers, different sizes and biases. Each is compared with transformers in a test.
FUSED_MODEL_TYPES = ("llama", "mistral", "qwen2")
# Weights whose gradients become float32 at one time in the update (train/hf/optimizer.py; a test compares).
WEIGHTS_AT_ONCE = 2**26
# Python with torch and transformers and what the first step adds for good, resident. Measured with
# torch 2.13 on x86_64, one thread (2026-11). A GPU's context and its libraries' workspaces: assumed, not measured.
RUNTIME_BYTES: Mapping[tuple[Implementation, Device], int] = {
    ("fused", "cpu"): 450_000_000,
    ("transformers", "cpu"): 650_000_000,
    ("transformers", "cuda"): 1_000_000_000,
}
# The same before the first step.
LOADING_BYTES = 400_000_000
# What comes and goes in a step leaves holes: glibc keeps blocks up to 32 MB for the next time. Measured 0.22 to 0.26
# for 0.1 to 3.5 GB of activations (2026-11). torch's CUDA allocator: assumed, not measured.
ALLOCATOR_SHARE: Mapping[Device, float] = {"cpu": 0.25, "cuda": 0.05}
# DeepSpeed sums gradients in buckets of so many (`reduce_bucket_size`, its default).
REDUCE_BUCKET = 500_000_000

Place = Literal["device", "host"]


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one kind, at the moment of the peak."""

    name: str
    bytes: int
    place: Place
    """`host` is the memory of the machine beside its GPUs."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What the run needs at its peak."""

    model: Shape
    recipe: TrainRecipe
    implementation: Implementation
    device: Device
    moment: str
    """When the peak is."""
    parts: tuple[Part, ...]

    @property
    def device_bytes(self) -> int:
        """Needed of one GPU; on a CPU of the machine, for all its processes."""
        return sum(part.bytes for part in self.parts if part.place == "device")

    @property
    def host_bytes(self) -> int:
        """Needed of a machine's own memory, for all its processes, beside GPUs. On a CPU 0: it is the device."""
        return sum(part.bytes for part in self.parts if part.place == "host")

    @property
    def rows_per_step(self) -> int:
        """Packed rows of one optimizer step, in all processes."""
        return rows_per_step(self.recipe, processes=_processes(self.recipe))

    @property
    def tokens(self) -> int:
        """Places for tokens in the whole run, padding included."""
        return self.rows_per_step * self.recipe.max_length * self.recipe.max_steps

    @property
    def flops_per_token(self) -> float:
        """Work of one token when rows are full and each is one document: the most."""
        adapters = None if self.recipe.method == "full" else _trained(self.model, self.recipe)
        return arithmetic.training_flops_per_token(
            self.model,
            context_tokens=self.recipe.max_length / 2,
            trained_adapter_parameters=adapters,
            checkpointing=self.recipe.gradient_checkpointing,
        )


def resolved(config: Mapping[str, Any], recipe: TrainRecipe, *, device: Device) -> Implementation:
    """The implementation that `train.implementation` means for this model.

    Raises:
        TrainingError: `fused`, and the fused layers cannot do what the recipe asks for.
    """
    reason = None if recipe.implementation == "transformers" else _why_not_fused(config, recipe)
    if recipe.implementation == "fused" and reason:
        raise TrainingError(
            f"train.implementation is fused, and {reason}", fix="set train.implementation to auto or transformers"
        )
    is_fused = recipe.implementation == "fused" or (recipe.implementation == "auto" and not reason and device == "cpu")
    return "fused" if is_fused else "transformers"


def why_not_fused_model(config: Mapping[str, Any]) -> str | None:
    """The reason why the fused layers cannot train a model with this config.json, or None where they can."""
    kind, activation, bias = config.get("model_type"), config.get("hidden_act", "silu"), config.get("mlp_bias", False)
    if kind not in FUSED_MODEL_TYPES:
        return f"a model of type {kind!r} is not fused ({', '.join(FUSED_MODEL_TYPES)} are)"
    if activation != "silu" or bias:
        return f"this {kind} model has an unusual feed-forward layer (activation {activation}, bias {bias})"
    return None


def _why_not_fused(config: Mapping[str, Any], recipe: TrainRecipe) -> str | None:
    strategy = recipe.distributed.strategy
    refused = {
        f"train.method {recipe.method} is not fused": recipe.method not in ("lora", "full"),
        "train.objective dpo is not fused": recipe.objective == "dpo",
        f"train.distributed.strategy {strategy} needs several processes": strategy != "none",
        "train.gradient_checkpointing is not fused": recipe.gradient_checkpointing,
    }
    return next((reason for reason, applies in refused.items() if applies), None) or why_not_fused_model(config)


def memory(
    config: Mapping[str, Any],
    recipe: TrainRecipe,
    *,
    implementation: Implementation | None = None,
    device: Device = "cpu",
) -> MemoryPlan:
    """The peak of `recipe` with the model of this config.json; without an implementation, with the one it resolves to.

    The copy of masters and moments that is written while training goes on is counted. DPO is planned as if its pairs
    were rows.

    Raises:
        ModelError: a model of this kind is not counted.
        TrainingError: the fused layers cannot do what the recipe asks for.
    """
    model = arithmetic.shape(config)
    if implementation is None:
        implementation = resolved(config, recipe, device=device)
    here = activations(model, recipe, implementation=implementation, device=device)
    kept = _kept(model, recipe, implementation, device)
    place: Place = "device" if device == "cpu" else "host"
    kept["snapshot", place] = 3 * _share(4 * _trained(model, recipe), recipe, divided=_divides(recipe, 1))
    moments = _moments(model, recipe, kept, here, implementation, device)
    peak = max(moments, key=lambda name: sum(size for (_, place), size in moments[name].items() if place == "device"))
    processes = recipe.distributed.num_processes
    parts = tuple(
        Part(name, size * (processes if place == "host" or device == "cpu" else 1), place)
        for (name, place), size in moments[peak].items()
        if size
    )
    return MemoryPlan(model, recipe, implementation, device, peak, parts)


Bytes = dict[tuple[str, Place], int]


def _moments(
    model: Shape,
    recipe: TrainRecipe,
    kept: Bytes,
    here: Activations,
    implementation: Implementation,
    device: Device,
) -> dict[str, Bytes]:
    """Moment → (part, place) → bytes of one process."""
    full, grown = _gradient_bytes(model, recipe, implementation)
    layer, inputs = here.layer, here.layer_input
    stored = model.layers * (inputs if recipe.gradient_checkpointing else layer)
    again = layer - inputs if recipe.gradient_checkpointing else 0
    gathered = _gathered(model, recipe)
    passing: dict[str, Bytes] = {
        "while the loss is computed": {
            ("gradients", "device"): full - grown,
            ("activations", "device"): stored + here.masks,
            ("logits and loss", "device"): here.loss,
        },
        "in the last layer's backward pass": {
            ("gradients", "device"): full - grown,
            ("activations", "device"): stored + here.masks,
            ("logits and loss", "device"): here.head_gradients,
            ("one layer at work", "device"): again + here.working,
        },
        "in the first layer's backward pass": {
            ("gradients", "device"): full,
            ("activations", "device"): inputs + here.masks,
            ("logits and loss", "device"): here.head_gradients,
            ("one layer at work", "device"): layer - inputs + here.working,
        },
    }
    moments: dict[str, Bytes] = {}
    for name, parts in passing.items():
        transient = sum(size for (part, _), size in parts.items() if part != "gradients")
        holes = int(ALLOCATOR_SHARE[device] * transient)
        moments[name] = kept | parts | {("gathered weights", "device"): gathered, ("allocator", "device"): holes}
    update = 0 if implementation == "fused" else 4 * min(WEIGHTS_AT_ONCE, _trained(model, recipe))
    moments["in the update"] = kept | {("gradients", "device"): full, ("update", "device"): update}
    if device == "cpu":  # the mapped file and the model made of it
        read = 2 * arithmetic.weight_bytes(model, recipe.dtype)
        moments["while loading"] = {("runtime", "device"): LOADING_BYTES, ("weights", "device"): read}
    for parts in moments.values():
        if _offloads(recipe):
            parts.pop(("gradients", "device"), None)
            parts["gradients", "host"] = full
    return moments


def _kept(model: Shape, recipe: TrainRecipe, implementation: Implementation, device: Device) -> Bytes:
    """Part → bytes of one process from the first step to the last."""
    trained, width = _trained(model, recipe), _width(recipe)
    base = arithmetic.weight_bytes(model, "nf4" if recipe.method == "qlora" else recipe.dtype, other=recipe.dtype)
    weights = base if recipe.method == "full" else base + width * trained
    if recipe.distributed.strategy == "fsdp" or (implementation == "transformers" and recipe.dtype == "float32"):
        weights -= width * trained  # the float32 copies are the weights themselves
    weights = _share(weights, recipe, divided=_divides(recipe, 3))
    state: Place = "host" if _offloads(recipe) else "device"
    place: Place = (
        "host" if recipe.distributed.offload_param and recipe.distributed.strategy == "deepspeed" else "device"
    )
    return {
        ("runtime", "device"): RUNTIME_BYTES[implementation, device],
        ("weights", place): weights,
        ("float32 masters", state): _share(4 * trained, recipe, divided=_divides(recipe, 1)),
        ("optimizer moments", state): _share(8 * trained, recipe, divided=_divides(recipe, 1)),
    }


def _gradient_bytes(model: Shape, recipe: TrainRecipe, implementation: Implementation) -> tuple[int, int]:
    """(at the end of the backward pass, of which made in this very pass)."""
    trained = _trained(model, recipe)
    if implementation == "fused":
        return 4 * trained, 0  # they have their place from the start
    one_pass = recipe.gradient_accumulation_steps == 1
    alone = recipe.distributed.strategy == "none"
    size = _share((_width(recipe) if one_pass and alone else 4) * trained, recipe, divided=_divides(recipe, 2))
    return size, size if one_pass else 0


def _gathered(model: Shape, recipe: TrainRecipe) -> int:
    """Bytes of divided weights that are whole for a while, and of buckets that gradients are summed in."""
    counted, width, full = arithmetic.parameters(model), _width(recipe), recipe.method == "full"
    layer = (counted.attention + counted.feed_forward) // model.layers
    outside = counted.embedding + counted.head
    whole = 0
    if _divides(recipe, 3):
        # The layer at work, the next one on its way, and what belongs to no layer; with gradients where all learn.
        whole = width * (2 * layer + outside) + (width * (layer + outside) if full else 0)
    if recipe.distributed.strategy == "deepspeed":
        whole += width * min(REDUCE_BUCKET, _trained(model, recipe))
    return whole


def _divides(recipe: TrainRecipe, stage: int) -> bool:
    """Whether the processes share what ZeRO's `stage` adds: 1 masters and moments, 2 gradients, 3 weights."""
    distributed = recipe.distributed
    return distributed.strategy == "fsdp" or (distributed.strategy == "deepspeed" and distributed.zero_stage >= stage)


def _offloads(recipe: TrainRecipe) -> bool:
    return recipe.distributed.strategy == "deepspeed" and recipe.distributed.offload_optimizer


def _share(size: int, recipe: TrainRecipe, *, divided: bool) -> int:
    return math.ceil(size / _processes(recipe)) if divided else size


def _processes(recipe: TrainRecipe) -> int:
    return recipe.distributed.num_processes * recipe.distributed.num_machines


def _trained(model: Shape, recipe: TrainRecipe) -> int:
    """Parameters that learn."""
    if recipe.method == "full":
        return arithmetic.parameters(model).total
    return arithmetic.adapter_parameters(
        model, rank=recipe.lora_r, target_modules=recipe.target_modules, magnitudes=recipe.method == "dora"
    )


def _width(recipe: TrainRecipe) -> int:
    return 2 if recipe.dtype == "bfloat16" else 4


def report(plan: MemoryPlan) -> list[tuple[str, str, str]]:
    """Rows for a table: part, GB, where; the last are the sums."""
    machine = "memory" if plan.device == "cpu" else "GPU"
    where = {"device": machine, "host": "machine's memory"}
    rows = [(part.name, f"{part.bytes / GB:.2f}", where[part.place]) for part in plan.parts]
    rows.append((f"peak, {plan.moment}", f"{plan.device_bytes / GB:.2f}", machine))
    if plan.host_bytes:
        rows.append(("beside it", f"{plan.host_bytes / GB:.2f}", where["host"]))
    return rows


def to_json(plan: MemoryPlan) -> dict[str, Any]:
    """The plan as plain values; sizes in bytes."""
    return {
        "implementation": plan.implementation,
        "device": plan.device,
        "moment": plan.moment,
        "parts": [asdict(part) for part in plan.parts],
        "device_bytes": plan.device_bytes,
        "host_bytes": plan.host_bytes,
        "rows_per_step": plan.rows_per_step,
        "tokens": plan.tokens,
        "flops_per_token": plan.flops_per_token,
        "trainable_parameters": _trained(plan.model, plan.recipe),
        "total_parameters": arithmetic.parameters(plan.model).total,
    }

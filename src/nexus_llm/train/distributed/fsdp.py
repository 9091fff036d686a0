"""FSDP2: every process holds a share of each weight, its gradient and its moments, and gathers a layer when it runs.

Source: torch.distributed.fsdp.fully_shard (docs.pytorch.org, torch 2.13); Zhao et al. 2023, arXiv:2304.11277.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from nexus_llm.errors import TrainingError
from nexus_llm.train.distributed.process_group import TorchRanks
from nexus_llm.train.distributed.slices import Part, Slice, places, refuse_other_places, stretches
from nexus_llm.train.hf import attention
from nexus_llm.train.hf.learner import TransformersLearner, write
from nexus_llm.train.hf.packed import PackedModel
from nexus_llm.train.packing import Batch


class FsdpLearner(TransformersLearner):
    """A `Learner` over shares. Weights that learn are float32 and gathered in the recipe's type; their gradients are
    summed in float32."""

    is_sharded = True

    def __init__(self, packed: PackedModel, ranks: TorchRanks, *, offload: bool = False) -> None:
        """`packed` lies on the CPU, the same in every process. `offload` keeps shares and optimizer there.

        Raises:
            TrainingError: a weight was not divided.
        """
        self._ranks = ranks
        self._trainable = sum(weight.numel() for weight in packed.learning().values())
        divide(packed, ranks, offload=offload)
        if ranks.device.type == "cuda":
            choose_attention(packed, ranks.device)
        super().__init__(packed, hooks=False)
        self._places = places({name: _share(weight) for name, weight in packed.learning().items()})

    def loss(self, batch: Batch) -> float:
        found = super().loss(batch)
        # Without a backward pass the outermost weights would stay gathered, and miss what is restored before the next.
        self.packed.reshard()
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Shares, and where they lie: see the module `slices`."""
        return super().tensors() | self._places

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        refuse_other_places(tensors, like=self._places)
        super().restore(tensors)

    def restore_parts(self, parts: Sequence[Part]) -> None:
        """Takes this process's shares out of what all processes of any run saved."""
        self.restore(stretches(parts, like=self.tensors()))

    def norm(self) -> float:
        return math.sqrt(self._ranks.total(self.optimizer.squared_norm()))

    def whole_weights(self) -> dict[str, Tensor]:
        """Gathered one after another by all; kept by process 0 on the CPU, nothing elsewhere."""
        gathered = {}
        for name, weight in self.packed.learning().items():
            full = weight.full_tensor().detach()
            if self._ranks.rank == 0:
                gathered[name] = full.to("cpu", torch.float32)
        return gathered

    def write(self, folder: Path) -> Path:
        weights = self.whole_weights()
        path = write(self.packed, weights, folder) if self._ranks.rank == 0 else folder
        self._ranks.barrier()
        return path

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"strategy": "fsdp", "trainable_parameters": self._trainable}


def divide(packed: PackedModel, ranks: TorchRanks, *, offload: bool) -> None:
    """Divides every weight of `packed` among the processes, layer by layer, so that no GPU ever holds them all.

    Raises:
        TrainingError: a weight was not divided.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    policy = MixedPrecisionPolicy(param_dtype=packed.dtype, reduce_dtype=torch.float32)
    memory = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
    for module in [*packed.layers, packed]:
        for parameter in module.parameters():
            # The share that learns is the master; what is only read stays as narrow as it was loaded.
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                parameter.data = parameter.data.float()
        fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=memory)
    for module in packed.modules():
        if isinstance(module, FSDPModule):
            # Sums, not means: the loss was divided by the tokens of all processes already.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    _refuse_undivided(packed)


def choose_attention(packed: PackedModel, device: torch.device) -> None:
    """Chooses the attention again where the model will run: it was loaded on the CPU, which knows fewer kinds."""
    probe: Any = _DividedModel(packed)
    packed.attention = attention.choose(
        probe, device=str(device), dtype=packed.dtype, max_length=packed.recipe.max_length
    )


class _DividedModel:
    """As much of a transformers model as `attention.choose` asks for, with every call through FSDP's root."""

    def __init__(self, packed: PackedModel) -> None:
        self._packed = packed
        self.config, self.training = packed.model.config, packed.training
        self.set_attn_implementation = packed.model.set_attn_implementation
        self.get_input_embeddings = packed.model.get_input_embeddings
        self.train, self.eval = packed.train, packed.eval

    def base_model(self, **inputs: Any) -> tuple[Tensor]:
        inputs.pop("use_cache")  # the packed model never does
        try:
            hidden: Tensor = self._packed(inputs)
        except Exception:
            self._packed.reset_iter_state()
            raise
        return (hidden.unflatten(0, tuple(inputs["input_ids"].shape)),)


def _refuse_undivided(packed: nn.Module) -> None:
    for name, parameter in packed.named_parameters():
        if not isinstance(parameter, DTensor):
            raise TrainingError(
                f"FSDP2 left {name} undivided, a {type(parameter).__name__}",
                fix="report it with the model's config.json; strategy deepspeed with zero_stage 3 divides it otherwise",
            )


def _share(parameter: nn.Parameter) -> Slice:
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    row = int(torch.Size(parameter.shape[1:]).numel())
    count = int(torch.Size(shape).numel())
    # Shares are rows: contiguous when laid flat. A process beyond the last row has none.
    return Slice(tuple(parameter.shape), int(offset[0]) * row if count else 0, count)

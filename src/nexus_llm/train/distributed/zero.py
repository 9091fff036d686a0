"""DeepSpeed ZeRO 1, 2 and 3: optimizer, gradients and weights divided among the processes, on GPUs or in memory.

DeepSpeed divides, sums and gathers; the update rule and what a checkpoint holds are those of every other strategy.

Source: Rajbhandari et al. 2020, arXiv:1910.02054; deepspeed 0.19.8.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nexus_llm.errors import DataError, MissingExtraError
from nexus_llm.train.distributed.deepspeed_config import configuration
from nexus_llm.train.distributed.process_group import TorchRanks
from nexus_llm.train.distributed.slices import Part, Slice, places, refuse_other_places, stretches
from nexus_llm.train.distributed.zero_shares import ZeroShares
from nexus_llm.train.hf.learner import TransformersLearner, write
from nexus_llm.train.hf.optimizer import BETA_1, BETA_2, EPSILON
from nexus_llm.train.hf.packed import PackedModel
from nexus_llm.train.packing import Batch


class ZeroLearner(TransformersLearner):
    """A `Learner` whose optimizer (stage 1), gradients (2) and weights (3) are DeepSpeed's shares."""

    is_sharded = True

    def __init__(self, packed: PackedModel, ranks: TorchRanks) -> None:
        """`packed` is the same in every process.

        Raises:
            MissingExtraError: deepspeed is not installed.
        """
        self.packed, self._recipe, self._ranks = packed, packed.recipe, ranks
        self._learning = packed.learning()
        # Stage 3 leaves empty tensors in the model, so all that is asked of their shapes is asked now.
        self._vocabulary = packed.vocabulary
        self._trainable = sum(weight.numel() for weight in self._learning.values())
        self._shapes = {name: tuple(weight.shape) for name, weight in self._learning.items()}
        self._engine = _engine(packed, ranks)
        self.module = self._engine
        self._shares = ZeroShares(self._engine.optimizer, self._learning, rank=ranks.rank)
        self._places = places({name: self._slice(name) for name in self._learning})

    def backward(self, loss: Tensor) -> None:
        if loss.requires_grad:
            # DeepSpeed makes a mean of what we want the sum of.
            self._engine.backward(loss * self._ranks.size, scale_wrt_gas=False)

    def update(self, number: int, *, learning_rate: float, max_grad_norm: float) -> float:
        optimizer = self._engine.optimizer
        optimizer.clip_grad = max_grad_norm
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        self._shares.set_step(number)
        self._engine.step()
        return math.inf if optimizer.overflow else float(self._engine.get_global_grad_norm())

    def forget_gradients(self) -> None:
        self._shares.forget_gradients()

    def tensors(self) -> dict[str, Tensor]:
        """Shares, and where they lie: see the module `slices`."""
        return self._shares.tensors() | self._places

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        refuse_other_places(tensors, like=self._places)
        self._shares.restore(tensors)

    def restore_parts(self, parts: Sequence[Part]) -> None:
        """Takes this process's shares out of what all processes of any run saved."""
        self.restore(stretches(parts, like=self.tensors()))

    def whole_weights(self) -> dict[str, Tensor]:
        """Gathered one after another by all; kept by process 0 on the CPU, nothing elsewhere."""
        from deepspeed.utils import safe_get_full_fp32_param

        gathered = {}
        for name, weight in self._learning.items():
            full = safe_get_full_fp32_param(weight)
            if self._ranks.rank == 0:
                gathered[name] = full.to("cpu", torch.float32).view(self._shapes[name])
        return gathered

    def write(self, folder: Path) -> Path:
        weights = self.whole_weights()
        path = write(self.packed, weights, folder) if self._ranks.rank == 0 else folder
        self._ranks.barrier()
        return path

    def describe(self) -> dict[str, Any]:
        packed, distributed = self.packed, self._recipe.distributed
        return {
            "implementation": "transformers",
            "method": self._recipe.method,
            "device": packed.device,
            "attention": packed.attention.implementation,
            "trainable_parameters": self._trainable,
            "total_parameters": packed.origin.total_parameters,
            "strategy": "deepspeed",
            "zero_stage": distributed.zero_stage,
        }

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        if (highest := int(batch.token_ids.max())) >= self._vocabulary:
            raise DataError(
                f"a batch holds token id {highest}, and the model's vocabulary ends at {self._vocabulary - 1}",
                fix="make the data with the tokenizer of the model that is trained",
            )
        return self.packed.attention.inputs(batch, device=str(self._ranks.device), dtype=self.packed.dtype)

    def _slice(self, name: str) -> Slice:
        start, count = self._shares.stretch(name)
        return Slice(self._shapes[name], start, count)


def _engine(packed: PackedModel, ranks: TorchRanks) -> Any:
    deepspeed = _deepspeed()
    recipe = packed.recipe
    made = configuration(recipe, processes=ranks.size)
    deepspeed.init_distributed()  # takes the open process group; without it, Init would count one process
    if recipe.distributed.zero_stage == 3:
        # Divides weight by weight, so that no GPU ever holds the whole model.
        deepspeed.zero.Init(module=packed, config_dict_or_path=made)
    with redirect_stdout(sys.stderr):
        engine, *_ = deepspeed.initialize(model=packed, optimizer=_optimizer(packed), config=made)
    # Without bfloat16, DeepSpeed would look at no gradient before applying it.
    engine.optimizer.check_grad_overflow = True
    return engine


def _optimizer(packed: PackedModel) -> torch.optim.Optimizer:
    """AdamW as in every other strategy; DeepSpeed puts its shares in place of the weights."""

    def dimensions(weight: nn.Parameter) -> int:
        return len(getattr(weight, "ds_shape", weight.shape))

    weights = list(packed.learning().values())
    groups = [
        {"params": [one for one in weights if dimensions(one) > 1], "weight_decay": packed.recipe.weight_decay},
        {"params": [one for one in weights if dimensions(one) <= 1], "weight_decay": 0.0},
    ]
    # Learning rate 0: stage 1 takes a step of zero gradients to make its moments, which must decay nothing.
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=(BETA_1, BETA_2), eps=EPSILON, fused=True
    )


def _deepspeed() -> Any:
    # It logs to stdout, which belongs to `--json`.
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr):
            import deepspeed
    except ImportError as error:
        raise MissingExtraError.for_extra("deepspeed", "deepspeed") from error
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # Among CPUs it would compile a kernel of its own at the first start (4 minutes on 2 cores); Gloo does the same.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings(
        "ignore", r"`torch\.distributed\.(all_gather_into_tensor|reduce_scatter_tensor)`", FutureWarning
    )
    return deepspeed

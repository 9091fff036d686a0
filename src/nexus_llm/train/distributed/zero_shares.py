"""What this process holds of weights and moments under DeepSpeed ZeRO, as stretches of each weight laid flat.

Stages 1 and 2 lay all weights of a group end to end and cut the whole into equal parts, so a process holds some
weights, and pieces of at most two. Stage 3 cuts each weight into equal parts, the last of them padded. The public
`safe_get_*` functions gather whole weights; here the shares themselves are needed, so the places are DeepSpeed's own
(0.19.8: `_hp_mapping`, `grad_position`, `fp32_partitioned_groups_flat`). Tests hold them to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}


class ZeroShares:
    """The shares of one process, as views of DeepSpeed's own tensors."""

    def __init__(self, optimizer: Any, learning: Mapping[str, nn.Parameter], *, rank: int) -> None:
        """`optimizer` is the engine's, `learning` the weights that it learns."""
        self._zero, self._learning, self._rank = optimizer, dict(learning), rank
        self._is_stage_3 = hasattr(optimizer, "fp32_partitioned_groups_flat")
        for flat in self._flats():
            state = optimizer.optimizer.state[flat]
            if "exp_avg" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
                state |= {"exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat)}

    def stretch(self, name: str) -> tuple[int, int]:
        """(first value, number of values) of a weight laid flat that this process holds."""
        _, _, start, count = self._place(self._learning[name])
        return start, count

    def tensors(self) -> dict[str, Tensor]:
        """`master/NAME`, `first/NAME` and `second/NAME`, flat."""
        found: dict[str, Tensor] = {}
        flats = self._flats()
        for group in ("master", *_MOMENTS):
            for name, weight in self._learning.items():
                index, offset, _, count = self._place(weight)
                flat = flats[index]
                source = flat if group == "master" else self._zero.optimizer.state[flat][_MOMENTS[group]]
                found[f"{group}/{name}"] = source.detach().narrow(0, offset, count)
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over shares, and lets the model compute with them."""
        for name, share in self.tensors().items():
            share.copy_(tensors[name].flatten())
        if not self._is_stage_3:
            self._zero.update_lp_params()
            return
        # As at the end of DeepSpeed's own step.
        self._zero._partition_all_parameters()
        for index in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(index)
        if kept_whole := self._zero.persistent_parameters:
            kept_whole[0].all_gather(kept_whole)

    def set_step(self, number: int) -> None:
        """The next update is step `number`, from 0: AdamW adds the one by which it corrects its moments."""
        for flat in self._flats():
            self._zero.optimizer.state[flat]["step"].fill_(float(number))

    def forget_gradients(self) -> None:
        """Drops what was added since the last step, as DeepSpeed does when a value is no number."""
        zero = self._zero
        zero.zero_grad(set_to_none=True)
        if self._is_stage_3:
            zero._overflow_clean_up(zero.loss_scale)
            return
        if hasattr(zero, "clear_hp_grads"):  # stage 1 over bfloat16
            zero.clear_hp_grads()
            zero.clear_lp_grads()
            return
        zero._release_preflattened_grad_buffers()
        if zero.cpu_offload:
            zero.reset_cpu_buffers()
        for key in zero.averaged_gradients:
            zero.averaged_gradients[key] = zero.all_grad_tensors[key] = None

    def _flats(self) -> list[Tensor]:
        """The float32 tensors that hold all shares of a group, one after another."""
        for name in (
            "fp32_partitioned_groups_flat",  # stage 3
            "fp32_groups_flat_partition",  # stage 1 over bfloat16
            "single_partition_of_fp32_groups",
        ):
            if hasattr(self._zero, name):
                return list(getattr(self._zero, name))
        raise AssertionError(f"an unknown optimizer of DeepSpeed: {type(self._zero).__name__}")

    def _place(self, weight: Any) -> tuple[int, int, int, int]:
        """(number of the flat tensor, first value in it, first value in the weight, number of values)."""
        if self._is_stage_3:
            index, offset, size = self._zero.grad_position[self._zero.get_param_id(weight)]
            start = min(size * self._rank, weight.ds_numel)
            return index, offset, start, min(size, weight.ds_numel - start)
        mapping = weight._hp_mapping
        if mapping is None:  # it lies in the shares of others
            return 0, 0, 0, 0
        here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
        return mapping.param_group_index, here.start, there.start, here.numel

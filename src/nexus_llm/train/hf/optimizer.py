"""AdamW for the weights of a torch module, on any device and for the share of them that this process holds.

The rule is that of the fused implementation: float32 copies of bfloat16 weights, float32 moments. Three things differ.
A weight that is float32 already is its own copy. Many tensors are updated by one call, as a GPU needs it. A gradient
keeps the weight's type until a second one is added to it, which loses nothing and spares a step of one forward pass
two bytes a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Kingma and Ba 2015, arXiv:1412.6980, section 2

# Weights updated by one call: 256 MB for their gradients as float32, and few enough calls for a GPU.
WEIGHTS_AT_ONCE = 2**26


class ModuleAdamW:
    """Learns the given parameters of a module; those that are divided among processes in this one's share."""

    def __init__(self, parameters: Mapping[str, Tensor], *, weight_decay: float, hooks: bool = True) -> None:
        """`hooks` takes every gradient as soon as it is made; without them `collect` takes all."""
        self._parameters = dict(parameters)
        self._weight_decay = weight_decay
        self.masters = {name: _float32(own_share(parameter)) for name, parameter in parameters.items()}
        self._first, self._second = (
            {name: torch.zeros_like(master) for name, master in self.masters.items()} for _ in range(2)
        )
        self._gradients: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            if hooks:
                parameter.register_post_accumulate_grad_hook(self._collector(name))

    def collect(self) -> None:
        """Takes over the gradients that lie at the parameters."""
        for name, parameter in self._parameters.items():
            self._take(name, parameter)

    def gradients(self) -> dict[str, Tensor]:
        """The gradients since the last step, float32, one for each parameter, by its name; to be changed in place."""
        for name, master in self.masters.items():
            self._gradients[name] = (
                self._gradients[name].to(torch.float32) if name in self._gradients else torch.zeros_like(master)
            )
        return dict(self._gradients)

    def squared_norm(self) -> float:
        """The sum of the squares of all gradients."""
        if not self._gradients:
            return 0.0
        norms = [torch.linalg.vector_norm(found, dtype=torch.float32) for found in self._gradients.values()]
        return float(torch.stack(norms).double().square().sum())

    def forget_gradients(self) -> None:
        self._gradients.clear()

    def step(self, number: int, *, learning_rate: float, share_kept: float) -> None:
        """Applies the gradients times `share_kept`, as step `number` (from 0), and drops them."""
        for names in self._groups():
            kept = [self._scaled(name, share_kept) for name in names]
            device = kept[0].device
            adamw(
                [self.masters[name] for name in names],
                kept,
                [self._first[name] for name in names],
                [self._second[name] for name in names],
                [],
                list(torch.full((len(names),), float(number), device=device).unbind()),
                fused=True,
                amsgrad=False,
                beta1=BETA_1,
                beta2=BETA_2,
                lr=learning_rate,
                # Norm weights and biases are kept free of decay, as everywhere since BERT.
                weight_decay=self._weight_decay if self._parameters[names[0]].ndim > 1 else 0.0,
                eps=EPSILON,
                maximize=False,
            )
        self.forget_gradients()
        self._publish()

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold: masters and both moments."""
        groups = (("master", self.masters), ("first", self._first), ("second", self._second))
        return {f"{group}/{name}": tensor for group, members in groups for name, tensor in members.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` of an earlier run gave."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(tensors[name])
        self._publish()

    def _scaled(self, name: str, share_kept: float) -> Tensor:
        found = self._gradients.pop(name, None)
        return torch.zeros_like(self.masters[name]) if found is None else found.to(torch.float32).mul_(share_kept)

    def _groups(self) -> list[list[str]]:
        """Names that one call may update: same device and decay, and not too many weights."""
        groups: list[list[str]] = []
        open_groups: dict[Any, tuple[list[str], int]] = {}
        for name, master in self.masters.items():
            key = master.device, self._parameters[name].ndim > 1
            names, size = open_groups.get(key, ([], 0))
            if not names or size + master.numel() > WEIGHTS_AT_ONCE:
                names, size = [], 0
                groups.append(names)
            names.append(name)
            open_groups[key] = names, size + master.numel()
        return groups

    def _publish(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                share, master = own_share(parameter), self.masters[name]
                if share.data_ptr() != master.data_ptr():
                    share.copy_(master)

    def _collector(self, name: str) -> Callable[[Tensor], None]:
        return lambda parameter: self._take(name, parameter)

    def _take(self, name: str, parameter: Tensor) -> None:
        if parameter.grad is None:
            return
        gradient = own_share(parameter.grad)
        parameter.grad = None
        sum_so_far = self._gradients.get(name)
        self._gradients[name] = gradient if sum_so_far is None else sum_so_far.to(torch.float32).add_(gradient)


def own_share(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that may be divided among several (torch's DTensor)."""
    share: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return share.detach()


def _float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32)  # the same memory where it is float32 already

"""AdamW whose state is float32, whatever type the model computes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Kingma and Ba 2015, arXiv:1412.6980, section 2


class MasterAdamW:
    """Learns `parameters` (the leaves that the model computes with) through float32 copies of them, the masters.

    A bfloat16 weight has 8 significant bits, so a step below 1/256 of it would round to nothing; the master keeps it.
    Gradients are added up in float32 as soon as they appear, so those of a whole model never lie in memory twice. Who
    makes one in float32 adds it to `gradients` itself.
    """

    def __init__(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor], *, weight_decay: float) -> None:
        self._parameters = dict(parameters)
        self._weight_decay = weight_decay
        # Own memory, always: the address of a file's mapped bytes may decide how a sum is rounded.
        self.masters = {name: start[name].detach().to(torch.float32, copy=True) for name in parameters}
        self._first, self._second, self.gradients = (
            {name: torch.zeros_like(master) for name, master in self.masters.items()} for _ in range(3)
        )
        for name, parameter in self._parameters.items():
            parameter.requires_grad_()
            parameter.register_post_accumulate_grad_hook(self._collector(name))
        self._publish()

    def step(self, number: int, *, learning_rate: float, max_grad_norm: float) -> float:
        """Applies the gradients collected since the last call, as step `number` (from 0); returns their norm.

        A norm that is not finite changes nothing. Either way the gradients are gone afterwards.
        """
        norm = float(torch.nn.utils.get_total_norm(list(self.gradients.values())))
        if not norm < float("inf"):
            self.forget_gradients()
            return norm
        share_kept = min(1.0, max_grad_norm / (norm + 1e-6))
        for name, master in self.masters.items():
            gradient = self.gradients[name].mul_(share_kept)
            adamw(
                [master],
                [gradient],
                [self._first[name]],
                [self._second[name]],
                [],
                [torch.tensor(float(number))],
                fused=True,
                amsgrad=False,
                beta1=BETA_1,
                beta2=BETA_2,
                lr=learning_rate,
                # Norm weights and biases are kept free of decay, as everywhere since BERT.
                weight_decay=self._weight_decay if master.ndim > 1 else 0.0,
                eps=EPSILON,
                maximize=False,
            )
            gradient.zero_()
        self._publish()
        return norm

    def forget_gradients(self) -> None:
        """Drops what was collected since the last step."""
        for name, gradient in self.gradients.items():
            gradient.zero_()
            self._parameters[name].grad = None

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold: masters and both moments."""
        groups = (("master", self.masters), ("first", self._first), ("second", self._second))
        return {f"{group}/{name}": tensor for group, members in groups for name, tensor in members.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` of an earlier run gave."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self._publish()

    def _publish(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self.masters[name])

    def _collector(self, name: str) -> Callable[[Tensor], None]:
        def collect(parameter: Tensor) -> None:
            if parameter.grad is not None:  # else it has been added already
                self.gradients[name].add_(parameter.grad)
                parameter.grad = None

        return collect

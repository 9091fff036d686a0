"""What the loop needs of a model in training: the loop knows steps, data and files; a learner knows weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from nexus_llm.train.packing import Batch


class Learner(Protocol):
    """A model with its optimizer, on whatever device and divided among however many processes."""

    def gradients(self, batch: Batch, *, learned_tokens: int) -> float:
        """Adds the gradients of this process's rows: of the loss summed over their learned tokens, in nats, divided by
        `learned_tokens`, the number in the whole step (all processes). Gives that loss."""

    def loss(self, batch: Batch) -> float:
        """The loss of this process's rows summed over learned tokens, in nats, without dropout and gradients."""

    def update(self, number: int, *, learning_rate: float, max_grad_norm: float) -> float:
        """Applies the gradients of all processes, summed, as step `number` (from 0); gives their norm before clipping.

        A norm that is not finite changes nothing. Either way the gradients are gone afterwards."""

    def forget_gradients(self) -> None:
        """Drops what was added since the last update."""

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold of this process: float32 weights that learn, and the optimizer's moments.

        The same tensors at every call, changed in place by `update` and `restore`."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` gave in another process or at an earlier step."""

    def write(self, folder: Path) -> Path:
        """Writes the result as Hugging Face and PEFT lay it out (safetensors); gives the weights' file.

        Every process calls it; one writes."""

    def describe(self) -> dict[str, Any]:
        """Facts about it: trainable_parameters, and what else is worth telling."""


@runtime_checkable
class Sharded(Protocol):
    """What a learner has besides when `tensors` gives each process a part of its own."""

    is_sharded: bool
    """Every process's tensors are saved, not those of rank 0 alone."""

    def restore_parts(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Takes over what the processes of a run of another size gave, in the order of their ranks.

        Raises:
            TrainingError: it cannot be divided anew.
        """

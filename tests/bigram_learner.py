"""The smallest learner: a table of logits by the token before. Milliseconds a step, and all of it can be broken."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nexus_llm.train.checkpoint import write_tensors
from nexus_llm.train.packing import NOT_LEARNED, Batch
from nexus_llm.train.ranks import OnlyOne
from tiny_training import VOCABULARY


class BigramLearner:
    """A `Learner` by gradient descent with momentum. Its loss is multiplied by what `factors` says of a batch, and its
    weights lose a number after the updates named in `damaged_updates`, once each."""

    def __init__(
        self,
        *,
        ranks: Any = None,
        dropout: float = 0.0,
        factors: Mapping[bytes, float] | None = None,
        damaged_updates: Sequence[int] = (),
        ballast: int = 0,
        speed: float = 1.0,
    ) -> None:
        self.ranks = ranks or OnlyOne()
        self.weights = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 0.1
        self.momentum = torch.zeros_like(self.weights)
        self._ballast = torch.zeros(ballast)
        self._gradient = torch.zeros_like(self.weights)
        self._dropout, self._speed, self._factors = dropout, speed, dict(factors or {})
        self._damaged_updates = set(damaged_updates)

    def gradients(self, batch: Batch, *, learned_tokens: int) -> float:
        leaf = self.weights.clone().requires_grad_()
        factor = self._factors.get(batch_key(batch), 1.0)
        loss = self._summed(batch, leaf, dropout=self._dropout) / learned_tokens * factor
        loss.backward()
        self._gradient += leaf.grad
        return float(loss.detach())

    def loss(self, batch: Batch) -> float:
        return float(self._summed(batch, self.weights, dropout=0.0))

    def update(self, number: int, *, learning_rate: float, max_grad_norm: float) -> float:
        gradient = sum(self.ranks.gather(self._gradient.clone())) if self.ranks.size > 1 else self._gradient
        norm = float(torch.linalg.vector_norm(gradient))
        if math.isfinite(norm):
            # In place: a snapshot that shared these bytes would be seen to change.
            self.momentum.mul_(0.9).add_(gradient * min(1.0, max_grad_norm / norm))
            self.weights.sub_(self._speed * learning_rate * self.momentum)
            self._ballast.add_(1)
        self.forget_gradients()
        if number in self._damaged_updates:
            self._damaged_updates.remove(number)
            self.weights[3, 4] = float("nan")
        return norm

    def forget_gradients(self) -> None:
        self._gradient.zero_()

    def tensors(self) -> dict[str, Tensor]:
        ballast = {"ballast": self._ballast} if len(self._ballast) else {}
        return {"weights": self.weights, "momentum": self.momentum, **ballast}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def write(self, folder: Path) -> Path:
        write_tensors({"weights": self.weights}, folder / "weights.safetensors")
        return folder / "weights.safetensors"

    def describe(self) -> dict[str, Any]:
        return {"implementation": "bigram", "trainable_parameters": self.weights.numel()}

    def digest(self) -> str:
        """Of all that it learned."""
        content = b"".join(tensor.numpy().tobytes() for tensor in self.tensors().values())
        return hashlib.sha256(content).hexdigest()

    def _summed(self, batch: Batch, weights: Tensor, *, dropout: float) -> Tensor:
        tokens, labels = torch.from_numpy(batch.token_ids[:, :-1]), torch.from_numpy(batch.labels[:, 1:])
        logits = functional.dropout(weights[tokens], dropout)
        return functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=NOT_LEARNED, reduction="sum"
        )


class ShardedBigramLearner(BigramLearner):
    """The same, and each process's checkpoint has every size-th row."""

    is_sharded = True

    def tensors(self) -> dict[str, Tensor]:
        return {name: one[self.ranks.rank :: self.ranks.size] for name, one in super().tensors().items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.restore_parts(self.ranks.gather(dict(tensors)) if self.ranks.size > 1 else [tensors])

    def restore_parts(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        for name, whole in super().tensors().items():
            for rank, part in enumerate(parts):
                whole[rank :: len(parts)] = part[name]


def batch_key(batch: Batch) -> bytes:
    """What tells a batch from others."""
    return batch.token_ids.tobytes()

"""Direct preference optimisation: a learner of pairs around a learner of text.

Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7; with label smoothing Mitchell 2023, "A note on DPO with
noisy preferences" (https://ericmitchell.ai/cdpo.pdf).

Shapes: P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.learner import Learner
from nexus_llm.train.log_probabilities import answer_log_probabilities
from nexus_llm.train.packing import Batch
from nexus_llm.train.preferences import PackedPairs
from nexus_llm.train.ranks import OnlyOne, Ranks
from nexus_llm.train.reference import AdaptersOff, PairModel, Reference, rows_of_training, stored_reference
from nexus_llm.train.run_identity import rows_per_step


def dpo_losses(
    policy: Tensor, reference: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(each pair's loss in nats, (P,); the implicit rewards of its chosen and rejected answer, (P, 2)).

    `policy` and `reference` are log-probabilities of the chosen and rejected answers, (P, 2). A reward is beta times
    how much likelier the answer became.

    >>> losses, rewards = dpo_losses(torch.tensor([[-3.0, -9.0]]), torch.tensor([[-4.0, -8.0]]), beta=0.5)
    >>> rewards.tolist(), round(float(losses[0]), 4)  # -log sigmoid(0.5 + 0.5)
    ([[0.5, -0.5]], 0.3133)
    """
    rewards = beta * (policy - reference)
    margins = rewards[:, 0] - rewards[:, 1]
    losses = -(1 - label_smoothing) * functional.logsigmoid(margins) - label_smoothing * functional.logsigmoid(-margins)
    return losses, rewards.detach()


class PairLearner(Learner, PairModel, Protocol):
    """A learner that also answers what pairs ask: `TransformersLearner` and its children."""


def dpo_learner(
    learner: PairLearner,
    *,
    recipe: TrainRecipe,
    seed: int,
    train: PackedPairs,
    validation: PackedPairs,
    folder: Path,
    identity: str,
    ranks: Ranks | None = None,
    stop_reason: Callable[[], str | None] = lambda: None,
) -> DpoLearner:
    """`learner`, still at the base model, as a learner of pairs: to be made before a checkpoint is restored.

    Where every weight learns, the base model's answers are computed now, and kept in `folder` under `identity` (of
    base model and data); `stop_reason` as in `stored_reference`.

    Raises:
        TryAgainError: asked to stop meanwhile; what was computed is kept.
    """
    if recipe.method != "full":
        return DpoLearner(learner, learner, recipe=recipe, reference=AdaptersOff(learner))
    ranks = ranks or OnlyOne()
    size = rows_per_step(recipe, processes=ranks.size)
    held_out = min(recipe.eval_documents, validation.rows)
    reference = stored_reference(
        learner,
        [
            (train, rows_of_training(train, seed=seed, steps=recipe.max_steps, size=size, ranks=ranks)),
            (validation, rows_of_training(validation, seed=seed, steps=1, size=held_out, ranks=ranks)),
        ],
        folder=folder,
        identity=identity,
        rows_at_once=recipe.per_device_train_batch_size,
        ranks=ranks,
        stop_reason=stop_reason,
    )
    return DpoLearner(learner, learner, recipe=recipe, reference=reference)


class DpoLearner:
    """A `Learner` of packed pairs, whose `learned_tokens` are pairs."""

    def __init__(self, inner: Learner, model: PairModel, *, recipe: TrainRecipe, reference: Reference) -> None:
        """`inner` updates, saves and writes what `model` computes with."""
        self._inner, self._model, self._recipe, self._reference = inner, model, recipe, reference
        self._sums: dict[str, float] = {}

    def gradients(self, batch: Batch, *, learned_tokens: int) -> float:
        total = 0.0
        for part in batch.parts(self._recipe.per_device_train_batch_size):
            # The reference first: so its activations are gone before those that the gradients need are made.
            reference = self._reference(part)
            loss = self._summed_loss(self._policy(part), reference) / max(1, learned_tokens)
            self._model.backward(loss)
            total += float(loss.detach())
        return total

    def loss(self, batch: Batch) -> float:
        total = 0.0
        for part in batch.parts(self._recipe.per_device_train_batch_size):
            reference = self._reference(part)
            with torch.no_grad(), self._model.evaluating():
                total += float(self._summed_loss(self._policy(part), reference))
        return total

    def measurements(self) -> dict[str, float]:
        """Rewards and accuracy, summed over this process's pairs since the last call, and then forgotten.

        Divided by the number of pairs (of all processes): `chosen_reward`, `rejected_reward` and `reward_margin` in
        nats times beta, and `reward_accuracy`, the share of pairs whose chosen answer has the higher reward. Rewards
        begin at the first token in which the two answers differ.
        """
        found, self._sums = self._sums, {}
        return found

    def update(self, number: int, *, learning_rate: float, max_grad_norm: float) -> float:
        return self._inner.update(number, learning_rate=learning_rate, max_grad_norm=max_grad_norm)

    def forget_gradients(self) -> None:
        self._sums = {}
        self._inner.forget_gradients()

    def tensors(self) -> dict[str, Tensor]:
        return self._inner.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._inner.restore(tensors)

    def write(self, folder: Path) -> Path:
        return self._inner.write(folder)

    def describe(self) -> dict[str, Any]:
        return self._inner.describe() | self._reference.describe()

    def _policy(self, batch: Batch) -> Tensor:
        return answer_log_probabilities(self._model.hidden(batch), self._model.head, batch)

    def _summed_loss(self, policy: Tensor, reference: Tensor) -> Tensor:
        dpo = self._recipe.dpo
        losses, rewards = dpo_losses(
            policy, reference.to(policy.device), beta=dpo.beta, label_smoothing=dpo.label_smoothing
        )
        margins = rewards[:, 0] - rewards[:, 1]
        found = {
            "chosen_reward": rewards[:, 0].sum(),
            "rejected_reward": rewards[:, 1].sum(),
            "reward_margin": margins.sum(),
            "reward_accuracy": (margins > 0).sum(),
        }
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        return losses.sum()

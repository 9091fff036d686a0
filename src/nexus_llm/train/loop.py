"""The training loop: every step is a function of the weights, the optimizer and (seed, step), and of nothing else."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train import checkpoint
from nexus_llm.train.checkpoint import Checkpoint
from nexus_llm.train.learner import Learner
from nexus_llm.train.packing import NOT_LEARNED, Batch, PackedRows
from nexus_llm.train.ranks import OnlyOne, Ranks
from nexus_llm.train.schedule import learning_rate

MetricsRow = dict[str, Any]
ValidationLoss = tuple[int, float]
"""(steps done, mean loss in nats per token)."""


@dataclass(frozen=True)
class Surroundings:
    """What the loop hears from and tells the world."""

    on_step: Callable[[MetricsRow], None]
    """Called after each step with its row of `metrics.jsonl`."""
    stop_reason: Callable[[], str | None]
    """Asked after each step: who wants us to stop?"""
    seconds: Callable[[], float]
    """A clock."""


class Training:
    """One run, from wherever its newest whole checkpoint stands."""

    def __init__(
        self,
        learner: Learner,
        *,
        recipe: TrainRecipe,
        seed: int,
        train: PackedRows,
        validation: PackedRows | None,
        folder: Path,
        ranks: Ranks | None = None,
    ) -> None:
        """`folder` takes `checkpoints/` and `metrics.jsonl`."""
        if not train.rows:
            raise TrainingError(
                f"no document can be learned from ({_reasons(train.dropped)})",
                fix="add text, raise train.max_length, or use the objective continued-pretraining for running text",
            )
        self._learner, self._ranks = learner, ranks or OnlyOne()
        self._recipe, self._seed = recipe, seed
        self._train, self._validation = train, validation
        self._checkpoints, self._metrics = folder / "checkpoints", folder / "metrics.jsonl"
        self.validation_losses: list[ValidationLoss] = []
        self.step = 0
        """Steps done."""
        self._resume()

    def run(self, surroundings: Surroundings) -> None:
        """Trains until the last step.

        Raises:
            TryAgainError: asked to stop; a checkpoint of this very step was written.
            TrainingError: the loss or the gradient is not a finite number.
        """
        recipe = self._recipe
        if self.step == 0:
            self._validate()
        with self._metrics.open("a", encoding="utf-8") as log:
            while self.step < recipe.max_steps:
                row = self._one_step(surroundings.seconds)
                last = self.step == recipe.max_steps
                if last or self.step % recipe.eval_steps == 0:
                    row |= self._validate()
                log.write(json.dumps(row) + "\n")
                log.flush()
                reason = surroundings.stop_reason()
                if reason or last or self.step % recipe.save_steps == 0:
                    os.fsync(log.fileno())
                    self._save()
                surroundings.on_step(row)
                if reason and not last:
                    raise TryAgainError(
                        f"training stopped by {reason} after step {self.step} of {recipe.max_steps}; all is saved",
                        fix="the same command continues at the next step",
                    )

    def metrics(self) -> list[MetricsRow]:
        """All rows so far."""
        return [json.loads(line) for line in self._metrics.read_text(encoding="utf-8").splitlines()]

    def _one_step(self, seconds: Callable[[], float]) -> MetricsRow:
        recipe, started = self._recipe, seconds()
        rate = learning_rate(
            self.step,
            peak=recipe.learning_rate,
            warmup_steps=recipe.warmup_steps,
            total_steps=recipe.max_steps,
            least_share=recipe.min_learning_rate_share,
        )
        rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * self._ranks.size
        batch = self._train.batch(self._seed, self.step, size=rows)
        self._seed_dropout()
        mine = share_of_rank(batch, self._ranks)
        loss = self._ranks.total(self._learner.gradients(mine, learned_tokens=max(1, batch.learned_tokens)))
        norm = self._learner.update(self.step, learning_rate=rate, max_grad_norm=recipe.max_grad_norm)
        _refuse_unusable(self.step + 1, loss=loss, norm=norm, rate=rate)
        self.step += 1
        duration = seconds() - started
        return {
            "step": self.step,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": batch.tokens,
            "tokens_per_second": round(batch.tokens / duration, 1) if duration > 0 else None,
        }

    def _seed_dropout(self) -> None:
        """Dropout depends on the step and the rank alone, so a resumed run draws what the undisturbed one drew."""
        rank = self._ranks.rank
        entropy = [self._seed, self.step, rank] if rank else [self._seed, self.step]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def _validate(self) -> MetricsRow:
        """Measures and records the loss on held-out rows; gives it as a part of a metrics row."""
        rows = min(self._recipe.eval_documents, self._validation.rows if self._validation else 0)
        if self._validation is None or rows == 0:
            return {}
        batch = self._validation.batch(self._seed, 0, size=rows)
        summed = self._ranks.total(self._learner.loss(share_of_rank(batch, self._ranks)))
        loss = summed / max(1, batch.learned_tokens)
        self.validation_losses.append((self.step, loss))
        return {"validation_loss": loss}

    def _save(self) -> None:
        state = {"validation_losses": self.validation_losses}
        here = Checkpoint(self.step, self._learner.tensors(), state)
        checkpoint.save(self._checkpoints, here, keep=self._recipe.save_total_limit)

    def _resume(self) -> None:
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        found = checkpoint.load_newest(self._checkpoints)
        if found:
            self._learner.restore(found.tensors)
            self.step = found.step
            self.validation_losses = [(step, loss) for step, loss in found.state["validation_losses"]]
        _keep_first_lines(self._metrics, self.step)


def share_of_rank(batch: Batch, ranks: Ranks) -> Batch:
    """Every size-th row of a batch, beginning with row `rank`; rows of padding make all shares equally long.

    Equally long, because sharded models must be called equally often by all.
    """
    missing = -len(batch.token_ids) % ranks.size
    filler = {"token_ids": 0, "labels": NOT_LEARNED, "positions": 0, "documents": -1}
    return Batch(
        **{
            name: np.pad(getattr(batch, name), ((0, missing), (0, 0)), constant_values=value)[ranks.rank :: ranks.size]
            for name, value in filler.items()
        }
    )


def _refuse_unusable(step: int, *, loss: float, norm: float, rate: float) -> None:
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            raise TrainingError(
                f"the {name} became {value} at step {step} (learning rate {rate:g})",
                fix="lower train.learning_rate or raise train.warmup_steps; if it happens at step 1, the base model's "
                "weights are damaged",
            )


def _keep_first_lines(path: Path, count: int) -> None:
    """Cuts a log to its first `count` lines: those after the checkpoint will be written again."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    path.write_bytes(b"".join(lines[:count]))


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in dropped.items()) or "the training split is empty"

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
from torch import Tensor

from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train import checkpoint
from nexus_llm.train.checkpoint import Checkpoint
from nexus_llm.train.decoder import Decoder
from nexus_llm.train.loss import summed_cross_entropy
from nexus_llm.train.optimizer import MasterAdamW
from nexus_llm.train.packing import NOT_LEARNED, Batch, PackedRows
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
        decoder: Decoder,
        optimizer: MasterAdamW,
        *,
        recipe: TrainRecipe,
        seed: int,
        train: PackedRows,
        validation: PackedRows | None,
        folder: Path,
    ) -> None:
        """`folder` takes `checkpoints/` and `metrics.jsonl`."""
        if not train.rows:
            raise TrainingError(
                f"no document can be learned from ({_reasons(train.dropped)})",
                fix="add text, raise train.max_length, or use the objective continued-pretraining for running text",
            )
        self._decoder, self._optimizer = decoder, optimizer
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
        rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
        batch = self._train.batch(self._seed, self.step, size=rows)
        # Dropout depends on the step alone, so a resumed run draws what the undisturbed one would have drawn.
        torch.manual_seed(int(np.random.SeedSequence([self._seed, self.step]).generate_state(1)[0]))
        loss = collect_gradients(self._decoder, batch, rows_at_once=recipe.per_device_train_batch_size)
        norm = self._optimizer.step(self.step, learning_rate=rate, max_grad_norm=recipe.max_grad_norm)
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

    def _validate(self) -> MetricsRow:
        """Measures and records the loss on held-out rows; gives it as a part of a metrics row."""
        rows = min(self._recipe.eval_documents, self._validation.rows if self._validation else 0)
        if self._validation is None or rows == 0:
            return {}
        batch = self._validation.batch(self._seed, 0, size=rows)
        loss = mean_loss(self._decoder, batch, rows_at_once=self._recipe.per_device_train_batch_size)
        self.validation_losses.append((self.step, loss))
        return {"validation_loss": loss}

    def _save(self) -> None:
        state = {"validation_losses": self.validation_losses}
        here = Checkpoint(self.step, self._optimizer.tensors(), state)
        checkpoint.save(self._checkpoints, here, keep=self._recipe.save_total_limit)

    def _resume(self) -> None:
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        found = checkpoint.load_newest(self._checkpoints)
        if found:
            self._optimizer.restore(found.tensors)
            self.step = found.step
            self.validation_losses = [(step, loss) for step, loss in found.state["validation_losses"]]
        _keep_first_lines(self._metrics, self.step)


def collect_gradients(decoder: Decoder, batch: Batch, *, rows_at_once: int) -> float:
    """Adds the gradients of the mean loss per learned token of the whole batch; gives that loss in nats.

    Rows go through the model `rows_at_once` at a time. Each token weighs the same, however the rows are divided.
    """
    learned, total = max(1, batch.learned_tokens), 0.0
    for start in range(0, len(batch.token_ids), rows_at_once):
        loss = _summed_loss(decoder, batch.part(start, start + rows_at_once)) / learned
        if loss.requires_grad:
            loss.backward()
        total += float(loss.detach())
    return total


def mean_loss(decoder: Decoder, batch: Batch, *, rows_at_once: int) -> float:
    """Mean loss per learned token in nats, without dropout and without gradients."""
    decoder.training = False
    with torch.no_grad():
        loss = collect_gradients(decoder, batch, rows_at_once=rows_at_once)
    decoder.training = True
    return loss


def _summed_loss(decoder: Decoder, batch: Batch) -> Tensor:
    hidden = decoder.hidden(batch)
    # The prediction at one place is compared with the token at the next; a row's last prediction has no token.
    labels = np.full_like(batch.labels, NOT_LEARNED)
    labels[:, :-1] = batch.labels[:, 1:]
    places = np.flatnonzero(labels != NOT_LEARNED)
    chosen = torch.from_numpy(places)
    return summed_cross_entropy(hidden[chosen], decoder.head, torch.from_numpy(labels.ravel()[places]))


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

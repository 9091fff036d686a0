"""The training loop: every step is a function of the weights, the optimizer and (seed, step), and of nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train import guards
from nexus_llm.train.disk import explained
from nexus_llm.train.guards import History
from nexus_llm.train.learner import Learner
from nexus_llm.train.packing import NOT_LEARNED, Batch, PackedRows
from nexus_llm.train.ranks import OnlyOne, Ranks
from nexus_llm.train.run_identity import rows_per_step, run_identity
from nexus_llm.train.saving import Checkpoints, ValidationLoss, best_step
from nexus_llm.train.schedule import learning_rate

MetricsRow = dict[str, Any]


@dataclass(frozen=True)
class Surroundings:
    """What the loop hears from and tells the world."""

    on_step: Callable[[MetricsRow], None]
    """Called after each step with its row of `metrics.jsonl`."""
    stop_reason: Callable[[], str | None]
    """Asked after each step: who wants us to stop?"""
    seconds: Callable[[], float]
    """A clock."""


@dataclass
class Totals:
    """Sums over all steps of a run, kept in its checkpoints: a log may be left behind on another machine."""

    tokens: int = 0
    first_loss: float | None = None
    last_loss: float | None = None


class Training:
    """One run, from wherever its newest whole checkpoint stands. Holds its folder until `run` or `close` ends."""

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
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        """`folder` takes `checkpoints/` and `metrics.jsonl`; `inputs` are the ids of the model and the data.

        Raises:
            TrainingError: nothing to learn from, another process trains here, or a checkpoint is of another run.
            StorageError: the folder cannot be written.
        """
        if not train.rows:
            raise TrainingError(
                f"no document can be learned from ({_reasons(train.dropped)})",
                fix="add text, raise train.max_length, or use the objective continued-pretraining for running text",
            )
        self._learner, self._ranks = learner, ranks or OnlyOne()
        self._recipe, self._seed = recipe, seed
        self._train, self._validation = train, validation
        self._metrics = folder / "metrics.jsonl"
        self.validation_losses: list[ValidationLoss] = []
        self.step = 0
        """Steps done, skipped ones among them."""
        self.updates = 0
        """Steps whose gradients are in the weights."""
        self.history, self.totals = History(), Totals()
        self.seconds_in_saving = 0.0
        """How long training stood still for checkpoints, in this process."""
        identity = run_identity(
            recipe,
            seed=seed,
            inputs=inputs or {},
            processes=self._ranks.size,
            implementation=str(learner.describe().get("implementation", type(learner).__name__)),
        )
        self._checkpoints = Checkpoints(
            folder / "checkpoints",
            learner,
            self._ranks,
            run=identity,
            log=self._metrics,
            keep=recipe.save_total_limit,
            every=recipe.save_steps,
            keep_best=recipe.load_best_model_at_end,
        )
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    @property
    def best_step(self) -> int | None:
        """Steps done when the validation loss was lowest; 0 is the base model; None without validation."""
        return best_step(self.validation_losses)

    @property
    def stopped_early(self) -> bool:
        """Whether the last `early_stopping_patience` validations were no better than the best before them."""
        patience, best = self._recipe.early_stopping_patience, self.best_step
        if patience is None or best is None:
            return False
        return sum(step > best for step, _ in self.validation_losses) >= patience

    @property
    def is_finished(self) -> bool:
        return self.step >= self._recipe.max_steps or self.stopped_early

    def run(self, surroundings: Surroundings) -> None:
        """Trains until the last step, or until validation stops getting better; then the learner holds the result.

        Raises:
            TryAgainError: asked to stop; a checkpoint of this very step was written.
            TrainingError: too many steps whose loss or gradient cannot be used.
            StorageError: a checkpoint cannot be written.
        """
        try:
            with explained(self._metrics), self._open_log() as log:
                if self.step == 0 and not self.validation_losses:
                    self._validate()
                    if self._recipe.load_best_model_at_end:
                        self._save(surroundings.seconds)
                while not self.is_finished:
                    self._advance(surroundings, log)
            if not self.updates:
                raise guards.unusable(self.history, "no step could be used")
            self._checkpoints.settle()
            if self._recipe.load_best_model_at_end and self.best_step not in (None, self.step):
                self._checkpoints.restore(self.best_step or 0)
        finally:
            self.close()

    def close(self) -> None:
        """Waits for a checkpoint that is being written, and gives the folder back."""
        self._checkpoints.close()

    def metrics(self) -> list[MetricsRow]:
        """All rows that lie in this folder."""
        return [json.loads(line) for line in self._metrics.read_text(encoding="utf-8").splitlines()]

    def _advance(self, surroundings: Surroundings, log: TextIO) -> None:
        row = self._one_step(surroundings.seconds)
        if self.step == self._recipe.max_steps or self.step % self._recipe.eval_steps == 0:
            row |= self._validate()
        log.write(json.dumps(row, allow_nan=False) + "\n")
        log.flush()
        reason = surroundings.stop_reason()
        stops = self._ranks.any(reason is not None)
        started = surroundings.seconds()
        if self._is_save_due(stops=stops):
            self._save(surroundings.seconds)
        else:
            self._checkpoints.poll()
            self.seconds_in_saving += surroundings.seconds() - started
        surroundings.on_step(row)
        if stops and not self.is_finished:
            self._checkpoints.settle()
            raise TryAgainError(
                f"training stopped by {reason or 'another process'} after step {self.step} of "
                f"{self._recipe.max_steps}; all is saved",
                fix="the same command continues at the next step",
            )

    def _one_step(self, seconds: Callable[[], float]) -> MetricsRow:
        recipe, started = self._recipe, seconds()
        rate = self._learning_rate()
        batch = self._train.batch(self._seed, self.step, size=rows_per_step(recipe, processes=self._ranks.size))
        self._seed_dropout()
        mine, learned = share_of_rank(batch, self._ranks), max(1, batch.learned_tokens)
        loss = self._ranks.total(self._learner.gradients(mine, learned_tokens=learned))
        measured = self._measurements(learned)
        norm, fault = None, guards.fault(self.history, loss, recipe.guard)
        if fault:
            self._learner.forget_gradients()
        else:
            norm = self._learner.update(self.updates, learning_rate=rate, max_grad_norm=recipe.max_grad_norm)
            fault = None if math.isfinite(norm) else f"the gradient norm became {norm}"
        self.step += 1
        self.totals.tokens += batch.tokens
        told = self._skip(fault, rate) if fault else self._keep(loss)
        duration = seconds() - started
        return {
            "step": self.step,
            "loss": _finite(loss),
            "learning_rate": rate,
            "grad_norm": _finite(norm),
            "tokens": batch.tokens,
            "rows_sha256": hashlib.sha256(batch.token_ids.tobytes()).hexdigest()[:16],
            "tokens_per_second": round(batch.tokens / duration, 1) if duration > 0 else None,
            **measured,
            **told,
        }

    def _learning_rate(self) -> float:
        recipe = self._recipe
        return learning_rate(
            self.step,
            peak=recipe.learning_rate,
            warmup_steps=recipe.warmup_steps,
            total_steps=recipe.max_steps,
            least_share=recipe.min_learning_rate_share,
            schedule=recipe.lr_scheduler_type,
            decay_steps=recipe.decay_steps,
        )

    def _seed_dropout(self) -> None:
        """Dropout depends on the step and the rank alone, so a resumed run draws what the undisturbed one drew."""
        rank = self._ranks.rank
        entropy = [self._seed, self.step, rank] if rank else [self._seed, self.step]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def _keep(self, loss: float) -> MetricsRow:
        self.updates += 1
        self.history = self.history.kept(loss, window_steps=self._recipe.guard.window_steps)
        self.totals.last_loss = loss
        if self.totals.first_loss is None:
            self.totals.first_loss = loss
        return {}

    def _skip(self, fault: str, rate: float) -> MetricsRow:
        """Records a step that was not applied; goes back to earlier weights where these ones are to blame."""
        guard = self._recipe.guard
        last_kept = self.step - 1 - self.history.in_a_row
        self.history = self.history.skip(self.step, fault, learning_rate=rate)
        guards.refuse_too_many(self.history, guard)
        damaged = self._ranks.any(not all(bool(one.isfinite().all()) for one in self._learner.tensors().values()))
        if not damaged and not self.history.suspects_weights:
            return {"skipped": fault}
        return {"skipped": fault} | self._go_back(fault, before=last_kept, must=damaged)

    def _go_back(self, reason: str, *, before: int, must: bool) -> MetricsRow:
        """Takes up the weights of an earlier checkpoint, once in a run, and goes on with the next batch: the same
        batches would lead to the same place (Chowdhery et al. 2022, "PaLM", arXiv:2204.02311, section 5.1)."""
        found = None if self.history.rollbacks else self._checkpoints.go_back(before=before)
        if found is None:
            if must:
                why = "it went back once already" if self.history.rollbacks else "there is no checkpoint from before it"
                raise guards.unusable(self.history, why)
            return {}
        earlier = History.from_json(found.state["history"])
        self.updates = found.state["updates"]
        self.history = self.history.roll_back(self.step, earlier, to_step=found.step, reason=reason)
        return {"rolled_back_to_step": found.step}

    def _validate(self) -> MetricsRow:
        """Measures and records the loss on held-out rows; gives it as a part of a metrics row."""
        rows = min(self._recipe.eval_documents, self._validation.rows if self._validation else 0)
        if self._validation is None or rows == 0:
            return {}
        batch = self._validation.batch(self._seed, 0, size=rows)
        learned = max(1, batch.learned_tokens)
        loss = self._ranks.total(self._learner.loss(share_of_rank(batch, self._ranks))) / learned
        measured = {f"validation_{name}": value for name, value in self._measurements(learned).items()}
        if math.isfinite(loss):
            self.validation_losses.append((self.step, loss))
            return {"validation_loss": loss, **measured}
        fault = f"the validation loss became {loss}"
        if self.step == 0:
            raise TrainingError(f"{fault} before the first step", fix="the base model's weights are damaged")
        self.history = self.history.skip(self.step, fault, learning_rate=self._learning_rate())
        guards.refuse_too_many(self.history, self._recipe.guard)
        return {"validation_loss": None} | self._go_back(fault, before=self.step, must=True)

    def _measurements(self, learned: int) -> MetricsRow:
        """What else the learner has measured since it was last asked, per learned token (or pair) of all processes."""
        ask: Callable[[], Mapping[str, float]] | None = getattr(self._learner, "measurements", None)
        return {name: _finite(self._ranks.total(value) / learned) for name, value in (ask() if ask else {}).items()}

    def _is_save_due(self, *, stops: bool) -> bool:
        if stops or self.is_finished:
            return True
        if self._recipe.load_best_model_at_end and self.best_step == self.step:
            return True
        # Nothing was learned since the last one, and it may be that these weights are to be left.
        return self.step % self._recipe.save_steps == 0 and not self.history.in_a_row

    def _save(self, seconds: Callable[[], float]) -> None:
        started = seconds()
        state = {
            "validation_losses": list(self.validation_losses),
            "updates": self.updates,
            "history": self.history.to_json(),
            "totals": vars(self.totals).copy(),
        }
        self._checkpoints.save(self.step, state, self.validation_losses, prune=not self.history.in_a_row)
        self.seconds_in_saving += seconds() - started

    def _resume(self) -> None:
        found = self._checkpoints.resume()
        if found:
            self.step, self.updates = found.step, found.state["updates"]
            self.validation_losses = [(step, loss) for step, loss in found.state["validation_losses"]]
            self.history = History.from_json(found.state["history"])
            self.totals = Totals(**found.state["totals"])
        if self._ranks.rank == 0:
            with explained(self._metrics):
                _keep_steps(self._metrics, self.step)

    def _open_log(self) -> TextIO:
        """`metrics.jsonl` in process 0, nothing in others."""
        path = self._metrics if self._ranks.rank == 0 else Path("/dev/null")
        return path.open("a", encoding="utf-8")


def share_of_rank(batch: Batch, ranks: Ranks) -> Batch:
    """Every size-th row of a batch, beginning with row `rank`; rows of padding make all shares equally long.

    Equally long, because sharded models must be called equally often by all.
    """
    missing = -len(batch.token_ids) % ranks.size
    filler = {"token_ids": 0, "labels": NOT_LEARNED, "positions": 0, "documents": -1}
    return type(batch)(
        **{
            name: np.pad(getattr(batch, name), ((0, missing), (0, 0)), constant_values=value)[ranks.rank :: ranks.size]
            for name, value in filler.items()
        }
    )


def _finite(value: float | None) -> float | None:
    """JSON has no number for what is none."""
    return value if value is not None and math.isfinite(value) else None


def _keep_steps(path: Path, steps: int) -> None:
    """Cuts a log to the rows of the first `steps` steps: those after the checkpoint will be written again."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # the last line of a killed process may be half
            continue
        if row["step"] <= steps and line.endswith(b"\n"):
            kept.append(line)
    path.write_bytes(b"".join(kept))


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in dropped.items()) or "the training split is empty"

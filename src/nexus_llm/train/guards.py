"""Is this step's result usable? A pure function of what happened before, so that a resumed run decides the same."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from nexus_llm.errors import TrainingError
from nexus_llm.recipe.train import GuardRecipe

SUSPICIOUS_BATCHES = 3
"""Unusable batches in a row after which the weights are to blame, not the batches."""
SMALLEST_SPIKE = 1.0
"""Nats a token above the median. Near zero a loss jumps by multiples from batch to batch: of a classifier that has
nearly learned its task (median 0.035), harmless batches were seen at 6 times the median."""


@dataclass(frozen=True)
class Skipped:
    """A batch from which nothing was learned. Steps count from 1."""

    step: int
    reason: str
    learning_rate: float


@dataclass(frozen=True)
class RolledBack:
    """A return to earlier weights: at the end of `step`, to those after `to_step`."""

    step: int
    to_step: int
    reason: str


@dataclass(frozen=True)
class History:
    """What the guard remembers; all of it goes into the checkpoint."""

    losses: tuple[float, ...] = ()
    """Of the last steps that were kept, at most a window of them."""
    skipped: tuple[Skipped, ...] = ()
    rollbacks: tuple[RolledBack, ...] = ()
    in_a_row: int = 0
    """Batches skipped since the last step that was kept."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> History:
        return cls(
            losses=tuple(values["losses"]),
            skipped=tuple(Skipped(**one) for one in values["skipped"]),
            rollbacks=tuple(RolledBack(**one) for one in values["rollbacks"]),
            in_a_row=values["in_a_row"],
        )

    @property
    def suspects_weights(self) -> bool:
        return self.in_a_row >= SUSPICIOUS_BATCHES

    def kept(self, loss: float, *, window_steps: int) -> History:
        """After a step that was applied."""
        return replace(self, losses=(*self.losses, loss)[-window_steps:], in_a_row=0)

    def skip(self, step: int, reason: str, *, learning_rate: float) -> History:
        """After a step that was not."""
        one = Skipped(step, reason, learning_rate)
        return replace(self, skipped=(*self.skipped, one), in_a_row=self.in_a_row + 1)

    def roll_back(self, step: int, earlier: History, *, to_step: int, reason: str) -> History:
        """After a return to `to_step`, whose history was `earlier`."""
        return replace(
            self, losses=earlier.losses, rollbacks=(*self.rollbacks, RolledBack(step, to_step, reason)), in_a_row=0
        )


def fault(history: History, loss: float, guard: GuardRecipe) -> str | None:
    """Why the step with this loss must not be applied; None: it may.

    A loss is a spike when it is above `max_loss_spike` times the median of the last `window_steps` kept losses, of
    which there must be as many, and at least `SMALLEST_SPIKE` above it.

    >>> fault(History(losses=(2.0,) * 4), 9.0, GuardRecipe(window_steps=4))
    'the loss became 9, 4.5 x the median of the last 4 steps'
    """
    if not math.isfinite(loss):
        return f"the loss became {loss}"
    if guard.max_loss_spike is None or len(history.losses) < guard.window_steps:
        return None
    median = statistics.median(history.losses)
    if loss > guard.max_loss_spike * median > 0 and loss - median >= SMALLEST_SPIKE:
        times = loss / median
        return f"the loss became {loss:.4g}, {times:.3g} x the median of the last {guard.window_steps} steps"
    return None


def refuse_too_many(history: History, guard: GuardRecipe) -> None:
    """Ends the run when more batches were skipped than the recipe allows.

    Raises:
        TrainingError: with all their steps and values.
    """
    if len(history.skipped) > guard.max_skipped_steps:
        raise unusable(history, f"train.guard.max_skipped_steps is {guard.max_skipped_steps}")


def unusable(history: History, why_now: str) -> TrainingError:
    """The error that names every skipped step with its value."""
    told = "; ".join(
        f"{one.reason} at step {one.step} (learning rate {one.learning_rate:g})" for one in history.skipped
    )
    back = "".join(f"; went back to step {one.to_step} at step {one.step}" for one in history.rollbacks)
    return TrainingError(
        f"{told}{back}; {why_now}",
        fix="lower train.learning_rate or raise train.warmup_steps; if it happens at step 1, the base model's weights "
        "are damaged",
    )

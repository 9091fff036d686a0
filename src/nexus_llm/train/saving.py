"""The checkpoints of one run: saved while it trains, found again, and agreed upon by all of its processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nexus_llm.errors import NexusError, TrainingError
from nexus_llm.train import checkpoint
from nexus_llm.train.checkpoint import Found
from nexus_llm.train.disk import FolderLock, explained, flush
from nexus_llm.train.learner import Learner, Sharded
from nexus_llm.train.ranks import Ranks
from nexus_llm.train.run_identity import refuse_other_run
from nexus_llm.train.snapshot import SnapshotWriter

ValidationLoss = tuple[int, float]
"""(steps done, mean loss in nats per token)."""


def best_step(losses: Sequence[ValidationLoss], *, until: int | None = None) -> int | None:
    """The step with the lowest validation loss, the earliest of equals, of those up to `until`; None without any.

    >>> best_step([(0, 3.0), (10, 2.0), (20, 2.0)])
    10
    """
    counted = [(loss, step) for step, loss in losses if until is None or step <= until]
    return min(counted)[1] if counted else None


class Checkpoints:
    """Held by one run at a time; every process of the run calls every method, in the same order."""

    def __init__(
        self,
        folder: Path,
        learner: Learner,
        ranks: Ranks,
        *,
        run: Mapping[str, Any],
        log: Path,
        keep: int,
        every: int,
        keep_best: bool,
    ) -> None:
        """`log` is flushed to the disk before a checkpoint exists.

        Raises:
            TrainingError: another process trains in this folder.
            StorageError: the folder cannot be written.
        """
        self._folder, self._learner, self._ranks = folder, learner, ranks
        self._run, self._log = dict(run), log
        self._keep, self._every, self._keep_best = keep, every, keep_best
        self._writer = SnapshotWriter()
        self._unpublished: Callable[[], None] | None = None
        self._lock: FolderLock | None = None
        self._agreed(self._take_folder)

    def resume(self) -> Found | None:
        """The newest usable checkpoint, its tensors restored; None to begin at the beginning.

        Raises:
            TrainingError: it is of another run, or of another number of processes and cannot be divided anew.
        """

        def newest() -> int | None:
            checkpoint.remove_partial(self._folder)
            found = checkpoint.find_newest(self._folder, refusal=self._refusal)
            return found.step if found else None

        return self._restored(self._agreed(newest))

    def go_back(self, *, before: int) -> Found | None:
        """The newest checkpoint of fewer than `before` steps whose tensors are finite, restored; None without one.

        Only multiples of the save interval count: what an interruption left besides must not change the result.
        """
        self.settle()

        def healthy() -> int | None:
            for step in reversed(checkpoint.saved_steps(self._folder)):
                if step < before and step % self._every == 0 and self._is_healthy(step):
                    return step
            return None

        return self._restored(self._agreed(healthy))

    def restore(self, step: int) -> Found:
        """The checkpoint of a step, restored.

        Raises:
            TrainingError: it is gone or was damaged since it was written.
        """
        self.settle()

        def whole() -> int | None:
            found = checkpoint.find(self._folder, step)
            return found.step if found else None

        restored = self._restored(self._agreed(whole))
        if restored is None:
            raise TrainingError(
                f"the checkpoint of step {step} in {self._folder}, the best one, is no longer whole",
                fix="run the same command again: it trains these steps once more",
            )
        return restored

    def save(self, step: int, state: Mapping[str, Any], losses: Sequence[ValidationLoss], *, prune: bool) -> None:
        """Begins to save this moment; training may go on. `prune` removes older ones when it is done.

        Raises:
            StorageError: an earlier one could not be written.
        """
        self.settle()
        parts, part = (self._ranks.size, self._ranks.rank) if self._is_sharded else (1, 0)
        alone = self._ranks.size == 1
        state, losses = dict(state), list(losses)

        def publish() -> None:
            with explained(self._folder):
                flush(self._log)
            checkpoint.publish(self._folder, step, state=state, run=self._run, parts=parts)
            if prune:
                # Were the newest one damaged, the run would have to go back once more, to the same step.
                spare = self._bests(losses) | {back["to_step"] for back in state["history"]["rollbacks"]}
                checkpoint.prune(self._folder, keep=self._keep, every=self._every, spare=spare)

        def write(copies: dict[str, Tensor]) -> None:
            checkpoint.write_part(self._folder, step, copies, part=part, parts=parts)
            if alone:
                publish()

        if part == self._ranks.rank:
            self._together(lambda: self._writer.start(self._learner.tensors(), write))
        else:
            self._together(lambda: None)
        self._unpublished = None if alone else publish

    def poll(self) -> None:
        """Makes what all processes have written a checkpoint; raises what went wrong since. Waits for nobody's disk."""
        if self._ranks.size == 1:
            self._writer.raise_if_failed()
        elif self._unpublished and not self._ranks.any(not self._writer.is_done()):
            self.settle()

    def settle(self) -> None:
        """Waits until what is being saved is a checkpoint.

        Raises:
            StorageError: it could not be written.
        """
        publish, self._unpublished = self._unpublished, None
        if self._ranks.size == 1:
            self._writer.wait()
        elif publish:
            self._together(self._writer.wait)  # nobody passes before all parts are written
            self._together(publish if self._ranks.rank == 0 else lambda: None)

    def close(self) -> None:
        """Waits for the disk and gives the folder back; what other processes have not finished stays unpublished."""
        self._writer.close()
        if self._lock:
            self._lock.release()

    @property
    def _is_sharded(self) -> bool:
        return isinstance(self._learner, Sharded) and self._learner.is_sharded

    def _take_folder(self) -> None:
        self._lock = FolderLock(self._folder)

    def _refusal(self, found: Found) -> str | None:
        refuse_other_run(found.run, self._run, place=str(found.path))
        best = best_step(found.state["validation_losses"]) if self._keep_best else None
        if best not in (None, found.step) and checkpoint.find(self._folder, best or 0) is None:
            return f"its best step, {best}, has no whole checkpoint any more"
        return None

    def _bests(self, losses: Sequence[ValidationLoss]) -> set[int]:
        """The best step of every checkpoint that is there, as far as it went: without it, it could not go on."""
        if not self._keep_best:
            return set()
        found = (best_step(losses, until=step) for step in checkpoint.saved_steps(self._folder))
        return {step for step in found if step is not None}

    def _is_healthy(self, step: int) -> bool:
        found = checkpoint.find(self._folder, step)
        if found is None or found.state["history"]["in_a_row"]:
            return False
        parts = (found.tensors(part) for part in range(len(found.files)))
        return all(bool(tensor.isfinite().all()) for tensors in parts for tensor in tensors.values())

    def _restored(self, step: int | None) -> Found | None:
        if step is None:
            return None
        found = checkpoint.open_step(self._folder, step)
        parts = len(found.files)
        if parts == (self._ranks.size if self._is_sharded else 1):
            self._learner.restore(found.tensors(self._ranks.rank if self._is_sharded else 0))
        elif isinstance(self._learner, Sharded):
            self._learner.restore_parts([found.tensors(part) for part in range(parts)])
        else:
            from nexus_llm.train.distributed import slices

            divided = [found.tensors(part) for part in range(parts)]
            if not slices.are_slices(divided):
                raise TrainingError(
                    f"{found.path} is in {parts} parts, of as many processes, and this run has {self._ranks.size}: "
                    "this kind of training cannot put them together",
                    fix=f"use {parts} processes again",
                )
            self._learner.restore(slices.whole(divided))
        return found

    def _agreed(self, work: Callable[[], int | None]) -> int | None:
        """What process 0 finds, told to all; an error of its ends all."""
        found: list[int | None] = [None]

        def on_first() -> None:
            if self._ranks.rank == 0:
                found[0] = work()

        self._together(on_first)
        step = int(self._ranks.total(0.0 if found[0] is None else found[0] + 1.0)) - 1
        return None if step < 0 else step

    def _together(self, work: Callable[[], object]) -> None:
        """Runs `work` in each process; where it raises in one, all raise."""
        error: NexusError | None = None
        try:
            work()
        except NexusError as raised:
            error = raised
        if self._ranks.any(error is not None):
            raise error or TrainingError(
                "another process of this run could not go on", fix="its message says why; then run the same command"
            )

"""The processes of a drill: one run that nothing disturbs, and one that is killed at its planned moments."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nexus_llm.cloud.processes import Child
from nexus_llm.cloud.training_folder import TrainingFolder
from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.ports import Ports
from nexus_llm.train.drill import Agreement, Kill, Outcome, compare, damage, first_different_tensor

POLL_SECONDS = 0.002
NEAR_SECONDS = 0.0002  # a small checkpoint is written in a few milliseconds
MISSES = 4  # tries to hit the writing of a checkpoint
LINES_SHOWN = 2  # of a failed process: what is wrong, and the fix

Command = Callable[[Path], Sequence[str]]
"""The command line that trains below a root."""


@dataclass(frozen=True)
class Casualty:
    """One kill that happened, what it left, and where the next process went on."""

    planned: Kill
    hit: str
    """What the run was doing, as its files say."""
    steps_done: int
    whole: tuple[int, ...]
    """Steps of the checkpoints that lay there."""
    half_written: tuple[str, ...]
    corrupted: str | None
    """File, place and change of the byte that the drill damaged."""
    set_aside: tuple[dict[str, str], ...] = ()
    """Checkpoints that the next process found broken: name and reason."""
    continued_from: int = 0


@dataclass(frozen=True)
class DrillResult:
    """Both runs, compared."""

    casualties: tuple[Casualty, ...]
    missed: tuple[str, ...]
    """Kills that could not be given, and why."""
    agreements: tuple[Agreement, ...]
    undisturbed_seconds: float
    killed_seconds: float

    @property
    def is_equal(self) -> bool:
        return all(one.equal for one in self.agreements)


def run_drill(
    kills: Sequence[Kill], *, steps: int, roots: tuple[Path, Path], command: Command, seed: int, ports: Ports
) -> DrillResult:
    """Trains undisturbed below the first root, with kills below the second, and compares.

    Raises:
        TrainingError: a process ended with an error of its own.
        TryAgainError: somebody asked the drill to stop; its processes are dead.
    """
    started = ports.clock.monotonic()
    undisturbed = _Run(roots[0], command, steps, ports, label="undisturbed run")
    undisturbed.finish()
    half = ports.clock.monotonic()
    killed = _Run(roots[1], command, steps, ports, label="killed run")
    killed.step_seconds, killed.write_seconds = undisturbed.step_seconds, undisturbed.write_seconds
    casualties, missed = _casualties(killed, kills, seed)
    end = ports.clock.monotonic()
    first, second = undisturbed.outcome(), killed.outcome()
    agreements = [_named(one, roots) for one in compare(first, second)]
    return DrillResult(
        tuple(casualties), tuple(missed), tuple(agreements), round(half - started, 1), round(end - half, 1)
    )


def _casualties(run: _Run, kills: Sequence[Kill], seed: int) -> tuple[list[Casualty], list[str]]:
    casualties: list[Casualty] = []
    missed: list[str] = []
    owed = False
    for number, kill in enumerate(kills):
        owed = owed or kill.corrupts
        casualty = run.until(kill, corrupt=owed, seed=seed + number, missed=missed)
        if casualty is None:
            missed.append(f"{kill.moment} after step {kill.step}: the run was over")
            break
        owed = owed and casualty.corrupted is None
        casualties.append(casualty)
    if owed:
        missed.append("no checkpoint lay there whose byte could be changed")
    run.finish()
    return run.told(casualties), missed


class _Run:
    """A training run of one process after another, below one root."""

    def __init__(self, root: Path, command: Command, steps: int, ports: Ports, *, label: str) -> None:
        self._folder = TrainingFolder(root)
        self._log = root / "output.log"
        self._command, self._steps, self._ports = command(root), steps, ports
        self._set_aside: list[list[dict[str, str]]] = []
        """Per process that came as far as to look: all that was set aside until then."""
        self.step_seconds = self.write_seconds = 0.0
        ports.progress.start(label, total=steps, unit="steps")
        self._shown = 0

    def finish(self) -> None:
        """Runs to the end."""
        child = self._start()
        self._watch(child, lambda: False)
        if child.exit_code != 0:
            raise TrainingError(
                f"training ended with exit code {child.exit_code}: {_last_lines(self._log)}",
                fix="make the same recipe's nexus train work without a drill first",
            )
        self._set_aside.append(self._folder.broken_in_facts())
        self.step_seconds, self.write_seconds = self._folder.typical_seconds()
        self._ports.progress.finish()

    def until(self, kill: Kill, *, corrupt: bool, seed: int, missed: list[str]) -> Casualty | None:
        """Runs until that kill has hit, and gives what it left; None where the run came to its end before."""
        casualty = None
        for attempt in range(MISSES):
            child = self._start()
            if not self._watch(child, self._due(kill if attempt == 0 else replace(kill, share=0.0))):
                self._refuse_failure(child)
                return None
            if attempt == 0:
                self._set_aside.append(self._folder.broken())
            if casualty := self._found(kill):
                break
            missed.append(f"{kill.moment} after step {kill.step}: it was written already; tried again")
            if attempt == MISSES - 1:
                casualty = self._found(replace(kill, moment="between steps"))
        assert casualty is not None
        if corrupt and casualty.whole:
            casualty = replace(casualty, corrupted=self._corrupt(casualty.whole[-1], seed))
        return casualty

    def told(self, casualties: list[Casualty]) -> list[Casualty]:
        """The casualties with what the process after each of them found."""
        known: list[dict[str, str]] = []
        complete = []
        # The first process had nothing to find; each other one found what the kill before it left.
        for casualty, after in zip(casualties, self._set_aside[1:], strict=True):
            new = [one for one in after if one not in known]
            known += new
            usable = [step for step in casualty.whole if not _is_named(f"step-{step:08d}", new)]
            complete.append(replace(casualty, set_aside=tuple(new), continued_from=max(usable, default=0)))
        return complete

    def outcome(self) -> Outcome:
        return self._folder.outcome()

    def _start(self) -> Child:
        self._folder.forget_process()
        return Child(self._command, log=self._log)

    def _watch(self, child: Child, due: Callable[[], bool]) -> bool:
        """Waits for the child's end, or for the moment that is due and kills it then: true."""
        try:
            while child.exit_code is None:
                self._folder.look()
                if due():
                    child.kill()
                    self._folder.look()
                    return True
                self._show()
                if reason := self._ports.interrupt.requested():
                    raise TryAgainError(f"the drill was stopped by {reason}", fix="the same command begins it again")
                near = self._folder.is_writing or self._folder.steps_done >= self._steps - 1
                time.sleep(NEAR_SECONDS if near else POLL_SECONDS)
        finally:
            child.kill()
        self._show()
        return False

    def _due(self, kill: Kill) -> Callable[[], bool]:
        """Asked at every look: is it time?"""
        waits = {
            "between steps": 0.0,
            "within a step": kill.share * self.step_seconds,
            "while a checkpoint is written": kill.share * self.write_seconds,
        }[kill.moment]
        since: list[float] = []

        def is_time() -> bool:
            folder = self._folder
            reached = folder.is_resumed and folder.steps_done >= kill.step
            if reached and kill.moment == "while a checkpoint is written":
                reached = folder.is_writing
            if not reached:
                return False
            since.append(time.monotonic())
            overtaken = kill.moment == "within a step" and folder.steps_done > kill.step
            return overtaken or since[-1] - since[0] >= waits

        return is_time

    def _found(self, kill: Kill) -> Casualty | None:
        """What the dead process left; None where a checkpoint should be half-written and none is."""
        folder = self._folder
        if kill.moment == "while a checkpoint is written" and not folder.is_writing:
            return None
        done = folder.steps_done
        hit = f"in step {done + 1}" if kill.moment == "within a step" and done < self._steps else f"after step {done}"
        if folder.half_written:
            hit += f", saving step {int(folder.half_written[-1][-8:])}"
        return Casualty(kill, hit, done, folder.whole, folder.half_written, None)

    def _corrupt(self, step: int, seed: int) -> str:
        files = self._folder.checkpoint_files(step)
        file = files[seed % len(files)]
        place, change = damage(file.stat().st_size, seed=seed)
        with file.open("r+b") as stream:
            stream.seek(place)
            before = stream.read(1)[0]
            stream.seek(place)
            stream.write(bytes([before ^ change]))
        self._folder.distrust(step)
        return f"step {step}: byte {place} of {file.name} {before:#04x} → {before ^ change:#04x}"

    def _refuse_failure(self, child: Child) -> None:
        if child.exit_code != 0:
            raise TrainingError(
                f"after a kill, training ended with exit code {child.exit_code}: {_last_lines(self._log)}",
                fix="this is what the drill looks for: please report it with the recipe and --seed",
            )

    def _show(self) -> None:
        done = self._folder.steps_done
        if done > self._shown:
            self._ports.progress.advance(done - self._shown)
            self._shown = done


def _named(one: Agreement, roots: tuple[Path, Path]) -> Agreement:
    """Adds the name of the first tensor that differs, where weights do."""
    if one.equal or one.what != "weights":
        return one
    left, right = (sorted(root.glob("artifacts/train/*/*.safetensors")) for root in roots)
    for before, after in zip(left, right, strict=False):
        if difference := first_different_tensor(before, after):
            return replace(one, note=f"{before.name}: {difference}")
    return replace(one, note="files beside the weights differ")


def _is_named(checkpoint: str, broken: list[dict[str, str]]) -> bool:
    # A name that was set aside before gets a number behind it.
    return any(one["name"].startswith(checkpoint) for one in broken)


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"{' | '.join(line.strip() for line in lines[-LINES_SHOWN:])} (all of it: {log})"

"""Drives a rollout: writes down, looks, lets the state machine decide, until it is over. It may be killed anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from nexus_llm.deploy.rollout import (
    Judgement,
    Limits,
    Plan,
    Rollout,
    Seen,
    Step,
    Target,
    after,
    judge_health,
    turned_back,
)
from nexus_llm.errors import ArtifactError, NexusError, TryAgainError, UsageError

WATCHED: tuple[Step, ...] = ("canary", "shift", "bake")
ASKED_BACK = Judgement("fail", "nexus rollback")


class Journal(Protocol):
    """Where rollouts are written down."""

    def write(self, rollout: Rollout) -> None:
        """Keeps it, for good."""

    def is_asked_back(self) -> bool:
        """Whether somebody wants the old model back while another command drives."""


@dataclass(frozen=True)
class Hands:
    """What a driver needs beside the target."""

    check: Callable[[Rollout], Judgement]
    """Asks both colours, and compares token ids and answers."""
    now: Callable[[], float]
    """Seconds since 1970."""
    sleep: Callable[[float], None]
    stop_requested: Callable[[], str | None] = lambda: None
    tell: Callable[[Rollout], None] = lambda rollout: None  # noqa: ARG005
    """Hears of every step before it begins."""
    poll_seconds: float = 0.5


def drive(rollout: Rollout, target: Target, journal: Journal, hands: Hands) -> Rollout:
    """Takes the rollout to its end, wherever it stands.

    Raises:
        TryAgainError: somebody asked to stop; the same command goes on.
        NexusError: nothing was changed yet and nothing can be, or the way back is barred.
    """
    told: tuple[str, str] | None = None
    while not rollout.is_over:
        if told != (rollout.step, rollout.status):
            told = (rollout.step, rollout.status)
            journal.write(rollout)
            hands.tell(rollout)
        if reason := hands.stop_requested():
            raise TryAgainError(
                f"stopped by {reason} in the step {rollout.step}",
                fix="the same command continues; nexus rollback goes back",
            )
        if rollout.status == "running" and journal.is_asked_back():
            rollout = turned_back(rollout, ASKED_BACK, now=hands.now())
            continue
        rollout = _looked(rollout, target, journal, hands)
        if told == (rollout.step, rollout.status):
            hands.sleep(hands.poll_seconds)
    journal.write(rollout)
    return rollout


def _looked(rollout: Rollout, target: Target, journal: Journal, hands: Hands) -> Rollout:
    try:
        seen = _seen(rollout, target, hands)
    except TryAgainError:
        raise
    except NexusError as error:
        if rollout.status == "rolling_back":
            raise
        why = Judgement("fail", f"{error.what} ({error.fix})")
        if rollout.step in ("stage", "preflight"):  # nothing was changed: the error itself is the answer
            journal.write(replace(rollout, status="rolled_back", verdict=why.verdict, reason=why.reason))
            raise
        return turned_back(rollout, why, now=hands.now())
    return after(rollout, seen, now=hands.now())


def _seen(rollout: Rollout, target: Target, hands: Hands) -> Seen:
    if rollout.status == "rolling_back":
        return Seen(target.turn_back(rollout))
    if rollout.step == "check":
        judgement = hands.check(rollout)
        return Seen({}, judgement)
    facts = target.advance(rollout)
    if facts is None or rollout.step not in WATCHED:
        return Seen(facts)
    return Seen(facts, judge_health(target.health(rollout), rollout.plan.limits))


@dataclass(frozen=True)
class Answering:
    """A model that a service answers with."""

    model: str
    """Where its package lies: a folder on this machine, or a place in S3."""
    rollout: Rollout
    """The newest that tells of it."""


@dataclass(frozen=True)
class RolloutFolder:
    """The rollouts of one service: a file each, named by their numbers."""

    folder: Path

    def write(self, rollout: Rollout) -> None:
        """Keeps it; the file is whole at any moment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{rollout.id}.part"
        part.write_text(json.dumps(asdict(rollout), indent=1) + "\n", encoding="utf-8")
        part.replace(self.folder / f"{rollout.id}.json")

    def ask_back(self) -> None:
        """Asks whoever drives the rollout to turn it back."""
        (self.folder / _BACK).touch()

    def is_asked_back(self) -> bool:
        """See `Journal`."""
        return (self.folder / _BACK).exists()

    def last(self) -> Rollout | None:
        """The newest one.

        Raises:
            ArtifactError: its file cannot be read.
        """
        files = self._files()
        return _read(files[-1]) if files else None

    def answering(self) -> list[Answering]:
        """The models that answer, as far as the rollouts tell: two while one is under way, none where none took over.

        Raises:
            ArtifactError: a rollout cannot be read.
        """
        found: list[Answering] = []
        for rollout in map(_read, self._files()):
            blue = rollout.facts.get("stage", {}).get("blue") if rollout.plan.target == "local" else None
            if blue is not None:
                found = [Answering(blue, rollout)]
            if rollout.status == "done":
                found = []
            if rollout.status != "rolled_back":
                found.append(Answering(rollout.plan.model, rollout))
        return found

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))

    def begin(self, plan: Plan, *, now: float) -> Rollout:
        """A new rollout of this plan, or the one of the same plan that is not over yet.

        Raises:
            UsageError: another one is not over yet.
        """
        last = self.last()
        if last is not None and not last.is_over:
            if last.plan.model == plan.model:
                return last
            raise UsageError(
                f"rollout {last.id} of {last.plan.model} on {last.plan.service} is not over ({last.step})",
                fix=f"nexus rollback, or finish it: nexus deploy {last.plan.model}",
            )
        number = 1 if last is None else int(last.id) + 1
        return Rollout(f"{number:04}", plan, began_at=now)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A block in which nobody else on this machine drives a rollout of the service.

        Raises:
            TryAgainError: somebody does.
        """
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise TryAgainError(
                    f"another command drives the rollout in {self.folder}", fix="wait for it, or stop it with Ctrl-C"
                ) from None
            (self.folder / _BACK).unlink(missing_ok=True)
            yield


_BACK = ".back"


def document(rollout: Rollout) -> dict[str, Any]:
    """The rollout as the command line tells it."""
    warm = rollout.facts.get("warm", {})
    return {
        "id": rollout.id,
        "target": rollout.plan.target,
        "service": rollout.plan.service,
        "model": rollout.plan.model,
        "status": rollout.status,
        "step": rollout.step,
        "verdict": rollout.verdict,
        "reason": rollout.reason,
        "cold_start": {name: warm[name] for name in ("pull_seconds", "load_seconds", "warm_seconds") if name in warm},
        "steps": rollout.facts,
    }


def _read(path: Path) -> Rollout:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        plan = values.pop("plan")
        limits = Limits(**plan.pop("limits"))
        return Rollout(plan=Plan(**plan, limits=limits), **values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} is no rollout ({error})", fix="remove the file: the service goes on") from error

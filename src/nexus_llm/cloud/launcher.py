"""One port for every job that AWS runs for us: start it, ask for its state, stop it; and one loop that follows it.

A job's full id is `SERVICE/NATIVE`, as `glue/JOB/RUN` or `training/NAME`: it says by itself whom to ask, so nothing of
a job need be kept on the machine that started it.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

from nexus_llm.cloud import aws_errors
from nexus_llm.cloud.account import Account
from nexus_llm.cloud.aws_errors import is_busy, is_denied
from nexus_llm.cloud.job_log import JobLog, LogStreams
from nexus_llm.cloud.metrics_progress import MetricsProgress
from nexus_llm.errors import BudgetError, DataError, NexusError, TryAgainError
from nexus_llm.ports import Progress
from nexus_llm.recipe import Recipe

Outcome = Literal["waiting", "done", "failed", "stopped", "late"]

PROJECT_TAG = ("project", "nexus-llm")
"""On every job of ours, and nothing else: how `nexus jobs list` finds them."""
_FIRST_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 60.0
_WAIT_FACTOR = 1.5
_UNREADABLE = "its log may not be read: logs:DescribeLogStreams, logs:GetLogEvents"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job used of one thing that has a price: service, name and unit are those of the price table."""

    service: str
    sku: str
    amount: float
    unit: str


@dataclass(frozen=True, slots=True)
class JobState:
    """What a service says about a job."""

    state: str
    """In the service's words."""
    outcome: Outcome
    reason: str = ""
    """Why it ended, in the service's words; may be empty."""
    log: str = ""
    """Where to read on: log group and streams, or an S3 prefix."""
    words: str = ""
    """What it is doing, for people; empty where the state says it."""
    streams: LogStreams | None = None
    """Where its lines can be read while it runs; None where they cannot."""
    started_at: float | None = None
    """Seconds since 1970; None while nothing is paid for."""
    usage: tuple[Usage, ...] = ()
    """What is billed so far; empty while nothing is known."""
    unbilled: str = ""
    """Why the bill cannot be known from what the service says, or is incomplete."""
    ending: str = ""
    """One more fact about a job that has ended."""
    loss: float | None = None
    """The last one that the service has noted."""
    steps: float | None = None
    """How many steps it will make, where it is a training job."""
    tags: Mapping[str, str] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=dict)
    """All that the service said."""


@dataclass(frozen=True)
class Launcher(ABC):
    """Jobs of one kind in one account. A job is named by what follows `service/` in its full id."""

    account: Account
    service: ClassVar[str]
    """First part of a full id."""
    label: ClassVar[str]
    """What people call such a job."""
    describe_call: ClassVar[str]
    """The IAM action of `describe`."""

    @abstractmethod
    def submit(self, body: Mapping[str, Any]) -> str:
        """Starts what the request describes; gives the job's name."""

    @abstractmethod
    def describe(self, job: str) -> JobState:
        """What the service says now. AWS' errors come as they are: only the caller knows whether waiting helps.

        Raises:
            NexusError: there is no such job.
        """

    @abstractmethod
    def stop(self, job: str) -> None:
        """Asks a job to end; one that has ended already stays as it is.

        Raises:
            NexusError: there is no such job, or AWS refuses.
        """

    def explained(self, call: str, name: str, *, fix: str | None = None) -> AbstractContextManager[None]:
        """Turns AWS' refusals inside the block into errors that name the call and its object."""
        failed = partial(DataError, fix="check data.aws of the recipe, the region and the account")
        return aws_errors.explained(call, name, fix=fix, failed=failed)

    def ended_badly(self, job: str, state: JobState) -> NexusError:
        """The error for a job that has ended, and not well."""
        return failure(f"{self.label} {job}", state)

    def state(self, job: str) -> JobState:
        """As `describe`, with AWS' errors explained."""
        with self.explained(self.describe_call, job):
            return self.describe(job)

    def full_id(self, job: str) -> str:
        """The id that `nexus jobs` takes."""
        return f"{self.service}/{job}"

    def command(self, verb: str, job: str) -> str:
        """What a user types to `attach` to a job, or to `stop` it."""
        return f"nexus jobs {verb} {self.full_id(job)}"


def job_tags(recipe: Recipe, key: str) -> dict[str, str]:
    """The tags of every job: whose it is, of which run, for which artifact, on which platform."""
    name, value = PROJECT_TAG
    return {name: value, "recipe": recipe.name, "nexus:key": key, "platform": recipe.platform}


def follow(launcher: Launcher, job: str, progress: Progress) -> JobState:
    """The state of a job that has ended, however it did; until then its lines and states are shown as they come.

    A busy service and a lost line are waited out, for as long as it takes: no clock is read, so a laptop may sleep in
    between. Who may not read the log sees the states.

    Raises:
        TryAgainError: somebody asked to stop watching; the job goes on.
        StorageError: the credentials ran out; the job goes on.
        BudgetError: it has cost what it may cost, and was asked to stop.
    """
    watch, pauses = launcher.account.watch, waits()
    again = f"{launcher.command('attach', job)} goes on watching, {launcher.command('stop', job)} ends the job"
    view: _View | None = None
    while True:
        try:
            state = launcher.describe(job)
            view = view or _View(launcher, job, progress, state)
            spending = watch.spending(launcher.full_id(job), state)
            if view.show(state, spending.words):
                pauses = waits()
        except Exception as error:
            if not is_busy(error):
                with launcher.explained(launcher.describe_call, job, fix=again):
                    raise
            if view:
                view.shown.state("AWS does not answer, asking again")
        else:
            if state.outcome != "waiting":
                view.finish(state)
                return state
            if spending.is_over:
                with contextlib.suppress(TryAgainError):  # AWS is busy: asked again after the pause
                    launcher.stop(job)
                    raise BudgetError(
                        f"{launcher.label} {job} was asked to stop: {spending.words}",
                        fix="raise --budget-usd and run the same command again: what is finished is not made twice",
                    )
        if reason := watch.stop_requested():
            raise TryAgainError(f"stopped watching {launcher.label} {job} ({reason}); the job goes on", fix=again)
        watch.sleep(next(pauses))


def run_to_end(launcher: Launcher, job: str, progress: Progress) -> JobState:
    """As `follow`, for a job that must end well."""
    state = follow(launcher, job, progress)
    if state.outcome != "done":
        raise launcher.ended_badly(job, state)
    return state


class _View:
    """A job as the person at the terminal sees it."""

    def __init__(self, launcher: Launcher, job: str, progress: Progress, state: JobState) -> None:
        self._account, self._can_read = launcher.account, True
        self._log: JobLog | None = None
        self._seen = ""
        self.shown = MetricsProgress(progress, label=f"{launcher.label} {job}", total=state.steps)

    def show(self, state: JobState, cost: str = "") -> bool:
        """Shows what is new; whether anything but the cost was."""
        lines = self._lines(state.streams) if state.streams and self._can_read else []
        for line in lines:
            if not self.shown.line(line) and line.strip():
                self._account.watch.show_line(line.rstrip())
        words = (state.words or state.state) + ("" if self._can_read else f" ({_UNREADABLE})")
        self.shown.state(f"{words}, {cost}" if cost else words)
        is_new, self._seen = bool(lines) or words != self._seen, words
        return is_new

    def finish(self, state: JobState) -> None:
        """One line: the last loss, how much of the time is billed, what that costs."""
        loss = self.shown.last.get("loss", state.loss)
        words = [
            state.state,
            "" if loss is None else f"loss {loss:.3f}",
            state.ending,
            self._account.watch.cost_words(state),
        ]
        self.shown.finish(", ".join(word for word in words if word))

    def _lines(self, place: LogStreams) -> list[str]:
        if self._log is None or self._log.place != place:  # Batch names its stream when the container starts
            self._log = JobLog(self._account.client("logs"), place)
        try:
            return self._log.new_lines()
        except Exception as error:
            if not is_denied(error):
                raise
            self._can_read = False
            return []


def waits() -> Iterator[float]:
    """Seconds between polls: 5, growing to a minute, for ever."""
    pause = _FIRST_WAIT_SECONDS
    while True:
        yield pause
        pause = min(pause * _WAIT_FACTOR, _LONGEST_WAIT_SECONDS)


def failure(name: str, state: JobState) -> NexusError:
    """The error for a job that ended badly."""
    what = f"{name} ended as {state.state}" + (f": {state.reason.strip()}" if state.reason.strip() else "")
    if state.outcome == "stopped":
        return TryAgainError(what, fix="run the same command again; finished artifacts are not made twice")
    if state.outcome == "late":
        return DataError(what, fix=f"raise the time that it may take, or its workers; log: {state.log}")
    return DataError(what, fix=f"read its log: {state.log}")

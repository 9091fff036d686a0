"""Losses and results told to MLflow, TensorBoard and Weights & Biases, without training ever waiting for them.

The composition root asks `tracker_for` for the trackers of a recipe. Each works on a thread of its own; one that
fails or falls far behind is dropped with one warning, and training goes on.
"""

from __future__ import annotations

import importlib.util
import json
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nexus_llm.errors import MissingExtraError
from nexus_llm.ports import RunStart, SilentTracker, Tracker, TrackingStatus
from nexus_llm.recipe.train import TrackingRecipe

QUEUE_STEPS = 10_000  # a few MB; a tracker that is so far behind will not catch up
FINISH_SECONDS = 30.0  # for the last values to be written; a server that hangs must not keep the process


class SeveralTrackers:
    """One `Tracker` for several."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def start(self, run: RunStart) -> None:
        for tracker in self._trackers:
            tracker.start(run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def finish(self, status: TrackingStatus) -> None:
        for tracker in self._trackers:
            tracker.finish(status)


class BackgroundTracker:
    """Another `Tracker`, called on a thread: `log` costs the caller microseconds, and nothing is ever raised."""

    def __init__(
        self,
        inner: Tracker,
        *,
        name: str,
        warn: Callable[[str], None],
        queue_steps: int = QUEUE_STEPS,
        finish_seconds: float = FINISH_SECONDS,
    ) -> None:
        """`name` is who is called so in the one warning that `warn` may hear."""
        self._inner, self._name, self._warn = inner, name, warn
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(queue_steps)
        self._finish_seconds = finish_seconds
        self._gave_up = threading.Event()
        self._warning = threading.Lock()
        # A daemon: one that waits for a dead host never keeps the process from ending.
        self._thread = threading.Thread(target=self._work, name=f"tracking-{name}", daemon=True)

    def start(self, run: RunStart) -> None:
        self._thread.start()
        self._put(lambda: self._inner.start(run))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        kept = dict(values)
        self._put(lambda: self._inner.log(step, kept))

    def finish(self, status: TrackingStatus) -> None:
        """Waits for what is still to be written, but not long."""
        self._put(lambda: self._inner.finish(status))
        self._put(None)
        self._thread.join(self._finish_seconds)
        if self._thread.is_alive():
            self._give_up(f"did not finish within {self._finish_seconds:g} s")

    def _put(self, call: Callable[[], None] | None) -> None:
        if self._gave_up.is_set():
            return
        try:
            self._waiting.put_nowait(call)
        except queue.Full:
            self._give_up(f"is {self._waiting.maxsize:,} steps behind")

    def _work(self) -> None:
        while not self._gave_up.is_set() and (call := self._waiting.get()):
            try:
                call()
            except Exception as error:  # noqa: BLE001 - whatever a tracker does, training goes on
                first_line = next(iter(str(error).splitlines()), type(error).__name__)
                self._give_up(f"failed: {first_line}")

    def _give_up(self, why: str) -> None:
        with self._warning:
            if not self._gave_up.is_set():
                self._gave_up.set()
                self._warn(f"{self._name} {why}; training goes on without it")


def tracker_for(
    tracking: TrackingRecipe, *, runs: Path, environment: Mapping[str, str], warn: Callable[[str], None]
) -> Tracker:
    """All trackers that a recipe's `train.tracking` asks for, behind one that never gets in the way.

    `runs` is the folder of runs: MLflow's SQLite file `mlflow.db` and the event files of TensorBoard and W&B go there.

    Raises:
        MissingExtraError: a library is not installed; tells how to install it.
    """
    from nexus_llm.cloud.trackers import MlflowTracker, TensorBoardTracker, WandbTracker

    wanted: list[tuple[str, Tracker]] = []
    if tracking.mlflow or tracking.mlflow_uri:
        _require("mlflow", "mlflow-skinny sqlalchemy alembic")
        wanted.append(("MLflow", MlflowTracker(tracking.mlflow_uri, runs=runs)))
    if tracking.tensorboard:
        _require("tensorboard", "tensorboard")
        wanted.append(("TensorBoard", TensorBoardTracker(runs)))
    if tracking.wandb_project:
        _require("wandb", "wandb")
        is_online = bool(environment.get("WANDB_API_KEY")) and environment.get("WANDB_MODE", "online") == "online"
        wanted.append(("Weights & Biases", WandbTracker(tracking.wandb_project, runs=runs, is_online=is_online)))
    if not wanted:
        return SilentTracker()
    return SeveralTrackers(*(BackgroundTracker(inner, name=name, warn=warn) for name, inner in wanted))


def flattened(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted name → value as text, for trackers that know no nesting.

    >>> flattened({"seed": 1, "train": {"lora_r": 16, "tags": ["a"]}})
    {'seed': '1', 'train.lora_r': '16', 'train.tags': '["a"]'}
    """
    found: dict[str, str] = {}
    for name, value in parameters.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flattened(value, f"{dotted}.")
        else:
            found[dotted] = value if isinstance(value, str) else json.dumps(value)
    return found


def _require(module: str, packages: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(
            f"train.tracking needs the Python module {module!r}, which is not installed",
            fix=f"pip install 'nexus-llm-platform[track]' (or only: pip install {packages})",
        )

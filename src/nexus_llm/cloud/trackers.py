"""MLflow, TensorBoard and Weights & Biases, each as a `Tracker`: the calls may be slow and may raise.

`nexus_llm.cloud.tracking` keeps training from noticing either.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.cloud.tracking import flattened
from nexus_llm.ports import RunStart, TrackingStatus

EXPERIMENT = "nexus-llm"
DATABASE = "mlflow.db"
_PARAMETERS_AT_ONCE = 100  # of one log_batch (MLflow REST API, read 2026-11)
_PARAMETER_CHARACTERS = 6000  # of one value (the same)


class MlflowTracker:
    """A run in MLflow's SQLite file below the runs, or on the server that the recipe names."""

    def __init__(self, uri: str | None, *, runs: Path) -> None:
        self._runs, self._uri = runs.absolute(), uri
        self._logged_until = 0

    def start(self, run: RunStart) -> None:
        client = mlflow_client(self._uri, runs=self._runs)
        found = _remembered(run.memory, "mlflow", lambda: self._new_run(client, run.name))
        if not _mlflow_knows(client, found):  # the id is of a server that is no longer the one
            found = _remember(run.memory, "mlflow", self._new_run(client, run.name))
        self._client, self._run_id = client, found
        client.update_run(found, status="RUNNING")
        # Steps behind the checkpoint were told before the kill, with the same values: they are not told twice.
        history = client.get_metric_history(found, "loss")
        self._logged_until = max((entry.step for entry in history), default=0)
        self._log_parameters(run.parameters)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        if step > self._logged_until:
            now = int(time.time() * 1000)
            self._client.log_batch(self._run_id, [Metric(name, value, now, step) for name, value in values.items()])

    def finish(self, status: TrackingStatus) -> None:
        ends: dict[TrackingStatus, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
        self._client.set_terminated(self._run_id, ends[status])

    def _new_run(self, client: Any, name: str) -> str:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            # The default would be a folder mlruns/ wherever the command was typed.
            place = None if self._uri else (self._runs / "mlflow-artifacts").as_uri()
            identity = client.create_experiment(EXPERIMENT, artifact_location=place)
        else:
            identity = experiment.experiment_id
        return str(client.create_run(identity, run_name=name).info.run_id)

    def _log_parameters(self, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = [Param(name, value[:_PARAMETER_CHARACTERS]) for name, value in flattened(parameters).items()]
        for first in range(0, len(flat), _PARAMETERS_AT_ONCE):
            self._client.log_batch(self._run_id, params=flat[first : first + _PARAMETERS_AT_ONCE])


def mlflow_client(uri: str | None, *, runs: Path) -> Any:
    """MLflow's client for the server at `uri`, or for the SQLite file below the folder of runs."""
    # MLflow would tell its makers that it is used; nothing leaves the machine unless the recipe says so.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # they would announce every table of the new file
        logging.getLogger(name).setLevel(logging.WARNING)
    runs.mkdir(parents=True, exist_ok=True)
    with _loggers_kept():
        return MlflowClient(uri or f"sqlite:///{runs.absolute() / DATABASE}")


@contextlib.contextmanager
def _loggers_kept() -> Iterator[None]:
    """Undoes what alembic does to logging when a new database is made: all other loggers fall silent."""
    known = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    before = [(one, one.disabled, one.level, one.propagate) for one in known]
    root = logging.root.level, list(logging.root.handlers)
    yield
    for one, disabled, level, propagate in before:
        one.disabled, one.level, one.propagate = disabled, level, propagate
    logging.root.setLevel(root[0])
    logging.root.handlers[:] = root[1]


class TensorBoardTracker:
    """Event files in `runs/NAME/tensorboard/`: look at them with `tensorboard --logdir runs`."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs

    def start(self, run: RunStart) -> None:
        from torch.utils.tensorboard import SummaryWriter

        began = _remembered(run.memory, "tensorboard", lambda: time.strftime("%Y-%m-%dT%H-%M-%S"))
        # What a killed process told about the steps that are now done again is hidden.
        purge = run.first_step if run.first_step > 1 else None
        self._writer = SummaryWriter(str(self._runs / run.name / "tensorboard" / began), purge_step=purge)
        lines = [f"    {name}: {value}" for name, value in flattened(run.parameters).items()]
        self._writer.add_text("recipe", "\n".join(lines), run.first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, status: TrackingStatus) -> None:
        self._writer.add_text("status", status)
        self._writer.close()


class WandbTracker:
    """A run of Weights & Biases; without a key it is kept in `runs/NAME/wandb/`, to be sent with `wandb sync`."""

    def __init__(self, project: str, *, runs: Path, is_online: bool) -> None:
        self._project, self._runs, self._is_online = project, runs, is_online

    def start(self, run: RunStart) -> None:
        wandb: Any = importlib.import_module("wandb")
        folder = self._runs / run.name
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._project,
            name=run.name,
            id=_remembered(run.memory, "wandb", lambda: secrets.token_hex(4)),
            resume="allow" if self._is_online else None,  # offline runs of one id are joined by `wandb sync --append`
            dir=str(folder),
            mode="online" if self._is_online else "offline",
            config=dict(run.parameters),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, status: TrackingStatus) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)


def _remembered(memory: Path, name: str, make: Callable[[], str]) -> str:
    """The id that an earlier process of the same run kept, or a new one that is kept now."""
    path = memory / f"{name}.run"
    return path.read_text(encoding="utf-8") if path.exists() else _remember(memory, name, make())


def _remember(memory: Path, name: str, identity: str) -> str:
    storage.write_atomically(memory / f"{name}.run", identity.encode())
    return identity


def _mlflow_knows(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise

"""Trackers with the real MLflow on SQLite and real TensorBoard event files; Weights & Biases at its own API's edge."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nexus_llm.cloud.trackers import MlflowTracker, TensorBoardTracker, WandbTracker
from nexus_llm.cloud.tracking import BackgroundTracker, SeveralTrackers, tracker_for
from nexus_llm.errors import MissingExtraError
from nexus_llm.ports import RunStart, SilentTracker, TrackingStatus
from nexus_llm.recipe.train import TrackingRecipe

PARAMETERS = {
    "seed": 17,
    "train": {"lora_r": 16, "target_modules": ["q_proj"], **{f"field_{n}": n for n in range(120)}},
}


def run_start(tmp_path: Path, *, first_step: int = 1) -> RunStart:
    memory = tmp_path / "work"
    memory.mkdir(exist_ok=True)
    return RunStart(name="support", parameters=PARAMETERS, memory=memory, first_step=first_step)


def wanted(tmp_path: Path, warnings: list[str], **fields: Any) -> Any:
    return tracker_for(TrackingRecipe(**fields), runs=tmp_path / "runs", environment={}, warn=warnings.append)


def test_without_a_wish_nobody_is_told(tmp_path: Path) -> None:
    assert isinstance(wanted(tmp_path, []), SilentTracker)


def test_mlflow_keeps_one_run_with_each_step_once_over_a_kill(
    tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_registry, "runs")
    first = MlflowTracker(None, runs=tmp_path / "runs")
    first.start(run_start(tmp_path))
    for step in range(1, 8):
        first.log(step, {"loss": 1 / step, "learning_rate": 1e-4})
    # Killed here, after step 7; the newest checkpoint is that of step 4.
    second = MlflowTracker(None, runs=tmp_path / "runs")
    second.start(run_start(tmp_path, first_step=5))
    for step in range(5, 11):
        second.log(step, {"loss": 1 / step, "learning_rate": 1e-4})
    second.finish("finished")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("nexus-llm").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "support"
    assert run.data.params["train.lora_r"] == "16"
    assert run.data.params["train.field_119"] == "119"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((entry.step, entry.value) for entry in history) == [(step, 1 / step) for step in range(1, 11)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "work"]


def test_an_id_that_mlflow_does_not_know_begins_a_new_run(tmp_path: Path, empty_registry: Path) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_registry, tmp_path / "runs")
    start = run_start(tmp_path)
    (start.memory / "mlflow.run").write_text("0123456789abcdef0123456789abcdef")
    tracker = MlflowTracker(None, runs=tmp_path / "runs")
    tracker.start(start)
    tracker.log(1, {"loss": 2.0})
    tracker.finish("stopped")
    assert (start.memory / "mlflow.run").read_text() != "0123456789abcdef0123456789abcdef"


def test_mlflow_on_sqlite_opens_no_connection(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    code = f"""
import socket, sys
from pathlib import Path
def refuse(*arguments):
    print("connected to", arguments[1], flush=True)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = refuse
from nexus_llm.cloud.trackers import MlflowTracker
from nexus_llm.ports import RunStart
tracker = MlflowTracker(None, runs=Path({str(tmp_path)!r}) / "runs")
tracker.start(RunStart("a", {{}}, Path({str(tmp_path)!r})))
tracker.log(1, {{"loss": 1.0}})
tracker.finish("finished")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""


def test_tensorboard_shows_one_curve_over_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoardTracker(tmp_path / "runs")
    first.start(run_start(tmp_path))
    for step in range(1, 8):
        first.log(step, {"loss": 1 / step})
    first._writer.flush()  # a killed process has written what its writer's thread had written until then
    second = TensorBoardTracker(tmp_path / "runs")
    second.start(run_start(tmp_path, first_step=5))
    for step in range(5, 11):
        second.log(step, {"loss": 1 / step})
    second.finish("finished")
    first._writer.close()
    (folder,) = (tmp_path / "runs" / "support" / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [entry.step for entry in events.Scalars("loss")] == list(range(1, 11))
    assert events.Scalars("loss")[-1].value == pytest.approx(0.1)


def test_wandb_stays_offline_without_a_key_and_goes_on_with_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Run:
        def log(self, values: dict[str, float], *, step: int) -> None:
            calls.append(("log", {"step": step, **values}))

        def finish(self, *, exit_code: int) -> None:
            calls.append(("finish", {"exit_code": exit_code}))

    def init(**arguments: Any) -> Run:
        calls.append(("init", arguments))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))  # type: ignore[arg-type]
    for is_online in (False, True):
        tracker = WandbTracker("own-llm", runs=tmp_path / "runs", is_online=is_online)
        tracker.start(run_start(tmp_path))
        tracker.log(1, {"loss": 2.0})
        tracker.finish("finished")
    offline, online = (arguments for name, arguments in calls if name == "init")
    assert offline["mode"] == "offline"
    assert online["mode"] == "online"
    assert offline["id"] == online["id"]
    assert offline["config"] == PARAMETERS
    assert calls[1:3] == [("log", {"step": 1, "loss": 2.0}), ("finish", {"exit_code": 0})]


class Recording:
    """A `Tracker` that remembers, waits for `gate` before each step, and fails where it is told to."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.steps: list[int] = []
        self.status: TrackingStatus | None = None
        self._fails_at = fails_at

    def start(self, run: RunStart) -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.gate.wait(60)
        if step == self._fails_at:
            raise ConnectionError("the server is gone\nand more lines")
        self.steps.append(step)

    def finish(self, status: TrackingStatus) -> None:
        self.status = status


def test_all_steps_arrive_in_order_before_the_end(tmp_path: Path) -> None:
    inner, warnings = Recording(), list[str]()
    tracker = SeveralTrackers(BackgroundTracker(inner, name="it", warn=warnings.append), SilentTracker())
    tracker.start(run_start(tmp_path))
    for step in range(1, 501):
        tracker.log(step, {"loss": 1.0})
    tracker.finish("stopped")
    assert inner.steps == list(range(1, 501))
    assert inner.status == "stopped"
    assert warnings == []


def test_a_tracker_that_fails_is_dropped_with_one_warning(tmp_path: Path) -> None:
    inner, warnings = Recording(fails_at=3), list[str]()
    tracker = BackgroundTracker(inner, name="MLflow", warn=warnings.append)
    tracker.start(run_start(tmp_path))
    for step in range(1, 10):
        tracker.log(step, {"loss": 1.0})
    tracker.finish("finished")
    assert warnings == ["MLflow failed: the server is gone; training goes on without it"]
    assert inner.steps == [1, 2]


def test_a_tracker_that_hangs_neither_blocks_a_step_nor_the_end(tmp_path: Path) -> None:
    inner, warnings = Recording(), list[str]()
    inner.gate.clear()
    tracker = BackgroundTracker(inner, name="it", warn=warnings.append, queue_steps=5, finish_seconds=0.05)
    tracker.start(run_start(tmp_path))
    for step in range(1, 100):
        tracker.log(step, {"loss": 1.0})  # would wait for a minute where it waited at all
    tracker.finish("finished")
    assert warnings == ["it is 5 steps behind; training goes on without it"]
    inner.gate.set()


def test_the_end_does_not_wait_for_a_hanging_tracker(tmp_path: Path) -> None:
    inner, warnings = Recording(), list[str]()
    inner.gate.clear()
    tracker = BackgroundTracker(inner, name="it", warn=warnings.append, finish_seconds=0.05)
    tracker.start(run_start(tmp_path))
    tracker.log(1, {"loss": 1.0})
    tracker.finish("finished")
    assert warnings == ["it did not finish within 0.05 s; training goes on without it"]
    inner.gate.set()


def test_a_server_that_is_not_there_costs_a_warning_and_no_training(tmp_path: Path, free_port: int) -> None:
    pytest.importorskip("mlflow")
    warnings: list[str] = []
    tracker = BackgroundTracker(
        MlflowTracker(f"http://127.0.0.1:{free_port}", runs=tmp_path / "runs"),
        name="MLflow",
        warn=warnings.append,
        finish_seconds=0.2,
    )
    tracker.start(run_start(tmp_path))
    tracker.log(1, {"loss": 1.0})
    tracker.finish("finished")
    (warning,) = warnings
    assert warning.startswith("MLflow ")
    assert warning.endswith("; training goes on without it")


@pytest.fixture
def free_port() -> int:
    """A port of this machine where nobody listens."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_library_that_is_missing_is_named_with_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for fields, module in (
        ({"mlflow": True}, "mlflow"),
        ({"tensorboard": True}, "tensorboard"),
        ({"wandb_project": "p"}, "wandb"),
    ):
        with pytest.raises(MissingExtraError, match=module) as caught:
            wanted(tmp_path, [], **fields)
        assert "nexus-llm-platform[track]" in caught.value.fix
        assert module in caught.value.fix


def test_a_run_is_tracked_through_the_recipe_from_a_thread(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("tensorboard")
    warnings: list[str] = []
    tracker = wanted(tmp_path, warnings, mlflow=True, tensorboard=True)
    start = run_start(tmp_path)
    tracker.start(replace(start, parameters=json.loads(json.dumps(PARAMETERS))))
    tracker.log(1, {"loss": 2.5})
    tracker.finish("finished")
    assert warnings == []
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    run = client.get_run((start.memory / "mlflow.run").read_text())
    assert run.data.metrics == {"loss": 2.5}
    assert list((tmp_path / "runs" / "support" / "tensorboard").rglob("events.out.tfevents.*"))

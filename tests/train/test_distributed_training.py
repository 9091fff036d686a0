"""Two real processes over Gloo give the losses of one, die, and go on as if nothing had happened."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_training
from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train import checkpoint
from nexus_llm.train.distributed.launch import launch, outcome
from nexus_llm.train.distributed.slices import whole
from nexus_llm.train.loop import Surroundings, Training
from nexus_llm.train.packing import PackedRows

HERE = Path(__file__).parent
WITH_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
PATIENCE_SECONDS = 280

# Float32 sums in another order differ in the last digits, and training carries them on.
LOSS_TOLERANCE = {"float32": 2e-4, "bfloat16": 2e-2}
NORM_TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp"},
    "zero1": {"strategy": "deepspeed", "zero_stage": 1},
    "zero2": {"strategy": "deepspeed", "zero_stage": 2},
    "zero3": {"strategy": "deepspeed", "zero_stage": 3},
    "zero3-offload": {"strategy": "deepspeed", "zero_stage": 3, "offload_param": True},
    "fsdp": {"strategy": "fsdp"},
}
OTHERS: dict[str, dict[str, Any]] = {
    "ddp-lora": {"strategy": "ddp", "method": "lora"},
    "fsdp-lora": {"strategy": "fsdp", "method": "lora", "gradient_checkpointing": True},
    "zero1-lora": {"strategy": "deepspeed", "zero_stage": 1, "method": "lora"},
    "zero2-lora": {"strategy": "deepspeed", "zero_stage": 2, "method": "lora"},
    "zero3-lora": {"strategy": "deepspeed", "zero_stage": 3, "method": "lora"},
    "zero1-bfloat16": {"strategy": "deepspeed", "zero_stage": 1, "dtype": "bfloat16"},
    "fsdp-bfloat16": {"strategy": "fsdp", "dtype": "bfloat16"},
}


def here(jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: job for name, job in jobs.items() if WITH_DEEPSPEED or job["strategy"] != "deepspeed"}


def cases(jobs: dict[str, dict[str, Any]]) -> list[Any]:
    reason = "deepspeed is not installed"
    return [pytest.param(name, marks=pytest.mark.skipif(name not in here(jobs), reason=reason)) for name in jobs]


def start(root: Path, jobs: list[dict[str, Any]], *, logs: str) -> subprocess.Popen[str]:
    command = launch(
        [str(HERE / "distributed_process.py"), str(root), json.dumps(jobs)], processes=2, log_folder=root / logs
    )
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("distributed")
    tiny_training.make_model(root / "model")
    return root


@pytest.fixture(scope="module")
def alone(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of metrics.jsonl of one process with the whole batch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for method, dtype in (("full", "float32"), ("lora", "float32"), ("full", "bfloat16")):
        made = recipe(rows=8, method=method, dtype=dtype)
        found[f"{method} {dtype}"] = one_process(root, root / f"alone-{method}-{dtype}", made).metrics()
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="module")
def died(root: Path) -> tuple[int, str]:
    """All strategies came to step 5 and were given up, the last by SIGKILL to both: torchrun's end, what it said."""
    jobs = [{"name": name, "dies_at": 5, **job} for name, job in here(STRATEGIES).items()]
    jobs[-1]["kills"] = True
    process = start(root, jobs, logs="logs-died")
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, said


@pytest.fixture(scope="module")
def finished(root: Path, died: Any, alone: Any) -> dict[str, list[dict[str, Any]]]:
    """Rows of metrics.jsonl of all jobs: gone on with, and undisturbed."""
    jobs = [{"name": name, **job} for name, job in here(STRATEGIES).items()]
    jobs += [{**job, "name": f"undisturbed-{job['name']}"} for job in jobs]
    jobs += [{"name": name, **job} for name, job in here(OTHERS).items()]
    process = start(root, jobs, logs="logs-finished")
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    return {job["name"]: metrics(root / job["name"]) for job in jobs}


def recipe(strategy: str = "none", **changes: Any) -> TrainRecipe:
    from train.distributed_process import recipe as made

    return made(strategy, **changes)


def packed_rows() -> PackedRows:
    from train.distributed_process import packed_rows as made

    return made()


def one_process(root: Path, folder: Path, made: TrainRecipe) -> Training:
    from nexus_llm.train.hf.learner import TransformersLearner
    from nexus_llm.train.hf.load import load

    folder.mkdir(exist_ok=True)
    learner = TransformersLearner(load(root / "model", made, seed=0, base="tiny", device="cpu"))
    rows = packed_rows()
    training = Training(learner, recipe=made, seed=1, train=rows, validation=rows, folder=folder)
    training.run(Surroundings(on_step=lambda _: None, stop_reason=lambda: None, seconds=lambda: 0.0))
    return training


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def facts(root: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((root / name / "facts.json").read_text()))


@pytest.mark.parametrize("name", cases(STRATEGIES | OTHERS))
def test_two_processes_have_the_loss_curve_of_one_with_the_same_rows(name, root, finished, alone):
    job = (STRATEGIES | OTHERS)[name]
    method, dtype = job.get("method", "full"), job.get("dtype", "float32")
    expected, tolerance = alone[f"{method} {dtype}"], LOSS_TOLERANCE[dtype]
    rows = finished[f"undisturbed-{name}" if name in STRATEGIES else name]
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, single in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(single["loss"], abs=tolerance)
        assert row["grad_norm"] == pytest.approx(single["grad_norm"], rel=NORM_TOLERANCE[dtype])
        assert row.get("validation_loss", 0) == pytest.approx(single.get("validation_loss", 0), abs=tolerance)
        assert row["tokens"] == single["tokens"]


@pytest.mark.parametrize("name", cases(STRATEGIES))
def test_killed_processes_go_on_to_the_same_losses_and_weights_as_undisturbed_ones(name, root, finished):
    assert facts(root, name)["began_at"] == 4
    assert finished[name] == finished[f"undisturbed-{name}"]
    ours, theirs = (
        (root / folder / "result" / "model.safetensors").read_bytes() for folder in (name, f"undisturbed-{name}")
    )
    assert ours == theirs


@pytest.mark.parametrize("name", cases(STRATEGIES | OTHERS))
def test_forgotten_gradients_and_those_that_are_no_numbers_leave_no_trace(name, root, finished):
    assert facts(root, name)["forgets"]


def test_fsdp_divides_every_weight_and_says_so(root, finished):
    assert facts(root, "fsdp")["kinds"] == ["DTensor"]
    assert facts(root, "fsdp-lora")["kinds"] == ["DTensor"]
    found = checkpoint.find_newest(root / "fsdp" / "checkpoints")
    sizes = [sum(one.numel() for one in found.tensors(part).values()) for part in range(2)]
    assert len(found.files) == 2
    assert abs(sizes[0] - sizes[1]) < 0.05 * sum(sizes)


@pytest.mark.parametrize("name", cases({name: job for name, job in STRATEGIES.items() if name != "ddp"}))
def test_one_process_goes_on_from_the_shares_of_two(name, root, finished, alone, tmp_path):
    """The step-4 shares, joined, give the fifth and sixth loss."""
    from nexus_llm.train.hf.learner import TransformersLearner
    from nexus_llm.train.hf.load import load
    from train.distributed_process import SEED

    torch.set_num_threads(1)
    found = checkpoint.open_step(root / name / "checkpoints", 4)
    learner = TransformersLearner(load(root / "model", recipe(rows=8), seed=0, base="tiny", device="cpu"))
    learner.restore(whole([found.tensors(part) for part in range(len(found.files))]))
    for step in (4, 5):
        batch, row = packed_rows().batch(SEED, step, size=8), alone["full float32"][step]
        loss = learner.gradients(batch, learned_tokens=batch.learned_tokens)
        learner.update(step, learning_rate=row["learning_rate"], max_grad_norm=1.0)
        assert loss == pytest.approx(row["loss"], abs=LOSS_TOLERANCE["float32"])


@pytest.mark.parametrize("name", cases(STRATEGIES))
def test_two_processes_go_on_from_what_one_saved(name, root, finished, alone):
    expected = [row["loss"] for row in alone["full float32"][4:]]
    assert facts(root, name)["from_one"] == pytest.approx(expected, abs=LOSS_TOLERANCE["float32"])


def test_a_killed_process_ends_all_and_the_reason_names_it(root, died):
    code, said = died
    error = outcome(code, root / "logs-died", said)
    assert isinstance(error, TrainingError)
    assert "ended by signal 9" in error.what


@pytest.fixture
def stopped(root: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(root, [{"name": "stopped", "strategy": "ddp", "max_steps": 100_000}], logs="logs-stopped")
    yield process
    process.kill()
    process.wait()


def test_sigterm_to_the_launcher_makes_all_save_the_same_step_and_exit_75(root, stopped):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (root / "stopped" / "alive-1").exists() and stopped.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate(timeout=PATIENCE_SECONDS)
    error = outcome(stopped.returncode, root / "logs-stopped", said)
    assert isinstance(error, TryAgainError), said
    assert error.exit_code == 75
    found = checkpoint.find_newest(root / "stopped" / "checkpoints")
    assert found.step == metrics(root / "stopped")[-1]["step"]
    assert f"after step {found.step} " in error.what

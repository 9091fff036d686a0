"""The /opt/ml contract, and the train image's entry point in a tree like SageMaker's, as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.artifacts import file_sha256, load
from nexus_llm.cli import train_job
from nexus_llm.cloud.rehearsal import LOG, RehearsalTrainService, half_synced, make_tree, start
from nexus_llm.cloud.training_processes import end_group, run_torchrun
from nexus_llm.errors import NexusError, TrainingError, TryAgainError, UsageError
from nexus_llm.ports import NeverInterrupted, SilentProgress
from nexus_llm.recipe import Recipe
from nexus_llm.train import container
from nexus_llm.train.distributed.launch import launch
from nexus_llm.train.metrics_line import parse_metrics_line
from train_stage_process import make_inputs

PATIENCE_SECONDS = 120
RECIPE = Recipe.model_validate(
    {
        "name": "contained",
        "train": {
            "max_length": 32,
            "max_steps": 80,
            "save_steps": 5,
            "eval_steps": 50,
            "lora_r": 4,
            "lora_dropout": 0.1,
        },
    }
)


def write_config(root: Path, **files: Any) -> Path:
    folder = root / "input" / "config"
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return root


# What SageMaker says.


def test_an_empty_tree_means_one_host_and_the_default_folders(tmp_path: Path) -> None:
    contract = container.read_contract(tmp_path)
    assert (contract.hosts, contract.host_rank) == (("localhost",), 0)
    assert contract.checkpoints == tmp_path / "checkpoints"
    assert contract.failure == tmp_path / "output" / "failure"
    assert container.network_variables(contract) == {}


def test_each_host_finds_its_rank_and_the_same_master(tmp_path: Path) -> None:
    hosts = ["algo-1", "algo-10", "algo-2"]
    ranks = {}
    for host in hosts:
        root = tmp_path / host
        write_config(root, resourceconfig={"hosts": hosts, "current_host": host, "network_interface_name": "eth1"})
        contract = container.read_contract(root)
        ranks[host] = contract.host_rank
        assert contract.master_address == "algo-1"
        assert container.network_variables(contract)["NCCL_SOCKET_IFNAME"] == "eth1"
    assert sorted(ranks.values()) == [0, 1, 2]


def test_the_checkpoint_folder_is_where_the_job_says_below_the_root(tmp_path: Path) -> None:
    write_config(tmp_path, checkpointconfig={"LocalPath": "/opt/ml/kept", "S3Uri": "s3://b/c"})
    assert container.read_contract(tmp_path).checkpoints == tmp_path / "kept"
    write_config(tmp_path, checkpointconfig={"LocalPath": "/mnt/kept"})
    assert container.read_contract(tmp_path).checkpoints == Path("/mnt/kept")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hyperparameters", "{"),
        ("resourceconfig", "[1]"),
        ("resourceconfig", '{"hosts": ["algo-1"], "current_host": "algo-2"}'),
        ("resourceconfig", '{"hosts": []}'),
    ],
)
def test_a_file_that_sagemaker_would_not_write_is_named(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(TrainingError, match=name):
        container.read_contract(write_config(tmp_path, **{name: content}))


def test_a_hyperparameter_that_is_no_field_is_refused() -> None:
    with pytest.raises(UsageError, match="epochs"):
        container.recipe_overrides({"epochs": "3"})


def test_a_host_that_comes_up_late_is_waited_for_and_an_absent_one_is_named() -> None:
    slept: list[float] = []
    late = iter([OSError("no such host"), OSError("no such host"), "10.0.0.2"])

    def resolve(host: str) -> object:
        answer = next(late) if host == "algo-2" else "10.0.0.1"
        if isinstance(answer, OSError):
            raise answer
        return answer

    container.await_hosts(["algo-1", "algo-2"], resolve=resolve, sleep=slept.append)
    assert slept == [2, 2]

    def never(_: str) -> object:
        raise OSError("no such host")

    with pytest.raises(TrainingError, match="algo-1"):
        container.await_hosts(["algo-1"], resolve=never, sleep=slept.append)
    assert sum(slept) <= container.SECONDS_TO_FIND_HOSTS + 4


# Why it failed.


@given(what=st.text(max_size=3000), fix=st.text(max_size=3000))
def test_a_failure_is_never_longer_than_sagemaker_shows(what: str, fix: str) -> None:
    for error in (TrainingError(what, fix=fix), ValueError(what)):
        assert len(container.failure_text(error)) <= container.MAX_FAILURE_CHARACTERS


def test_a_failure_keeps_its_fix_and_loses_every_secret() -> None:
    secret = "correct-horse-battery"
    what = (
        f"https://user:hunter2@host refused AKIAABCDEFGHIJKLMNOP, {secret}, aws_secret_access_key=abc/def " + "x" * 2000
    )
    text = container.failure_text(TrainingError(what, fix="renew hf_abcdefghijklmnop"), secrets=[secret, ""])
    assert text.endswith("fix: renew [hidden]")
    for word in ("hunter2", "AKIA", secret, "abc/def", "hf_abc"):
        assert word not in text
    assert "tokens_per_second=3" in container.hide_secrets("tokens_per_second=3 and max_tokens: 5")


def test_only_names_that_say_so_are_secret() -> None:
    names = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY", "DB_PASSWORD", "TOKENIZERS_PARALLELISM"]
    assert container.secret_names(names) == names[:4]


class Bar(SilentProgress):
    def __init__(self) -> None:
        self.steps, self.notes = 0.0, []

    def advance(self, amount: float, note: str = "") -> None:
        self.steps += amount
        self.notes.append(note)


class StopAfter:
    """Asks to stop as soon as the bar has come so far."""

    def __init__(self, bar: Bar, steps: int) -> None:
        self.bar, self.steps = bar, steps

    def requested(self) -> str | None:
        return "SIGINT" if self.bar.steps >= self.steps else None


# The program itself.


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a tree for `train_job.run` in this process, whose signals and environment stay as they are."""
    monkeypatch.setattr(os, "environ", {**os.environ, "NEXUS_OPT_ML": str(tmp_path / "opt-ml")})
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return tmp_path / "opt-ml"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    make_inputs(root)
    return {kind: root / "artifacts" / kind / kind for kind in ("model", "data")}


def run_container(root: Path, *, stop_at: int | None = None) -> int | None:
    """The exit code of the entry point on a tree; SIGTERM comes when that step has a checkpoint."""
    os.environ["OMP_NUM_THREADS"] = "1"
    process = start(root, train_job.COMMAND)
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if stop_at is not None and newest(root) >= stop_at:
                process.send_signal(signal.SIGTERM)
                stop_at = None
            time.sleep(0.002)  # a checkpoint is written every few milliseconds
        return process.poll()
    finally:
        end_group(process)


def newest(root: Path) -> int:
    steps = (root / "checkpoints").glob("*/checkpoints/step-*")
    return max((int(path.name.removeprefix("step-")) for path in steps), default=0)


def output(root: Path) -> str:
    return root.with_name(LOG).read_text()


@pytest.fixture(scope="module")
def undisturbed(inputs: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_tree(tmp_path_factory.mktemp("undisturbed") / "opt-ml", RECIPE, inputs)
    assert run_container(root) == 0, output(root)
    return root


def test_a_finished_job_leaves_an_artifact_and_prints_its_metrics(undisturbed: Path) -> None:
    made = load(undisturbed / "model")
    assert made.manifest.facts["steps"] == 80
    assert made.manifest.inputs == {
        "model": load(undisturbed / "input/data/model").id,
        "data": load(undisturbed / "input/data/data").id,
    }
    rows = [row for line in output(undisturbed).splitlines() if (row := parse_metrics_line(line))]
    assert [row["step"] for row in rows] == list(range(1, 81))
    assert "validation_loss" in rows[49]
    assert not (undisturbed / "output" / "failure").exists()
    assert newest(undisturbed) == 80  # a machine lost during the upload starts from here
    assert not any(path.name.startswith(".no") for path in (undisturbed / "model").iterdir())


def test_sigterm_saves_exits_75_and_a_half_arrived_folder_gives_the_same_weights(
    undisturbed: Path, inputs: Mapping[str, Path], tmp_path: Path
) -> None:
    first = make_tree(tmp_path / "first" / "opt-ml", RECIPE, inputs)
    assert run_container(first, stop_at=20) == 75, output(first)
    stopped = newest(first)
    assert 20 <= stopped < 80
    assert not (first / "model" / "manifest.json").exists()
    assert not (first / "output" / "failure").exists()
    there = load(undisturbed / "model")
    folder, bar = tmp_path / "second", Bar()
    missing = half_synced(first / "checkpoints", folder / "work" / "opt-ml" / "checkpoints")
    assert [f"step-{stopped:08d}" in name for name in missing] == [True]
    service = RehearsalTrainService(train_job.COMMAND, bar, NeverInterrupted())
    facts = service.train(RECIPE, inputs, there.key, folder)
    rows = [row for line in output(folder / "work" / "opt-ml").splitlines() if (row := parse_metrics_line(line))]
    assert 1 < rows[0]["step"] <= stopped  # not from zero, and not from the broken one
    assert [one["name"] for one in facts["broken_checkpoints"]] == [f"step-{stopped:08d}"]
    assert facts | {"broken_checkpoints": []} == there.manifest.facts
    for entry in there.manifest.files:
        assert file_sha256(folder / entry.path) == entry.sha256
    assert (folder / "metrics.jsonl").exists()
    assert not (folder / "manifest.json").exists()  # the stage writes its own
    assert bar.steps == 80
    assert any("loss" in note for note in bar.notes)


def test_checkpoints_of_other_inputs_are_not_continued(
    inputs: Mapping[str, Path], undisturbed: Path, in_process: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_tree(in_process, RECIPE, inputs, hyperparameters={"train.max_steps": "3", "seed": "5"})
    shutil.copytree(undisturbed / "checkpoints", root / "checkpoints", dirs_exist_ok=True)
    assert train_job.run(["train"]) == 0
    assert capsys.readouterr().out.count("nexus-metrics step=") == 3
    made = load(root / "model").manifest
    assert (made.facts["steps"], made.recipe["seed"]) == (3, 5)


def test_a_failure_is_told_in_the_file_and_by_the_exit_code(inputs: Mapping[str, Path], in_process: Path) -> None:
    for arguments, hyperparameters, reason in (
        (["serve"], {}, "docker run IMAGE train"),
        (["train"], {"train.max_stepz": "5"}, "did you mean max_steps?"),
        (["train"], {"train.distributed.num_machines": "2", "train.distributed.strategy": "ddp"}, "1 hosts"),
    ):
        make_tree(in_process, RECIPE, inputs, hyperparameters=hyperparameters)
        assert train_job.run(arguments) == 1
        assert reason in (in_process / "output" / "failure").read_text()


def test_an_input_that_was_altered_on_the_way_is_refused(
    inputs: Mapping[str, Path], in_process: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(inputs["data"], tmp_path / "data"))
    (copy / "train-00000.tokens.npy").write_bytes(b"")
    make_tree(in_process, RECIPE, {**inputs, "data": copy})
    assert train_job.run(["train"]) == 1
    assert "train-00000.tokens.npy did not arrive" in (in_process / "output/failure").read_text()
    (copy / "manifest.json").unlink()
    make_tree(in_process, RECIPE, {**inputs, "data": copy})
    assert train_job.run(["train"]) == 1
    assert "manifest.json" in (in_process / "output/failure").read_text()


PROCESS = """
import os, sys, time
from nexus_llm.cloud.training_processes import TerminationNotice
from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.train.distributed.launch import leave_last_words
notice, rank = TerminationNotice().install(), int(os.environ["RANK"])
if sys.argv[1] == "fail" and rank == 1:
    leave_last_words(TrainingError("rank 1 is out of memory", fix="take less"), os.environ)
    sys.exit(1)
open(f"{sys.argv[2]}/{rank}", "w").close()
while not notice.requested():
    time.sleep(0.01)
time.sleep(0.3 * rank)  # one that still saves when the other has ended
open(f"{sys.argv[2]}/{rank}-saved", "w").close()
leave_last_words(TryAgainError("stopped", fix="again"), os.environ)
sys.exit(75)
"""


@pytest.mark.parametrize("way", ["stop", "fail"])
def test_the_processes_of_a_machine_are_asked_to_save_and_the_first_reason_is_told(tmp_path: Path, way: str) -> None:
    script, marks, logs = tmp_path / "process.py", tmp_path / "marks", tmp_path / "logs"
    script.write_text(PROCESS)
    marks.mkdir()

    def requested() -> str | None:
        return "SIGTERM" if {path.name for path in marks.iterdir()} >= {"0", "1"} else None

    command = launch([str(script), way, str(marks)], processes=2, log_folder=logs)
    error = run_torchrun(
        command, environment={**os.environ, "OMP_NUM_THREADS": "1"}, log_folder=logs, requested=requested
    )
    if way == "stop":
        assert isinstance(error, TryAgainError)
        assert {path.name for path in marks.iterdir()} == {"0", "1", "0-saved", "1-saved"}
    else:
        assert isinstance(error, TrainingError)
        assert (error.what, error.fix) == ("rank 1 is out of memory", "take less")


# The launcher that rehearses it.


@pytest.mark.parametrize(
    ("program", "kind", "words"),
    [
        ("raise SystemExit(3)", TrainingError, "code 3"),
        (
            "import os; open(os.environ['NEXUS_OPT_ML'] + '/output/failure', 'w').write('why\\nfix: so'); exit(1)",
            TrainingError,
            "why",
        ),
        ("pass", TrainingError, "left no finished artifact"),
        ("raise SystemExit(75)", TryAgainError, "stopped"),
    ],
)
def test_each_way_to_end_badly_has_its_error(
    inputs: Mapping[str, Path], tmp_path: Path, program: str, kind: type[NexusError], words: str
) -> None:
    service = RehearsalTrainService((sys.executable, "-c", program), Bar(), NeverInterrupted())
    with pytest.raises(kind, match=words):
        service.train(RECIPE, inputs, "key", tmp_path)


def test_a_container_that_ignores_sigterm_is_killed_when_its_time_is_up(
    inputs: Mapping[str, Path], tmp_path: Path
) -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    bar = Bar()
    service = RehearsalTrainService((sys.executable, "-c", program), bar, StopAfter(bar, 0), termination_seconds=0)
    with pytest.raises(TryAgainError, match="SIGINT"):
        service.train(RECIPE, inputs, "key", tmp_path)


def test_the_rehearsed_job_does_not_see_our_secrets(
    inputs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefgh")
    program = "import os; print(sorted(os.environ), flush=True); raise SystemExit(3)"
    with pytest.raises(TrainingError) as caught:
        RehearsalTrainService((sys.executable, "-c", program), Bar(), NeverInterrupted()).train(
            RECIPE, inputs, "k", tmp_path
        )
    assert "NEXUS_OPT_ML" in caught.value.what
    assert "AWS_SECRET_ACCESS_KEY" not in caught.value.what


def test_the_image_runs_what_is_rehearsed() -> None:
    text = (Path(__file__).parents[2] / "containers" / "train" / "Dockerfile").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("ENTRYPOINT")]
    entry = json.loads(line.removeprefix("ENTRYPOINT"))  # the exec form is JSON; a shell would swallow SIGTERM
    assert [*entry, "train"][1:] == list(train_job.COMMAND)[1:]
    assert entry[0] == "python"

"""The pure parts of training in several processes: stretches, divisions, command lines, configurations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.errors import MissingExtraError, RecipeError, TrainingError, TryAgainError, UsageError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.distributed.build import build
from nexus_llm.train.distributed.deepspeed_config import configuration
from nexus_llm.train.distributed.launch import ERROR_FILE, launch, leave_last_words, outcome
from nexus_llm.train.distributed.process_group import Place, TorchRanks, place
from nexus_llm.train.distributed.slices import Slice, places, refuse_other_places, stretches, whole


def part(tensors: dict[str, torch.Tensor], size: int, rank: int) -> dict[str, torch.Tensor]:
    """What process `rank` of `size` saves when every weight is cut into `size` nearly equal stretches."""
    saved: dict[str, torch.Tensor] = {}
    slices: dict[str, Slice] = {}
    for name, tensor in tensors.items():
        first, last = (tensor.numel() * number // size for number in (rank, rank + 1))
        saved[f"master/{name}"] = tensor.flatten()[first:last]
        saved[f"first/{name}"] = tensor.flatten()[first:last] * 2
        slices[name] = Slice(tuple(tensor.shape), first, last - first)
    return saved | places(slices)


WEIGHTS = {"matrix": torch.arange(35.0).view(5, 7), "row": torch.arange(3.0) + 100, "one": torch.tensor([7.0])}


@given(before=st.integers(1, 9), now=st.integers(1, 9))
def test_what_any_number_of_processes_saved_any_number_can_take_over(before, now):
    saved = [part(WEIGHTS, before, rank) for rank in range(before)]
    for rank in range(now):
        wanted = part(WEIGHTS, now, rank)
        found = stretches(
            saved,
            like={
                name: torch.zeros_like(one) if "/" in name and not name.startswith("place") else one
                for name, one in wanted.items()
            },
        )
        assert found.keys() == {name for name in wanted if not name.startswith("place/")}
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


@given(before=st.integers(1, 9))
def test_all_stretches_together_are_what_one_process_saves(before):
    found = whole([part(WEIGHTS, before, rank) for rank in range(before)])
    assert torch.equal(found["master/matrix"], WEIGHTS["matrix"])
    assert torch.equal(found["first/row"], WEIGHTS["row"] * 2)
    plain = {"master/matrix": WEIGHTS["matrix"], "first/row": WEIGHTS["row"] * 2}
    like = {name: tensor for name, tensor in part(WEIGHTS, 3, 1).items() if name.partition("/")[2] == "matrix"}
    del like["first/matrix"]
    assert torch.equal(stretches([plain], like=like)["master/matrix"], like["master/matrix"])


def test_a_missing_part_another_shape_and_another_division_are_refused():
    parts = [part(WEIGHTS, 3, rank) for rank in range(3)]
    with pytest.raises(TrainingError, match=r"lacks first/matrix from value 11 on \(of 35\)"):
        whole([parts[0], parts[2]])
    other = part(WEIGHTS | {"matrix": torch.zeros(7, 5)}, 1, 0)
    with pytest.raises(TrainingError, match=r"shape \(7, 5\), and the model's has \(5, 7\)"):
        stretches([other], like=parts[0])
    with pytest.raises(TrainingError, match="divided by another strategy"):
        refuse_other_places(parts[1], like=parts[2])
    refuse_other_places(parts[1], like=parts[1])


def test_the_place_of_a_process_comes_from_the_launcher_or_not_at_all():
    given_by_torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    assert place(given_by_torchrun) == Place(1, 2, 1)
    assert place({}) is None
    with pytest.raises(UsageError, match="WORLD_SIZE is missing"):
        place({"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "1"})
    with pytest.raises(UsageError, match="no number"):
        place(given_by_torchrun | {"RANK": "first"})


def test_torchrun_understands_the_command_for_one_machine_and_for_several():
    from torch.distributed.run import parse_args

    one = launch(["-m", "nexus_llm.cli", "train", "r.yaml", "--set", "a=b"], processes=4, log_folder=Path("logs"))
    parsed = parse_args(one[3:])
    assert (parsed.standalone, parsed.nproc_per_node, parsed.max_restarts) == (True, "4", 0)
    assert (parsed.module, parsed.training_script) == (True, "nexus_llm.cli")
    assert parsed.training_script_args == ["train", "r.yaml", "--set", "a=b"]
    assert parsed.shutdown_timeout < 120
    several = launch(["train.py"], processes=8, machines=2, machine=1, address="algo-1", port=7777)
    parsed = parse_args(several[3:])
    assert (parsed.nnodes, parsed.node_rank, parsed.master_addr, parsed.master_port) == ("2", 1, "algo-1", 7777)
    assert not parsed.standalone


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"processes": 1, "machines": 2}, {"processes": 1, "machine": 1}])
def test_impossible_launches_are_refused(wrong):
    with pytest.raises(UsageError):
        launch(["train.py"], **wrong)


def words(folder: Path, rank: int, error: Any) -> None:
    path = folder / "run" / "attempt_0" / str(rank) / "error.json"
    path.parent.mkdir(parents=True)
    leave_last_words(error, {ERROR_FILE: str(path)})


def test_the_end_of_a_run_is_that_of_the_process_that_failed_first(tmp_path):
    assert outcome(0, tmp_path) is None
    assert "no process said why" in outcome(1, tmp_path).what
    assert "ValueError: seven" in outcome(1, tmp_path, "x\n[rank1]: Traceback\n[rank1]: ValueError: seven\n").what
    words(tmp_path / "stop", 0, TryAgainError("stopped at 7", fix="again"))
    words(tmp_path / "stop", 1, TryAgainError("stopped at 7", fix="again"))
    assert isinstance(outcome(1, tmp_path / "stop"), TryAgainError)
    words(tmp_path / "fail", 0, TrainingError("process 0 lost contact with the others (x)", fix="look"))
    words(tmp_path / "fail", 1, TrainingError("the disk is full", fix="make room"))
    found = outcome(1, tmp_path / "fail")
    assert (found.what, found.fix, found.exit_code) == ("the disk is full", "make room", 1)
    leave_last_words(found, {})  # without torchrun there is no place, and nobody who would read it


def deepspeed_recipe(**changes: Any) -> TrainRecipe:
    distributed = {"strategy": "deepspeed", "num_processes": 2} | changes.pop("distributed", {})
    return TrainRecipe.model_validate({"implementation": "transformers", "distributed": distributed} | changes)


@pytest.mark.parametrize(
    ("program", "exit_code"),
    [
        ("from nexus_llm.cli import train_rank as it; it._train = lambda path: print('done')", 0),
        ("from nexus_llm.cli import train_job as it; it.run = lambda words: print('done') or 1", 1),
    ],
)
def test_a_rank_that_is_done_does_not_fail_in_what_the_interpreter_does_at_its_end(program, exit_code):
    aborts = "import atexit, os; atexit.register(os.abort)"  # as a thread of Gloo's may
    command = [sys.executable, "-c", f"{aborts}\n{program}\nit.main()", "job"]
    ended = subprocess.run(command, env=os.environ | {"LOCAL_RANK": "1"}, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "done" in ended.stdout + ended.stderr) == (exit_code, True)


def test_deepspeeds_configuration_follows_from_the_recipe():
    recipe = deepspeed_recipe(
        per_device_train_batch_size=3,
        gradient_accumulation_steps=5,
        distributed={"zero_stage": 3, "offload_optimizer": True, "offload_param": True},
    )
    made = configuration(recipe, processes=2)
    assert made["train_batch_size"] == 30
    assert made["bf16"]["enabled"]
    assert "fp16" not in made
    zero = made["zero_optimization"]
    assert (zero["stage"], zero["offload_param"], zero["offload_optimizer"]) == (
        3,
        {"device": "cpu"},
        {"device": "cpu"},
    )
    json.dumps(made)
    assert not configuration(deepspeed_recipe(dtype="float32"), processes=2)["bf16"]["enabled"]


def test_another_number_of_processes_and_what_a_strategy_cannot_do_are_refused(tmp_path):
    ranks = TorchRanks(Place(0, 2, 0))
    with pytest.raises(UsageError, match="2 processes were started"):
        build(tmp_path, deepspeed_recipe(distributed={"num_processes": 3}), ranks, seed=0, base="b")
    with pytest.raises(RecipeError, match="qlora keeps 4-bit weights"):
        build(tmp_path, deepspeed_recipe(method="qlora"), ranks, seed=0, base="b")
    with pytest.raises(RecipeError, match="dpo cannot be trained with strategy deepspeed"):
        build(tmp_path, deepspeed_recipe(objective="dpo"), ranks, seed=0, base="b")


def test_without_deepspeed_the_extra_is_named(monkeypatch):
    import sys

    from nexus_llm.train.distributed.zero import _deepspeed

    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(MissingExtraError, match="deepspeed"):
        _deepspeed()

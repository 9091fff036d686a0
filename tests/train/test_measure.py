from __future__ import annotations

import itertools

import pytest
import torch

from nexus_llm.recipe import TrainRecipe
from nexus_llm.train import measure
from nexus_llm.train.packing import pack
from tiny_training import make_shard

MIB = 2**20


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


MEMINFO = {"proc/meminfo": "MemTotal: 9999999 kB\nMemFree: 1 kB\nMemAvailable: 4096 kB\n"}


def test_without_a_limit_the_machine_says_what_is_free(tmp_path):
    unlimited = {"proc/self/cgroup": "0::/mine\n", "sys/fs/cgroup/mine/memory.max": "max\n"}
    write(tmp_path, MEMINFO | unlimited | {"sys/fs/cgroup/mine/memory.current": "77\n"})
    assert measure.available_memory(root=tmp_path) == measure.Available(4 * MIB, "/proc/meminfo")


@pytest.mark.parametrize("own", ["sys/fs/cgroup/pod/mine", "sys/fs/cgroup/pod", "sys/fs/cgroup"])
def test_a_limit_of_cgroup_v2_holds_for_every_group_below_it(tmp_path, own):
    group = {"memory.max": f"{3 * MIB}\n", "memory.current": f"{2 * MIB}\n", "memory.stat": f"inactive_file {MIB}\n"}
    write(tmp_path, MEMINFO | {"proc/self/cgroup": "0::/pod/mine\n"} | {f"{own}/{key}": group[key] for key in group})
    assert measure.available_memory(root=tmp_path) == measure.Available(2 * MIB, str(tmp_path / own / "memory.max"))


def test_a_limit_of_cgroup_v1_holds_and_its_number_for_no_limit_does_not(tmp_path):
    own = "sys/fs/cgroup/memory/mine"
    group = {f"{own}/memory.limit_in_bytes": f"{MIB}\n", f"{own}/memory.usage_in_bytes": "1024\n"}
    write(tmp_path, MEMINFO | {"proc/self/cgroup": "9:cpu:/other\n4:memory:/mine\n0::/\n"} | group)
    assert measure.available_memory(root=tmp_path).bytes == MIB - 1024
    write(tmp_path, {f"{own}/memory.limit_in_bytes": "9223372036854771712\n"})
    assert measure.available_memory(root=tmp_path).source == "/proc/meminfo"


def test_where_nobody_says_what_is_free_nobody_guesses(tmp_path):
    assert measure.available_memory(root=tmp_path) is None


@pytest.mark.parametrize("implementation", ["fused", "transformers"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_measuring_the_speed_leaves_no_trace(tiny_model, implementation, method):
    recipe = TrainRecipe(method=method, max_length=32, per_device_train_batch_size=2, lora_dropout=0.1, lora_r=2)
    learner = build(tiny_model, recipe, implementation)
    rows = pack([make_shard([40] * 20)], max_length=32, objective="continued-pretraining")
    batch = rows.batch(3, 0, size=2)

    def one_step():
        learner.gradients(batch, learned_tokens=batch.learned_tokens)
        learner.update(0, learning_rate=1e-2, max_grad_norm=1.0)
        return {name: tensor.clone() for name, tensor in learner.tensors().items()}

    start = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    torch.manual_seed(4)
    expected = one_step()
    learner.restore(start)
    torch.manual_seed(4)
    ticks = itertools.count(step=2)
    speed = measure.measure_speed(learner, rows, recipe, seed=3, seconds=lambda: next(ticks))
    assert speed == sum(rows.batch(3, step, size=2).tokens for step in (1, 2, 3)) / 2
    # The next step is the one that would have been made without measuring, dropout and moments included.
    found = one_step()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_step_that_fails_while_speed_is_measured_leaves_no_trace_either(tiny_model):
    recipe = TrainRecipe(method="full", max_length=32, per_device_train_batch_size=1)
    learner = build(tiny_model, recipe, "fused")
    rows = pack([make_shard([40] * 20)], max_length=32, objective="continued-pretraining")
    start = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    update, calls = learner.update, itertools.count()

    def failing(*arguments, **others):
        if next(calls) == 2:
            raise RuntimeError("out of memory")
        return update(*arguments, **others)

    learner.update = failing
    with pytest.raises(RuntimeError, match="out of memory"):
        measure.measure_speed(learner, rows, recipe, seed=3, seconds=lambda: 0.0)
    assert all(torch.equal(tensor, start[name]) for name, tensor in learner.tensors().items())


def build(folder, recipe, implementation):
    if implementation == "fused":
        from nexus_llm.train.fused.learner import FusedLearner

        return FusedLearner(folder, recipe, seed=1, base_name="tiny")
    from nexus_llm.train.hf import build

    return build(folder, recipe, seed=1, base="tiny")

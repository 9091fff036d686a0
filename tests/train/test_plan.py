from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nexus_llm import arithmetic
from nexus_llm.errors import TrainingError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.recipe.train import DistributedRecipe
from nexus_llm.train import activations, fitting, plan
from nexus_llm.train.plan import GB

SMALL = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
H200_BYTES = 139 * 2**30

configs = st.fixed_dictionaries(
    {
        "model_type": st.sampled_from(["llama", "qwen2", "gemma2"]),
        "hidden_size": st.integers(1, 64).map(lambda number: number * 64),
        "intermediate_size": st.integers(64, 16_000),
        "num_attention_heads": st.sampled_from([8, 16]),
        "num_hidden_layers": st.integers(1, 40),
        "num_key_value_heads": st.sampled_from([1, 8]),
        "vocab_size": st.integers(100, 150_000),
        "tie_word_embeddings": st.booleans(),
    }
)
strategies = st.one_of(
    st.just(DistributedRecipe()),
    st.builds(
        DistributedRecipe,
        strategy=st.sampled_from(["ddp", "fsdp", "deepspeed"]),
        num_processes=st.integers(1, 8),
        zero_stage=st.just(3),
        offload_optimizer=st.booleans(),
        offload_param=st.booleans(),
    ),
)
recipes = st.builds(
    TrainRecipe,
    method=st.sampled_from(["lora", "dora", "qlora", "full"]),
    dtype=st.sampled_from(["bfloat16", "float32"]),
    lora_r=st.integers(1, 64),
    lora_dropout=st.sampled_from([0.0, 0.1]),
    max_length=st.integers(16, 8192),
    per_device_train_batch_size=st.integers(1, 12),
    gradient_accumulation_steps=st.integers(1, 4),
    gradient_checkpointing=st.booleans(),
    distributed=strategies,
)
devices = st.sampled_from(["cpu", "cuda"])


def needed(config, recipe, device, **changes):
    return plan.memory(
        config, recipe.model_copy(update=changes), implementation="transformers", device=device
    ).device_bytes


@given(config=configs, recipe=recipes, device=devices, more=st.integers(1, 5000))
def test_longer_rows_and_more_rows_never_need_less(config, recipe, device, more):
    now = needed(config, recipe, device)
    assert needed(config, recipe, device, max_length=recipe.max_length + more) >= now
    rows = recipe.per_device_train_batch_size + more % 7
    assert needed(config, recipe, device, per_device_train_batch_size=rows) >= now


@given(config=configs, recipe=recipes, device=devices)
def test_a_bigger_model_never_needs_less(config, recipe, device):
    now = needed(config, recipe, device)
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"):
        assert needed(config | {name: config[name] * 2}, recipe, device) >= now


@given(config=configs, recipe=recipes, device=devices)
def test_checkpointing_never_needs_more(config, recipe, device):
    assert needed(config, recipe, device, gradient_checkpointing=True) <= needed(
        config, recipe, device, gradient_checkpointing=False
    )


@given(config=configs, recipe=recipes, stage=st.sampled_from([1, 2, 3]))
def test_more_processes_and_a_further_stage_never_need_more_of_a_gpu(config, recipe, stage):
    def at(stage, processes):
        divided = DistributedRecipe(strategy="deepspeed", num_processes=processes, zero_stage=stage)
        return needed(config, recipe, "cuda", distributed=divided)

    assert at(stage, 16) <= at(stage, 8)
    assert at(2, 8) <= at(1, 8)


@given(config=configs, recipe=recipes, device=devices, memory_gb=st.floats(0.5, 60))
def test_what_was_fitted_fits_and_keeps_the_rows_of_a_step(config, recipe, device, memory_gb):
    memory_bytes = int(memory_gb * GB)
    fitted = fitting.fit(config, recipe, memory_bytes, device=device)
    before = plan.memory(config, recipe, device=device)
    if fitted is None:
        assert before.device_bytes > memory_bytes
        return
    after = plan.memory(config, fitted, device=device)
    assert after.device_bytes <= memory_bytes
    assert after.rows_per_step == before.rows_per_step
    same = {"per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"}
    assert fitted.model_dump(exclude=same) == recipe.model_dump(exclude=same)
    if before.device_bytes <= memory_bytes:
        assert fitted == recipe


@given(config=configs, recipe=recipes, device=devices, memory_gb=st.floats(0.1, 5))
def test_a_refusal_promises_only_what_its_numbers_hold(config, recipe, device, memory_gb):
    planned = plan.memory(config, recipe, device=device)
    error = fitting.refusal(config, planned, int(memory_gb * GB))
    assert (error is None) == (planned.device_bytes <= int(memory_gb * GB))
    assume(error is not None)
    if "larger machine" not in error.fix:
        assert float(error.fix.split(": ")[-1].removesuffix(" GB")) <= memory_gb + 0.051


def test_a_refusal_names_the_parts_and_the_knob_that_helps():
    recipe = TrainRecipe(max_length=512, per_device_train_batch_size=8, implementation="transformers")
    error = fitting.refusal(SMALL, plan.memory(SMALL, recipe), 2 * GB)
    assert isinstance(error, TrainingError)
    assert "2.0 GB are there: activations" in error.what
    assert "train.per_device_train_batch_size to 1, train.gradient_accumulation_steps to 8" in error.fix
    assert "--fit" in error.fix


def test_a_recipe_that_cannot_keep_its_method_is_told_which_one_fits():
    planned = plan.memory(LLAMA_8B, TrainRecipe(method="full"), device="cuda")
    error = fitting.refusal(LLAMA_8B, planned, 80 * GB)
    assert error.fix.startswith("set train.method to lora")


def test_the_sums_of_a_report_are_those_of_its_parts():
    recipe = TrainRecipe(
        method="full",
        distributed=DistributedRecipe(strategy="deepspeed", num_processes=4, zero_stage=3, offload_optimizer=True),
    )
    planned = plan.memory(LLAMA_8B, recipe, device="cuda")
    shown = plan.report(planned)
    on_gpu = sum(float(size) for name, size, where in shown if where == "GPU" and not name.startswith("peak"))
    assert on_gpu == pytest.approx(planned.device_bytes / GB, abs=0.1)
    # Masters, moments and the copies of a snapshot are in the machine's memory; so are float32 gradients.
    assert planned.host_bytes == pytest.approx(8.03e9 * (4 + 8 + 12 + 4), rel=0.01)
    assert sum(part["bytes"] for part in plan.to_json(planned)["parts"]) == planned.device_bytes + planned.host_bytes


def test_full_weights_of_8_billion_take_16_bytes_each_and_gradients():
    recipe = TrainRecipe(method="full", gradient_checkpointing=True)
    parts = {part.name: part.bytes for part in plan.memory(LLAMA_8B, recipe, device="cuda").parts}
    weights = arithmetic.parameters(arithmetic.shape(LLAMA_8B)).total
    assert (parts["weights"], parts["float32 masters"]) == (2 * weights, 4 * weights)
    assert (parts["optimizer moments"], parts["gradients"]) == (8 * weights, 2 * weights)


def test_128k_tokens_fit_on_one_h200_with_adapters_and_checkpointing_only():
    recipe = TrainRecipe(max_length=131_072, per_device_train_batch_size=1, gradient_checkpointing=True)
    planned = plan.memory(LLAMA_8B, recipe, device="cuda")
    assert 75 * GB < planned.device_bytes < 120 * GB
    without = recipe.model_copy(update={"gradient_checkpointing": False})
    assert fitting.fit(LLAMA_8B, without, H200_BYTES, device="cuda") == recipe


# Highest marks of real processes (benchmarks/train_memory.py: SmolLM2-135M's sizes, bfloat16, 4 rows; GB, 2026-11).
MEASURED = [
    ("fused", "lora", 256, False, 1.875),
    ("fused", "lora", 512, False, 2.537),
    ("fused", "full", 256, False, 5.114),
    ("fused", "full", 512, False, 5.341),
    ("transformers", "lora", 256, False, 2.012),
    ("transformers", "lora", 512, False, 3.068),
    ("transformers", "full", 256, False, 5.357),
    ("transformers", "full", 512, False, 6.483),
    ("transformers", "lora", 256, True, 1.151),
    ("transformers", "lora", 512, True, 1.398),
    ("transformers", "full", 256, True, 4.577),
    ("transformers", "full", 512, True, 4.782),
]


@pytest.mark.parametrize(("implementation", "method", "length", "checkpointing", "gb"), MEASURED)
def test_the_plan_is_within_a_tenth_of_the_memory_measured(implementation, method, length, checkpointing, gb):
    recipe = TrainRecipe(
        implementation=implementation, method=method, max_length=length, gradient_checkpointing=checkpointing
    )
    assert plan.memory(SMALL, recipe).device_bytes / GB == pytest.approx(gb, rel=0.1)


def test_it_resolves_to_the_implementation_that_the_stage_takes():
    assert plan.resolved(SMALL, TrainRecipe(), device="cpu") == "fused"
    assert plan.resolved(SMALL, TrainRecipe(), device="cuda") == "transformers"
    assert plan.resolved(SMALL, TrainRecipe(gradient_checkpointing=True), device="cpu") == "transformers"
    assert plan.resolved({**SMALL, "hidden_act": "gelu"}, TrainRecipe(), device="cpu") == "transformers"
    with pytest.raises(TrainingError, match="gradient_checkpointing"):
        plan.memory(SMALL, TrainRecipe(implementation="fused", gradient_checkpointing=True))


def test_sizes_that_are_written_down_twice_agree():
    from nexus_llm.train import loss
    from nexus_llm.train.fused import operations
    from nexus_llm.train.hf import optimizer

    assert plan.WEIGHTS_AT_ONCE == optimizer.WEIGHTS_AT_ONCE
    assert activations.QUERY_BLOCK == operations.QUERY_BLOCK
    ours = (activations.TOKENS_AT_ONCE, activations.TOKENS_IN_CACHE, activations.ROWS_AT_ONCE)
    assert ours == (loss.TOKENS_AT_ONCE, loss.TOKENS_IN_CACHE, loss.ROWS_AT_ONCE)


@pytest.mark.parametrize("implementation", ["fused", "transformers"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_layers_keep_for_the_backward_pass_is_what_torch_saves(tmp_path, implementation, method):
    import torch

    kept = {}
    for layers in (2, 4):
        config, recipe = _tiny(tmp_path / str(layers), layers, implementation, method)
        kept[layers] = _saved_bytes(tmp_path / str(layers), recipe, torch)
    counted = activations.activations(
        arithmetic.shape(config), recipe, implementation=implementation, device="cpu"
    ).layer
    # Adapters' joined matrices are kept too; the plan leaves them out, as they do not grow with the tokens.
    assert (kept[4] - kept[2]) / 2 == pytest.approx(counted, rel=0.03)


def _tiny(folder: Path, layers: int, implementation: str, method: str):
    import json

    from tiny_training import make_model

    make_model(folder, num_hidden_layers=layers)
    recipe = TrainRecipe(implementation=implementation, method=method, max_length=512, lora_r=1)
    return json.loads((folder / "config.json").read_text()), recipe


def _saved_bytes(folder: Path, recipe: TrainRecipe, torch) -> int:
    """Bytes of all storages that one forward pass saves, but those of weights."""
    from nexus_llm.train.fused.learner import FusedLearner
    from nexus_llm.train.hf import build
    from nexus_llm.train.packing import pack
    from tiny_training import make_shard

    rows = pack([make_shard([300] * 9)], max_length=recipe.max_length, objective="continued-pretraining")
    batch = rows.batch(1, 0, size=4)
    if recipe.implementation == "fused":
        learner = FusedLearner(folder, recipe, seed=1, base_name="tiny")
        forward, weights = learner._decoder.hidden, learner._decoder.parameters().values()
    else:
        learner = build(folder, recipe, seed=1, base="tiny")
        forward, weights = learner.hidden, learner.packed.parameters()
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    saved: dict[int, int] = {}

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        hidden = forward(batch)
    total = sum(saved.values())
    del hidden
    return total

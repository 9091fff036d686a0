"""Adapters in PEFT's layout: PEFT itself reads them and computes the same."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from nexus_llm.errors import MissingExtraError, TrainingError
from nexus_llm.train.hf import adapters, build
from nexus_llm.train.packing import pack
from tiny_architectures import recipe, tiny
from tiny_training import make_shard

PAIRED = {"llama": ("q_proj", "o_proj", "up_proj"), "gpt2": ("c_attn", "c_fc")}


def rows():
    return pack([make_shard([20])], max_length=20, objective="continued-pretraining").batch(1, 0, size=1)


@pytest.mark.parametrize("kind", PAIRED)
@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.filterwarnings("ignore")
def test_peft_loads_our_adapter_and_computes_the_same(tmp_path, kind, method):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    tiny(base, kind)
    settings = recipe(method=method, lora_r=4, lora_alpha=6, target_modules=PAIRED[kind], max_length=20)
    learner = build(base, settings, seed=1, base="the/base")
    batch = rows()
    for step in range(3):
        learner.gradients(batch, learned_tokens=10)
        learner.update(step, learning_rate=3e-2, max_grad_norm=1.0)
    (tmp_path / "adapter").mkdir()
    path = learner.write(tmp_path / "adapter")
    assert path.name == "adapter_model.safetensors"
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == "the/base"
    assert config["use_dora"] is (method == "dora")
    assert (config["lora_alpha"], config["target_modules"]) == (6, sorted(PAIRED[kind]))
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain = model(torch.from_numpy(batch.token_ids)).logits[0]
    theirs = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    with torch.no_grad(), learner.evaluating():
        expected = theirs(torch.from_numpy(batch.token_ids)).logits[0]
        torch.testing.assert_close(learner.hidden(batch) @ learner.head.t(), expected, rtol=1e-4, atol=1e-4)
    assert float((expected - plain).detach().abs().max()) > 0.1


def test_the_same_adapter_is_written_with_the_same_bytes(tmp_path):
    tiny(tmp_path / "base", "llama")
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        build(tmp_path / "base", recipe(method="lora"), seed=1, base="x").write(tmp_path / name)
        found.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert found[0] == found[1]
    assert len(found[0]) == 2


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_training_starts_at_the_base_model_from_values_of_the_seed(tmp_path, method):
    tiny(tmp_path, "llama")
    plain = build(tmp_path, recipe(max_length=20), seed=1, base="x")
    first, again, other = (
        build(tmp_path, recipe(method=method, max_length=20), seed=seed, base="x") for seed in (1, 1, 2)
    )
    assert first.loss(rows()) == pytest.approx(plain.loss(rows()), rel=1e-5)
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])
        assert torch.equal(tensor, other.tensors()[name]) is ("lora_A" not in name or "master" not in name)


def test_a_callers_random_numbers_are_left_alone(tmp_path):
    tiny(tmp_path, "llama")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(tmp_path, recipe(method="lora"), seed=1, base="x")
    assert torch.equal(torch.rand(3), expected)


def test_only_the_adapter_learns(tmp_path):
    tiny(tmp_path, "llama")
    learner = build(tmp_path, recipe(method="lora", dtype="bfloat16", max_length=20), seed=1, base="x")
    before = {name: tensor.clone() for name, tensor in learner.packed.model.state_dict().items()}
    learner.gradients(rows(), learned_tokens=10)
    learner.update(0, learning_rate=1e-2, max_grad_norm=1.0)
    changed = {
        name for name, tensor in learner.packed.model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed
    assert all("lora_B" in name for name in changed)  # at the first step A's gradient is B, which is zero
    assert {tensor.dtype for tensor in before.values()} == {torch.bfloat16}


def test_a_missing_target_module_is_answered_with_the_nearest(tmp_path):
    tiny(tmp_path, "gpt2")
    with pytest.raises(TrainingError, match=r"'q_proj'.*nearest: c_proj") as refused:
        build(tmp_path, recipe(method="lora"), seed=1, base="x")
    assert refused.value.fix == "choose among c_attn, c_fc, c_proj, lm_head"


def test_four_bit_weights_are_refused_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    tiny(tmp_path, "llama")
    with pytest.raises(TrainingError, match="qlora") as refused:
        build(tmp_path, recipe(method="qlora"), seed=1, base="x")
    assert "lora" in refused.value.fix


def test_four_bit_weights_without_their_package_name_it(monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="bitsandbytes") as refused:
        adapters.four_bit("cuda")
    assert refused.value.fix == "pip install 'nexus-llm-platform[gpu]'"

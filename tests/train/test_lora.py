from __future__ import annotations

import json

import pytest
import torch

from nexus_llm.errors import TrainingError
from nexus_llm.train.checkpoint import write_tensors
from nexus_llm.train.fused.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_config, adapter_parameters, add_adapters
from nexus_llm.train.packing import pack
from tiny_training import make_shard

SETTINGS = {"rank": 4, "alpha": 6.0, "dropout": 0.0, "target_modules": ("q_proj", "o_proj", "gate_proj")}


def test_training_starts_at_the_base_model(load_decoder):
    batch = pack([make_shard([20])], max_length=32, objective="continued-pretraining").batch(1, 0, size=1)
    plain, adapted = load_decoder(), load_decoder()
    start = add_adapters(adapted, **SETTINGS, seed=1)
    assert torch.equal(plain.hidden(batch), adapted.hidden(batch))
    assert all(bool(tensor.any()) == ("lora_A" in name) for name, tensor in start.items())


def test_start_values_depend_on_the_seed_alone(load_decoder):
    first, again, other = (add_adapters(load_decoder(), **SETTINGS, seed=seed) for seed in (1, 1, 2))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_an_unknown_target_module_is_refused_with_the_known_ones(load_decoder):
    with pytest.raises(TrainingError, match="'query'") as refused:
        add_adapters(load_decoder(), **{**SETTINGS, "target_modules": ("query",)}, seed=1)
    assert "q_proj" in refused.value.fix


@pytest.mark.filterwarnings("ignore")
def test_peft_loads_our_files_and_computes_the_same(load_decoder, tiny_model, tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is needed to check its own format; pip install peft")
    from transformers import AutoModelForCausalLM

    decoder = load_decoder()
    add_adapters(decoder, **SETTINGS, seed=1)
    parameters = adapter_parameters(decoder)
    for parameter in parameters.values():
        parameter.normal_(std=0.3)
    write_tensors(parameters, tmp_path / ADAPTER_WEIGHTS)
    (tmp_path / ADAPTER_CONFIG).write_text(adapter_config(base=str(tiny_model), **SETTINGS))

    batch = pack([make_shard([20])], max_length=20, objective="continued-pretraining").batch(1, 0, size=1)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path)
    assert {name.replace(".default", "") for name, _ in theirs.named_parameters() if "lora" in name} == set(parameters)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(batch.token_ids)).logits[0]
        ours = load_decoder(max_length=20)
        add_adapters(ours, **SETTINGS, seed=9)
        for name, parameter in adapter_parameters(ours).items():
            parameter.copy_(parameters[name])
        torch.testing.assert_close(ours.hidden(batch) @ ours.head.t(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_peft_draws_the_same_kind_of_start_values(load_decoder, tiny_model):
    peft = pytest.importorskip("peft", reason="PEFT is needed to compare with; pip install peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    settings = {"r": 16, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    theirs = dict(peft.get_peft_model(base, peft.LoraConfig(**settings)).named_parameters())
    ours = add_adapters(load_decoder(), **{**SETTINGS, "rank": 16, "target_modules": ("q_proj",)}, seed=1)
    for name, tensor in ours.items():
        reference = theirs[name.replace(".weight", ".default.weight")]
        assert tensor.shape == reference.shape
        assert tensor.abs().max().item() == pytest.approx(reference.abs().max().item(), rel=0.02)
        assert tensor.std().item() == pytest.approx(reference.std().item(), rel=0.1)


def test_the_config_is_json_with_pefts_names():
    config = json.loads(adapter_config(base="a-model", **SETTINGS))
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 6.0, "LORA")
    assert config["target_modules"] == ["gate_proj", "o_proj", "q_proj"]

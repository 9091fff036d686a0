from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm import arithmetic
from nexus_llm.arithmetic import Shape
from nexus_llm.errors import ModelError

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


def changed(kind: str, *sizes: int, **other: object) -> dict[str, object]:
    """A config: channels, inner width, heads, layers, key heads, vocabulary."""
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads")
    return {"model_type": kind, **dict(zip((*names, "vocab_size"), sizes, strict=True)), **other}


# Totals as the models' pages and files state them.
PUBLISHED = {
    "Llama 3.1 8B": (LLAMA_8B, 8_030_261_248),
    "Llama 3.2 1B": (
        changed("llama", 2048, 8192, 32, 16, 8, 128256, tie_word_embeddings=True, head_dim=64),
        1_235_814_400,
    ),
    "SmolLM2 135M": (changed("llama", 576, 1536, 9, 30, 3, 49152, tie_word_embeddings=True), 134_515_008),
    "Qwen2.5 7B": (changed("qwen2", 3584, 18944, 28, 28, 4, 152064, tie_word_embeddings=False), 7_615_616_512),
    "Mistral 7B": (changed("mistral", 4096, 14336, 32, 32, 8, 32000, head_dim=None), 7_241_732_096),
    "Mixtral 8x7B": (changed("mixtral", 4096, 14336, 32, 32, 8, 32000), 46_702_792_704),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_count_equals_the_published_total(name):
    config, total = PUBLISHED[name]
    assert arithmetic.parameters(arithmetic.shape(config)).total == total


SIZES = (64, 96, 4, 2, 2, 97)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24, "tie_word_embeddings": False}),
        ("mistral", {}),
        ("mixtral", {"num_local_experts": 3}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen3", {"attention_bias": True}),
        ("qwen3", {}),
        ("gemma", {}),
        ("gemma2", {"head_dim": 32}),
        ("gemma3_text", {}),
        ("phi3", {"pad_token_id": 0}),
        ("smollm3", {"pad_token_id": 0}),
    ],
)
def test_the_count_of_each_kind_equals_that_of_the_real_model(kind, changes):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = changed(kind, *SIZES, **changes)
    fields = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields))
    counted = arithmetic.parameters(arithmetic.shape(config))
    parts = dict.fromkeys(("embedding", "attention", "feed_forward", "norms", "head"), 0)
    for name, parameter in model.named_parameters():
        parts[part_of(name)] += parameter.numel()
    assert parts == {name: getattr(counted, name) for name in parts}


def part_of(name: str) -> str:
    pairs = (("norm", "norms"), ("embed", "embedding"), ("lm_head", "head"), ("self_attn", "attention"))
    return next((part for word, part in pairs if word in name), "feed_forward")


def test_the_adapters_of_peft_have_as_many_parameters_as_counted():
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = changed("llama", *SIZES)
    targets = ("q_proj", "v_proj", "down_proj")
    for magnitudes in (False, True):
        fields = {key: value for key, value in config.items() if key != "model_type"}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **fields))
        adapted = get_peft_model(model, LoraConfig(r=3, target_modules=list(targets), use_dora=magnitudes))
        counted = arithmetic.adapter_parameters(
            arithmetic.shape(config), rank=3, target_modules=targets, magnitudes=magnitudes
        )
        assert counted == adapted.get_nb_trainable_parameters()[0]


def test_a_model_of_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ModelError, match="mamba"):
        arithmetic.shape(LLAMA_8B | {"model_type": "mamba"})


def test_a_config_without_a_size_is_refused_by_the_name_of_the_size():
    with pytest.raises(ModelError, match="hidden_size"):
        arithmetic.shape({key: value for key, value in LLAMA_8B.items() if key != "hidden_size"})


def test_a_token_of_llama_3_1_8b_keeps_131072_bytes():
    assert arithmetic.kv_cache_bytes(arithmetic.shape(LLAMA_8B), tokens=1) == 131_072


def test_four_bits_with_double_quantisation_are_4_127_bits():
    assert arithmetic.BYTES_PER_VALUE["nf4"] * 8 == pytest.approx(4.127, abs=5e-4)


def test_a_token_of_mixtral_meets_13_billion_parameters():
    model = arithmetic.shape(PUBLISHED["Mixtral 8x7B"][0])
    assert arithmetic.active_parameters(model) == pytest.approx(12.88e9, rel=1e-3)


def test_the_forward_pass_costs_what_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    config, length = changed("llama", *SIZES, tie_word_embeddings=True), 24
    fields = {key: value for key, value in config.items() if key != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **fields), attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, length, dtype=torch.long)).logits.sum().backward()
    # Eager attention computes the whole square, so every token looks at all; rotary angles are a product too.
    angles = 3 * 2 * length * 16 // 2
    expected = arithmetic.training_flops_per_token(arithmetic.shape(config), context_tokens=length)
    assert counter.get_total_flops() == pytest.approx(length * expected, abs=angles)


shapes = st.builds(
    Shape,
    layers=st.integers(1, 80),
    channels=st.integers(64, 8192),
    heads=st.integers(1, 64),
    kv_heads=st.integers(1, 8),
    head_dim=st.sampled_from([64, 128]),
    intermediate=st.integers(64, 30_000),
    vocabulary=st.integers(100, 300_000),
    tied=st.booleans(),
)


@given(model=shapes, context=st.floats(0, 1e6), adapters=st.integers(0, 10**6))
def test_training_adapters_costs_between_two_and_three_forward_passes(model, context, adapters):
    frozen = arithmetic.training_flops_per_token(model, context_tokens=context, trained_adapter_parameters=0)
    full = arithmetic.training_flops_per_token(model, context_tokens=context)
    forward = full / 3
    some = arithmetic.training_flops_per_token(model, context_tokens=context, trained_adapter_parameters=adapters)
    again = arithmetic.training_flops_per_token(model, context_tokens=context, checkpointing=True)
    assert 2 * forward * (1 - 1e-12) <= frozen <= full
    assert some == pytest.approx(frozen + 6 * adapters)
    assert full < again < 4 * forward

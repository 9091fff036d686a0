"""Golden tests: our operations against plain transformers in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nexus_llm.errors import ModelError
from nexus_llm.train.fused import operations
from nexus_llm.train.fused.decoder import Decoder
from nexus_llm.train.fused.learner import collect_gradients, summed_loss
from nexus_llm.train.fused.lora import adapter_parameters, add_adapters
from nexus_llm.train.model import load_model
from nexus_llm.train.packing import pack
from tiny_training import make_model, make_shard

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
KINDS = {
    "llama": {},
    "llama, untied, as many key heads": {"tie_word_embeddings": False, "num_key_value_heads": 4},
    "llama with rope scaling and attention bias": {"rope_parameters": LLAMA3_SCALING, "attention_bias": True},
    "mistral": {"sliding_window": None},
    "qwen2": {},
}


def mean_loss(decoder, batch, *, rows_at_once):
    return summed_loss(decoder, batch, rows_at_once=rows_at_once) / batch.learned_tokens


def plain_loss(model, shard, *, max_length):
    """The mean loss by plain transformers, one piece at a time: what packing must not change."""
    pieces = pack([shard], max_length=max_length, objective="continued-pretraining").pieces
    total, count = 0.0, 0
    for _, start, length in pieces:
        ids = torch.from_numpy(shard.tokens[start : start + length].astype(np.int64))[None]
        total += model(ids, labels=ids).loss * (length - 1)
        count += length - 1
    return total / count


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("block", [256, 8])
@pytest.mark.parametrize("vocabulary_apart", [False, True])
def test_loss_and_every_gradient_equal_those_of_transformers(tmp_path, monkeypatch, name, block, vocabulary_apart):
    monkeypatch.setattr(operations, "QUERY_BLOCK", block)
    reference = make_model(tmp_path, name.split(",")[0].split()[0], **KINDS[name])
    shard = make_shard([9, 30, 17, 5, 40, 3])
    expected = plain_loss(reference, shard, max_length=24)
    expected.backward()

    decoder = Decoder(load_model(tmp_path, dtype="float32"), max_length=24)
    parameters = {name: tensor.requires_grad_() for name, tensor in decoder.parameters().items()}
    apart = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    if vocabulary_apart:
        decoder.collect_vocabulary_gradients(apart)
    packed = pack([shard], max_length=24, objective="continued-pretraining")
    batch = packed.take(np.arange(packed.rows))
    summed_loss(decoder, batch, rows_at_once=2)  # a validation between two steps leaves no gradient behind
    loss = collect_gradients(decoder, batch, rows_at_once=2, learned_tokens=batch.learned_tokens)

    assert loss == pytest.approx(expected.item(), rel=1e-5)
    found = {name: apart[name] if tensor.grad is None else tensor.grad for name, tensor in parameters.items()}
    ours = decoder.state_dict(found)
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        torch.testing.assert_close(
            ours[key], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_a_documents_loss_is_the_same_alone_and_packed(load_decoder):
    decoder = load_decoder()
    shard = make_shard([10, 9, 11])
    packed = pack([shard], max_length=32, objective="continued-pretraining")
    assert packed.rows == 1
    together = packed.take(np.array([0]))
    alone = []
    for number in range(3):
        one = pack([one_document(shard, number)], max_length=32, objective="continued-pretraining")
        alone.append(mean_loss(decoder, one.take(np.array([0])), rows_at_once=1))
    expected = (alone[0] * 9 + alone[1] * 8 + alone[2] * 10) / 27
    assert mean_loss(decoder, together, rows_at_once=1) == pytest.approx(expected, rel=1e-5)


def one_document(shard, number):
    start, stop = shard.offsets[number], shard.offsets[number + 1]
    return type(shard)(
        shard.tokens[start:stop],
        np.array([0, stop - start]),
        shard.loss_mask[start:stop],
        shard.is_conversation[number : number + 1],
    )


def test_what_stands_in_other_documents_of_the_row_changes_nothing(load_decoder):
    decoder = load_decoder()
    batch = pack([make_shard([12, 11])], max_length=32, objective="continued-pretraining").take(np.array([0]))
    with torch.no_grad():
        before = decoder.hidden(batch)[12:23]
        batch.token_ids[0, :12] = 7
        after = decoder.hidden(batch)[12:23]
    assert torch.equal(before, after)


def test_bfloat16_stays_close_to_float32(load_decoder):
    batch = pack([make_shard([32, 30, 20])], max_length=32, objective="continued-pretraining").take(np.arange(3))
    exact, rough = (mean_loss(load_decoder(dtype=dtype), batch, rows_at_once=3) for dtype in ("float32", "bfloat16"))
    assert rough == pytest.approx(exact, rel=0.02)


def test_adapter_gradients_equal_those_of_a_plain_formula(load_decoder):
    """The fused backward pass against autograd of x Wᵀ + s (x Aᵀ) Bᵀ, with only some layers adapted."""
    decoder = load_decoder()
    add_adapters(decoder, rank=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj"), seed=1)
    projections = decoder.layers[0].qkv
    for parameter in adapter_parameters(decoder).values():
        parameter.normal_().requires_grad_()
    x = torch.randn(6, 64, requires_grad=True)
    result = projections(x, training=True)
    weights = dict(zip(projections.names, projections.weight.split(projections.sizes), strict=True))
    parts = []
    for name, weight in weights.items():
        adapter = projections.adapters.get(name)
        parts.append(x @ weight.t() + (2.0 * (x @ adapter.down.t()) @ adapter.up.t() if adapter else 0.0))
    expected = torch.cat(parts, 1)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    leaves = [x, *(leaf for adapter in projections.adapters.values() for leaf in (adapter.down, adapter.up))]
    outward = torch.randn_like(result)
    for ours, theirs in zip(
        torch.autograd.grad(result, leaves, outward), torch.autograd.grad(expected, leaves, outward), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_only_and_depends_on_the_seed(load_decoder):
    decoder = load_decoder()
    add_adapters(decoder, rank=4, alpha=8, dropout=0.5, target_modules=("o_proj",), seed=1)
    for parameter in adapter_parameters(decoder).values():
        parameter.normal_().requires_grad_()
    x = torch.randn(5, 64, requires_grad=True)
    layer = decoder.layers[0].output
    assert torch.equal(layer(x, training=False), layer(x, training=False))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        result = layer(x, training=True)
        drawn.append((result, *torch.autograd.grad(result.sum(), x)))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][0], drawn[2][0])


def test_rows_longer_than_the_model_sees_are_refused(load_decoder):
    with pytest.raises(ModelError, match=r"max_length is 2048.*at most 1024"):
        load_decoder(max_length=2048)


def test_another_architecture_is_refused_by_name(tmp_path):
    make_model(tmp_path, "gpt_neox")
    with pytest.raises(ModelError, match="'gpt_neox'"):
        Decoder(load_model(tmp_path, dtype="float32"), max_length=16)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path, dtype="float32")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no weights"):
        load_model(tmp_path, dtype="float32")


def test_a_cut_off_weight_file_is_refused(tmp_path):
    make_model(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="no readable model"):
        load_model(tmp_path, dtype="float32")


def test_missing_weights_are_not_replaced_by_random_numbers(tmp_path):
    from safetensors.torch import load_file, save_file

    make_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights.*layers\.1\.mlp\.up_proj"):
        load_model(tmp_path, dtype="float32")

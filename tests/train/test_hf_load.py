"""What is wrong with a base model is said before the first step."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from nexus_llm.errors import DataError, ModelError
from nexus_llm.train.hf import build
from nexus_llm.train.hf.load import context_tokens
from tiny_architectures import recipe, tiny


def test_rows_longer_than_the_context_are_refused(tmp_path):
    tiny(tmp_path, "llama", max_position_embeddings=24)
    with pytest.raises(ModelError, match=r"32, and the model .* at most 24") as refused:
        build(tmp_path, recipe(), seed=1, base="x")
    assert "24" in refused.value.fix


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("llama", {}, 64),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, 128),
        (
            "qwen2",  # the length before scaling
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
            256,
        ),
        (
            "llama",  # the length after scaling
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 1e4,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8,
                }
            },
            64,
        ),
        ("gpt2", {}, 64),
        ("bloom", {}, None),
    ],
)
def test_the_context_counts_rope_scaling(kind, changes, expected):
    name = "n_positions" if kind == "gpt2" else "max_position_embeddings"
    sizes = {} if kind == "bloom" else {name: 64}
    assert context_tokens(AutoConfig.for_model(kind, **sizes, **changes)) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_named(tmp_path, value):
    tiny(tmp_path, "llama")
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        build(tmp_path, recipe(), seed=1, base="x")


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path):
    tiny(tmp_path, "llama")
    tokenizer = {"model": {"vocab": {"a": 0, "b": 96}}, "added_tokens": [{"id": 97, "content": "<new>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(DataError, match=r"up to 97, .* end at 96"):
        build(tmp_path, recipe(), seed=1, base="x")
    tokenizer["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    build(tmp_path, recipe(), seed=1, base="x")


def test_weights_do_not_lie_in_the_mapped_file(tmp_path):
    """Writing into the file after loading must not reach the model."""
    tiny(tmp_path, "llama")
    learner = build(tmp_path, recipe(), seed=1, base="x")
    before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    path = tmp_path / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 4096)
        file.write(b"\x7f" * 4096)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.tensors().items())


def test_missing_weights_are_not_filled_with_random_numbers(tmp_path):
    tiny(tmp_path, "gpt2")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["transformer.h.0.mlp.c_fc.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights"):
        build(tmp_path, recipe(), seed=1, base="x")

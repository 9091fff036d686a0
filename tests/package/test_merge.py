"""Adapter and base become one set of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexus_llm import gguf_format
from nexus_llm.errors import ModelError, PackagingError
from nexus_llm.package.merge import merge
from nexus_llm.weights import Weights, from_bfloat16, to_bfloat16
from tiny_model import (
    ADAPTER_ALPHA,
    ADAPTER_RANK,
    ADAPTER_TARGETS,
    tiny_adapter,
    tiny_config,
    write_tiny_adapter,
    write_tiny_model,
)

SHAPES = gguf_format.tensor_shapes(tiny_config())
TARGETS, RANK, ALPHA = ADAPTER_TARGETS, ADAPTER_RANK, ADAPTER_ALPHA


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def test_an_adapter_is_added_in_float32_and_rounded_to_a_neighbour(base: Path, tmp_path: Path) -> None:
    tensors = tiny_adapter()
    facts = merge(base, write_tiny_adapter(tmp_path / "adapter", tensors), tmp_path / "merged.safetensors")
    assert facts == {"method": "lora", "changed_tensors": len(TARGETS), "rank": RANK, "scale": ALPHA / RANK}
    before, after = Weights.open(base), Weights.open(tmp_path / "merged.safetensors")
    for name in before.names:
        exact = before.float32(name).astype(np.float64)
        if name in TARGETS:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            up, down = tensors[f"{stem}.lora_B.weight"], tensors[f"{stem}.lora_A.weight"]
            exact = exact + ALPHA / RANK * (up.astype(np.float64) @ down.astype(np.float64))
            assert not np.array_equal(after.bits(name), before.bits(name))
            # One of the two bfloat16 numbers beside it: they are at most 2⁻⁷ of their size apart.
            assert np.all(np.abs(after.float32(name) - exact) <= 2**-7 * np.abs(exact) + 1e-9)
        else:
            assert np.array_equal(after.bits(name), before.bits(name))


def test_a_change_far_below_a_step_of_bfloat16_is_not_lost(base: Path, tmp_path: Path) -> None:
    small = {name: tensor * np.float32(0.03) for name, tensor in tiny_adapter().items()}
    merge(base, write_tiny_adapter(tmp_path / "adapter", small), tmp_path / "merged.safetensors")
    before, after = Weights.open(base), Weights.open(tmp_path / "merged.safetensors")
    for name in TARGETS:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        change = ALPHA / RANK * (small[f"{stem}.lora_B.weight"] @ small[f"{stem}.lora_A.weight"])
        start = before.float32(name)

        def kept(merged: np.ndarray, change: np.ndarray = change, start: np.ndarray = start) -> float:
            return float(np.vdot(merged - start, change) / np.vdot(change, change))

        assert kept(from_bfloat16(to_bfloat16(start + change))) < 0.8  # rounding to the nearest loses it
        assert kept(after.float32(name)) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_merge_is_pefts(base: Path, tmp_path: Path, use_rslora: bool) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    adapter = write_tiny_adapter(tmp_path / "adapter", tiny_adapter(), use_rslora=use_rslora)
    merge(base, adapter, tmp_path / "merged.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    ours = Weights.open(tmp_path / "merged.safetensors")
    for name in ours.names:
        rounded = theirs[name].to(torch.bfloat16).float().numpy()
        np.testing.assert_allclose(ours.float32(name), rounded, rtol=2**-7, atol=1e-6)


def test_full_weights_replace_the_base(base: Path, tmp_path: Path) -> None:
    trained = write_tiny_model(tmp_path / "trained", seed=9)
    assert merge(base, trained, tmp_path / "m.safetensors")["method"] == "full"
    assert (tmp_path / "m.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_nothing_trained_leaves_the_base(base: Path, tmp_path: Path) -> None:
    assert merge(base, None, tmp_path / "m.safetensors") == {"method": "none", "changed_tensors": 0}
    assert (tmp_path / "m.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def drop(tensors: dict[str, np.ndarray]) -> None:
    del tensors[min(tensors)]


def narrow(tensors: dict[str, np.ndarray]) -> None:
    name = min(tensors)
    tensors[name] = np.ascontiguousarray(tensors[name][:, :-1])


def stray(tensors: dict[str, np.ndarray]) -> None:
    tensors["base_model.model.lm_head.weight"] = np.zeros((2, 2), np.float32)


def other_layer(tensors: dict[str, np.ndarray]) -> None:
    name = min(tensors)
    tensors[name.replace("layers.0", "layers.7")] = tensors[name]


def infinite(tensors: dict[str, np.ndarray]) -> None:
    tensors[max(tensors)][0, 0] = np.inf


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop, r"lora_A\.weight has shape None"),
        (narrow, r"lora_A\.weight has shape \(4, 95\)"),
        (stray, r"lm_head\.weight, which no plain LoRA adapter has"),
        (other_layer, r"layers\.7.*, which the base model does not have"),
        (infinite, "not numbers after merging"),
        (dict.clear, "changes no layer"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(
    base: Path, tmp_path: Path, spoil: Callable[[dict[str, np.ndarray]], None], message: str
) -> None:
    tensors = tiny_adapter()
    spoil(tensors)
    adapter = write_tiny_adapter(tmp_path / "adapter", tensors)
    with pytest.raises((ModelError, PackagingError), match=message), np.errstate(invalid="ignore"):
        merge(base, adapter, tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "change", [{"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 8}}, {"peft_type": "IA3"}]
)
def test_an_adapter_of_another_kind_is_refused(base: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    adapter = write_tiny_adapter(tmp_path / "adapter", tiny_adapter(), **change)
    with pytest.raises(ModelError, match="more than plain LoRA"):
        merge(base, adapter, tmp_path / "m.safetensors")


def test_full_weights_of_another_shape_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    trained = write_tiny_model(tmp_path / "trained", intermediate_size=128)
    with pytest.raises(PackagingError, match=r"mlp\.gate_proj\.weight has shape"):
        merge(base, trained, tmp_path / "m.safetensors")

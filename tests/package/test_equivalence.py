"""The gate between trained and shipped: what it measures, and the faults that it has to see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from nexus_llm import weights
from nexus_llm.errors import PackagingError
from nexus_llm.package import reference
from nexus_llm.package.divergence import divergence, log_softmax
from nexus_llm.package.equivalence import check_equivalence, held_out_rows
from nexus_llm.package.merge import merge
from nexus_llm.recipe import PackageRecipe
from nexus_llm.recipe.package import MEASURED_LIMITS, EquivalenceRecipe
from tiny_model import write_tiny_model

ROWS = [list(range(3, 40)), list(range(100, 60, -1)), [5, 250, 17, 8]]
RANDOM = np.random.default_rng(3)


def logits(tokens: int = 7, vocabulary: int = 11) -> np.ndarray:
    return RANDOM.normal(0, 2, (tokens, vocabulary)).astype(np.float32)


def test_a_model_beside_itself_differs_by_nothing() -> None:
    same = log_softmax(logits())
    found = divergence([(same, same, [0, 1, 2, 3, 4, 5, 6])])
    assert (found.mean_kl, found.max_kl, found.top_1_share, found.perplexity_change_share) == (0, 0, 1, 0)


def test_the_measures_are_those_of_their_definitions() -> None:
    before, after, targets = log_softmax(logits()), log_softmax(logits()), [3, 1, 4, 1, 5, 9, 2]
    found = divergence([(before[:3], after[:3], targets[:3]), (before[3:], after[3:], targets[3:])])
    p, q = np.exp(before.astype(np.float64)), np.exp(after.astype(np.float64))
    kl = (p * np.log(p / q)).sum(axis=1)
    assert found.mean_kl == pytest.approx(kl.mean(), rel=1e-5)
    assert found.max_kl == pytest.approx(kl.max(), rel=1e-5)
    assert found.top_1_share == np.mean(p.argmax(axis=1) == q.argmax(axis=1))
    likely = [q[place, token] for place, token in enumerate(targets)]
    assert found.perplexity == pytest.approx(np.exp(-np.mean(np.log(likely))), rel=1e-5)


@pytest.mark.parametrize("spoiled", [np.nan, -np.inf])
def test_predictions_that_are_no_numbers_are_refused(spoiled: float) -> None:
    before = log_softmax(logits())
    after = before.copy()
    after[2, 4] = spoiled
    with pytest.raises(PackagingError, match="gguf-q8_0 is not the model that was trained: predictions that are not"):
        check_equivalence([before], {"gguf-q8_0": lambda: [after]}, [list(range(8))], EquivalenceRecipe())


def write_adapter(folder: Path, *, size: float = 0.3) -> Path:
    """An adapter on two kinds of layers, large enough that a model without it is another one."""
    from safetensors.numpy import save_file

    folder.mkdir()
    shapes = {"self_attn.q_proj": (64, 64), "mlp.down_proj": (64, 96)}
    tensors = {}
    for layer in (0, 1):
        for part, (outputs, inputs) in shapes.items():
            stem = f"base_model.model.model.layers.{layer}.{part}"
            tensors[f"{stem}.lora_A.weight"] = RANDOM.normal(0, size, (4, inputs)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = RANDOM.normal(0, size, (outputs, 4)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 12.0,
        "bias": "none",
        "target_modules": ["q_proj", "down_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    return write_tiny_model(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def merged_folder(base: Path, adapter: Path) -> Path:
    folder = write_tiny_model(base.parent / "merged")
    merge(base, adapter, folder / weights.SINGLE_FILE)
    return folder


def check(base: Path, adapter: Path, merged: Path) -> dict[str, dict[str, object]]:
    known = list(reference.predictions(base, ROWS, trained=adapter))
    return check_equivalence(known, {"merged": lambda: reference.predictions(merged, ROWS)}, ROWS, EquivalenceRecipe())


def test_a_faithful_merge_passes_and_its_numbers_are_told(base: Path, adapter: Path) -> None:
    facts = check(base, adapter, merged_folder(base, adapter))["merged"]
    assert float(str(facts["mean_kl"])) < MEASURED_LIMITS["merged"].max_mean_kl
    assert facts["limits"] == {"mean_kl": 0.003, "max_kl": 0.1, "top_1_share": 0.95, "perplexity_change_share": 0.02}


def test_the_model_as_it_was_trained_is_pefts(base: Path, adapter: Path) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    with torch.inference_mode():
        theirs = peft.PeftModel.from_pretrained(model, str(adapter))(torch.tensor([ROWS[0]])).logits[0, :-1]
    (ours,) = reference.predictions(base, ROWS[:1], trained=adapter)
    np.testing.assert_allclose(ours, theirs.log_softmax(-1).numpy(), atol=1e-4)


def test_fully_trained_weights_are_their_own_reference(base: Path, tmp_path: Path) -> None:
    trained = write_tiny_model(tmp_path / "trained", seed=9)
    assert check(base, trained, trained)["merged"]["mean_kl"] == 0
    with pytest.raises(PackagingError, match="merged is not the model that was trained"):
        check(base, trained, base)


def wrong_scale(values: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> None:
    """alpha where alpha / r belongs would be 4 times as much; here only half as much again."""
    for name, plain in base.items():
        values[name] = plain + 1.5 * (values[name] - plain)


def swapped_layers(values: dict[str, np.ndarray], _base: dict[str, np.ndarray]) -> None:
    one, other = (f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1))
    values[one], values[other] = values[other], values[one]


def forgotten_layer(values: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    values[name] = base[name]


def turned_matrix(values: dict[str, np.ndarray], _base: dict[str, np.ndarray]) -> None:
    name = "model.layers.0.self_attn.o_proj.weight"
    values[name] = np.ascontiguousarray(values[name].T)


@pytest.mark.parametrize("break_it", [wrong_scale, swapped_layers, forgotten_layer, turned_matrix])
def test_a_broken_merge_is_caught_and_the_numbers_are_named(
    base: Path, adapter: Path, break_it: Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], None]
) -> None:
    merged = merged_folder(base, adapter)
    good, plain = weights.Weights.open(merged), weights.Weights.open(base)
    values = {name: good.float32(name) for name in good.names}
    break_it(values, {name: plain.float32(name) for name in plain.names})
    shapes = {name: value.shape for name, value in values.items()}
    weights.write_bfloat16(merged / weights.SINGLE_FILE, shapes, lambda name: weights.to_bfloat16(values[name]))
    with pytest.raises(PackagingError, match=r"merged is not .* mean_kl [\d.e-]+ \(at most 0\.003\)") as caught:
        check(base, adapter, merged)
    assert "held-out tokens (perplexity" in caught.value.what
    assert "do not ship it" in caught.value.fix


def test_a_format_beyond_its_own_limit_names_the_field_to_widen(base: Path) -> None:
    known = list(reference.predictions(base, ROWS))
    off = [log_softmax(row + RANDOM.normal(0, 0.5, row.shape).astype(np.float32)) for row in known]
    recipe = PackageRecipe.model_validate(
        {
            "equivalence": {
                "limits": {
                    "gguf-q4_k_m": dict.fromkeys(("max_mean_kl", "max_kl"), 9)
                    | {"min_top_1_share": 0, "max_perplexity_change_share": 9}
                }
            }
        }
    ).equivalence
    assert check_equivalence(known, {"gguf-q4_k_m": lambda: off}, ROWS, recipe)["gguf-q4_k_m"]["limits"]
    with pytest.raises(PackagingError, match="gguf-q8_0 is not") as caught:
        check_equivalence(known, {"gguf-q8_0": lambda: off}, ROWS, recipe)
    assert "package.equivalence.limits.gguf-q8_0" in caught.value.fix


def test_a_limit_for_a_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="gguf-q3"):
        PackageRecipe.model_validate({"equivalence": {"limits": {"gguf-q3": {}}}})


def write_shard(folder: Path, split: str, lengths: list[int], first: int) -> None:
    folder.mkdir(exist_ok=True)
    bounds = np.cumsum([0, *lengths]).astype(np.int64)
    np.save(folder / f"{split}-00000.tokens.npy", np.arange(first, first + bounds[-1], dtype=np.uint16))
    np.save(folder / f"{split}-00000.offsets.npy", bounds)


def test_held_out_text_is_the_beginnings_of_validation_then_of_test_documents(tmp_path: Path) -> None:
    write_shard(tmp_path, "train", [50], 0)
    write_shard(tmp_path, "validation", [20, 3, 200], 1000)
    write_shard(tmp_path, "test", [40, 40], 5000)
    rows = held_out_rows(tmp_path, tokens=190, longest=128)
    assert [(row[0], len(row)) for row in rows] == [(1000, 20), (1023, 128), (5000, 40)]
    assert held_out_rows(tmp_path / "none", tokens=100) == []

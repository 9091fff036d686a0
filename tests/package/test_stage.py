"""The package stage, from artifacts to an artifact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexus_llm.artifacts import Artifact, ArtifactStore
from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ModelError, NexusError, PackagingError
from nexus_llm.model.stage import pull
from nexus_llm.package.stage import STAGE, package_base
from nexus_llm.ports import Ports
from nexus_llm.recipe import PackageRecipe, Recipe
from tiny_model import write_tiny_model

MINE = Recipe(name="mine")
FACTS: dict[str, dict[str, Any]] = {
    "data": {
        "read": 3,
        "kept": 3,
        "documents": {"train": 1, "validation": 1, "test": 1},
        "tokens": {"train": 9, "validation": 9, "test": 9},
    },
    "train": {"steps": 1, "tokens": 9, "first_loss": 2.0, "last_loss": 1.0, "trainable_parameters": 512},
}


def write_adapter(folder: Path) -> None:
    from safetensors.numpy import save_file

    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensors = {f"{stem}A.weight": np.ones((2, 64), np.float32), f"{stem}B.weight": np.ones((64, 2), np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make(kind: str, root: Path, fill: Any) -> Artifact:
    store = ArtifactStore(root)
    with store.draft(kind, "0" * 16, stage_version=1, recipe={}, inputs={}) as draft:
        fill(draft.folder)
        return draft.finish(facts=FACTS[kind])


@pytest.fixture
def ports(tmp_path: Path) -> Ports:
    return Ports(cache=tmp_path / "cache")


@pytest.fixture
def inputs(tmp_path: Path, ports: Ports) -> dict[str, Artifact]:
    model, _ = pull(str(write_tiny_model(tmp_path / "tiny")), ports, provenance={})
    return {
        "model": model,
        "data": make("data", tmp_path / "made", lambda _: None),
        "train": make("train", tmp_path / "made", write_adapter),
    }


def package(inputs: dict[str, Artifact], root: Path, ports: Ports, *, recipe: Recipe = MINE) -> Artifact:
    ids = {kind: artifact.id for kind, artifact in inputs.items()}
    part = STAGE.recipe_part(recipe)
    with ArtifactStore(root).draft("package", "1" * 16, stage_version=1, recipe=part, inputs=ids) as draft:
        return STAGE.run(recipe, inputs, draft, ports)


def test_the_package_holds_all_that_readers_need(inputs: dict[str, Artifact], tmp_path: Path, ports: Ports) -> None:
    artifact = package(inputs, tmp_path / "out", ports)
    assert [entry.path for entry in artifact.manifest.files] == [
        *("LICENSE", "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model-q8_0.gguf"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]
    assert artifact.manifest.facts["merge"]["changed_tensors"] == 1
    assert artifact.manifest.facts["template_parity"]["conversations"] >= 10
    assert json.loads(artifact.file("generation_config.json").read_text())["eos_token_id"] == [0, 2]
    assert "# mine" in artifact.file("README.md").read_text()
    assert ChatTokenizer.load(artifact.folder).stop_token_ids == [0, 2]


def write_shards(folder: Path) -> None:
    for split in ("validation", "test"):
        np.save(folder / f"{split}-00000.tokens.npy", np.arange(3, 123, dtype=np.uint16))
        np.save(folder / f"{split}-00000.offsets.npy", np.array([0, 50, 120]))


def test_what_ships_is_held_against_what_was_trained(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real engine and the real server; and a reader that reads something else ends it."""
    pytest.importorskip("torch")
    pytest.importorskip("openvino_genai")
    pytest.importorskip("fastapi")
    from nexus_llm.cli.package_reader import OwnPackageReader

    ports = Ports(cache=tmp_path / "cache", package_reader=OwnPackageReader())
    proved = {**inputs, "data": make("data", tmp_path / "proved", write_shards)}
    artifact = package(proved, tmp_path / "out", ports)
    facts = artifact.manifest.facts
    assert set(facts["equivalence"]) == {"merged", "gguf-q8_0"}
    assert facts["served"]["engine"] == "openvino"
    card = artifact.file("README.md").read_text()
    assert "the running server" in card
    assert f"| gguf-q8_0 | {facts['equivalence']['gguf-q8_0']['mean_kl']:g} |" in card

    def swapped(engine: str, weights: Path, rows: Any) -> Any:
        return (np.roll(one, 1, axis=1) for one in OwnPackageReader().predictions(engine, weights, rows))

    monkeypatch.setattr(ports.package_reader, "predictions", swapped)
    with pytest.raises(PackagingError, match="gguf-q8_0 is not the model that was trained: mean_kl"):
        package(proved, tmp_path / "again", ports)
    assert not list((tmp_path / "again").rglob("manifest.json"))


def test_what_was_not_measured_is_said(inputs: dict[str, Artifact], tmp_path: Path, ports: Ports) -> None:
    artifact = package(inputs, tmp_path / "none", ports)
    assert artifact.manifest.facts["equivalence"] == {"not_measured": "the data has no held-out documents"}
    assert "was **not measured**" in artifact.file("README.md").read_text()
    pytest.importorskip("torch")
    proved = {**inputs, "data": make("data", tmp_path / "proved", write_shards)}
    facts = package(proved, tmp_path / "half", ports).manifest.facts  # these ports know no engine
    assert set(facts["equivalence"]["gguf-q8_0"]) == {"not_measured"}
    assert "mean_kl" in facts["equivalence"]["merged"]
    assert "served" not in facts


def test_safetensors_alone_can_be_shipped(inputs: dict[str, Artifact], tmp_path: Path, ports: Ports) -> None:
    recipe = Recipe(name="mine", package=PackageRecipe(formats=()))
    artifact = package(inputs, tmp_path, ports, recipe=recipe)
    assert not [entry.path for entry in artifact.manifest.files if "gguf" in entry.path]
    assert artifact.manifest.facts["template_parity"]["equal_to"][0] == "the packaged folder"


def test_the_recipe_decides_what_a_request_gets_that_names_no_temperature(
    inputs: dict[str, Artifact], tmp_path: Path, ports: Ports
) -> None:
    recipe = Recipe(name="mine", package=PackageRecipe(temperature=0.2, top_p=0.9))
    written = json.loads(package(inputs, tmp_path, ports, recipe=recipe).file("generation_config.json").read_text())
    assert (written["temperature"], written["top_p"], written["do_sample"]) == (0.2, 0.9, True)
    assert written["eos_token_id"] == [0, 2]


def test_transformers_loads_the_package(inputs: dict[str, Artifact], tmp_path: Path, ports: Ports) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    artifact = package(inputs, tmp_path / "out", ports)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(str(artifact.folder), output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == [0, 2]


def test_the_same_inputs_give_the_same_id(inputs: dict[str, Artifact], tmp_path: Path, ports: Ports) -> None:
    ids = {package(inputs, tmp_path / name, ports).id for name in ("one", "two")}
    assert len(ids) == 1


def test_a_package_that_broke_off_is_made_whole(inputs: dict[str, Artifact], tmp_path: Path, ports: Ports) -> None:
    whole = package(inputs, tmp_path / "whole", ports)
    half = tmp_path / "half" / "package" / ("1" * 16)
    half.mkdir(parents=True)
    for name in ("model-q8_0.gguf", "model.safetensors", "README.md", "stray"):
        (half / name).write_bytes(b"half")
    assert package(inputs, tmp_path / "half", ports).id == whole.id


def test_an_adapter_of_another_model_leaves_no_artifact(
    inputs: dict[str, Artifact], tmp_path: Path, ports: Ports
) -> None:
    other, _ = pull(str(write_tiny_model(tmp_path / "wide", hidden_size=128, head_dim=32)), ports, provenance={})
    with pytest.raises(ModelError, match="has shape"):
        package({**inputs, "model": other}, tmp_path / "out", ports)
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_a_base_alone_can_be_packaged_once(inputs: dict[str, Artifact], ports: Ports) -> None:
    first, was_here = package_base(inputs["model"], ports, provenance={})
    assert not was_here
    assert first.file("model.safetensors").read_bytes() == inputs["model"].file("model.safetensors").read_bytes()
    again, was_here = package_base(inputs["model"], ports, provenance={})
    assert was_here
    assert again.id == first.id


def test_a_full_disk_says_so(
    inputs: dict[str, Artifact], tmp_path: Path, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr(shutil, "copyfile", no_space)
    with pytest.raises(NexusError, match="no space left"):
        package(inputs, tmp_path / "out", ports)

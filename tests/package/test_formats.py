"""Each format holds the weights that were merged, and the engine that reads it computes what transformers does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexus_llm import gguf_format, weights
from nexus_llm.errors import PackagingError, ServingError
from nexus_llm.package import reference
from nexus_llm.package.divergence import Divergence, divergence, log_softmax
from nexus_llm.package.formats import PLACES, reader_of, write_format
from nexus_llm.package.tensor_types import tensor_type
from nexus_llm.package.weight_check import check_gguf
from nexus_llm.recipe.package import Format
from nexus_llm.serve.model_folder import read_model
from tiny_model import tiny_config, write_tiny_model

LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# Rows of 256 values, so that Q4_K and Q6_K find whole blocks.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
# About four times what random weights gave (2026-11): real ones lose far less.
MAX_KL = {"gguf-f16": 0.02, "gguf-q8_0": 0.25, "gguf-q4_k_m": 4.0, "openvino-f16": 0.02, "openvino-int8": 0.25}
ROWS = [list(range(3, 63)), list(range(200, 140, -1))]


def write_decided_model(folder: Path, **config: Any) -> Path:
    """A tiny model that is sure of what comes next and looks where it comes from: five times the norms."""
    write_tiny_model(folder, **config)
    source = weights.Weights.open(folder)
    shapes = {name: source.shape(name) for name in source.names}
    factors = {name: 5 if len(shape) == 1 else 1 for name, shape in shapes.items()}
    values = {name: weights.to_bfloat16(source.float32(name) * np.float32(factors[name])) for name in source.names}
    weights.write_bfloat16(folder / weights.SINGLE_FILE, shapes, lambda name: values[name])
    return folder


def diverged(folder: Path, format: Format, rows: list[list[int]] = ROWS) -> Divergence:
    """The format as its engine reads it, beside the merged weights as transformers reads them."""
    from nexus_llm.serve.engines.predictions import predictions

    known = reference.predictions(folder, rows)
    found = map(log_softmax, predictions(reader_of(format, folder), folder / PLACES[format], rows))
    return divergence((before, after, row[1:]) for before, after, row in zip(known, found, rows, strict=True))


def write(folder: Path, format: Format) -> dict[str, Any]:
    return write_format(folder, format, name="tiny", license_id="mit", work=folder / "work")


def test_q4_k_m_is_llama_cpps_mixture() -> None:
    shapes = gguf_format.tensor_shapes(tiny_config(**WIDE, num_hidden_layers=16))
    kinds = {name: tensor_type(name, shape, "gguf-q4_k_m", layers=16, is_tied=True) for name, shape in shapes.items()}
    assert kinds["model.embed_tokens.weight"] == "Q6_K"
    assert kinds["model.norm.weight"] == "F32"
    with_more = [layer for layer in range(16) if kinds[f"model.layers.{layer}.mlp.down_proj.weight"] == "Q6_K"]
    # As llama-quantize chooses for 16 layers (Llama 3.2 1B): the first and last eighth, and every third between.
    assert with_more == [0, 1, 4, 7, 10, 13, 14, 15]
    assert kinds["model.layers.2.self_attn.q_proj.weight"] == "Q4_K"


def test_rows_that_do_not_fill_a_large_block_fall_back_to_a_small_one() -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    assert tensor_type(name, (576, 576), "gguf-q4_k_m", layers=30, is_tied=True) == "Q5_0"
    assert tensor_type("model.embed_tokens.weight", (99, 576), "gguf-q4_k_m", layers=30, is_tied=True) == "Q8_0"
    with pytest.raises(PackagingError, match="multiple of 32"):
        tensor_type(name, (64, 100), "gguf-q4_k_m", layers=30, is_tied=True)


@pytest.mark.parametrize("format", ["gguf-f16", "gguf-q8_0", "gguf-q4_k_m", "openvino-f16", "openvino-int8"])
def test_every_tensor_is_the_merged_one_and_the_engine_computes_what_transformers_does(
    tmp_path: Path, format: Format
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("xllamacpp" if format in ("gguf-f16", "gguf-q4_k_m") else "openvino_genai")
    folder = write_decided_model(tmp_path / "model", **WIDE)
    facts = write(folder, format)
    assert sum(facts["tensors"].values()) == len(gguf_format.tensor_shapes(tiny_config(**WIDE)))
    if format == "gguf-q4_k_m":
        assert set(facts["tensors"]) == {"F32", "Q4_K", "Q6_K"}
        assert 0.04 < facts["max_error_share"] < 0.12
    found = diverged(folder, format)
    assert found.mean_kl < MAX_KL[format]


def test_openvinos_files_are_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai")
    folder = write_tiny_model(tmp_path / "model")
    contents = []
    for _ in range(2):  # in one process, where OpenVINO goes on counting its nodes
        write(folder, "openvino-int8")
        contents.append({path.name: path.read_bytes() for path in (folder / "openvino-int8").iterdir()})
    assert sorted(contents[0]) == [
        f"openvino_{part}.{ending}" for part in ("detokenizer", "model", "tokenizer") for ending in ("bin", "xml")
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("format", ["gguf-q8_0", "openvino-f16", "openvino-int8"])
def test_llama_3s_rope_scaling_reaches_the_engine(tmp_path: Path, format: Format) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("xllamacpp" if format.startswith("gguf") else "openvino_genai")
    folder = write_decided_model(tmp_path / "model", **WIDE, rope_scaling=LLAMA_3)
    write(folder, format)
    assert reader_of(format, folder) == ("llama.cpp" if format.startswith("gguf") else "openvino")
    assert diverged(folder, format).mean_kl < MAX_KL[format]
    # Without the scaling it would be another model: this is what an engine that ignores it computes.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": None}))
    known = list(reference.predictions(folder, ROWS))
    (folder / "config.json").write_text(json.dumps(config))
    scaled = list(reference.predictions(folder, ROWS))
    unscaled = divergence((before, after, row[1:]) for before, after, row in zip(scaled, known, ROWS, strict=True))
    assert unscaled.mean_kl > 2  # 4.8


def test_the_frequencies_are_those_of_transformers() -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    values = tiny_config(
        head_dim=64, rope_theta=500_000.0, rope_scaling={**LLAMA_3, "original_max_position_embeddings": 8192}
    )
    embedding = LlamaRotaryEmbedding(transformers.LlamaConfig(**values))
    np.testing.assert_allclose(gguf_format.rope_frequencies(values), embedding.inv_freq.numpy(), rtol=1e-6)


def test_openvino_refuses_an_f16_gguf_whose_rotary_frequencies_it_would_round(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    write(folder, "gguf-f16")
    assert reader_of("gguf-f16", folder) == "llama.cpp"
    with pytest.raises(ServingError, match=r"model-f16\.gguf, which the engine openvino does not read") as refused:
        read_model(folder, name="tiny")
    assert "--engine llama.cpp" in refused.value.fix
    assert read_model(folder, name="tiny", engine="llama.cpp").weights.name == "model-f16.gguf"


@pytest.mark.parametrize("scaling", [{"type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}])
@pytest.mark.parametrize("format", ["gguf-q8_0", "openvino-int8"])
def test_other_rope_scaling_is_refused(tmp_path: Path, format: Format, scaling: dict[str, Any]) -> None:
    folder = write_tiny_model(tmp_path / "model", rope_scaling=scaling)
    with pytest.raises(PackagingError, match="rope scaling, which is not carried"):
        write(folder, format)


def test_a_tensor_that_was_quantised_wrongly_is_named(tmp_path: Path) -> None:
    from gguf import GGUFReader

    folder = write_tiny_model(tmp_path / "model")
    write(folder, "gguf-q8_0")
    file = folder / PLACES["gguf-q8_0"]
    tensor = next(one for one in GGUFReader(str(file)).tensors if one.name == "blk.1.ffn_up.weight")
    blocks = tensor.data.reshape(-1, 34)  # a float16 scale and 32 signed bytes
    scales = (blocks[:, :2].copy().view(np.float16) * np.float16(1.06)).view(np.uint8)
    with file.open("r+b") as stream:
        for place, scale in enumerate(scales):
            stream.seek(int(tensor.data_offset) + 34 * place)
            stream.write(scale.tobytes())
    with pytest.raises(PackagingError, match=r"blk\.1\.ffn_up\.weight \(Q8_0\) differs .* by 0\.0[56]"):
        check_gguf(file, folder)


def test_two_layers_in_each_others_place_are_found(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    write(folder, "gguf-f16")
    file = folder / PLACES["gguf-f16"]
    content = file.read_bytes()
    for kind in (b"attn_q.weight", b"ffn_up.weight"):
        one, other = b"blk.0." + kind, b"blk.1." + kind
        content = content.replace(one, b"blk.X." + kind).replace(other, one).replace(b"blk.X." + kind, other)
    file.write_bytes(content)
    with pytest.raises(PackagingError, match=r"blk\.[01]\.attn_q\.weight \(F16\) differs"):
        check_gguf(file, folder)


def test_a_file_without_one_of_the_tensors_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", num_hidden_layers=1)
    write(folder, "gguf-q8_0")
    grown = write_tiny_model(tmp_path / "grown", num_hidden_layers=2)
    with pytest.raises(PackagingError, match=r"differs|has no tensor for"):
        check_gguf(folder / PLACES["gguf-q8_0"], grown)


def test_the_counts_of_types_are_those_in_the_file(tmp_path: Path) -> None:
    from gguf import GGUFReader

    folder = write_tiny_model(tmp_path / "model")
    facts = write(folder, "gguf-q8_0")
    assert facts["tensors"] == dict(
        Counter(one.tensor_type.name for one in GGUFReader(str(folder / PLACES["gguf-q8_0"])).tensors)
    )

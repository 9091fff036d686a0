"""The engine's file says what the folder says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nexus_llm.errors import PackagingError
from nexus_llm.model.gguf_read import read_gguf
from nexus_llm.package.gguf_write import read_metadata, write_gguf
from nexus_llm.weights import Weights
from tiny_model import TEMPLATE, write_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", tie_word_embeddings=False)


@pytest.fixture
def gguf_file(tiny: Path, tmp_path: Path) -> Path:
    write_gguf(tiny, tmp_path / "tiny.gguf", name="tiny", license_id="mit")
    return tmp_path / "tiny.gguf"


def test_no_weight_moves_by_more_than_half_a_step_of_its_block(tiny: Path, gguf_file: Path, tmp_path: Path) -> None:
    read_gguf(gguf_file, tmp_path)
    before, after = Weights.open(tiny), Weights.open(tmp_path)
    for name in before.names:
        exact, found = before.float32(name), after.float32(name)
        if exact.ndim == 1:
            np.testing.assert_array_equal(found, exact)
            continue
        blocks = exact.reshape(-1, 32)
        step = np.abs(blocks).max(axis=1, keepdims=True) / 127
        # The scale is a float16 (relative error 2^-11, of up to 127 steps), and reading rounds to bfloat16.
        allowed = step * (0.5 + 127 * 2.0**-11) + np.abs(blocks) * 2.0**-8
        assert (np.abs(found.reshape(-1, 32) - blocks) <= allowed).all(), name
        assert np.abs(found - exact).max() > 0


def test_the_same_folder_gives_the_same_bytes(tiny: Path, gguf_file: Path, tmp_path: Path) -> None:
    write_gguf(tiny, tmp_path / "again.gguf", name="tiny", license_id="mit")
    assert (tmp_path / "again.gguf").read_bytes() == gguf_file.read_bytes()


def test_template_licence_and_special_tokens_are_carried(gguf_file: Path) -> None:
    metadata = read_metadata(gguf_file)
    assert metadata["tokenizer.chat_template"] == TEMPLATE
    assert metadata["general.license"] == "mit"
    assert metadata["tokenizer.ggml.eos_token_id"] == 2
    assert metadata["tokenizer.ggml.pre"] == "smollm"
    assert metadata["tokenizer.ggml.add_bos_token"] is False


def test_transformers_reads_the_file_itself(tiny: Path, gguf_file: Path) -> None:
    """An independent reader: our own could undo our own mistake."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        str(gguf_file.parent), gguf_file=gguf_file.name, dtype=torch.float32
    ).state_dict()
    ours = Weights.open(tiny)
    assert sorted(theirs) == ours.names
    for name in ours.names:
        np.testing.assert_allclose(theirs[name].numpy(), ours.float32(name), atol=0.01)


def test_qwen2_keeps_its_biases_and_its_order_of_rows(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "qwen", model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    write_gguf(folder, tmp_path / "qwen.gguf", name="q", license_id="mit")
    (tmp_path / "back").mkdir()
    read_gguf(tmp_path / "qwen.gguf", tmp_path / "back")
    before, after = Weights.open(folder), Weights.open(tmp_path / "back")
    assert any(name.endswith("q_proj.bias") for name in after.names)
    for name in before.names:
        np.testing.assert_allclose(after.float32(name), before.float32(name), atol=0.02)


def test_an_embedding_with_more_rows_than_tokens_is_written(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "padded", vocab_size=384)
    write_gguf(folder, tmp_path / "padded.gguf", name="p", license_id="mit")
    assert len(read_metadata(tmp_path / "padded.gguf")["tokenizer.ggml.tokens"]) == 384


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, "rope scaling"),
        ({"intermediate_size": 128}, "where config.json says"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2\..* has shape None"),
    ],
)
def test_what_the_engine_would_misread_is_refused(
    tiny: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = write_tiny_model(tmp_path / "model", tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(PackagingError, match=message):
        write_gguf(folder, tmp_path / "x.gguf", name="x", license_id="mit")
    assert not (tmp_path / "x.gguf").exists()


def test_rows_that_do_not_fill_blocks_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "odd", intermediate_size=100)
    with pytest.raises(PackagingError, match="multiple of 32"):
        write_gguf(folder, tmp_path / "x.gguf", name="x", license_id="mit")


def test_a_disk_that_fills_up_while_writing_is_told_from_other_faults(tiny: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write comes back short."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(OSError, match="no space left"):
            write_gguf(tiny, tmp_path / "x.gguf", name="x", license_id="mit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

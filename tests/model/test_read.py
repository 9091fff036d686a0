"""A GGUF file or a Hugging Face folder becomes one checked model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexus_llm import weights
from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ModelError
from nexus_llm.model.gguf_read import read_gguf
from nexus_llm.model.hf_read import complete_folder, read_hf
from nexus_llm.package.gguf_write import write_gguf
from tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def gguf_file(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny, file, name="tiny", license_id="mit")
    return file


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_gguf_gives_weights_configuration_tokenizer_and_template(tiny: Path, gguf_file: Path, tmp_path: Path) -> None:
    read = 0

    def count(amount: int) -> None:
        nonlocal read
        read += amount

    metadata = read_gguf(gguf_file, tmp_path, on_bytes=count)
    assert metadata["general.license"] == "mit"
    assert 0 < read <= gguf_file.stat().st_size
    before, after = weights.Weights.open(tiny), weights.Weights.open(tmp_path)
    assert after.names == before.names
    for name in before.names:
        np.testing.assert_allclose(after.float32(name), before.float32(name), atol=0.02)
    prompt = [{"role": "user", "content": "In 2024 <|im_end|>"}]
    assert ChatTokenizer.load(tmp_path).encode_prompt(prompt) == ChatTokenizer.load(tiny).encode_prompt(prompt)


def test_gguf_gives_the_same_bytes_each_time(gguf_file: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        read_gguf(gguf_file, folder)
    names = sorted(path.name for path in folders[0].iterdir())
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)


def test_transformers_computes_from_gguf_what_it_computes_from_the_folder(
    tiny: Path, gguf_file: Path, tmp_path: Path
) -> None:
    """A wrong order of rows or a wrong norm would give other logits, whatever the file's own checks say."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    read_gguf(gguf_file, tmp_path)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        logits = [
            transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)(ids).logits
            for folder in (tiny, tmp_path)
        ]
    assert torch.allclose(*logits, atol=0.15)
    assert (logits[0].argmax(-1) == logits[1].argmax(-1)).float().mean() > 0.9


@pytest.mark.parametrize("keep_share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_gguf_file_is_refused(gguf_file: Path, tmp_path: Path, keep_share: float) -> None:
    content = gguf_file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * keep_share)])
    with pytest.raises(ModelError):
        read_gguf(tmp_path / "cut.gguf", tmp_path)


def test_what_is_not_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04" + b"x" * 1000)
    with pytest.raises(ModelError, match="truncated or not GGUF"):
        read_gguf(tmp_path / "x.gguf", tmp_path)


def test_an_empty_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    with pytest.raises(ModelError, match="truncated or not GGUF"):
        read_gguf(tmp_path / "x.gguf", tmp_path)


def test_a_folder_keeps_its_weights_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    read_hf(tiny, tmp_path)
    before, after = weights.Weights.open(tiny), weights.Weights.open(tmp_path)
    assert all(np.array_equal(before.bits(name), after.bits(name)) for name in before.names)


def test_float32_shards_become_one_bfloat16_file(copy: Path, tmp_path: Path) -> None:
    save = pytest.importorskip("safetensors.torch")
    torch = pytest.importorskip("torch")
    stored = weights.Weights.open(copy)
    tensors = {name: torch.from_numpy(stored.float32(name)) for name in stored.names}
    names = sorted(tensors)
    (copy / "model.safetensors").unlink()
    shards = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, part in shards.items():
        save.save_file({name: tensors[name] for name in part}, copy / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "out").mkdir()
    read_hf(copy, tmp_path / "out")
    after = weights.Weights.open(tmp_path / "out")
    assert {after.dtype(name) for name in after.names} == {"BF16"}
    assert all(np.array_equal(after.float32(name), tensors[name].numpy()) for name in names)


def test_a_template_in_the_configuration_moves_to_its_own_file(copy: Path, tmp_path: Path) -> None:
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    change_json(copy / "tokenizer_config.json", chat_template=template)
    (tmp_path / "out").mkdir()
    read_hf(copy, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == template
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def other_size(folder: Path) -> None:
    change_json(folder / "config.json", intermediate_size=128)


def more_layers(folder: Path) -> None:
    change_json(folder / "config.json", num_hidden_layers=3)


def fewer_layers(folder: Path) -> None:
    change_json(folder / "config.json", num_hidden_layers=1)


def unknown_architecture(folder: Path) -> None:
    change_json(folder / "config.json", model_type="bert")


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("model.safetensors"), "no weights"),
        (remove("config.json"), r"no config\.json"),
        (remove("tokenizer.json"), r"no tokenizer\.json"),
        (remove("tokenizer_config.json"), r"no tokenizer_config\.json"),
        (only_pickles, "pickled weights"),
        (cut_weights, "truncated"),
        (other_size, "where config.json says"),
        (more_layers, r"no tensor model\.layers\.2"),
        (fewer_layers, r"has a tensor model\.layers\.1"),
        (unknown_architecture, "'bert' is not known"),
        (broken_config, "not JSON"),
        (list_config, "no JSON object"),
    ],
)
def test_a_spoilt_folder_is_refused_by_name(
    copy: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(copy)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=message) as caught:
        read_hf(copy, tmp_path / "out")
    assert str(copy) in caught.value.what or "architecture" in caught.value.what
    assert caught.value.fix


def test_all_stop_tokens_a_pad_token_and_a_licence_are_added(copy: Path) -> None:
    (copy / "LICENSE").unlink()
    (copy / "generation_config.json").write_text('{"eos_token_id": 5, "temperature": 0.2}')
    change_json(copy / "config.json", eos_token_id=[2, 6])
    facts = complete_folder(copy, license_id="mit", place="hf:a/b@c")
    generation = json.loads((copy / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": [0, 2, 5, 6], "pad_token_id": 313, "temperature": 0.2}
    assert facts["stop_token_ids"] == [0, 2, 5, 6]
    assert facts["turn_end_ids"] == [2]
    assert "'mit'" in (copy / "LICENSE").read_text()
    assert facts["parameters"] == sum(
        int(np.prod(weights.Weights.open(copy).shape(name))) for name in weights.Weights.open(copy).names
    )


def test_readers_are_told_to_take_the_tokenizer_as_it_is(copy: Path) -> None:
    change_json(copy / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    complete_folder(copy, license_id="mit", place="here")
    assert json.loads((copy / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(copy: Path) -> None:
    change_json(copy / "config.json", vocab_size=100)
    with pytest.raises(ModelError, match="tokens, the embedding 100 rows"):
        complete_folder(copy, license_id="mit", place="here")

"""Names, row order, configuration and tokenizer between Hugging Face and GGUF."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm import gguf_format, gguf_tokenizer
from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ModelError, PackagingError
from tiny_model import tiny_config, tiny_tokenizer


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 3))
def test_the_order_of_rows_is_restored(heads: int, half: int, columns: int) -> None:
    shape = (heads * 2 * half, columns) if columns else (heads * 2 * half,)
    weight = np.arange(int(np.prod(shape))).reshape(shape)
    there = gguf_format.to_gguf_rows(weight, heads=heads)
    np.testing.assert_array_equal(gguf_format.from_gguf_rows(there, heads=heads), weight)


def test_gguf_puts_the_two_halves_of_a_head_side_by_side() -> None:
    rows = np.array([0, 1, 2, 3, 10, 11, 12, 13])  # two heads of four values
    assert gguf_format.to_gguf_rows(rows, heads=2).tolist() == [0, 2, 1, 3, 10, 12, 11, 13]


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_of_a_model_has_a_name_on_both_sides(model_type: str, tied: bool) -> None:
    shapes = gguf_format.tensor_shapes(tiny_config(model_type=model_type, tie_word_embeddings=tied))
    names = {name: gguf_format.gguf_name(name) for name in shapes}
    assert None not in names.values()
    assert len(set(names.values())) == len(names)
    assert all(gguf_format.hf_name(str(gguf)) == name for name, gguf in names.items())


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_the_shapes_are_those_of_transformers(model_type: str) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    config = tiny_config(model_type=model_type, tie_word_embeddings=False)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == gguf_format.tensor_shapes(config)


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_a_configuration_survives_the_way_through_gguf(model_type: str) -> None:
    config = tiny_config(model_type=model_type, rope_theta=123_456.0, rms_norm_eps=1e-6)
    metadata = gguf_format.metadata_from_config(config) | {
        "tokenizer.ggml.tokens": ["x"] * 320,
        **{f"tokenizer.ggml.{key}_token_id": value for key, value in (("bos", 1), ("eos", 2), ("padding", 2))},
    }
    metadata = {key: np.float32(value) if isinstance(value, float) else value for key, value in metadata.items()}
    back = gguf_format.config_from_metadata(metadata, tied_embeddings=True)
    kept = {name: back[name] for name in config if name != "architectures"}
    assert kept == {name: value for name, value in config.items() if name != "architectures"}


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},  # without the rest
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
    ],
)
def test_rope_scaling_that_cannot_be_carried_is_refused(scaling: dict[str, object]) -> None:
    with pytest.raises(PackagingError, match="rope scaling"):
        gguf_format.rope_frequencies(tiny_config(**scaling))


def test_no_scaling_has_many_spellings() -> None:
    for spelling in ({"rope_scaling": None}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {}):
        assert gguf_format.rope_scaling(tiny_config(**spelling)) is None
    config = tiny_config(rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    del config["rope_theta"]
    assert gguf_format.rope_theta(config) == 5e5


@pytest.mark.parametrize("change", [{"model_type": "mamba"}, {"model_type": None}, {"attention_bias": True}])
def test_an_unknown_architecture_is_named(change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="not known"):
        gguf_format.tensor_shapes(tiny_config(**change))


def test_a_configuration_without_a_size_is_named() -> None:
    config = tiny_config()
    del config["hidden_size"]
    with pytest.raises(ModelError, match="hidden_size"):
        gguf_format.tensor_shapes(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [("llama.rope.scaling.type", "yarn"), ("llama.expert_count", 8), ("general.architecture", "gemma2")],
)
def test_a_gguf_file_that_cannot_be_read_faithfully_is_refused(field: str, value: object) -> None:
    metadata = gguf_format.metadata_from_config(tiny_config()) | {"tokenizer.ggml.tokens": ["x"], field: value}
    with pytest.raises(ModelError, match="cannot be read"):
        gguf_format.config_from_metadata(metadata, tied_embeddings=True)


def test_a_gguf_file_without_a_field_is_named() -> None:
    metadata = gguf_format.metadata_from_config(tiny_config())
    del metadata["llama.block_count"]
    with pytest.raises(ModelError, match=r"llama\.block_count"):
        gguf_format.config_from_metadata(metadata | {"tokenizer.ggml.tokens": []}, tied_embeddings=True)


def tokenizer_named(pre: str) -> dict[str, object]:
    metadata = gguf_tokenizer.metadata_from_tokenizer(tiny_tokenizer(), vocabulary=320)
    return gguf_tokenizer.tokenizer_from_metadata(metadata | {"tokenizer.ggml.pre": pre})


@given(st.text(st.characters(codec="utf-8")))
def test_a_tokenizer_survives_the_way_through_gguf(text: str) -> None:
    before = ChatTokenizer(json.dumps(tiny_tokenizer()), template=None, config={"eos_token": "<|im_end|>"})
    after = ChatTokenizer(json.dumps(tokenizer_named("smollm")), template=None, config={"eos_token": "<|im_end|>"})
    assert after.encode_document(text) == before.encode_document(text)
    assert after.control_tokens == before.control_tokens


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["In", " 2024", ",", " it", "'s", " 12345", "!!"]),
        ("smollm", ["In", " ", "2", "0", "2", "4", ",", " it", "'s", " ", "1", "2", "3", "4", "5", "!!"]),
        ("llama-bpe", ["In", " ", "202", "4", ",", " it", "'s", " ", "123", "45", "!!"]),
        ("qwen2", ["In", " ", "2", "0", "2", "4", ",", " it", "'s", " ", "1", "2", "3", "4", "5", "!!"]),
    ],
)
def test_each_family_cuts_numbers_in_its_own_way(pre: str, words: list[str]) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_named(pre)))
    cut = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("In 2024, it's 12345!!")]
    assert [piece.replace("Ġ", " ") for piece in cut] == words


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_a_known_way_to_cut_text_is_recognised(pre: str) -> None:
    found = gguf_tokenizer.metadata_from_tokenizer(tokenizer_named(pre), vocabulary=320)
    assert found["tokenizer.ggml.pre"] == pre


@pytest.mark.parametrize("field", ["tokenizer.ggml.pre", "tokenizer.ggml.model"])
def test_an_unknown_way_to_cut_text_is_refused_when_reading(field: str) -> None:
    metadata = gguf_tokenizer.metadata_from_tokenizer(tiny_tokenizer(), vocabulary=320)
    with pytest.raises(ModelError, match="cannot be rebuilt"):
        gguf_tokenizer.tokenizer_from_metadata(metadata | {field: "tekken"})


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {"normalizer": {"type": "Lowercase"}},
    ],
)
def test_an_unknown_way_to_cut_text_is_refused_when_writing(change: dict[str, object]) -> None:
    with pytest.raises(PackagingError, match="cannot be written"):
        gguf_tokenizer.metadata_from_tokenizer(tiny_tokenizer() | change, vocabulary=320)


def test_ids_without_a_token_are_filled_up_to_the_embedding() -> None:
    metadata = gguf_tokenizer.metadata_from_tokenizer(tiny_tokenizer(), vocabulary=400)
    assert len(set(metadata["tokenizer.ggml.tokens"])) == 400


def test_a_start_token_is_rebuilt_where_the_file_or_its_family_asks_for_one() -> None:
    metadata = gguf_tokenizer.metadata_from_tokenizer(tiny_tokenizer(), vocabulary=320)
    metadata |= {"tokenizer.ggml.bos_token_id": 1}
    assert gguf_tokenizer.tokenizer_from_metadata(metadata)["post_processor"] is None
    for change in ({"tokenizer.ggml.add_bos_token": True}, {"tokenizer.ggml.pre": "llama-bpe"}):
        content = gguf_tokenizer.tokenizer_from_metadata(metadata | change)
        tokenizer = ChatTokenizer(json.dumps(content), template=None, config={})
        assert tokenizer.document_start_ids == [1]

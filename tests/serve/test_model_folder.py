"""A folder that is no packaged model is refused before anything heavy starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ServingError
from nexus_llm.serve.listening import bound_socket
from nexus_llm.serve.model_folder import WEIGHTS, read_model

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path, tokenizer: ChatTokenizer) -> MakeFolder:
    """A packaged folder as far as the gateway reads it."""

    def make(*, weights: bytes = b"GGUF" + b"\0" * 64, generation: Any = None, **config: Any) -> Path:
        base = {"max_position_embeddings": 128, "eos_token_id": 2}
        (tmp_path / "config.json").write_text(json.dumps(base | config))
        (tmp_path / "tokenizer.json").write_text(tokenizer._tokenizer.to_str())
        (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
        (tmp_path / WEIGHTS).write_bytes(weights)
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        return tmp_path

    return make


def test_a_packaged_folder_is_read(make_folder: MakeFolder) -> None:
    model = read_model(make_folder(generation={"eos_token_id": [2, 0], "temperature": 0.6, "top_p": 0.9}), name="m")
    assert (model.context_tokens, model.stop_token_ids, model.fingerprint) == (128, (2, 0), None)
    assert (model.sampling.temperature, model.sampling.top_p) == (0.6, 0.9)


def test_without_a_generation_config_openai_defaults_hold(make_folder: MakeFolder) -> None:
    model = read_model(make_folder(), name="m")
    assert (model.stop_token_ids, model.sampling.temperature, model.sampling.top_p) == ((2,), 1.0, 1.0)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS])
def test_a_missing_file_is_named(make_folder: MakeFolder, name: str) -> None:
    folder = make_folder()
    (folder / name).unlink()
    with pytest.raises(ServingError, match=f"has no {name}"):
        read_model(folder, name="m")


@pytest.mark.parametrize(
    "fault",
    [
        {"weights": b"not a gguf"},
        {"weights": b""},
        {"weights": b"GGUF....rope_freqs.weight...."},
        {"weights": b"GGUF....llama.rope.scaling.factor...."},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"max_position_embeddings": None},
    ],
    ids=str,
)
def test_what_the_engine_would_misread_is_refused(make_folder: MakeFolder, fault: dict[str, Any]) -> None:
    with pytest.raises(ServingError) as caught:
        read_model(make_folder(**fault), name="m")
    assert caught.value.fix


def test_rope_parameters_that_scale_nothing_are_fine(make_folder: MakeFolder) -> None:
    read_model(make_folder(rope_parameters={"rope_theta": 100000.0, "rope_type": "default"}), name="m")


def test_broken_json_is_named(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder / "config.json").write_text("{")
    with pytest.raises(ServingError, match=r"config\.json is not readable JSON"):
        read_model(folder, name="m")


def test_a_port_in_use_is_reported_before_anything_else() -> None:
    with bound_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ServingError, match=f"port {port} on 127.0.0.1 is in use") as caught:
            bound_socket("127.0.0.1", port).__enter__()
        assert "--port" in caught.value.fix


def test_an_address_of_another_machine_is_explained() -> None:
    with pytest.raises(ServingError, match="cannot listen on"):
        bound_socket("192.0.2.1", 0).__enter__()

"""Prompts of 128k tokens: taken where model and engine have room, else refused with both numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from nexus_llm.package.gguf_write import write_gguf
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines import wire
from nexus_llm.serve.engines.commands import engine_command
from nexus_llm.serve.engines.port import EngineRequest
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.model_folder import WEIGHTS, ServedModel, read_model
from running_server import RunningServer, StartServer, running_server
from tiny_model import write_tiny_model

CONTEXT = 131_072
LONG = 128_000


def ask(server: RunningServer, **body: Any) -> httpx.Response:
    asked = {"model": server.model.name, "temperature": 0, **body}
    return httpx.post(f"{server.url}/v1/completions", json=asked, timeout=600)


@pytest.fixture
def long_server(start: StartServer, echo_model: ServedModel) -> RunningServer:
    return start(model=replace(echo_model, context_tokens=CONTEXT), capacity_tokens=CONTEXT)


def test_a_prompt_that_fits_is_answered(long_server: RunningServer) -> None:
    answer = ask(long_server, prompt=[100 + place % 50 for place in range(LONG)], max_tokens=2)
    assert answer.status_code == 200
    assert answer.json()["usage"] == {"prompt_tokens": LONG, "completion_tokens": 2, "total_tokens": LONG + 2}


def test_text_of_that_length_is_answered_too(long_server: RunningServer) -> None:
    answer = ask(long_server, prompt="w" * LONG, max_tokens=1)
    assert answer.json()["usage"]["prompt_tokens"] == LONG


@pytest.mark.parametrize(
    ("context", "capacity", "limit"),
    [(8_192, CONTEXT, "8192"), (CONTEXT, 65_536, "65536")],
    ids=["the model's context", "the engine's memory"],
)
def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(
    start: StartServer, echo_model: ServedModel, context: int, capacity: int, limit: str
) -> None:
    server = start(model=replace(echo_model, context_tokens=context), capacity_tokens=capacity)
    answer = ask(server, prompt=[100] * LONG, max_tokens=2)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert limit in error["message"]
    assert str(LONG) in error["message"]


def test_a_long_prompt_goes_to_the_engine_without_being_copied_token_by_token() -> None:
    request = EngineRequest(1, list(range(LONG)), 1)
    message = wire.add_message(request)
    assert message["add"]["token_ids"] is request.token_ids
    assert wire.read_request(message) == request


@pytest.fixture(scope="module")
def real_long_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """llama.cpp with one small layer and random weights, whose context is 131,072 tokens."""
    pytest.importorskip("xllamacpp", reason="the [llama] extra is not installed")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    folder = write_tiny_model(
        tmp_path_factory.mktemp("long") / "long",
        max_position_embeddings=CONTEXT, num_key_value_heads=1, head_dim=32, rope_theta=1e6, **sizes,
    )  # fmt: skip
    write_gguf(folder, folder / WEIGHTS, name="long", license_id="other")
    recipe = ServeRecipe(engine="llama.cpp", kv_cache_gib=0.05, max_running=2)
    model = read_model(folder, name="long", engine="llama.cpp")
    command: EngineCommand = engine_command(model, recipe)
    with running_server(model, command, recipe=recipe) as server:
        yield server


@pytest.mark.lifecycle
@pytest.mark.timeout(900)
def test_a_real_engine_reads_128k_tokens(real_long_server: RunningServer) -> None:
    answer = ask(real_long_server, prompt=[100 + place % 50 for place in range(LONG)], max_tokens=2, ignore_eos=True)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 2

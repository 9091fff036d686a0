"""A tiny model for the gateway, and servers with the fake engine in a real child process."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_page import ChatPage, NoBrowserError, chat_page
from made_once import once
from nexus_llm.chat import ChatTokenizer
from nexus_llm.package.gguf_write import write_gguf
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.engines.supervisor import SupervisorLimits
from nexus_llm.serve.model_folder import WEIGHTS, SamplingDefaults, ServedModel
from running_server import QUICK_LIMITS, RunningServer, StartServer, running_server
from tiny_model import write_tiny_model

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    """A byte-level tokenizer without merges: every byte is a token, so characters come in pieces."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: index for index, text in enumerate([*CONTROL_TOKENS, *alphabet])}
    own = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.decoder = decoders.ByteLevel()
    own.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL_TOKENS])
    config = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    return ChatTokenizer(own.to_str(), template=CHAT_TEMPLATE, config=config)


@pytest.fixture(scope="session")
def echo_model(tokenizer: ChatTokenizer) -> ServedModel:
    """What the gateway has to know to serve the fake engine. Greedy: the fake engine then echoes the prompt."""
    return ServedModel(
        name="echo",
        weights=Path("none"),
        tokenizer=tokenizer,
        context_tokens=2_000,
        stop_token_ids=(tokenizer.eos_token_id,),
        sampling=SamplingDefaults(temperature=0.0),
        fingerprint="0123456789abcdef",
    )


@pytest.fixture
def start(echo_model: ServedModel) -> Iterator[StartServer]:
    """Starts servers with the fake engine; keyword arguments go to its settings or, by name, to the server."""
    with contextlib.ExitStack() as stack:

        def start_one(
            *,
            recipe: ServeRecipe | None = None,
            model: ServedModel = echo_model,
            drain_seconds: float = 5.0,
            limits: SupervisorLimits = QUICK_LIMITS,
            wait_until_ready: bool = True,
            with_sagemaker: bool = False,
            **settings: Any,
        ) -> RunningServer:
            command = EngineCommand("fake", settings)
            return stack.enter_context(
                running_server(
                    model,
                    command,
                    recipe=recipe,
                    drain_seconds=drain_seconds,
                    limits=limits,
                    wait_until_ready=wait_until_ready,
                    with_sagemaker=with_sagemaker,
                )
            )

        yield start_one


@pytest.fixture(scope="module")
def echo_server(echo_model: ServedModel) -> Iterator[RunningServer]:
    """One server with a well-behaved fake engine for all tests of a module."""
    with running_server(echo_model, EngineCommand("fake", {"end_token_id": 2})) as server:
        yield server


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatPage]:
    """One browser for all tests of a module: it takes seconds to start. Each test opens the page anew."""
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(chat_page(tmp_path_factory.mktemp("browser")))
        except NoBrowserError as error:
            pytest.skip(str(error))
        yield opened


@pytest.fixture
def all_logs(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packaged model with random weights that the real engine loads in a second."""
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny", max_position_embeddings=512)
    write_gguf(folder, folder / WEIGHTS, name="tiny", license_id="other")
    return folder


@pytest.fixture(scope="session")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with heads as wide as vLLM's kernels want them."""
    folder = tmp_path_factory.mktemp("wide") / "wide"
    return write_tiny_model(folder, max_position_embeddings=512, hidden_size=128, head_dim=32)


@pytest.fixture(scope="session")
def small_folder(shared_folder: Path, request: pytest.FixtureRequest) -> Path:
    """The real small model, packaged: $NEXUS_TEST_MODEL where it is set, else made from the base model."""
    if given := os.environ.get("NEXUS_TEST_MODEL"):
        return Path(given)
    base = request.getfixturevalue("small_model")
    with once(shared_folder, "small") as folder:
        if not (folder / WEIGHTS).exists():
            folder.mkdir()
            for path in base.iterdir():
                (folder / path.name).symlink_to(path.resolve())
            write_gguf(base, folder / WEIGHTS, name="small", license_id="apache-2.0")
    return folder

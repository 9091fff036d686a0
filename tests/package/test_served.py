"""The running server beside the trainer: the ids of conversations, and the likelihood of text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_llm.chat import ChatTokenizer
from nexus_llm.cli.package_reader import OwnPackageReader
from nexus_llm.errors import PackagingError
from nexus_llm.evaluate.in_process import InProcessCompleter
from nexus_llm.evaluate.over_http import http_completer
from nexus_llm.package import reference
from nexus_llm.package.gguf_write import write_gguf
from nexus_llm.package.served import ServedModel, check_served_template, check_served_text
from nexus_llm.package.template_parity import GOLDEN, GOLDEN_CALLS
from nexus_llm.recipe.package import ServedLimits
from nexus_llm.records import Continuation, Question
from tiny_model import write_tiny_model
from tool_templates import HERMES

ROWS = [list(range(3, 40)), list(range(100, 60, -1))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_tiny_model(tmp_path_factory.mktemp("served") / "model", max_position_embeddings=1024)
    (made / "chat_template.jinja").write_text(HERMES, encoding="utf-8")
    write_gguf(made, made / "model-q8_0.gguf", name="tiny", license_id="mit")
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServedModel]:
    pytest.importorskip("openvino_genai")
    pytest.importorskip("fastapi")
    with OwnPackageReader().server(folder, "openvino") as url, ServedModel(url) as served:
        yield served


def test_the_server_reads_every_golden_conversation_as_training_did(server: ServedModel, folder: Path) -> None:
    assert check_served_template(server, ChatTokenizer.load(folder)) == len(GOLDEN) + len(GOLDEN_CALLS)


def test_a_server_with_another_template_is_named(server: ServedModel, folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    template = other / "chat_template.jinja"
    assert "<|im_end|>" in template.read_text()
    template.write_text(template.read_text().replace("<|im_end|>", "<|im_end|> ", 1))
    with pytest.raises(PackagingError, match="the running server encodes the conversation"):
        check_served_template(server, ChatTokenizer.load(other))


def test_its_likelihoods_are_the_trained_models(server: ServedModel, folder: Path) -> None:
    pytest.importorskip("torch")
    known = list(reference.predictions(folder, ROWS))
    tokenizer = ChatTokenizer.load(folder)
    facts = check_served_text(server, known, ROWS, tokenizer, ServedLimits())
    assert facts["mean_log_probability_error"] < 0.05
    # Another model's predictions: the server would answer for a model that was not trained.
    other = write_tiny_model(folder.parent / "other", seed=4, max_position_embeddings=1024)
    with pytest.raises(PackagingError, match=r"served is not .* mean_log_probability_error [\d.]+ \(at most 0\.2\)"):
        check_served_text(server, list(reference.predictions(other, ROWS)), ROWS, tokenizer, ServedLimits())


def test_an_evaluation_over_http_finds_what_the_model_in_this_process_finds(server: ServedModel, folder: Path) -> None:
    pytest.importorskip("torch")
    given = [
        Continuation("0", "What is it? It is", " what it is."),
        Continuation("1", "def f(x):", " return x ** 2"),
        Continuation("2", "The quick brown fox jumps over", " 13"),
    ]
    questions = [
        Question("0", text="What is it?", max_new_tokens=4),
        Question("1", messages=({"role": "user", "content": "What is it?"},), max_new_tokens=4),
    ]
    here = InProcessCompleter.load(folder)
    with http_completer(str(server._client.base_url)) as there:
        assert there.describe().context_tokens == 1024
        known_of = {one.id: one for one in here.log_likelihood(given)}
        for found in there.log_likelihood(given):
            known = known_of.pop(found.id)
            assert (found.error, found.tokens) == (None, known.tokens)
            # Q8_0 and the engine's own precision; another model's would be nats away.
            assert found.log_probability == pytest.approx(known.log_probability, abs=0.15 * known.tokens)
        assert not known_of
        counts = {one.id: one.prompt_tokens for one in here.generate(questions)}
        assert {one.id: one.prompt_tokens for one in there.generate(questions)} == counts


def test_tokenize_is_vllms(server: ServedModel, folder: Path) -> None:
    url = str(server._client.base_url)
    tokenizer = ChatTokenizer.load(folder)

    def ask(**body: Any) -> httpx.Response:
        return httpx.post(f"{url}/tokenize", json={"model": "package", **body})

    answer = ask(prompt="Hello <|im_end|>").json()
    assert answer["tokens"] == tokenizer.encode_text("Hello <|im_end|>")
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), 1024)
    assert ask(model="other", prompt="x").status_code == 404
    for wrong in ({}, {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, {"prompt": "x", "n": 1}):
        assert ask(**wrong).status_code == 400, wrong

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ModelError
from nexus_llm.evaluate.in_process import stop_ids_of, until_stop
from nexus_llm.evaluate.perplexity import TokenizedDocument, batches, load_model, score
from tiny_model import write_tiny_model

torch = pytest.importorskip("torch", reason="needs the [eval] extra")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(folder).float()


def documents(*lengths: int) -> list[TokenizedDocument]:
    return [
        TokenizedDocument(str(place), tuple((7 * place + 3 * step) % 320 for step in range(length)))
        for place, length in enumerate(lengths)
    ]


def test_a_score_is_the_loss_that_transformers_computes(model: Any) -> None:
    for document in documents(2, 30, 100):
        token_ids = torch.tensor([document.token_ids])
        with torch.inference_mode():
            loss = float(model(token_ids, labels=token_ids).loss)
        (found,) = score(model, [document])
        assert found.tokens == len(document.token_ids) - 1
        assert found.negative_log_likelihood / found.tokens == pytest.approx(loss, abs=1e-4)


def test_neighbours_in_a_batch_do_not_change_a_score(model: Any) -> None:
    together = documents(100, 3, 41, 40, 77, 2)
    found = score(model, together)
    assert [one.id for one in found] == [one.id for one in together]
    for document, one in zip(together, found, strict=True):
        assert one.negative_log_likelihood == pytest.approx(
            score(model, [document])[0].negative_log_likelihood, abs=2e-3
        )


def test_weights_that_are_no_numbers_are_an_error_with_the_document(folder: Path) -> None:
    broken = load_model(folder)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="nan for document 0"):
        score(broken, documents(10))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        load_model(tmp_path)


@given(lengths=st.lists(st.integers(1, 300), max_size=40), limit=st.integers(50, 1_000))
def test_batches_hold_every_document_once_and_keep_their_limit(lengths: list[int], limit: int) -> None:
    found = batches(lengths, max_tokens=limit)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= limit


def test_every_stop_token_of_the_generation_config_ends_an_answer(folder: Path) -> None:
    assert stop_ids_of(folder, ChatTokenizer.load(folder)) == [0, 2]
    assert until_stop([9, 8, 0, 7], [0, 2]) == [9, 8]
    assert until_stop([9, 8], [0, 2]) == [9, 8]

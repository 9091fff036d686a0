"""Perplexity of a text, with the harness's own definitions beside ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import NexusError, TryAgainError
from nexus_llm.evaluate.text_perplexity import Reading, text_perplexity, token_windows
from nexus_llm.ports import Ports
from tiny_model import write_tiny_model

torch = pytest.importorskip("torch", reason="needs the [eval] extra")
TEXT = "What is it? The quick brown fox jumps over 13 lazy dogs. " * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    place.mkdir()
    (place / "a.txt").write_text(TEXT)
    (place / "b.txt").write_text("Déjà vu.")
    return place


def harness_windows(token_ids: list[int], *, window: int, stride: int) -> list[tuple[list[int], list[int]]]:
    utils = pytest.importorskip("lm_eval.utils", reason="needs the [eval] extra")
    return list(utils.get_rolling_token_windows(token_ids, 0, window, window - stride + 1))


@given(length=st.integers(1, 60), window=st.integers(2, 20), data=st.data())
def test_every_token_is_predicted_once_from_what_the_harness_gives(length: int, window: int, data: Any) -> None:
    stride = data.draw(st.integers(1, window))
    token_ids = list(range(1, length + 1))
    ours = list(token_windows(token_ids, 0, window=window, stride=stride))
    assert [one for ids, first in ours for one in ids[first:]] == token_ids
    for (ids, first), (context, wanted) in zip(
        ours, harness_windows(token_ids, window=window, stride=stride), strict=True
    ):
        assert ids[first:] == wanted
        # The harness gives the last window as much context as it can hold, and so do we.
        assert ids[:-1] == context


def test_the_figures_are_those_of_one_token_after_the_other(folder: Path, texts: Path, tmp_path: Path) -> None:
    found, result = text_perplexity(folder, texts, Reading("test", window=32, stride=8), tmp_path / "out", Ports())
    from nexus_llm.evaluate.perplexity import load_model

    model, tokenizer = load_model(folder, precision="float32"), ChatTokenizer.load(folder)
    total = tokens = 0.0
    for text in (TEXT, "Déjà vu."):
        token_ids = [1, *tokenizer.encode_bare(text)]
        tokens += len(token_ids) - 1
        for place in range(1, len(token_ids)):
            moved = 0 if place <= 32 else -(-(place - 32) // 8) * 8
            end = min(32 + moved, len(token_ids) - 1)
            begin = max(0, end - 32)
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([token_ids[begin:place]])).logits[0, -1]
            total -= float(logits.log_softmax(-1)[token_ids[place]])
    text_bytes = len((TEXT + "Déjà vu.").encode())
    words = len(TEXT.split()) + 1 + 2  # the harness counts the empty piece behind the last space
    assert (found.documents, found.tokens, found.words, found.bytes) == (2, tokens, words, text_bytes)
    assert found.negative_log_likelihood == pytest.approx(total, rel=1e-4)
    assert result.aggregates["bits_per_byte"] == pytest.approx(total / text_bytes / math.log(2), rel=1e-4)
    assert result.aggregates["word_perplexity"] == pytest.approx(math.exp(total / words), rel=1e-3)
    assert result.settings == {"split": "test", "window": 32, "stride": 8}
    assert [one.id for one in result.items] == ["0:a.txt", "1:b.txt"]
    assert not result.higher_is_better


def test_a_text_longer_than_the_context_is_read_in_windows_of_it(folder: Path, texts: Path, tmp_path: Path) -> None:
    found, result = text_perplexity(folder, texts, Reading("test"), tmp_path / "out", Ports())
    assert result.settings["window"] == 128
    assert math.isfinite(found.figures["token_perplexity"])
    with pytest.raises(NexusError, match="a window of 500 tokens with a stride of 500 does not fit: the model has 128"):
        text_perplexity(folder, texts, Reading("test", window=500), tmp_path / "out", Ports())


@dataclass
class StopsAfter:
    """Asks to stop when it has been asked so often."""

    times: int

    def requested(self) -> str | None:
        self.times -= 1
        return "SIGINT" if self.times < 0 else None


def test_a_stopped_reading_goes_on_where_it_was(folder: Path, texts: Path, tmp_path: Path) -> None:
    reading, out = Reading("test", window=4, stride=1), tmp_path / "out"
    with pytest.raises(TryAgainError):
        text_perplexity(folder, texts, reading, out, Ports(interrupt=StopsAfter(1)))
    (kept,) = out.glob("kept-*.jsonl")
    assert kept.read_text().count("\n") == 64
    again, _ = text_perplexity(folder, texts, reading, out, Ports())
    assert again == text_perplexity(folder, texts, reading, tmp_path / "other", Ports())[0]


def test_no_text_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(NexusError, match="holds no text"):
        text_perplexity(folder, tmp_path / "empty.txt", Reading("test"), tmp_path / "out", Ports())

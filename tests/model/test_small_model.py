"""The real small model, as `nexus model pull` leaves it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_llm.chat import ChatTokenizer, StreamDecoder
from nexus_llm.package.template_parity import GOLDEN
from nexus_llm.records import Message

pytestmark = pytest.mark.lifecycle

ROME = (
    "The history of the Roman Empire covers the history of ancient Rome from the traditional end of the Roman Republic "
    "in 27 BC until the abdication of Romulus Augustulus in AD 476 in the West, and the Fall of Constantinople in the "
    "East in 1453. Ancient Rome became a territorial empire while still a republic, but was then ruled by emperors "
    "beginning with Octavian Augustus, the final victor of the republican civil wars."
)


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> ChatTokenizer:
    return ChatTokenizer.load(small_model)


def test_digits_are_tokens_of_their_own(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.encode_text("In 2024, x = 12345")
    assert [tokenizer.decode([token]) for token in ids] == [
        *("In", " ", "2", "0", "2", "4", ",", " x", " =", " ", "1", "2", "3", "4", "5")
    ]


def test_the_ends_of_turn_and_document_stop_an_answer(tokenizer: ChatTokenizer) -> None:
    stops = [tokenizer.control_tokens[text] for text in ("<|endoftext|>", "<|im_end|>")]
    assert tokenizer.stop_token_ids == stops
    assert tokenizer.turn_end_ids == [tokenizer.eos_token_id]


def test_padding_ends_nothing(small_model: Path, tokenizer: ChatTokenizer) -> None:
    """The base pads with <|im_end|>, which ends its answers too."""
    pad = tokenizer.named_token_id("pad_token")
    assert pad == tokenizer.control_tokens["<empty_output>"]
    for file in ("config.json", "generation_config.json"):
        assert json.loads((small_model / file).read_text())["pad_token_id"] == pad


@pytest.mark.parametrize("name", GOLDEN)
def test_prompts_are_those_of_transformers(small_model: Path, tokenizer: ChatTokenizer, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    peer = transformers.AutoTokenizer.from_pretrained(str(small_model))
    found = peer.apply_chat_template(GOLDEN[name], add_generation_prompt=True, sanitize_control_tokens=True)
    assert tokenizer.encode_prompt(GOLDEN[name]) == list(found["input_ids"])


def test_any_tokens_stream_to_what_they_decode_to_at_once(tokenizer: ChatTokenizer) -> None:
    @given(st.lists(st.integers(0, tokenizer.vocabulary_size - 1), max_size=80))
    @settings(max_examples=60)
    def check(ids: list[int]) -> None:
        decoder = StreamDecoder(tokenizer)
        assert "".join(decoder.push([token]) for token in ids) + decoder.flush() == tokenizer.decode(ids)

    check()


def test_the_model_reads_english_and_knows_a_capital(small_model: Path, tokenizer: ChatTokenizer) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(str(small_model))
    ids = torch.tensor([tokenizer.encode_text(ROME)])
    with torch.no_grad():
        perplexity = math.exp(model(ids, labels=ids).loss)
    assert perplexity < 15  # measured 10 (2026-11); weights with a wrong order of rows give thousands
    prompt = torch.tensor([tokenizer.encode_prompt([Message(role="user", content="What is the capital of France?")])])
    answer = model.generate(prompt, max_new_tokens=10, do_sample=False)[0, prompt.shape[1] :].tolist()
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] in tokenizer.stop_token_ids

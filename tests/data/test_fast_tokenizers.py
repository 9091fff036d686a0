"""Every encoder gives the ids of Hugging Face's library, or is not taken."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_llm.chat import ChatTokenizer
from nexus_llm.data.tokens import fast_tokenizers
from nexus_llm.data.tokens.fast_tokenizers import (
    Encode,
    Encoder,
    adversarial_texts,
    bounds_of,
    choose,
    fast,
    first_difference,
    merged,
    rare_characters,
    reference,
)
from tiny_model import CONTROL, TEMPLATE, tiny_tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers-dev"
TINY = ChatTokenizer(json.dumps(tiny_tokenizer()), template=TEMPLATE, config={"eos_token": "<|im_end|>"})

needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/tokenizers-dev")
needs_splintr = pytest.mark.skipif(not importlib.util.find_spec("splintr"), reason="needs splintr")
texts = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=60),
        st.lists(st.sampled_from([*CONTROL, "'s", "  ", "\n", "\x1d", "12", "e\u0301", "中", "\0", "the "])).map(
            "".join
        ),
    ),
    max_size=8,
)


@cache
def tiny_encoder() -> Encoder:
    return fast(TINY)


def shared_tokenizer(file: str, end: str) -> ChatTokenizer:
    return ChatTokenizer((SHARED / file).read_text(encoding="utf-8"), template=None, config={"eos_token": end})


def ids_of(encoder: Encoder, documents: Sequence[str]) -> list[list[int]]:
    ids, offsets = encoder.encode(documents)
    assert ids.dtype == np.uint32
    assert offsets.dtype == np.int64
    return [part.tolist() for part in np.split(ids, offsets[1:-1])] if documents else []


@needs_splintr
@settings(max_examples=200)
@given(documents=texts)
def test_splintrs_ids_are_the_references(documents: list[str]) -> None:
    assert ids_of(tiny_encoder(), documents) == ids_of(reference(TINY), documents)


@needs_splintr
def test_splintr_stands_the_self_check_and_characters_of_all_planes() -> None:
    points = [*range(0x400), *range(0x400, 0xD800, 11), *range(0xE000, 0x20000, 11), *range(0x20000, 0x110000, 4099)]
    documents = [*adversarial_texts(TINY.tokenizer_json), *(f"a{chr(p)}b {chr(p)}'s\n{chr(p)}\u0301" for p in points)]
    assert first_difference(documents, tiny_encoder().encode(documents), reference(TINY).encode(documents)) is None


@given(documents=texts)
def test_the_reference_is_what_the_chat_tokenizer_encodes_without_its_ends(documents: list[str]) -> None:
    assert [[*ids, TINY.document_end_id] for ids in ids_of(reference(TINY), documents)] == TINY.encode_documents(
        documents
    )


@needs_splintr
def test_control_tokens_that_a_document_spells_out_stay_text() -> None:
    (ids,) = ids_of(tiny_encoder(), ["".join(CONTROL)])
    assert not set(ids) & set(TINY.control_tokens.values())
    assert TINY.decode(ids, keep_control_tokens=True) == "".join(CONTROL)


def test_the_small_models_tokenizer_gets_a_fast_encoder(small_model: Path) -> None:
    tokenizer = ChatTokenizer.load(small_model)
    chosen = choose(tokenizer, ["A page about déjà vu, in 1999.\n" * 100])
    assert (chosen.name == "splintr") == bool(importlib.util.find_spec("splintr"))
    # Its vocabulary lacks the byte 0x1D: splintr alone would give other ids.
    documents = ["Plain text.", " \x1d' and <|im_end|>", "", "more\ntext"]
    assert ids_of(chosen, documents) == ids_of(reference(tokenizer), documents)


@needs_shared
@pytest.mark.parametrize(
    ("file", "end"), [("gpt-neo-test-tokenizer.json", "<|endoftext|>"), ("llama-test-tokenizer.json", "</s>")]
)
def test_other_families_are_encoded_exactly_too(file: str, end: str) -> None:
    tokenizer = shared_tokenizer(file, end)
    chosen = choose(tokenizer)
    documents = [
        "Ein Satz, zwei Sätze.",
        "a" * 5000,
        "|||IP_ADDRESS||| x",
        "e\u0316\u1ac4\u0301",
        end,
        "   ",
        "١٢٣ नमस्ते",
    ]
    assert ids_of(chosen, documents) == ids_of(reference(tokenizer), documents)
    assert [[*tokenizer.document_start_ids, *ids, tokenizer.document_end_id] for ids in ids_of(chosen, documents)] == (
        tokenizer.encode_documents(documents)
    )


def wrong_for(text: str) -> Any:
    """An adapter whose encoder is exact but for one text."""

    def adapter(_: str) -> Encode:
        def encode(documents: Sequence[str]) -> Any:
            ids, offsets = reference(TINY).encode(documents)
            changed = ids.copy()
            for index, document in enumerate(documents):
                if document == text:
                    changed[offsets[index]] += 1
            return changed, offsets

        return encode

    return adapter


class Panic(BaseException):
    """As Rust libraries raise it."""


def panics(_: str) -> Encode:
    raise Panic("called `Option::unwrap()` on a `None` value")


@pytest.mark.parametrize("adapter", [panics, wrong_for("my probe"), wrong_for("Hello, world!")])
def test_the_reference_is_taken_where_splintr_fails_or_differs(monkeypatch: pytest.MonkeyPatch, adapter: Any) -> None:
    monkeypatch.setattr(fast_tokenizers, "_splintr", adapter)
    chosen = choose(TINY, ["my probe"])
    assert chosen.name == "tokenizers"
    assert ids_of(chosen, ["Hello, world!"]) == ids_of(reference(TINY), ["Hello, world!"])


def test_what_was_not_probed_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_tokenizers, "_splintr", wrong_for("never asked"))
    assert choose(TINY, ["my probe"]).name == "splintr"


def test_asking_a_run_to_stop_is_no_reason_to_reject_splintr(monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(_: str) -> Encode:
        raise KeyboardInterrupt

    monkeypatch.setattr(fast_tokenizers, "_splintr", stops)
    with pytest.raises(KeyboardInterrupt):
        choose(TINY)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 300),
            st.text(st.characters(codec="utf-8") | st.sampled_from("\0\t\x1f ~\x7f\x80é\u0378"), max_size=4),
        ).map(lambda parts: "x" * parts[0] + parts[1] + "y" * (parts[0] % 7)),
        max_size=6,
    )
)
@settings(max_examples=300)
def test_a_text_is_rare_by_any_of_its_characters_wherever_it_stands(documents: list[str]) -> None:
    rare = rare_characters()
    expected = [any(rare[ord(character)] for character in text) for text in documents]
    assert fast_tokenizers._with_rare_characters(documents).tolist() == expected


def test_only_strange_characters_are_rare() -> None:
    rare = rare_characters()
    assert not any(
        rare[ord(character)]
        for character in "aé中\n\t\r\x0c\x85\xa0\u200b\ufeff👩\u200d\ufe0f\u0301नमस्तेမြန်မာ\uf0b7🏴\U000e0067\U000e007f"
    )
    # `has_marked` passes over runs of these without looking at the table.
    assert not rare[[*range(9, 14), *range(32, 127)]].any()
    assert all(rare[ord(character)] for character in "\0\x1d\x7f\u1ac4\u0378\U0003ffff\U000e0fff")


@given(parts=st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 9), max_size=5))))
def test_merging_puts_every_text_back_in_its_place(parts: list[tuple[bool, list[int]]]) -> None:
    def joined(lists: list[list[int]]) -> Any:
        return np.array([one for ids in lists for one in ids], np.uint32), bounds_of([len(ids) for ids in lists])

    first, second = ([ids for is_second, ids in parts if is_second == wanted] for wanted in (False, True))
    ids, offsets = merged(np.array([is_second for is_second, _ in parts], bool), joined(first), joined(second))
    expected_ids, expected_offsets = joined([ids for _, ids in parts])
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(offsets, expected_offsets)

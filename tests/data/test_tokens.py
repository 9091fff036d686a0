"""A block of documents becomes token ids, and comes back from the disk as it was."""

from __future__ import annotations

import errno
import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoded_blocks import TINY, conversation, identity, rows
from nexus_llm.chat import ChatTokenizer
from nexus_llm.data.tokens import encode as tokens
from nexus_llm.data.tokens.encode import (
    BLOCK_SCHEMA,
    EncodedBlock,
    encode_block,
    is_saved,
    load_block,
    load_sizes,
    save_block,
)
from nexus_llm.data.tokens.fast_tokenizers import Encoder, reference
from tiny_model import TEMPLATE, tiny_tokenizer

EXACT = reference(TINY)
REFUSING = ChatTokenizer(
    json.dumps(tiny_tokenizer()),
    template="{% if messages[0]['content'] == 'no' %}{{ raise_exception('roles must alternate') }}{% endif %}"
    + TEMPLATE,
    config={"eos_token": "<|im_end|>"},
)
OPENING = ChatTokenizer(
    json.dumps(
        tiny_tokenizer()
        | {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
            }
        }
    ),
    template=TEMPLATE,
    config={"eos_token": "<|im_end|>"},
)


def ids_of(block: EncodedBlock) -> list[list[int]]:
    return [block.tokens[a:b].tolist() for a, b in zip(block.offsets[:-1], block.offsets[1:], strict=True)]


def assert_equal(one: EncodedBlock, other: EncodedBlock) -> None:
    assert one.documents.equals(other.documents)
    assert one.documents.schema == other.documents.schema
    for name in ("tokens", "offsets", "loss_mask", "is_conversation"):
        found, expected = getattr(one, name), getattr(other, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert (one.refused, one.differences) == (other.refused, other.differences)


@pytest.mark.parametrize("tokenizer", [TINY, OPENING])
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=8))
def test_running_text_is_encoded_as_the_chat_tokenizer_does(tokenizer: ChatTokenizer, texts: list[str]) -> None:
    block = encode_block(rows(texts), reference(tokenizer), tokenizer)
    assert ids_of(block) == tokenizer.encode_documents(texts)
    assert block.loss_mask.all()
    assert not block.is_conversation.any()
    assert block.documents["tokens"].to_list() == np.diff(block.offsets).tolist()


def test_a_tokenizer_that_opens_texts_opens_documents() -> None:
    assert OPENING.document_start_ids == [1]
    assert all(ids[0] == 1 for ids in ids_of(encode_block(rows(["a", ""]), reference(OPENING), OPENING)))


def test_conversations_go_through_the_template_and_only_the_assistant_is_learned() -> None:
    frame = pl.concat(
        [
            rows(["before"]),
            rows(["hi\nyo"], first=2, messages=conversation("hi <|im_end|>", "yo", "more", "no")),
            rows(["after"], first=3),
        ]
    )
    block = encode_block(frame, EXACT, TINY)
    expected = TINY.encode_conversation(json.loads(frame["messages"][1]))
    before, talk, after = ids_of(block)
    assert [before, after] == TINY.encode_documents(["before", "after"])
    assert talk == expected.token_ids
    assert block.is_conversation.tolist() == [False, True, False]
    start, stop = block.offsets[1:3]
    assert block.loss_mask[start:stop].tolist() == expected.is_assistant
    assert block.loss_mask[:start].all()
    assert block.loss_mask[stop:].all()


def test_a_conversation_that_the_template_refuses_is_named_and_left_out() -> None:
    frame = pl.concat(
        [
            rows(["x"], messages=conversation("no", "x")),
            rows(["text"], first=2),
            rows(["y"], first=3, messages=conversation("yes", "y")),
        ]
    )
    block = encode_block(frame, reference(REFUSING), REFUSING)
    (refused,) = block.refused
    assert (refused.ordinal, refused.id, refused.rule) == (1, identity(1), "chat_template")
    assert "roles must alternate" in refused.error
    assert block.documents["ordinal"].to_list() == [2, 3]
    assert block.is_conversation.tolist() == [False, True]
    assert len(block.loss_mask) == len(block.tokens) == block.offsets[-1]


def test_documents_are_ordered_by_split_and_then_by_ordinal_whatever_their_order_was() -> None:
    frame = rows([f"text {number}" for number in range(30)], splits=("test", "train", "validation"))
    block = encode_block(frame, EXACT, TINY)
    assert block.documents["split"].to_list() == ["train"] * 10 + ["validation"] * 10 + ["test"] * 10
    for _, part in block.documents.group_by("split"):
        assert part["ordinal"].is_sorted()
    assert {name: kind() for name, kind in BLOCK_SCHEMA.items()} == dict(block.documents.schema)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=4).with_columns(extra=pl.lit(1))
    assert_equal(block, encode_block(shuffled, EXACT, TINY))


def test_sizes_are_the_tokens_of_each_splits_documents(tmp_path: Path) -> None:
    block = encode_block(rows(["a", "b c", "def"], splits=("test", "train")), EXACT, TINY)
    expected = {
        "train": [len(TINY.encode_document("b c"))],
        "validation": [],
        "test": [len(TINY.encode_document("a")), len(TINY.encode_document("def"))],
    }
    assert {split: sizes.tolist() for split, sizes in block.sizes().items()} == expected
    save_block(block, tmp_path / "0")
    assert {split: sizes.tolist() for split, sizes in load_sizes(tmp_path / "0").items()} == expected


def inexact_on(text: str) -> Encoder:
    def encode(texts: Sequence[str]) -> Any:
        ids, offsets = EXACT.encode(texts)
        ids = ids.copy()
        for number, one in enumerate(texts):
            if text in one:
                ids[offsets[number]] = 7
        return ids, offsets

    return Encoder("inexact", encode)


def test_a_sampled_difference_moves_the_whole_block_to_the_reference_and_is_counted() -> None:
    many = rows([f"text {number}" for number in range(3_000)])
    right, careless = encode_block(many, EXACT, TINY), encode_block(many, inexact_on("text"), TINY)
    assert 1 <= careless.differences <= 20
    np.testing.assert_array_equal(careless.tokens, right.tokens)
    assert encode_block(many, Encoder("exact", EXACT.encode), TINY).differences == 0


def test_which_documents_are_sampled_depends_on_their_ordinals_alone() -> None:
    # A file of one record has ordinals like these; among 4,000 of them, about 8 are sampled.
    ordinals = [number << 40 | 1 for number in range(4_000)]
    hit = tokens._mixed(np.array(ordinals, np.uint64)) % np.uint64(512) == 0
    assert 2 <= hit.sum() <= 20
    two = rows(["text", "text"]).with_columns(ordinal=pl.Series([ordinals[int(np.argmax(hit))], 5], dtype=pl.UInt64))
    assert encode_block(two, inexact_on("text"), TINY).differences == 1
    assert encode_block(two[:1], inexact_on("text"), TINY).differences == 1


def test_a_saved_block_comes_back_as_it_was(tmp_path: Path) -> None:
    frame = pl.concat([rows(["a", "", "日本"]), rows(["x"], first=9, messages=conversation("no", "x"))])
    block = encode_block(frame, reference(REFUSING), REFUSING)
    assert block.refused
    save_block(block, tmp_path / "0")
    assert_equal(load_block(tmp_path / "0", frame), block)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_an_empty_block_comes_back_empty(tmp_path: Path) -> None:
    save_block(encode_block(rows([]), EXACT, TINY), tmp_path / "0")
    block = load_block(tmp_path / "0", rows([]))
    assert (len(block.documents), len(block.tokens), block.offsets.tolist()) == (0, 0, [0])


class FullDisk(Exception):
    """Stands for whatever stops a process between two files."""


def test_a_block_that_was_interrupted_is_absent_and_can_be_saved_again(tmp_path: Path) -> None:
    class Stops:
        def __getattr__(self, name: str) -> Any:
            if name == "loss_mask":
                raise FullDisk
            return getattr(block, name)

    block = encode_block(rows(["a"]), EXACT, TINY)
    with pytest.raises(FullDisk):
        save_block(Stops(), tmp_path / "0")  # type: ignore[arg-type]
    assert not is_saved(tmp_path / "0")
    save_block(block, tmp_path / "0")
    assert is_saved(tmp_path / "0")
    assert_equal(load_block(tmp_path / "0", rows(["a"])), block)


def test_a_full_disk_is_an_error_with_a_number(tmp_path: Path) -> None:
    def saved(limit: int) -> int:
        # Text that compresses badly and makes few tokens, so that the limit meets the documents.
        frame = rows([f"{number:x}" for number in range(3_000)])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        block = encode_block(frame, EXACT, TINY)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            save_block(block, tmp_path / "0")
        except OSError as error:
            return error.errno or 0
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return -1

    assert saved(40_000) == errno.EFBIG
    assert saved(10**9) == -1


def test_vocabularies_of_more_than_65536_tokens_take_four_bytes() -> None:
    assert tokens.token_type(65_536) is np.uint16
    assert tokens.token_type(65_537) is np.uint32

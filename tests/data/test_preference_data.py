"""Rows with a chosen and a rejected answer, from the file to the arrays beside a shard."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from encoded_blocks import TINY, conversation, rows
from nexus_llm.artifacts import Artifact
from nexus_llm.chat import ChatTokenizer
from nexus_llm.data.intake import take
from nexus_llm.data.judging import rules
from nexus_llm.data.reading.blocks import BrokenRecord
from nexus_llm.data.rows import conversation_json
from nexus_llm.data.stage import STAGE
from nexus_llm.data.taken import Taken, Tools
from nexus_llm.data.tokens.encode import EncodedBlock, encode_block, is_saved, load_block, load_sizes, save_block
from nexus_llm.data.tokens.fast_tokenizers import reference
from nexus_llm.data.tokens.shards import plan_shards, write_shard
from nexus_llm.recipe import DataRecipe, Recipe
from nexus_llm.records import Document, Message
from nexus_llm.train.preferences import pack_pairs, read_pair_shards
from read_records import read_records
from running_stages import folder_as_artifact, run_stage
from tiny_model import TEMPLATE, tiny_tokenizer, write_tiny_model

SHARED = Path(__file__).parents[3] / "shared" / "data"
EXACT = reference(TINY)
PROSE = "The harbour was quiet in the morning, and the boats lay still on the water. " * 3
REFUSING = ChatTokenizer(
    json.dumps(tiny_tokenizer()),
    template="{% if messages[0]['content'] == 'no' %}{{ raise_exception('roles must alternate') }}{% endif %}"
    + TEMPLATE,
    config={"eos_token": "<|im_end|>"},
)


def said(*contents: str) -> tuple[Message, ...]:
    return tuple(json.loads(conversation(*contents)))


def pair(question: str, chosen: str, rejected: str) -> str:
    return conversation_json(said(question, chosen), said(question, rejected))


def read(tmp_path: Path, *content: Any) -> list[Document | BrokenRecord]:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return read_records(path, source="own")


def test_a_preference_is_read_with_both_of_its_conversations(tmp_path: Path) -> None:
    both = {"chosen": list(said("Q", "good")), "rejected": list(said("Q", "bad"))}
    for row in ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, both):
        (document,) = read(tmp_path, row)
        assert isinstance(document, Document)
        assert (document.messages, document.rejected) == (said("Q", "good"), said("Q", "bad"))
        assert document.text == "Q\ngood"
    (document,) = read(tmp_path, {"prompt": "Q", "completion": "A"})
    assert isinstance(document, Document)
    assert document.rejected == ()


def test_bad_answers_that_cannot_be_used_say_why_and_what_to_do(tmp_path: Path) -> None:
    undesired, broken = read(
        tmp_path,
        {"prompt": "Q", "completion": "A", "label": False},
        {"prompt": "Q", "chosen": "good", "rejected": "half \ud83d"},
    )
    assert isinstance(undesired, BrokenRecord)
    assert isinstance(broken, BrokenRecord)
    assert "as the fields prompt, chosen and rejected" in undesired.error
    assert "surrogate" in broken.error


def taken(*documents: tuple[str, str, str], **changes: Any) -> Taken:
    records = [
        (number, Document(f"id{number}", "own", "a", f"{question}\n{chosen}", said(question, chosen), {}, worse))
        for number, (question, chosen, worse) in enumerate(
            ((question, chosen, said(question, rejected)) for question, chosen, rejected in documents), start=1
        )
    ]
    return take(records, Tools(DataRecipe.model_validate(changes), rules.load_spec()))


def test_rejected_answers_are_cleaned_and_redacted_as_all_text() -> None:
    kept = taken((PROSE, "Fine.", "Write to jane.doe@corp.org\x00 now.\r\n")).kept
    content = json.loads(kept["messages"][0])
    worse = content["rejected"][1]["content"]
    assert "jane.doe" not in worse
    assert "\x00" not in worse
    assert "\r" not in worse
    assert worse.startswith("Write to ")
    assert [turn["content"] for turn in content["chosen"]] == kept["text"][0].rsplit("\n", 1)


def test_personal_data_in_a_rejected_answer_drops_the_row_where_that_is_asked_for() -> None:
    found = taken((PROSE, "Fine.", "jane.doe@corp.org"), (PROSE, "Fine.", "No."), pii={"action": "drop"})
    assert found.kept["ordinal"].to_list() == [2]
    assert found.rejected["rule"].to_list() == ["pii"]


def test_pairs_that_differ_in_the_rejected_answer_alone_are_not_equal() -> None:
    hashes = taken((PROSE, "Yes.", "No."), (PROSE, "Yes.", "Never."), (PROSE, "Yes.", "No.")).kept["content_hash"]
    assert hashes[0] == hashes[2] != hashes[1]


def frame() -> pl.DataFrame:
    """60 documents: running text, conversations, and pairs in the second half of training alone."""
    texts = [f"text {number} " * (1 + number % 7) for number in range(60)]
    talks: dict[int, str] = {number: conversation("a", "b" * number) for number in (3, 20, 33)}
    talks |= {number: pair("Why?", "because " * (number % 5), "no " * (number % 4)) for number in range(31, 60, 3)}
    return rows(texts, splits=("train", "validation")).with_columns(
        messages=pl.Series([talks.get(number) for number in range(60)], dtype=pl.String)
    )


def test_rejected_answers_have_the_ids_and_the_mask_of_their_conversation(tmp_path: Path) -> None:
    block = encode_block(frame(), EXACT, TINY)
    assert block.rejected is not None
    for place, messages in enumerate(block.documents["messages"]):
        here = slice(*block.rejected.offsets[place : place + 2])
        content = json.loads(messages) if messages else []
        worse = content["rejected"] if isinstance(content, dict) else None
        expected = TINY.encode_conversation(worse) if worse else None
        assert block.rejected.tokens[here].tolist() == (expected.token_ids if expected else [])
        assert block.rejected.loss_mask[here].tolist() == (expected.is_assistant if expected else [])
    save_block(block, tmp_path / "block")
    again = load_block(tmp_path / "block", frame().sort("ordinal"))
    assert again.rejected is not None
    for name in ("tokens", "offsets", "loss_mask"):
        found, expected_array = getattr(again.rejected, name), getattr(block.rejected, name)
        np.testing.assert_array_equal(found, expected_array)
        assert found.dtype == expected_array.dtype
    assert is_saved(tmp_path / "block")
    damaged = tmp_path / "block" / "rejected_tokens.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert not is_saved(tmp_path / "block")


def test_data_without_pairs_has_no_file_for_them(tmp_path: Path) -> None:
    plain = frame().with_columns(messages=pl.lit(None, pl.String))
    block = encode_block(plain, EXACT, TINY)
    assert block.rejected is None
    save_block(block, tmp_path / "block")
    assert written(tmp_path, [block], tmp_path / "shards") == {}
    assert not [*tmp_path.rglob("*rejected*")]


def test_a_pair_whose_rejected_answer_the_template_refuses_is_refused_whole() -> None:
    talks = [pair("q", "a", "b"), conversation_json(said("q", "a"), said("no", "b"))]
    block = encode_block(rows(["x", "y"]).with_columns(messages=pl.Series(talks, dtype=pl.String)), EXACT, REFUSING)
    assert [one.ordinal for one in block.refused] == [2]
    assert block.rejected is not None
    assert len(block.documents) == 1
    assert len(block.rejected.offsets) == 2


def written(work: Path, blocks: list[EncodedBlock], folder: Path) -> dict[str, bytes]:
    """Files of rejected answers by name, after the blocks became shards of 150 tokens."""
    folder.mkdir()
    for number, block in enumerate(blocks):
        save_block(block, work / f"blocks-{folder.name}-{number}")
    sizes = [(number, load_sizes(work / f"blocks-{folder.name}-{number}")) for number in range(len(blocks))]
    for shard in plan_shards(sizes, shard_tokens=150):
        done = write_shard(folder, shard, block=blocks.__getitem__, dtype=np.uint16)
        assert sorted(done.files) == sorted(path.name for path in folder.glob(f"{shard.name}.*"))
        assert done.files[-1].endswith(".documents.parquet")
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.rejected_*"))}


@pytest.mark.parametrize("rows_of_a_block", [1, 7, 60])
def test_shards_hold_the_pairs_and_do_not_know_blocks(tmp_path: Path, rows_of_a_block: int) -> None:
    parts = [encode_block(part, EXACT, TINY) for part in frame().iter_slices(rows_of_a_block)]
    whole = encode_block(frame(), EXACT, TINY)
    files = written(tmp_path, parts, tmp_path / "parts")
    assert files == written(tmp_path, [whole], tmp_path / "whole")
    shards = {path.name.split(".")[0] for path in (tmp_path / "parts").glob("*.documents.parquet")}
    with_pairs = {name.split(".")[0] for name in files}
    assert with_pairs < shards  # the first half has none
    for split in ("train", "validation"):
        expected = [
            whole.rejected.tokens[start:stop].tolist()
            for place, (start, stop) in enumerate(pairwise(whole.rejected.offsets))
            if stop > start and whole.documents["split"][place] == split
        ]
        found = []
        for shard in read_pair_shards(tmp_path / "parts", split, vocabulary=TINY.vocabulary_size):
            offsets = shard.rejected.offsets
            assert len(offsets) == len(shard.chosen.offsets)
            assert offsets[-1] == len(shard.rejected.tokens) == len(shard.rejected.loss_mask)
            found += [shard.rejected.tokens[start:stop].tolist() for start, stop in pairwise(offsets) if stop > start]
        assert found == expected
    for name, content in files.items():
        np.save(tmp_path / "again.npy", np.load(tmp_path / "parts" / name))
        assert (tmp_path / "again.npy").read_bytes() == content


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return folder_as_artifact("model", write_tiny_model(tmp_path_factory.mktemp("model")))


def recipe_for(path: Path, **changes: Any) -> Recipe:
    source = {"type": "files", "path": str(path), "name": "own"}
    return Recipe.model_validate({"name": "t", "data": {"sources": [source], "shard_tokens": 20_000, **changes}})


@pytest.mark.skipif(not (SHARED / "llamafactory-demos").exists(), reason="needs ../shared/data")
def test_a_real_preference_set_becomes_pairs(model: Artifact, tmp_path: Path) -> None:
    recipe = recipe_for(SHARED / "llamafactory-demos" / "dpo_en_demo.json", near_duplicates={"keep": "all"})
    made = run_stage(STAGE, recipe, {"model": model}, tmp_path)
    facts = made.manifest.facts
    shards = read_pair_shards(made.folder, "train", vocabulary=320)
    pairs = pack_pairs(shards, max_length=2**15)
    documents = sum(len(shard.chosen.offsets) - 1 for shard in shards)
    assert facts["sources"]["own"]["formats"] == {"preference": 299}
    assert documents > 200
    assert len(pairs.pieces) // 2 + sum(pairs.dropped.values()) == documents
    assert len(pairs.pieces) // 2 > 0.9 * documents

"""Shards hold every document once, in order, and do not know how the documents were cut into blocks."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoded_blocks import TINY, conversation, rows
from nexus_llm.data.tokens import mix, shards
from nexus_llm.data.tokens.encode import EncodedBlock, encode_block, load_block, load_sizes, save_block
from nexus_llm.data.tokens.fast_tokenizers import reference
from nexus_llm.data.tokens.shards import Shard, plan_shards, write_shard
from nexus_llm.records import SPLITS
from nexus_llm.train.packing import read_shards

EXACT = reference(TINY)
documents_of_splits = st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(1, 6)), max_size=60)


def blocks_of(documents: list[tuple[str, int]], cuts: list[int]) -> list[tuple[int, dict[str, Any]]]:
    """Sizes by split of the blocks that end at `cuts`."""
    bounds = [0, *sorted(min(cut, len(documents)) for cut in cuts), len(documents)]
    return [
        (
            number,
            {split: np.array([size for name, size in documents[a:b] if name == split], np.int64) for split in SPLITS},
        )
        for number, (a, b) in enumerate(pairwise(bounds))
    ]


def sizes_in(shard: Shard, blocks: list[tuple[int, dict[str, Any]]]) -> list[int]:
    by_number = {number: np.concatenate([sizes[split] for split in SPLITS]) for number, sizes in blocks}
    return [int(size) for piece in shard.pieces for size in by_number[piece.block][piece.first : piece.stop]]


@given(documents=documents_of_splits, cuts=st.lists(st.integers(0, 60), max_size=6), shard_tokens=st.integers(1, 14))
def test_a_shard_takes_documents_until_the_next_one_would_be_too_many(documents, cuts, shard_tokens) -> None:
    blocks = blocks_of(documents, cuts)
    plan = plan_shards(blocks, shard_tokens=shard_tokens)
    for split in SPLITS:
        expected: list[list[int]] = [[]]
        for size in (size for name, size in documents if name == split):
            if expected[-1] and sum(expected[-1]) + size > shard_tokens:
                expected.append([])
            expected[-1].append(size)
        own = [shard for shard in plan if shard.split == split]
        assert [sizes_in(shard, blocks) for shard in own] == expected
        assert [shard.number for shard in own] == list(range(len(own)))
        assert [(shard.documents, shard.tokens) for shard in own] == [(len(sizes), sum(sizes)) for sizes in expected]
    assert [shard.split for shard in plan] == sorted((shard.split for shard in plan), key=SPLITS.index)


@given(documents=documents_of_splits, cuts=st.lists(st.integers(0, 60), max_size=6), shard_tokens=st.integers(1, 14))
def test_the_plan_does_not_depend_on_blocks(documents, cuts, shard_tokens) -> None:
    many, one = blocks_of(documents, cuts), blocks_of(documents, [])
    plans = [plan_shards(blocks, shard_tokens=shard_tokens) for blocks in (many, one)]
    found, expected = (
        [(shard.name, sizes_in(shard, blocks)) for shard in plan]
        for plan, blocks in zip(plans, (many, one), strict=True)
    )
    assert found == expected


def documents() -> pl.DataFrame:
    """60 documents of three splits, three of them conversations, one longer than a shard."""
    texts = [f"text {number} " * (number % 13) for number in range(60)]
    texts[40] = "a long one " * 100
    frame = rows(texts, splits=("train", "train", "validation", "train", "test"))
    talks = {10: conversation("a", "b"), 11: conversation("c", "d", "e", "f"), 30: conversation("g", "h")}
    messages = pl.Series([talks.get(number) for number in range(60)], dtype=pl.String)
    return frame.with_columns(messages=messages)


def made(
    folder: Path, block_rows: int, *, shard_tokens: int = 300, epochs: dict[str, float] | None = None
) -> list[shards.WrittenShard]:
    """All shards of `documents()`, through saved blocks of so many rows."""
    frame, work, out = documents(), folder / "work", folder / "out"
    out.mkdir(parents=True)
    starts = range(0, len(frame), block_rows)
    for number, start in enumerate(starts):
        save_block(encode_block(frame[start : start + block_rows], EXACT, TINY), work / str(number))
    plan = plan_shards(
        ((number, load_sizes(work / str(number))) for number in range(len(starts))), shard_tokens=shard_tokens
    )

    def repeats(part: pl.DataFrame) -> Any:
        return mix.repeats(part["id"], part["source"], epochs=epochs or {}, seed=3)

    return [
        write_shard(
            out,
            shard,
            block=lambda number: load_block(work / str(number), frame),
            dtype=np.uint16,
            repeats=repeats if epochs else None,
        )
        for shard in plan
    ]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())}


def test_every_document_lies_beside_its_tokens(tmp_path: Path) -> None:
    written = made(tmp_path, 7)
    frame, out = documents(), tmp_path / "out"
    expected = encode_block(frame, EXACT, TINY)
    at = 0
    for split in SPLITS:
        for number, shard in enumerate(read_shards(out, split, vocabulary=TINY.vocabulary_size)):
            listed = pl.read_parquet(out / f"{split}-{number:05d}.documents.parquet")
            assert dict(listed.schema) == {name: kind() for name, kind in shards.DOCUMENTS_SCHEMA.items()}
            assert listed.equals(
                expected.documents.filter(split=split)
                .drop("split", "characters")
                .filter(pl.col("ordinal").is_in(listed["ordinal"].implode()))
            )
            assert listed["tokens"].to_list() == np.diff(shard.offsets).tolist()
            assert shard.repeats is not None
            assert (len(shard.is_conversation), shard.repeats.tolist()) == (len(listed), [1] * len(listed))
            start, stop = expected.offsets[at], expected.offsets[at + len(listed)]
            np.testing.assert_array_equal(shard.tokens, expected.tokens[start:stop])
            np.testing.assert_array_equal(shard.loss_mask, expected.loss_mask[start:stop])
            np.testing.assert_array_equal(shard.is_conversation, expected.is_conversation[at : at + len(listed)])
            at += len(listed)
    assert at == len(frame)
    assert sorted(name for one in written for name in one.files) == sorted(content(tmp_path))


def test_blocks_of_any_size_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small row groups, so that they end in the midst of blocks.
    monkeypatch.setattr(shards, "_GROUP_DOCUMENTS", 5)
    monkeypatch.setattr(shards, "_GROUP_TEXT_BYTES", 300)
    for block_rows in (5, 7, 60):
        made(tmp_path / str(block_rows), block_rows, epochs={"a": 1.5, "b": 0.5})
    assert content(tmp_path / "5") == content(tmp_path / "7") == content(tmp_path / "60")


def test_row_groups_end_by_documents_or_by_text_and_a_long_document_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_GROUP_DOCUMENTS", 5)
    monkeypatch.setattr(shards, "_GROUP_TEXT_BYTES", 300)
    made(tmp_path, 7, shard_tokens=10**6)
    file = pyarrow.parquet.ParquetFile(tmp_path / "out" / "train-00000.documents.parquet")
    groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    sizes = [pl.from_arrow(group)["text"].str.len_bytes().sum() for group in groups]  # type: ignore[index]
    assert all(group.num_rows <= 5 for group in groups)
    assert [size for size, group in zip(sizes, groups, strict=True) if size > 300 and group.num_rows > 1] == []
    assert max(sizes) == 1100
    assert file.metadata.row_group(0).column(4).compression == "ZSTD"


def test_repeats_are_the_mixs_in_training_and_one_elsewhere(tmp_path: Path) -> None:
    epochs = {"a": 2.0, "b": 0.0}
    written = made(tmp_path, 60, epochs=epochs)
    for split in SPLITS:
        for number, shard in enumerate(read_shards(tmp_path / "out", split, vocabulary=TINY.vocabulary_size)):
            sources = pl.read_parquet(tmp_path / "out" / f"{split}-{number:05d}.documents.parquet")["source"]
            wanted = [epochs[name] if split == "train" else 1 for name in sources]
            assert shard.repeats is not None
            assert shard.repeats.tolist() == wanted
    frame = encode_block(documents(), EXACT, TINY).documents
    for split, name in product(SPLITS, epochs):
        tokens = frame.filter(split=split, source=name)["tokens"].sum()
        counted = sum(one.sources.get(name, 0) for one in written if one.files[0].startswith(split))
        assert counted == tokens * (epochs[name] if split == "train" else 1)


def test_a_split_without_documents_has_one_empty_shard_that_can_be_read(tmp_path: Path) -> None:
    for shard in plan_shards([], shard_tokens=10):
        write_shard(tmp_path, shard, block=never, dtype=np.uint16)
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == [
        f"{split}-00000.documents.parquet" for split in sorted(SPLITS)
    ]
    (shard,) = read_shards(tmp_path, "test", vocabulary=10)
    assert (len(shard.tokens), shard.offsets.tolist()) == (0, [0])
    assert pl.read_parquet(tmp_path / "test-00000.documents.parquet").is_empty()


def never(number: int) -> EncodedBlock:
    raise AssertionError(f"block {number} was asked for")


def test_a_shard_that_was_interrupted_is_not_written_and_can_be_written_again(tmp_path: Path) -> None:
    block = encode_block(rows(["a", "b", "c"]), EXACT, TINY)
    (shard, *_) = plan_shards([(0, block.sizes())], shard_tokens=100)
    with pytest.raises(AssertionError, match="block 0"):
        write_shard(tmp_path, shard, block=never, dtype=np.uint16)
    assert not (tmp_path / shard.files[-1]).exists()
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".partial")]
    write_shard(tmp_path, shard, block=lambda _: block, dtype=np.uint16)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(shard.files)


def test_arrays_are_files_that_numpy_reads_with_the_types_of_the_contract(tmp_path: Path) -> None:
    block = encode_block(rows(["a", "b"]), EXACT, TINY)
    (shard, *_) = plan_shards([(0, block.sizes())], shard_tokens=100)
    write_shard(tmp_path, shard, block=lambda _: block, dtype=np.uint32)
    kinds = {name: np.load(tmp_path / f"train-00000.{name}.npy").dtype.name for name in shards._ARRAYS}
    assert kinds == {
        "tokens": "uint32",
        "offsets": "int64",
        "loss_mask": "bool",
        "is_conversation": "bool",
        "repeats": "uint16",
    }

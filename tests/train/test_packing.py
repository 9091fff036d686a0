from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.errors import DataError
from nexus_llm.train.packing import NOT_LEARNED, PackedRows, Shard, best_fit_decreasing, cut, pack, read_shards
from tiny_training import VOCABULARY, make_shard, write_shard

document_lengths = st.lists(st.integers(0, 60), min_size=1, max_size=25)
row_lengths = st.integers(4, 24)


def all_rows(packed: PackedRows):
    return packed.take(np.arange(packed.rows))


@given(lengths=document_lengths, max_length=row_lengths)
def test_every_token_but_a_documents_first_is_learned_exactly_once(lengths, max_length):
    batch = all_rows(pack([make_shard(lengths)], max_length=max_length, objective="continued-pretraining"))
    assert batch.learned_tokens == sum(max(0, length - 1) for length in lengths)


@given(lengths=document_lengths, max_length=row_lengths)
def test_a_piece_holds_the_documents_own_tokens_in_order(lengths, max_length):
    shard = make_shard(lengths)
    packed = pack([shard], max_length=max_length, objective="continued-pretraining")
    batch = all_rows(packed)
    seen = 0
    for row in range(packed.rows):
        for number in range(batch.documents[row].max() + 1):
            here = batch.documents[row] == number
            _, start, length = packed.pieces[seen]
            np.testing.assert_array_equal(batch.token_ids[row, here], shard.tokens[start : start + length])
            np.testing.assert_array_equal(batch.positions[row, here], np.arange(length))
            seen += 1
    assert seen == len(packed.pieces)


@given(lengths=document_lengths, max_length=row_lengths)
def test_the_first_token_of_a_piece_and_padding_are_never_learned(lengths, max_length):
    batch = all_rows(pack([make_shard(lengths)], max_length=max_length, objective="continued-pretraining"))
    assert (batch.labels[batch.positions == 0] == NOT_LEARNED).all()
    assert (batch.labels[batch.documents == -1] == NOT_LEARNED).all()
    learned = batch.labels != NOT_LEARNED
    np.testing.assert_array_equal(batch.labels[learned], batch.token_ids[learned])


@given(lengths=st.lists(st.integers(1, 50), max_size=60))
def test_best_fit_places_everything_once_and_never_opens_a_row_too_early(lengths):
    rows = best_fit_decreasing(lengths, capacity=50)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    fills = [sum(lengths[index] for index in row) for row in rows]
    assert all(fill <= 50 for fill in fills)
    assert all(one + other > 50 for one, other in itertools.combinations(fills, 2))


def test_best_fit_prefers_the_fullest_row_that_has_room():
    assert best_fit_decreasing([8, 7, 2, 3], capacity=10) == [[0, 2], [1, 3]]


def test_a_long_text_is_cut_into_pieces_that_overlap_by_one_token():
    assert cut(10, 20, max_length=4) == [(10, 4), (13, 4), (16, 4)]
    assert cut(0, 5, max_length=4) == [(0, 4), (3, 2)]
    assert cut(0, 1, max_length=4) == []


def test_conversations_that_do_not_fit_are_dropped_and_counted():
    packed = pack([make_shard([40, 10, 40, 1], conversations=(0, 1))], max_length=16, objective="continued-pretraining")
    assert packed.dropped == {"conversation longer than max_length": 1, "nothing to learn": 1}
    assert packed.pieces[:, 2].sum() == 10 + 42  # 40 tokens in three pieces that overlap by one


def test_sft_learns_the_assistants_tokens_only_and_counts_running_text_as_useless():
    packed = pack([make_shard([10, 12], conversations=(0,))], max_length=16, objective="sft")
    batch = all_rows(packed)
    assert packed.dropped == {"nothing to learn": 1}
    assert batch.tokens == 10
    np.testing.assert_array_equal(np.flatnonzero(batch.labels[0] != NOT_LEARNED), np.arange(5, 10))


@given(seed=st.integers(0, 99), size=st.integers(1, 7), step=st.integers(0, 30))
def test_a_batch_depends_on_seed_and_step_alone(seed, size, step):
    packed = pack([make_shard([9, 30, 17, 5, 8, 40])], max_length=12, objective="continued-pretraining")
    first = packed.batch(seed, step, size=size)
    for other in range(4):
        packed.batch(seed, other, size=size)
    again = pack(packed.shards, max_length=12, objective="continued-pretraining").batch(seed, step, size=size)
    np.testing.assert_array_equal(first.token_ids, again.token_ids)


@given(seed=st.integers(0, 99), size=st.integers(1, 4))
def test_each_epoch_reads_every_row_once(seed, size):
    packed = pack([make_shard([13] * 8)], max_length=13, objective="continued-pretraining")
    steps = packed.rows // size
    read = [packed.batch(seed, step, size=size).token_ids[:, 0] for step in range(steps)]
    everything = sorted(all_rows(packed).token_ids[:, 0])
    if packed.rows % size == 0:
        assert sorted(np.concatenate(read)) == everything


def test_the_second_epoch_has_another_order():
    packed = pack([make_shard([13] * 40)], max_length=13, objective="continued-pretraining")
    first, second = (packed.batch(1, epoch, size=40).token_ids for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert sorted(map(tuple, first)) == sorted(map(tuple, second))


def test_shards_are_read_in_order_and_checked_against_the_vocabulary(tmp_path: Path):
    write_shard(tmp_path, "train", make_shard([5, 200]))
    shards = read_shards(tmp_path, "train", vocabulary=VOCABULARY)
    assert shards[0].offsets.tolist() == [0, 5, 205]
    with pytest.raises(DataError, match="vocabulary ends at 49"):
        read_shards(tmp_path, "train", vocabulary=50)
    with pytest.raises(DataError, match="no token shards for test"):
        read_shards(tmp_path, "test", vocabulary=VOCABULARY)


def with_repeats(shard: Shard, repeats: list[int]) -> Shard:
    return replace(shard, repeats=np.array(repeats, np.uint16))


@given(lengths=document_lengths, max_length=row_lengths)
def test_repeats_of_one_pack_the_very_rows_that_no_repeats_pack(lengths, max_length):
    shard = make_shard(lengths)
    plain = pack([shard], max_length=max_length, objective="continued-pretraining")
    once = pack([with_repeats(shard, [1] * len(lengths))], max_length=max_length, objective="continued-pretraining")
    np.testing.assert_array_equal(plain.pieces, once.pieces)
    np.testing.assert_array_equal(plain.row_starts, once.row_starts)
    if plain.rows:
        one, other = plain.batch(3, 1, size=2), once.batch(3, 1, size=2)
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_array_equal(one.labels, other.labels)


@given(
    documents=st.lists(st.tuples(st.integers(2, 60), st.integers(0, 4)), min_size=1, max_size=20),
    max_length=row_lengths,
)
def test_an_epoch_has_every_document_as_often_as_its_repeats_say(documents, max_length):
    lengths, repeats = ([pair[place] for pair in documents] for place in (0, 1))
    shard = make_shard(lengths)
    packed = pack([with_repeats(shard, repeats)], max_length=max_length, objective="continued-pretraining")
    document_of = np.searchsorted(shard.offsets, packed.pieces[:, 1], side="right") - 1
    pieces = [len(cut(0, length, max_length=max_length)) for length in lengths]
    found = np.bincount(document_of, minlength=len(lengths)).tolist()
    assert found == [one * times for one, times in zip(pieces, repeats, strict=True)]
    assert packed.dropped.get("not in the mix", 0) == repeats.count(0)


def test_repeats_are_read_where_the_data_has_them(tmp_path: Path):
    write_shard(tmp_path, "train", make_shard([5, 6]))
    assert read_shards(tmp_path, "train", vocabulary=VOCABULARY)[0].repeats is None
    np.save(tmp_path / "train-00000.repeats.npy", np.array([2, 0], np.uint16))
    (shard,) = read_shards(tmp_path, "train", vocabulary=VOCABULARY)
    assert shard.repeats is not None
    assert pack([shard], max_length=8, objective="continued-pretraining").pieces.tolist() == [[0, 0, 5], [0, 0, 5]]

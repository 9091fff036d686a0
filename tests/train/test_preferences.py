from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.errors import DataError
from nexus_llm.train.packing import NOT_LEARNED, Batch
from nexus_llm.train.preferences import PackedPairs, pack_pairs, pair_keys, pairs_of_rows, read_pair_shards
from preference_shards import make_pair_shard, write_pair_shard
from tiny_training import VOCABULARY, make_shard, write_shard

sizes_of_pairs = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=20)


def all_rows(packed: PackedPairs) -> Batch:
    return packed.take(np.arange(packed.rows))


def conversations(batch: Batch) -> list[tuple[bytes, bytes]]:
    """Chosen and rejected token ids of every pair."""
    return [
        tuple(batch.token_ids[row, batch.documents[row] == 2 * pair + side].tobytes() for side in (0, 1))
        for row, pairs in enumerate(pairs_of_rows(batch))
        for pair in range(pairs)
    ]


@given(sizes=sizes_of_pairs, max_length=st.integers(40, 50))
def test_every_pair_lies_in_one_row_once_and_whole(sizes, max_length):
    shard = make_pair_shard(sizes)
    packed = pack_pairs([shard], max_length=max_length)
    batch = all_rows(packed)
    expected = []
    for pair in range(len(sizes)):
        both = [
            half.tokens[half.offsets[pair] : half.offsets[pair + 1]].astype(np.int64).tobytes()
            for half in (shard.chosen, shard.rejected)
        ]
        expected.append(tuple(both))
    assert sorted(conversations(batch)) == sorted(expected)
    assert batch.learned_tokens == len(sizes)
    assert (batch.positions[batch.documents >= 0] < max_length).all()


@given(sizes=sizes_of_pairs)
def test_only_answers_are_learned_and_only_from_where_they_differ(sizes):
    batch = all_rows(pack_pairs([make_pair_shard(sizes)], max_length=60))
    learned = batch.labels != NOT_LEARNED
    np.testing.assert_array_equal(batch.labels[learned], batch.token_ids[learned])
    assert learned.sum() == sum(better + worse for _, better, worse in sizes)


def test_an_answer_that_begins_as_the_other_is_learned_from_the_difference_on():
    shard = make_pair_shard([(3, 4, 4)])
    same = shard.rejected.tokens.copy()
    same[3:5] = shard.chosen.tokens[3:5]
    batch = all_rows(pack_pairs([replace(shard, rejected=replace(shard.rejected, tokens=same))], max_length=16))
    assert np.flatnonzero(batch.labels[0] != NOT_LEARNED).tolist() == [5, 6, 7 + 5, 7 + 6]


def test_what_cannot_be_learned_from_is_counted_by_its_reason():
    shard = make_pair_shard([(4, 4, 4), (4, 4, 0), (10, 10, 10), (4, 4, 4), (4, 4, 4), (4, 4, 4)])
    chosen, rejected = shard.chosen, shard.rejected
    tokens, masks = rejected.tokens.copy(), [chosen.loss_mask.copy(), rejected.loss_mask.copy()]
    tokens[rejected.offsets[3] : rejected.offsets[4]] = chosen.tokens[chosen.offsets[3] : chosen.offsets[4]]
    for mask, half in zip(masks, (chosen, rejected), strict=True):
        mask[half.offsets[4] : half.offsets[5]] = False
    repeats = np.array([1, 1, 1, 1, 1, 0], np.uint16)
    chosen = replace(chosen, loss_mask=masks[0], repeats=repeats)
    shard = replace(shard, chosen=chosen, rejected=replace(rejected, tokens=tokens, loss_mask=masks[1]))
    packed = pack_pairs([shard], max_length=24)
    assert packed.dropped == {
        "not in the mix": 1,
        "no rejected answer": 1,
        "pair longer than max_length": 1,
        "chosen and rejected are equal": 1,
        "nothing to learn": 1,
    }
    assert all_rows(packed).learned_tokens == 1


def test_a_pair_is_seen_as_often_as_its_repeats_say():
    shard = make_pair_shard([(4, 4, 4), (5, 5, 5)])
    shard = replace(shard, chosen=replace(shard.chosen, repeats=np.array([3, 1], np.uint16)))
    found = conversations(all_rows(pack_pairs([shard], max_length=40)))
    assert sorted(map(found.count, found)) == [1, 3, 3, 3]


@given(seed=st.integers(0, 99), size=st.integers(1, 5), step=st.integers(0, 20))
def test_a_batch_depends_on_seed_and_step_alone(seed, size, step):
    shards = [make_pair_shard([(3, 5, 4), (9, 3, 3), (2, 2, 8), (5, 5, 5)]), make_pair_shard([(4, 4, 4)], seed=6)]
    packed = pack_pairs(shards, max_length=24)
    first = packed.batch(seed, step, size=size)
    for other in range(3):
        packed.batch(seed, other, size=size)
    again = pack_pairs(shards, max_length=24).batch(seed, step, size=size)
    np.testing.assert_array_equal(first.token_ids, again.token_ids)
    np.testing.assert_array_equal(first.labels, again.labels)


@given(seed=st.integers(0, 99), size=st.integers(1, 5), steps=st.integers(0, 9))
def test_the_rows_of_all_steps_are_known_without_making_their_batches(seed, size, steps):
    packed = pack_pairs([make_pair_shard([(5, 5, 5)] * 7)], max_length=20)
    rows = packed.rows_of_steps(seed, steps, size=size)
    assert rows.shape == (steps, size)
    for step in range(steps):
        np.testing.assert_array_equal(packed.take(rows[step]).token_ids, packed.batch(seed, step, size=size).token_ids)


def test_a_pairs_key_is_the_same_in_another_row_and_another_without_a_label():
    shard = make_pair_shard([(4, 4, 4), (5, 6, 7), (3, 3, 3)])
    narrow, wide = (all_rows(pack_pairs([shard], max_length=length)) for length in (24, 60))
    assert narrow.token_ids.shape != wide.token_ids.shape
    assert sorted(pair_keys(narrow)) == sorted(pair_keys(wide))
    wide.labels[0, np.flatnonzero(wide.labels[0] != NOT_LEARNED)[0]] = NOT_LEARNED
    assert len(set(pair_keys(narrow)) & set(pair_keys(wide))) == 2


def test_pairs_are_read_where_shards_have_them_and_checked_against_the_vocabulary(tmp_path: Path):
    write_pair_shard(tmp_path, "train", make_pair_shard([(4, 4, 4), (4, 4, 0)]))
    write_shard(tmp_path, "validation", make_shard([5, 6]))
    (shard,) = read_pair_shards(tmp_path, "train", vocabulary=VOCABULARY)
    assert pack_pairs([shard], max_length=32).dropped == {"no rejected answer": 1}
    assert read_pair_shards(tmp_path, "validation", vocabulary=VOCABULARY) == []
    assert pack_pairs([], max_length=32).rows == 0
    np.save(tmp_path / "train-00000.rejected_tokens.npy", np.full(8, VOCABULARY, np.uint16))
    with pytest.raises(DataError, match=r"rejected_tokens\.npy holds token id 97"):
        read_pair_shards(tmp_path, "train", vocabulary=VOCABULARY)


def test_training_data_without_pairs_says_what_to_add(tmp_path: Path):
    write_shard(tmp_path, "train", make_shard([5, 6]))
    with pytest.raises(DataError, match="no pairs of a chosen and a rejected answer") as raised:
        read_pair_shards(tmp_path, "train", vocabulary=VOCABULARY)
    assert "prompt, chosen and rejected" in str(raised.value.fix)

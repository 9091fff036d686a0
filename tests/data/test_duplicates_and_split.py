from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data import minhash
from nexus_llm.data.duplicates import cluster, content_hash, similar_pairs
from nexus_llm.data.split import splits
from nexus_llm.recipe import SplitRecipe

WORDS = st.lists(st.sampled_from("abcdefgh"), max_size=30).map(" ".join)


def true_jaccard(a: str, b: str, words: int) -> float:
    def runs(text: str) -> set[tuple[str, ...]]:
        found = text.split()
        return {tuple(found[start : start + words]) for start in range(max(len(found) - words + 1, min(1, len(found))))}

    left, right = runs(a), runs(b)
    return len(left & right) / len(left | right) if left | right else 0.0


@given(a=WORDS, b=WORDS, words=st.integers(1, 6))
def test_similarity_is_that_of_the_sets_of_word_runs(a: str, b: str, words: int) -> None:
    found = minhash.jaccard(minhash.shingles(a, words=words), minhash.shingles(b, words=words))
    assert found == pytest.approx(true_jaccard(a, b, words))


def test_case_and_punctuation_do_not_matter_and_the_order_of_words_does() -> None:
    same = [minhash.shingles(text, words=3) for text in ("One, two. Three four!", "one two three four")]
    assert np.array_equal(*same)
    assert not np.array_equal(same[0], minhash.shingles("four three two one", words=3))


@pytest.mark.parametrize("jaccard", [0.5, 0.8, 0.9])
def test_pairs_meet_in_a_band_as_often_as_theory_says(jaccard: float) -> None:
    draw = np.random.default_rng(3)
    trials, met, agreed = 200, 0, 0.0
    for _ in range(trials):
        shared = round(300 * jaccard)
        values = draw.integers(0, 2**64, 300, dtype=np.uint64)
        half = shared + (300 - shared) // 2
        signed = minhash.signatures([values[:half], np.concatenate([values[:shared], values[half:]])])
        met += bool(minhash.candidate_pairs(signed))
        agreed += float((signed[0] == signed[1]).mean())
    expected = 1 - (1 - jaccard**minhash.ROWS) ** minhash.BANDS
    assert agreed / trials == pytest.approx(jaccard, abs=0.015)
    assert met / trials == pytest.approx(expected, abs=4 * (expected * (1 - expected) / trials) ** 0.5 + 0.01)


def test_a_large_group_of_equal_documents_gives_few_pairs_and_one_cluster() -> None:
    signed = np.repeat(minhash.signatures([minhash.shingles("the same words again", words=2)]), 2_000, axis=0)
    pairs = minhash.candidate_pairs(signed)
    assert len(pairs) < 5_000
    assert len({one.cluster for one in cluster([f"{n:032x}" for n in range(2_000)], [1] * 2_000, pairs)}) == 1


def test_candidates_that_are_not_similar_enough_are_dropped() -> None:
    sets = [minhash.shingles(text, words=1) for text in ("a b c d", "a b c d e", "a x y z")]
    signed = np.repeat(minhash.signatures(sets[:1]), 3, axis=0)
    assert similar_pairs(signed, sets.__getitem__, min_jaccard=0.7) == [(0, 1)]


@given(
    contents=st.lists(st.sampled_from(["a", "b", "cc", "dd", "eee"]), min_size=1, max_size=12),
    data=st.data(),
)
def test_clusters_are_the_connected_groups_with_their_longest_document_in_front(
    contents: list[str], data: st.DataObject
) -> None:
    places = st.integers(0, len(contents) - 1)
    pairs = data.draw(st.lists(st.tuples(places, places), max_size=8))
    found = cluster([content_hash(one) for one in contents], list(map(len, contents)), pairs)
    for a, b in pairs:
        assert found[a].cluster == found[b].cluster
    for place, one in enumerate(found):
        members = [other for other, mate in enumerate(found) if mate.cluster == one.cluster]
        assert one.representative in members
        assert len(contents[one.representative]) == max(len(contents[member]) for member in members)
        assert contents[one.copy_of] == contents[place]
        assert one.copy_of <= place
        assert found[one.representative].copy_of == one.representative


def test_clusters_do_not_depend_on_the_order_of_documents() -> None:
    contents = [f"text {number}" for number in range(20)]
    pairs = [(0, 5), (5, 9), (3, 4)]
    names = {text: one.cluster for text, one in zip(contents, cluster(contents, [1] * 20, pairs), strict=True)}
    order = random.Random(1).sample(range(20), 20)
    moved = [(order.index(a), order.index(b)) for a, b in pairs]
    again = cluster([contents[place] for place in order], [1] * 20, moved)
    assert {contents[place]: one.cluster for place, one in zip(order, again, strict=True)} == names


@given(count=st.integers(0, 400), seed=st.integers(0, 9), validation=st.sampled_from([0.0, 0.02, 0.3]))
def test_every_cluster_has_one_split_and_small_corpora_hold_some_out(count: int, seed: int, validation: float) -> None:
    names = [content_hash(str(number)) for number in range(count)]
    shares = SplitRecipe(validation_share=validation, test_share=0.04)
    found = Counter(splits(names, shares, seed=seed).values())
    assert found.total() == count
    if count >= 3:
        assert found["train"] >= 1
        assert found["test"] >= min(8, max(1, count // 4))
        assert (found["validation"] > 0) == (validation > 0)


def test_added_documents_leave_the_others_in_their_splits() -> None:
    names = [content_hash(str(number)) for number in range(3_000)]
    shares = SplitRecipe()
    before, after = splits(names[:1_000], shares, seed=1), splits(names, shares, seed=1)
    assert all(after[name] == split for name, split in before.items())
    assert Counter(after.values())["test"] / 3_000 == pytest.approx(0.04, abs=0.012)


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "awsdocs-neardup").exists(), reason="needs ../shared/data/awsdocs-neardup")
def test_near_duplicates_of_real_pages_are_found_with_known_recall() -> None:
    import json

    rows = [json.loads(line) for line in (SHARED / "awsdocs-neardup" / "documents.jsonl").open(encoding="utf-8")]
    sets = [minhash.shingles(row["text"], words=5) for row in rows]
    found = set(similar_pairs(minhash.signatures(sets), sets.__getitem__, min_jaccard=0.7))
    places = {row["id"]: place for place, row in enumerate(rows)}
    truth = {}
    for line in (SHARED / "awsdocs-neardup" / "pairs_jaccard.tsv").read_text().splitlines()[1:]:
        a, b, jaccard, _ = line.split("\t")
        if a in places and b in places:
            truth[tuple(sorted((places[a], places[b])))] = float(jaccard)
    for least, recall in ((0.7, 0.88), (0.8, 0.97)):
        wanted = {pair for pair, jaccard in truth.items() if jaccard >= least}
        assert len(wanted & found) / len(wanted) >= recall
    assert all(truth.get(pair, 0) >= 0.69 for pair in found)

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.duplicates import minhash

TEXTS = st.lists(
    st.text(alphabet="ab c.Z9_-éÉß中\u0301\u093e😀\n\0", max_size=60) | st.text(max_size=40) | st.none(), max_size=8
)


def sets_of(texts: list[str | None], words: int) -> list[list[int]]:
    hashes, bounds = minhash.shingle_sets(pl.Series(texts, dtype=pl.String), words=words)
    return [hashes[start:end].tolist() for start, end in pairwise(bounds)]


def true_runs(text: str | None, words: int) -> set[tuple[str, ...]]:
    r"""Runs of words, where a word is `\w` and the marks that follow."""
    import unicodedata

    found: list[str] = []
    inside = False
    for character in text or "":
        is_word = re.match(r"\w", character) and ord(character) < 0x40000
        if is_word or (inside and unicodedata.category(character).startswith("M")):
            # A letter whose small form has several characters stays as it is.
            small = character.lower() if len(character.lower()) == 1 else character
            found = [*found[:-1], found[-1] + small] if inside else [*found, small]
            inside = True
        else:
            inside = False
    width = min(words, len(found))
    return {tuple(found[start : start + width]) for start in range(len(found) - width + 1)} if found else set()


@given(texts=TEXTS, words=st.integers(1, 6))
def test_sets_are_those_of_the_runs_of_words(texts: list[str | None], words: int) -> None:
    found = sets_of(texts, words)
    expected = [true_runs(text, words) for text in texts]
    assert [len(one) for one in found] == [len(one) for one in expected]
    assert all(one == sorted(set(one)) for one in found)
    for a, left in zip(found, expected, strict=True):
        for b, right in zip(found, expected, strict=True):
            assert len(set(a) & set(b)) == len(left & right)


@given(texts=TEXTS, words=st.integers(1, 6), cut=st.integers(0, 8))
def test_a_text_gets_the_same_sets_and_keys_in_every_block(texts: list[str | None], words: int, cut: int) -> None:
    whole = pl.Series(texts, dtype=pl.String)
    parts = [whole[:cut], whole[cut:]]
    keys = minhash.band_keys(whole, words=words)
    assert np.array_equal(np.concatenate([minhash.band_keys(part, words=words) for part in parts]), keys)
    assert sets_of(texts[:cut], words) + sets_of(texts[cut:], words) == sets_of(texts, words)
    has_words = [bool(true_runs(text, words)) for text in texts]
    assert (keys != minhash.NO_KEY).all(axis=1).tolist() == has_words
    assert (keys == minhash.NO_KEY).all(axis=1).tolist() == [not one for one in has_words]


@pytest.mark.parametrize("count", [1_019, 1_020, 1_023, 1_024, 1_025, 1_028, 2_044, 2_048, 5_000])
def test_long_texts_lose_no_run_between_pieces(count: int) -> None:
    words = [f"w{number}" for number in range(count)]
    for text in (" ".join(words), " ".join(words) + " . " * 3_000):
        assert len(sets_of([text], 5)[0]) == count - 4
    # Twice the same words in a circle are the set of three times the same, at other places.
    twice, thrice = " ".join(2 * words), " ".join(3 * words)
    assert len(sets_of([twice], 5)[0]) == count
    assert sets_of([twice], 5) == sets_of([thrice], 5)
    keys = minhash.band_keys(pl.Series([twice, thrice]), words=5)
    assert np.array_equal(keys[0], keys[1])


def test_case_and_punctuation_do_not_matter_and_the_order_of_words_does() -> None:
    found = sets_of(["One, two. Three four!", "one two three four", "four three two one"], 3)
    assert found[0] == found[1] != found[2]


def test_hashes_are_the_same_on_every_machine() -> None:
    texts = pl.Series(["The same words, everywhere: naïve café 中文 ΑΒΓ", "one"])
    hashes, bounds = minhash.shingle_sets(texts, words=3)
    assert bounds.tolist() == [0, 6, 7]
    assert f"{np.bitwise_xor.reduce(hashes):016x}" == "7b2c9be0ec884721"
    assert f"{np.bitwise_xor.reduce(minhash.band_keys(texts, words=3), axis=None):016x}" == "e7c10c9cbb0fd66a"


@pytest.mark.parametrize("jaccard", [0.5, 0.7, 0.8, 0.9])
def test_pairs_meet_in_a_band_as_often_as_theory_says(jaccard: float) -> None:
    draw = np.random.default_rng(3)
    trials, size = 600, 300
    shared = round(size * jaccard)
    half = shared + (size - shared) // 2
    texts = []
    for _ in range(trials):
        words = [f"{value:x}" for value in draw.integers(0, 2**63, size)]
        texts += [" ".join(words[:half]), " ".join(words[:shared] + words[half:])]
    keys = minhash.band_keys(pl.Series(texts), words=1)
    agree = keys[::2] == keys[1::2]
    band = jaccard**minhash.ROWS
    expected = 1 - (1 - band) ** minhash.BANDS
    assert agree.any(axis=1).mean() == pytest.approx(
        expected, abs=4 * (expected * (1 - expected) / trials) ** 0.5 + 0.005
    )
    assert agree.mean() == pytest.approx(band, abs=4 * (band / (trials * minhash.BANDS)) ** 0.5 + 0.01)


@given(
    sets=st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=6),
)
def test_similarity_is_shared_among_all(sets: list[set[int]]) -> None:
    hashes = np.array([value for one in sets for value in sorted(one)], np.uint64)
    bounds = np.cumsum([0, *map(len, sets)])
    left, right = (side.ravel() for side in np.mgrid[: len(sets), : len(sets)])
    expected = [
        len(sets[a] & sets[b]) / len(sets[a] | sets[b]) if sets[a] | sets[b] else 0.0
        for a, b in zip(left, right, strict=True)
    ]
    assert minhash.jaccards(hashes, bounds, left, right).tolist() == expected


def test_repeated_and_crowded_values_are_sorted_too() -> None:
    draw = np.random.default_rng(1)
    crowded = np.concatenate([draw.integers(1, 50, 300), 2**64 - 1 - draw.integers(0, 50, 300).astype(object)]).astype(
        np.uint64
    )
    values = crowded.copy()
    count = minhash._sort_distinct(values)
    assert values[:count].tolist() == sorted(set(crowded.tolist()))


def test_a_shingle_of_no_words_is_refused() -> None:
    for words in (0, 257):
        with pytest.raises(ValueError, match=str(words)):
            minhash.band_keys(pl.Series(["a"]), words=words)

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.duplicates import minhash
from nexus_llm.data.spark.duplicates import Corpus, candidate_pairs, find_duplicates, joined, stars
from nexus_llm.data.spark.frames import collected, to_spark
from nexus_llm.recipe.schema import NearDuplicateRecipe

pytestmark = pytest.mark.xdist_group("spark")

WORDS = 5
JACCARD = 0.7


@pytest.fixture
def keep(session: Any, tmp_path: Path) -> Any:
    def keep(frame: Any, name: str) -> Any:
        frame.write.mode("overwrite").parquet(str(tmp_path / name))
        return session.read.schema(frame.schema).parquet(str(tmp_path / name))

    return keep


def text_of(number: int, *, changed: int = 0) -> str:
    """60 words that no other number has, with some of them changed."""
    words = [f"w{number}x{place}" for place in range(60)]
    for place in range(changed):
        words[place] = f"c{number}y{changed}z{place}"
    return " ".join(words)


def brute_force(texts: list[str], ordinals: list[int]) -> dict[int, tuple[str, int, int, float]]:
    """ordinal → (cluster, representative, copy_of, jaccard) of documents that are not alone, by the definition."""
    hashes = [hash_of(text) for text in texts]
    keys = minhash.band_keys(pl.Series(texts), words=WORDS)
    sets, bounds = minhash.shingle_sets(pl.Series(texts), words=WORDS)
    first = {digest: min(o for o, h in zip(ordinals, hashes, strict=True) if h == digest) for digest in hashes}

    def alike(a: int, b: int) -> float:
        return float(minhash.jaccards(sets, bounds, np.array([a]), np.array([b]))[0])

    group = {place: place for place in range(len(texts))}
    for a in range(len(texts)):
        for b in range(a):
            shares_key = bool(((keys[a] == keys[b]) & (keys[a] != minhash.NO_KEY)).any())
            if hashes[a] == hashes[b] or (shares_key and alike(a, b) >= JACCARD):
                low, high = sorted((group[a], group[b]))
                group = {place: low if home == high else home for place, home in group.items()}
    found = {}
    for place, ordinal in enumerate(ordinals):
        members = [other for other in group if group[other] == group[place]]
        if len(members) > 1:
            best = min(members, key=lambda other: (-len(texts[other]), hashes[other], ordinals[other]))
            same = hashes[best] == hashes[place]
            name = min(hashes[other] for other in members)
            found[ordinal] = (name, ordinals[best], first[hashes[place]], 1.0 if same else alike(place, best))
    return found


def hash_of(text: str) -> str:
    from nexus_llm.data.rows import content_hash

    return content_hash(text)


def corpus_of(session: Any, texts: list[str], ordinals: list[int]) -> Corpus:
    rows = list(zip(ordinals, texts, strict=True))
    hashes = [(ordinal, hash_of(text), len(text), ordinal % 3) for ordinal, text in rows]
    keys = minhash.band_keys(pl.Series(texts), words=WORDS).view(np.int64).tolist()
    all_texts = session.createDataFrame(rows, "ordinal bigint, text string")
    return Corpus(
        hashes=session.createDataFrame(hashes, "ordinal bigint, content_hash string, characters bigint, task bigint"),
        band_keys=session.createDataFrame(
            list(zip(ordinals, keys, strict=True)), "ordinal bigint, band_keys array<bigint>"
        ),
        ids=all_texts.selectExpr("ordinal", "text AS id"),
        texts=lambda wanted: all_texts.join(wanted.select("ordinal"), "ordinal"),
    )


def test_spark_finds_what_the_definition_says(session: Any, keep: Any) -> None:
    texts = [text_of(number) for number in range(6)]
    # A copy, near copies in a chain, one that is too far, a copy of a near copy, and two without any word.
    texts += [texts[1], text_of(2, changed=2), text_of(2, changed=4), text_of(3, changed=30), text_of(2, changed=2)]
    texts += [text_of(4, changed=1) + " and a longer end", "...", "!!!", "..."]
    ordinals = [(place * 7 + 3) % len(texts) + 2**40 for place in range(len(texts))]
    corpus = corpus_of(session, texts, ordinals)
    settings = NearDuplicateRecipe(jaccard=JACCARD, shingle_words=WORDS)
    rows = collected(find_duplicates(corpus, settings, keep=keep))
    found = {
        row["ordinal"]: (row["cluster"], row["representative"], row["copy_of"], row["jaccard"])
        for row in rows.iter_rows(named=True)
    }
    expected = brute_force(texts, ordinals)
    assert found == expected
    assert len(expected) == 10


def test_a_crowded_bucket_pairs_each_with_the_next_two_and_a_small_one_pairs_all(session: Any) -> None:
    rows = [(ordinal, [7, 0]) for ordinal in range(100, 140)] + [(ordinal, [8, -5]) for ordinal in range(32)]
    pairs = collected(candidate_pairs(session.createDataFrame(rows, "ordinal bigint, band_keys array<bigint>")))
    found = set(pairs.select("a", "b").iter_rows())
    crowded = {(a, b) for a in range(100, 140) for b in (a + 1, a + 2) if b < 140}
    assert found == crowded | {(a, b) for b in range(32) for a in range(b)}
    assert len(pairs) == len(found)


def test_stars_join_a_long_chain_as_one_machine_does(session: Any, keep: Any) -> None:
    order = np.random.default_rng(1).permutation(16).astype(np.int64)
    chain = np.stack([order[:-1], order[1:]], axis=1)[np.arange(15) % 9 != 8]
    sent = to_spark(session, pl.DataFrame({"a": chain.min(axis=1), "b": chain.max(axis=1)}))
    assert collected(stars(sent, keep=keep)).sort("ordinal").equals(joined(chain))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60))
def test_joined_gives_every_node_the_smallest_that_it_is_connected_to(pairs: list[tuple[int, int]]) -> None:
    component = {node: node for pair in pairs for node in pair}
    for _ in component:
        for a, b in pairs:
            component[a] = component[b] = min(component[a], component[b])
    found = joined(np.array(pairs, np.int64))
    assert dict(found.iter_rows()) == component

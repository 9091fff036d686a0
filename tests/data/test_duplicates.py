from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.duplicates import minhash
from nexus_llm.data.duplicates.components import Components
from nexus_llm.data.duplicates.find import SCHEMA, Signed, find_duplicates
from nexus_llm.data.duplicates.shingle_file import ShingleFile

WORDS = 2  # short shingles, so that short texts can be alike


def content_hash(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


class Corpus:
    """Texts with ordinals of two files, and what the search asks for."""

    def __init__(self, texts: list[str], *, words: int = WORDS) -> None:
        self.words = words
        self.texts = pl.Series("text", texts, pl.String)
        half = len(texts) // 2
        self.ordinals = [(1 << 40) + place if place < half else (7 << 40) + place for place in range(len(texts))]
        self.rows = pl.DataFrame(
            {
                "ordinal": pl.Series(self.ordinals, dtype=pl.UInt64),
                "content_hash": [content_hash(text) for text in texts],
                "characters": self.texts.str.len_chars(),
                "band_keys": pl.Series(
                    minhash.band_keys(self.texts, words=words), dtype=pl.Array(pl.UInt64, minhash.BANDS)
                ),
            },
            schema_overrides={"content_hash": pl.String},
        )
        hashes, bounds = minhash.shingle_sets(self.texts, words=words)
        self.sets = {ordinal: hashes[bounds[place] : bounds[place + 1]] for place, ordinal in enumerate(self.ordinals)}

    def blocks(self, size: int) -> Iterator[Signed]:
        return (Signed.of(rows) for rows in self.rows.iter_slices(size))

    def shingles_of(self, ordinals: np.ndarray) -> Iterator[tuple[int, minhash.Hashes]]:
        assert (ordinals[1:] > ordinals[:-1]).all()
        return ((int(ordinal), self.sets[int(ordinal)]) for ordinal in ordinals)

    def found(
        self, work: Path, *, block: int = 1_000, memory_bytes: int = 1 << 24, jaccard: float = 0.7
    ) -> pl.DataFrame:
        frames = find_duplicates(
            self.blocks(block), self.shingles_of, work=work, jaccard=jaccard, memory_bytes=memory_bytes
        )
        return pl.concat([pl.DataFrame(schema=SCHEMA), *frames])


def similarity(a: Iterable[int], b: Iterable[int]) -> float:
    left, right = set(a), set(b)
    return len(left & right) / len(left | right) if left | right else 0.0


def brute_pairs(rows: list[tuple[int, list[int]]]) -> set[tuple[int, int]]:
    """Pairs of places with a common key, by the rule of 32."""
    buckets: dict[int, list[int]] = {}
    for place, keys in rows:
        for key in set(keys) - {0}:
            buckets.setdefault(key, []).append(place)
    pairs: set[tuple[int, int]] = set()
    for members in buckets.values():
        reach = len(members) if len(members) <= 32 else 3
        pairs.update((a, b) for at, a in enumerate(members) for b in members[at + 1 : at + reach])
    return pairs


def brute(corpus: Corpus, jaccard: float) -> list[tuple[int, str, int, int, float]]:
    """Rows of SCHEMA, comparing sets of Python, joining by relabelling."""
    hashes, characters = corpus.rows["content_hash"].to_list(), corpus.rows["characters"].to_list()
    first: dict[str, int] = {}
    copy_of = [first.setdefault(digest, place) for place, digest in enumerate(hashes)]
    sets = [set(corpus.sets[ordinal].tolist()) for ordinal in corpus.ordinals]
    keys = corpus.rows["band_keys"].to_list()
    pairs = brute_pairs([(place, keys[place]) for place in range(len(hashes)) if copy_of[place] == place])
    label = list(copy_of)
    for a, b in pairs:
        if similarity(sets[a], sets[b]) >= jaccard:
            old, new = label[b], label[a]
            label = [new if one == old else one for one in label]
    rows = []
    for place, own in enumerate(label):
        members = [other for other, one in enumerate(label) if one == own]
        if len(members) > 1:
            best = min(members, key=lambda other: (-characters[other], hashes[other], other))
            value = 1.0 if copy_of[place] == best else similarity(sets[place], sets[best])
            name = min(hashes[other] for other in members)
            at = corpus.ordinals
            rows.append((at[place], name, at[best], at[copy_of[place]], value))
    return rows


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    """Texts, some equal, some with a word changed, some without words."""
    seed = draw(st.integers(0, 10_000))
    chance = random.Random(seed)
    texts: list[str] = []
    for _ in range(draw(st.integers(0, 60))):
        kind = chance.random()
        if texts and kind < 0.25:
            texts.append(chance.choice(texts))
        elif texts and kind < 0.75:
            words = chance.choice(texts).split()
            if words:
                # Of several lengths, so that the longest of a cluster is not the first.
                words[chance.randrange(len(words))] = chance.choice(["a", "b", "cc", "a longer", ""])
            texts.append(" ".join(words))
        elif kind < 0.8:
            texts.append(chance.choice(["", "!", "?", "…"]))
        else:
            texts.append(" ".join(chance.choices("abcdefghijklmnop", k=chance.randrange(1, 40))))
    return Corpus(texts)


@given(
    corpus=corpora(),
    block=st.integers(1, 70),
    memory_bytes=st.sampled_from([1, 20_000, 1 << 24]),
    jaccard=st.sampled_from([0.3, 0.7, 1.0]),
)
def test_the_same_is_found_as_by_comparing_everything(
    corpus: Corpus, block: int, memory_bytes: int, jaccard: float, shared_folder: Path
) -> None:
    found = corpus.found(shared_folder, block=block, memory_bytes=memory_bytes, jaccard=jaccard)
    assert dict(found.schema) == SCHEMA
    assert found.rows() == brute(corpus, jaccard)


def test_the_order_of_documents_changes_no_cluster(tmp_path: Path) -> None:
    texts = [f"the page about subject {number // 3} says in all its length number {number % 3}" for number in range(60)]
    moved = random.Random(2).sample(texts, len(texts))
    names = []
    for some in (texts, moved):
        corpus = Corpus(some, words=1)
        joined = corpus.rows.with_columns(text=corpus.texts).join(corpus.found(tmp_path), on="ordinal")
        names.append(dict(joined.select("text", "cluster").iter_rows()))
    assert names[0] == names[1]
    assert len(names[0]) == 60


def test_a_hundred_thousand_copies_of_one_text_are_one_cluster(tmp_path: Path) -> None:
    count = 100_000
    keys = np.repeat(minhash.band_keys(pl.Series(["a text of some words"]), words=2), 10_000, axis=0)
    hashes = np.full((10_000, 2), 9, np.uint64)
    blocks = (
        Signed(np.arange(start, start + 10_000, dtype=np.uint64)[::-1], hashes, np.full(10_000, 20), keys)
        for start in range(count - 10_000, -1, -10_000)
    )
    frames = list(find_duplicates(blocks, _nobody, work=tmp_path, jaccard=0.7, memory_bytes=1 << 24))
    found = pl.concat(frames)
    assert len(frames) > 1
    assert found["ordinal"].to_list() == list(range(count))
    assert found.select("cluster", "representative", "copy_of", "jaccard").unique().rows() == [
        (f"{9:016x}{9:016x}", 0, 0, 1.0)
    ]


def test_boilerplate_pages_that_differ_in_a_number_are_one_cluster_of_few_comparisons(tmp_path: Path) -> None:
    body = " ".join(f"word{number}" for number in range(400))
    corpus = Corpus([f"{body} page {number} {body[::-1]}" for number in range(3_000)], words=5)
    compared: list[int] = []
    frames = find_duplicates(
        corpus.blocks(500),
        corpus.shingles_of,
        work=tmp_path,
        jaccard=0.7,
        memory_bytes=1 << 22,
        advance=compared.append,
    )
    found = pl.concat(frames)
    assert len(found) == 3_000
    assert found["cluster"].n_unique() == 1
    assert sum(compared) < 60_000


@pytest.mark.parametrize("texts", [[], ["one text"], ["", "!"], ["", "", "!"]])
def test_few_or_empty_documents_are_no_near_duplicates(texts: list[str], tmp_path: Path) -> None:
    corpus = Corpus(texts)
    found = corpus.found(tmp_path)
    assert dict(found.schema) == SCHEMA
    assert found.rows() == brute(corpus, 0.7)


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    corpus = Corpus(["a b c d", "a b c d", "a b c d e"])
    assert len(corpus.found(tmp_path / "work", memory_bytes=1)) == 3
    assert not list((tmp_path / "work").iterdir())


def test_a_missing_document_is_an_error(tmp_path: Path) -> None:
    corpus = Corpus(["a b c d e f g h", "a b c d e f g h i"])

    def shifted(ordinals: np.ndarray) -> Iterator[tuple[int, minhash.Hashes]]:
        return ((ordinal + 1, hashes) for ordinal, hashes in corpus.shingles_of(ordinals))

    for wrong in (_nobody, shifted):
        with pytest.raises(ValueError, match=r"shorter|were asked for"):
            list(find_duplicates(corpus.blocks(9), wrong, work=tmp_path, jaccard=0.1, memory_bytes=1 << 20))


@given(
    sets=st.lists(st.sets(st.integers(0, 12), max_size=8), min_size=1, max_size=12),
    buffer_bytes=st.sampled_from([1, 100, 10_000]),
    data=st.data(),
)
def test_sets_on_disk_have_the_similarity_of_sets_in_memory(
    sets: list[set[int]], buffer_bytes: int, data: st.DataObject, shared_folder: Path
) -> None:
    numbers = st.integers(0, len(sets) - 1)
    pairs = np.array(data.draw(st.lists(st.tuples(numbers, numbers), max_size=20)), np.uint64).reshape(-1, 2)
    with ShingleFile(shared_folder, buffer_bytes=buffer_bytes) as file:
        ordinals = np.arange(len(sets), dtype=np.uint64) * 5
        file.add(ordinals, ((5 * place, np.array(sorted(one), np.uint64)) for place, one in enumerate(sets)))
        file.finish()
        assert [row for rows in file.numbers() for row in rows.tolist()] == [[5 * n, n] for n in range(len(sets))]
        found = file.jaccards(pairs[:, 0], pairs[:, 1])
    assert found.tolist() == [similarity(sets[a], sets[b]) for a, b in pairs.tolist()]


@given(nodes=st.integers(1, 30), data=st.data())
def test_components_are_what_edges_connect(nodes: int, data: st.DataObject) -> None:
    ends = st.integers(0, nodes - 1)
    edges = data.draw(st.lists(st.tuples(ends, ends).filter(lambda edge: edge[0] != edge[1]), max_size=30))
    label = list(range(nodes))
    for a, b in edges:
        label = [min(label[a], label[b]) if one in (label[a], label[b]) else one for one in label]
    parts = Components(nodes)
    rows = np.array(edges, np.uint64).reshape(-1, 2)
    for edge in rows[::-1]:
        parts.join(edge[:1], edge[1:])
    found, roots = parts.joined(0, nodes)
    assert set(found.tolist()) == {end for edge in edges for end in edge}
    assert roots.tolist() == [label[node] for node in found]


SHARED = Path(__file__).parents[3] / "shared" / "data" / "awsdocs-neardup"


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/awsdocs-neardup")
def test_near_duplicates_of_real_pages_are_found_with_known_recall(tmp_path: Path) -> None:
    lines = (SHARED / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    corpus = Corpus([row["text"] for row in rows], words=5)
    ordinals = {row["id"]: ordinal for row, ordinal in zip(rows, corpus.ordinals, strict=True)}
    truth = {}
    for line in (SHARED / "pairs_jaccard.tsv").read_text().splitlines()[1:]:
        a, b, jaccard, _ = line.split("\t")
        truth[tuple(sorted((ordinals[a], ordinals[b])))] = float(jaccard)
    found = corpus.found(tmp_path)
    cluster = dict(found.select("ordinal", "cluster").iter_rows())
    for least, recall in ((0.7, 0.88), (0.8, 0.97)):
        wanted = [pair for pair, jaccard in truth.items() if jaccard >= least]
        met = [pair for pair in wanted if cluster.get(pair[0], "a") == cluster.get(pair[1], "b")]
        assert len(met) / len(wanted) >= recall
    ends = np.array(list(truth), np.uint64)
    sets = minhash.shingle_sets(corpus.texts, words=5)
    places = np.searchsorted(np.array(corpus.ordinals, np.uint64), ends)
    assert minhash.jaccards(*sets, places[:, 0], places[:, 1]) == pytest.approx(list(truth.values()), abs=1e-4)


def _nobody(_: np.ndarray) -> Iterator[tuple[int, minhash.Hashes]]:
    return iter(())

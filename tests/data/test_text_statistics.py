from __future__ import annotations

import collections
import re
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.judging.text_statistics import MEASURED_BYTES, PLAIN_STATISTICS, STATISTICS, measure
from nexus_llm.data.judging.word_splitting import split_range
from nexus_llm.data.judging.word_tables import tables
from nexus_llm.data.judging.words import CHUNK_CHARACTERS, empty_chunk, empty_words

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
# Phrases that share runs of words, so that runs of up to ten come back; few kinds of white space, so that lines do.
PHRASES = [
    "a b c d e f g h i j k",
    "c d e f g h i",
    "h i j k a b",
    "the of",
    "x.",
    "(y)",
    "\n",
    "\n\n",
    "- ",
    "...",
    "a",
]
REPETITIVE = st.lists(st.sampled_from(PHRASES), max_size=30)


def split_words(text: str) -> list[str]:
    """The words of a text in their order, as the rules see them: the kernels keep only hashes."""
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    words = empty_words(len(data) + CHUNK_CHARACTERS)
    count = split_range(data, 0, len(data), tables(), empty_chunk(), words, 0)
    visible = "".join(text.split())
    bounds = np.concatenate([[0], np.cumsum(words.characters[:count])])
    return [visible[start:stop] for start, stop in pairwise(bounds)]


def _of(text: str) -> dict[str, float]:
    return measure(pl.Series([text])).row(0, named=True)


def _characters_of_duplicates(items: list[str]) -> tuple[int, int]:
    """(how many come again, their characters), written plainly."""
    seen: set[str] = set()
    again = [item for item in items if item in seen or seen.add(item)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))


def _top_run(words: list[str], n: int) -> int:
    runs = collections.Counter(" ".join(words[place : place + n]) for place in range(len(words) - n + 1))
    return max(((count * len(run)) for run, count in runs.most_common(1)), default=0)


def _repeated_runs(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    place = characters = 0
    while place + n <= len(words):
        run = tuple(words[place : place + n])
        if run in seen:
            characters += sum(map(len, run))
            place += n
        else:
            seen.add(run)
            place += 1
    return characters


@given(pieces=REPETITIVE)
def test_repetition_is_what_a_plain_count_finds(pieces: list[str]) -> None:
    text = " ".join(pieces).replace(" \n ", "\n").replace(" \n\n ", "\n\n")
    row, words = _of(text), split_words(text)
    size = max(1, len(text))
    lines, paragraphs = re.split("\n+", text), re.split("\n{2,}", text.strip())
    if text:
        assert row["duplicate_line_share"] == pytest.approx(_characters_of_duplicates(lines)[0] / len(lines))
        assert row["duplicate_line_character_share"] == pytest.approx(_characters_of_duplicates(lines)[1] / size)
        count, characters = _characters_of_duplicates(paragraphs)
        assert row["duplicate_paragraph_share"] == pytest.approx(count / len(paragraphs))
        assert row["duplicate_paragraph_character_share"] == pytest.approx(characters / size)
    for n in (2, 3, 4):
        assert row[f"top_{n}_gram_character_share"] == pytest.approx(_top_run(words, n) / size)
    for n in range(5, 11):
        assert row[f"duplicate_{n}_gram_character_share"] == pytest.approx(_repeated_runs(words, n) / size)


@given(text=TEXT)
def test_characters_letters_lines_and_words_are_counted_as_python_does(text: str) -> None:
    row = _of(text)
    visible = "".join(text.split())
    assert row["characters"] == len(text)
    assert row["mean_word_characters"] == pytest.approx(len(visible) / len(text.split()) if visible else 0)
    lines = [line.strip() for line in text.splitlines()]
    total = sum(map(len, lines))
    filled = [line for line in lines if line]
    assert row["repeated_line_share"] == pytest.approx(_characters_of_duplicates(filled)[1] / total if total else 0)
    ellipses = sum(line.endswith(("...", "…")) for line in lines)
    assert row["ellipsis_line_share"] == pytest.approx(ellipses / len(lines) if lines else 0)
    assert row["bullet_line_share"] == pytest.approx(
        sum(x.startswith(("•", "-")) for x in lines) / len(lines) if lines else 0
    )


@given(texts=st.lists(TEXT, max_size=5))
def test_shares_are_finite_and_plain_measuring_gives_the_same(texts: list[str]) -> None:
    series = pl.Series(texts, dtype=pl.String)
    full, plain = measure(series), measure(series, with_words=False)
    assert full.columns == list(STATISTICS)
    assert set(plain.columns) == PLAIN_STATISTICS
    assert full.select(plain.columns).equals(plain)
    assert np.isfinite(full.to_numpy()).all()


@given(text=TEXT)
def test_words_are_the_visible_characters_cut_up(text: str) -> None:
    words = split_words(text)
    assert "".join(words) == "".join(text.split())
    assert all(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world!", "Hello|,|world|!"),
        ("(see [this](https://a.org/b-c))", "(|see|[|this](https://a.org|/|b|-|c|)|)"),
        ("https://docs.aws.amazon.com/s3/x-y.html?a=b,", "https://docs.aws.amazon.com/s3/x-y.html?a=b|,"),
        ("me@mail.example.org/x-y", "me@mail.example.org/x-y"),
        ("It's the dogs’ — isn't it? We'll see.", "It|'s|the|dogs|’|—|is|n't|it|?|We|'ll|see|."),
        ("Mr. Smith of the U.S. left at 5 p.m. today.", "Mr.|Smith|of|the|U.S.|left|at|5|p.m.|today|."),
        ("10GB, 3.5km and 5%", "10|GB|,|3.5|km|and|5|%"),
        ("end.Start a.b a,b 1,000 x=1 a/b 3-4 3+4 --x", "end|.|Start|a.b|a|,|b|1,000|x=1|a|/|b|3|-|4|3|+|4|--x"),
        ("Wait... what…ever $5 US$5 +5 + :) **b**", "Wait|...|what|…|ever|$|5|US$|5|+5|+|:)|*|*|b|*|*"),
        ("漢字。かな、x 😀😀 नमस्ते।", "漢字。かな、x|😀|😀|नमस्ते|।"),
    ],
)
def test_words_are_split_as_the_published_filters_split_them(text: str, words: str) -> None:
    assert "|".join(split_words(text)) == words


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0" * 1000,
        "\U000e0001\U0003ffff\U0010ffff\U000f0000 " * 50,
        "😀" * 5000,
        "\n" * 5000,
        " ",
        "\r\n" * 10,
        ". " * 9000,
    ],
)
def test_odd_texts_are_measured_like_any_other(text: str) -> None:
    row = _of(text)
    assert row["characters"] == len(text)
    assert all(np.isfinite(value) and value >= 0 for value in row.values())


def test_a_megabyte_on_one_line_is_measured_in_pieces() -> None:
    row = _of("x1" * 500_000)
    assert (row["characters"], row["mean_word_characters"]) == (1_000_000, 1_000_000)
    assert row["mean_split_word_characters"] == pytest.approx(4096, rel=0.01)
    row = _of("word, " * 200_000)
    assert row["words"] == 200_000
    assert row["mean_split_word_characters"] == 4


def test_of_a_huge_text_only_the_start_is_looked_at_but_all_its_characters_are_counted() -> None:
    row = measure(pl.Series(["é\n" * (MEASURED_BYTES // 3 + 1000)]), with_words=False).row(0, named=True)
    assert row["characters"] == 2 * (MEASURED_BYTES // 3 + 1000)
    assert row["alphabetic_share"] == 1


def test_null_counts_as_empty() -> None:
    assert measure(pl.Series([None, "ab"]))["characters"].to_list() == [0, 2]


def test_a_carriage_return_does_not_hide_the_full_stop() -> None:
    assert _of("One sentence.\r\nAnother.\r\n")["terminal_punctuation_line_share"] == 1

from __future__ import annotations

import re
import unicodedata

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.clean import clean

DIFFICULT = st.text(alphabet=st.sampled_from("ab \t\n\r\x00\x85\u2028\u3000e\u0301\ufeff\x0c\u00a0é漢😀"), max_size=40)
TEXTS = st.lists(DIFFICULT | st.text(max_size=40), max_size=6)


def by_hand(text: str) -> str:
    text = re.sub(
        "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]", "", re.sub("\r\n?|[\u2028\u2029\x85]", "\n", text)
    )
    lines = (line.rstrip() for line in unicodedata.normalize("NFC", text).split("\n"))
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip("\n").rstrip()


@given(texts=TEXTS)
def test_the_compiled_cleaner_does_what_plain_python_does(texts: list[str]) -> None:
    assert clean(pl.Series(texts, dtype=pl.String)).to_list() == [by_hand(text) for text in texts]


@given(texts=TEXTS)
def test_cleaning_twice_changes_nothing_more(texts: list[str]) -> None:
    once = clean(pl.Series(texts, dtype=pl.String))
    assert clean(once).to_list() == once.to_list()


@given(texts=TEXTS)
def test_a_text_is_cleaned_alone_as_among_others(texts: list[str]) -> None:
    together = clean(pl.Series(texts, dtype=pl.String)).to_list()
    assert together == [clean(pl.Series([text]))[0] for text in texts]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Cafe\u0301", "Café"),
        ("    indented stays\n\tso does a tab", "    indented stays\n\tso does a tab"),
        ("\n\n\nlate", "late"),
        ("one\n\n\n\n\n\ntwo", "one\n\n\ntwo"),
        ("word" + "\x00" * 300, "word"),
        ("\x00\x01", ""),
        ("a\x85b\u2028c\rd\r\ne", "a\nb\nc\nd\ne"),
    ],
)
def test_what_no_reader_sees_goes(text: str, cleaned: str) -> None:
    assert clean(pl.Series([text])).to_list() == [cleaned]

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.clean import clean_document, clean_text
from nexus_llm.data.quality import judge, measure, repeated_line_share
from nexus_llm.recipe import QualityRecipe
from nexus_llm.records import Document

GOOD = "A plain sentence that nobody would reject, with words of an ordinary length. " * 5
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("text", "rule", "value"),
    [
        (GOOD, None, None),
        ("short", "min_characters", 5),
        ("1234 + 5678 = 6912\n" * 20, "min_alphabetic_share", 0),
        ("This very line stands here often.\n" * 10, "max_repeated_line_share", 0.9),
        ("a b c d e f g h i j " * 20, "min_mean_word_characters", 1),
        (("x" * 50 + " ") * 10, "max_mean_word_characters", 50),
        ("这是一个没有空格的句子。" * 20, "max_mean_word_characters", 240),
    ],
)
def test_each_rule_rejects_what_it_is_for_and_says_by_how_much(
    text: str, rule: str | None, value: float | None
) -> None:
    ((found, reason, measured),) = judge([text], QualityRecipe()).select("rule", "reason", "value").rows()
    assert found == rule
    assert (reason is None) == (rule is None)
    assert measured == (pytest.approx(value) if value is not None else None)


def test_too_long_is_judged_against_the_recipe() -> None:
    verdicts = judge([GOOD, GOOD[:250]], QualityRecipe(max_characters=300))
    assert verdicts["rule"].to_list() == ["max_characters", None]


def test_nothing_judged_gives_no_rows() -> None:
    assert judge([], QualityRecipe()).columns == ["rule", "reason", "value"]


@given(texts=st.lists(TEXT, max_size=8))
def test_shares_stay_between_zero_and_one_and_letters_are_counted_as_unicode_does(texts: list[str]) -> None:
    measured = measure(texts)
    assert len(measured) == len(texts)
    for text, row in zip(texts, measured.iter_rows(named=True), strict=True):
        assert row["characters"] == len(text)
        assert 0 <= row["alphabetic_share"] <= 1
        assert 0 <= row["repeated_line_share"] <= 1


@given(lines=st.lists(st.sampled_from(["alpha", "beta", "  gamma ", ""]), max_size=12))
def test_repeated_lines_are_counted_like_by_hand(lines: list[str]) -> None:
    filled = [line.strip() for line in lines if line.strip()]
    repeated = sum(len(line) for place, line in enumerate(filled) if line in filled[:place])
    assert repeated_line_share("\n".join(lines)) == (repeated / sum(map(len, filled)) if filled else 0)


@given(text=TEXT)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(character) == "Cc" and character not in "\t\n" for character in once)
    assert all(line == line.rstrip() for line in once.split("\n"))


def test_a_letter_and_its_accent_become_one_character() -> None:
    assert clean_text("Cafe\u0301") == "Caf\u00e9"


def test_judging_sees_what_cleaning_removes() -> None:
    padded = "word" + "\x00" * 300
    assert judge([padded], QualityRecipe())["rule"].to_list() == ["min_alphabetic_share"]
    assert clean_text(padded) == "word"


def test_each_turn_of_a_conversation_is_cleaned() -> None:
    messages = ({"role": "user", "content": "Hi  \r\n"}, {"role": "assistant", "content": "\ufeffHello"})
    cleaned = clean_document(Document("i", "s", "o", "Hi  \r\n\n\ufeffHello", messages))  # type: ignore[arg-type]
    assert [one["content"] for one in cleaned.messages] == ["Hi", "Hello"]
    assert cleaned.text == "Hi\nHello"

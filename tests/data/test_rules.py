from __future__ import annotations

import itertools
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.judging.rules import Spec, judge, load_spec
from nexus_llm.data.judging.text_statistics import STATISTICS, measure
from nexus_llm.errors import UsageError

SPEC = load_spec()
ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("NEXUS_TEST_DATA", ROOT.parent / "shared" / "data"))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
PROSE = " ".join(map("".join, itertools.product("bdfkl", "aeiou", "mnprt", "ao")))  # 250 words, none of them twice
LINES = "\n".join(f"The line number {number} of the text that we keep says{number} more." for number in range(12))


def decisions(texts: pl.Series) -> pl.DataFrame:
    """One row a text, one column a rule: whether the text keeps to the rule, whatever the others say."""
    return measure(texts).select((~rule.is_broken(rule.threshold)).alias(rule.id) for rule in SPEC.rules)


# rule → (a text that keeps to it, a text that breaks it)
EXAMPLES: dict[str, tuple[str, str]] = {
    "min_characters": ("a" * 200, "a" * 199),
    "max_characters": ("a" * 10_000_000, "a" * 10_000_001),
    "min_alphabetic_share": ("ab345", "a2345"),
    "max_repeated_line_share": ("aaa\nbbb\n" + "cccc\n" * 2, "aaa\n" + "cccc\n" * 3),
    "min_mean_word_characters": ("ab abc", "ab ab"),
    "max_mean_word_characters": ("a" * 12 + " b", "a" * 25 + " b"),
    "gopher_min_words": ("word , " * 50, "word , " * 49),
    "gopher_max_words": ("a " * 100_000, "a " * 100_001),
    "gopher_min_mean_word_characters": ("abc . abc", "abc . ab"),
    "gopher_max_mean_word_characters": ("abcdefghij , abcdefghij", "abcdefghij , abcdefghijk"),
    "gopher_max_hashes_per_token": ("word " * 9 + "#", "word " * 9 + "# #"),
    "gopher_max_ellipses_per_token": ("word " * 9 + "...", "word " * 9 + "... …"),
    "gopher_max_bullet_line_share": ("- a\n" * 9 + "a", "• a\n" * 5 + "  - a\n" * 5),
    "gopher_max_ellipsis_line_share": ("a\n" * 7 + "a...\n" * 3, "a\n" * 6 + "a...\n" * 2 + "a… \n" * 2),
    "gopher_min_alphabetic_word_share": ("a , ! b c . d 5", "a b c 4 5"),
    "gopher_min_stop_words": ("the cat have", "The the the"),
    "gopher_max_duplicate_line_share": (LINES + "\na\na\na\n", "\n".join("abcaab") + "\n"),
    "gopher_max_duplicate_paragraph_share": ("a\n\nb\n\nc\n\na", "a\n\nb\n\na"),
    "gopher_max_duplicate_line_character_share": ("abcd\n" + "e" * 20 + "\nabcd", "abcd\n" + "e" * 4 + "\nabcd"),
    "gopher_max_duplicate_paragraph_character_share": ("abcd\n\n" + "e" * 20 + "\n\nabcd", "abcd\n\ne\n\nabcd"),
    "gopher_max_top_2_gram_character_share": (PROSE, PROSE[:200] + " buy now" * 20),
    "gopher_max_top_3_gram_character_share": (PROSE, PROSE[:200] + " buy it now" * 20),
    "gopher_max_top_4_gram_character_share": (PROSE, PROSE[:200] + " buy it right now" * 20),
    **{
        f"gopher_max_duplicate_{n}_gram_character_share": (
            PROSE,
            PROSE[:300] + " a run of words that come back again" * 8,
        )
        for n in range(5, 11)
    },
    "c4_min_sentences": (
        "One is here. Two is here. Three!\nFour is here. Five?",
        "One is here. Two is here.\nThree is here! Is four?\nMenu",
    ),
    "c4_no_lorem_ipsum": (LINES + "\nlorem ipsum", LINES + "\nThen Lorem Ipsum follows."),
    "c4_no_curly_brackets": (LINES + "\nif (x) {", LINES + "\nThen a {bracket} follows."),
    "fineweb_min_terminal_punctuation_line_share": ("a\n" * 7 + "a.\n\n \n", "a\n" * 8 + "a.\n"),
    "fineweb_max_short_line_share": ("a" * 31 + "\n" + "a" * 30 + "\nb" + "\n", "a\nb\nc\n" + "a" * 31),
    "fineweb_max_duplicate_line_character_share": ("a" * 90 + "\n" + "b" * 5 + "\n" + "b" * 5, "aa\n" * 2 + "b" * 15),
    "fineweb_max_line_feeds_per_token": ("a b c d e f g\nb c d\n", "a\nb\n"),
}


def test_every_rule_of_the_spec_has_examples() -> None:
    assert [rule.id for rule in SPEC.rules] == list(EXAMPLES)


@pytest.mark.parametrize("rule", [rule.id for rule in SPEC.rules])
def test_a_rule_keeps_its_good_example_and_rejects_its_bad_one_saying_by_how_much(rule: str) -> None:
    good, bad = EXAMPLES[rule]
    kept = decisions(pl.Series([good, bad]))[rule].to_list()
    assert kept == [True, False]
    others_off = {other.id: None for other in SPEC.rules if other.id != rule}
    verdicts = judge(pl.Series([good, bad]), SPEC, families=list(SPEC.families), overrides=others_off)
    assert verdicts["rule"].to_list() == [None, rule]
    (described,) = [one for one in SPEC.rules if one.id == rule]
    assert verdicts["reason"].to_list() == [None, described.reason]
    value = verdicts["value"].to_list()[1]
    assert value < described.threshold if described.at_most is None else value > described.threshold


def test_only_the_families_asked_for_are_judged_in_the_order_of_the_spec() -> None:
    texts = pl.Series(["x" * 30])
    assert judge(texts, SPEC, families=["nexus"], overrides={})["rule"].to_list() == ["min_characters"]
    assert judge(texts, SPEC, families=["c4", "fineweb"], overrides={})["rule"].to_list() == ["c4_min_sentences"]
    assert judge(texts, SPEC, families=[], overrides={}).rows() == [(None, None, None)]


def test_a_threshold_can_be_replaced_or_switched_off() -> None:
    texts = pl.Series([LINES])
    assert judge(texts, SPEC, families=["nexus"], overrides={})["rule"].to_list() == [None]
    stricter = judge(texts, SPEC, families=["nexus"], overrides={"min_characters": 5_000})
    assert stricter.rows() == [("min_characters", "too short", float(len(LINES)))]
    assert judge(texts, SPEC, families=["nexus"], overrides={"min_characters": None})["rule"].to_list() == [None]


@pytest.mark.parametrize(("families", "overrides"), [(["gofer"], {}), (["nexus"], {"min_character": 3})])
def test_names_that_do_not_exist_are_refused_with_those_that_do(
    families: list[str], overrides: dict[str, float]
) -> None:
    with pytest.raises(UsageError) as caught:
        judge(pl.Series(["text"]), SPEC, families=families, overrides=overrides)
    assert "gopher_quality" in caught.value.fix or "min_characters" in caught.value.fix


def test_nothing_judged_gives_no_rows() -> None:
    empty = pl.Series("text", [], dtype=pl.String)
    assert judge(empty, SPEC, families=["nexus"], overrides={}).rows() == []
    assert decisions(empty).shape == (0, len(SPEC.rules))


@given(texts=st.lists(TEXT, min_size=1, max_size=6), cut=st.integers(0, 6))
def test_a_verdict_does_not_depend_on_what_is_judged_beside_it(texts: list[str], cut: int) -> None:
    families = list(SPEC.families)
    whole = judge(pl.Series(texts), SPEC, families=families, overrides={"min_characters": None})
    parts = [
        judge(pl.Series(part, dtype=pl.String), SPEC, families=families, overrides={"min_characters": None})
        for part in (texts[:cut], texts[cut:])
    ]
    assert whole.equals(pl.concat(parts))


RULE = {"id": "brief", "family": "mine", "statistic": "words", "unit": "words", "reason": "too long", "source": "me"}


def spec_of(**fields: object) -> Spec:
    return Spec.model_validate({"version": 1, "families": {"mine": "x"}, "rules": [{**RULE, **fields}]})


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [({}, "at_least or at_most"), ({"at_most": 1, "family": "other"}, "family other"), ({"at_mots": 1}, "at_mots")],
)
def test_a_mistake_in_the_spec_is_noticed(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        spec_of(**fields)


def test_every_statistic_that_a_rule_asks_for_is_measured() -> None:
    imitated = {rule.datatrove.statistic for rule in SPEC.rules if rule.datatrove}
    assert {rule.statistic for rule in SPEC.rules} | imitated - {None} <= set(STATISTICS)


def test_a_value_on_the_bound_is_kept() -> None:
    verdicts = judge(pl.Series(["a b", "a b c"]), spec_of(at_most=2), families=["mine"], overrides={})
    assert verdicts.rows() == [(None, None, None), ("brief", "too long", 3.0)]


def test_thresholds_are_those_of_the_papers() -> None:
    thresholds = {rule.id: rule.threshold for rule in SPEC.rules}
    # Rae et al. 2021 (arXiv:2112.11446), table A1, in its order.
    table = (0.30, 0.30, 0.20, 0.20, 0.20, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    assert tuple(thresholds[rule.id] for rule in SPEC.rules if rule.family == "gopher_repetition") == table
    assert thresholds["fineweb_max_duplicate_line_character_share"] == 0.1


def test_c4_counts_the_sentences_of_whole_lines_without_their_citations() -> None:
    text = "Menu\n This is a sentence.[3] \nWe use cookies on this page.\nToo short.\nIt goes on...\r\n"
    texts = pl.Series([f"{text}Is[edit] it done now?", "", "none", "It is so.[citation needed]", "It is so.[note]"])
    assert measure(texts)["c4_sentences"].to_list() == [2, 0, 0, 1, 0]


def test_real_documentation_passes_our_own_rules() -> None:
    folder = SHARED / "awsdocs-s3"
    if not folder.is_dir():
        pytest.skip(f"the data set {folder} is not here; NEXUS_TEST_DATA names another place")
    texts = pl.Series([path.read_text("utf-8", "replace") for path in sorted(folder.rglob("*.md"))[:200]])
    verdicts = judge(texts, SPEC, families=["nexus"], overrides={})
    assert verdicts["rule"].is_null().mean() > 0.95


def test_the_spec_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="frozen"):
        SPEC.rules[0].family = "other"  # type: ignore[misc]
    assert isinstance(SPEC, Spec)

"""GLUE's rows as questions, and its metrics against scipy's and published definitions."""

from __future__ import annotations

import math
import random

import pytest

from nexus_llm.errors import DataError
from nexus_llm.evaluate.glue import TASKS, item_score, rows_of_split, scores, training_rows

PAIRS = [
    {"sentence1": "He said the company 's term growth .", "sentence2": "It fell .", "label": 1},
    {"sentence1": "A dog .", "sentence2": "A cat .", "label": 0},
]


def test_a_pair_is_learned_both_ways_and_one_that_is_judged_is_not_learned() -> None:
    task = TASKS["mrpc"]
    judged = rows_of_split(task, [PAIRS[0] | {"sentence1": "He said the company's term growth."}])
    rows = training_rows(task, PAIRS, judged)
    assert rows == [("1: A dog .\n2: A cat .\nSame meaning?", "no"), ("1: A cat .\n2: A dog .\nSame meaning?", "no")]


def test_a_number_is_said_with_one_digit_and_judged_with_all() -> None:
    given = [{"sentence1": "a", "sentence2": "b", "label": 3.8000001}, {"sentence1": "c", "sentence2": "d", "label": 0}]
    assert [answer for _, answer in training_rows(TASKS["stsb"], given, [])] == ["3.8", "0.0"]
    assert rows_of_split(TASKS["stsb"], given)[0][1] == "3.8000001"
    assert item_score(TASKS["stsb"], "3.0", "2.5")["absolute_error"] == 0.5


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"sentence": "a", "label": -1}, "row 1: the label is -1"),
        ({"sentence": "a", "label": 2}, "row 1: IndexError"),
        ({"text": "a", "label": 1}, "row 1: KeyError"),
    ],
)
def test_a_row_without_a_public_label_or_field_is_refused(row: dict[str, object], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        rows_of_split(TASKS["sst2"], [row])
    with pytest.raises(DataError, match="no rows"):
        rows_of_split(TASKS["sst2"], [])


def test_metrics_are_those_of_their_definitions() -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs the [eval] extra")
    draw = random.Random(5)
    wanted = draw.choices(["yes", "no"], k=200)
    given = [one if draw.random() < 0.7 else "no" for one in wanted]
    # Matthews' correlation is Pearson's of the two as 0 and 1.
    expected = stats.pearsonr([one == "yes" for one in wanted], [one == "yes" for one in given]).statistic
    assert scores(TASKS["cola"], wanted, given)["matthews"] == pytest.approx(expected)
    hits, false, missed = (
        sum(w == "yes" and g == "yes" for w, g in zip(wanted, given, strict=True)),
        sum(w == "no" and g == "yes" for w, g in zip(wanted, given, strict=True)),
        sum(w == "yes" and g == "no" for w, g in zip(wanted, given, strict=True)),
    )
    assert scores(TASKS["mrpc"], wanted, given)["f1"] == pytest.approx(2 * hits / (2 * hits + false + missed))
    numbers = [draw.uniform(0, 5) for _ in range(50)]
    near = [number + draw.gauss(0, 1) for number in numbers]
    found = scores(TASKS["stsb"], [*map(str, numbers)], [*map(str, near)])
    assert found["pearson"] == pytest.approx(stats.pearsonr(numbers, near).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(numbers, near).statistic)


def test_an_answer_that_is_no_label_is_wrong_and_never_helps() -> None:
    assert scores(TASKS["sst2"], ["positive", "negative"], ["positive", "great"]) == {"accuracy": 0.5}
    assert scores(TASKS["cola"], ["yes", "no", "yes", "no"], ["yes", "no", "maybe", "maybe"])["matthews"] == 0
    assert scores(TASKS["cola"], ["yes", "no"], ["maybe", "maybe"])["matthews"] == pytest.approx(-1)
    constant = scores(TASKS["stsb"], ["1", "2", "3"], ["same", "alike", "nan"])
    assert constant == {"pearson": 0.0, "spearman": 0.0}
    assert not any(map(math.isnan, constant.values()))

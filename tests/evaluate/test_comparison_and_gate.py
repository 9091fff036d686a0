from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.errors import DataError
from nexus_llm.evaluate import comparison as comparison_module
from nexus_llm.evaluate.comparison import Comparison, compare
from nexus_llm.evaluate.gate import documents_needed, judge_domain, judge_general, overall
from nexus_llm.records import DocumentScore

LOSSES = st.lists(st.tuples(st.integers(5, 200), st.floats(1, 5), st.floats(-0.5, 0.5)), min_size=8, max_size=30)


def scores(rows: list[tuple[int, float, float]], *, tuned: bool) -> list[DocumentScore]:
    return [
        DocumentScore(str(place), tokens, tokens * (loss + (change if tuned else 0)))
        for place, (tokens, loss, change) in enumerate(rows)
    ]


def compared(rows: list[tuple[int, float, float]], *, confidence: float = 0.95, seed: int = 1) -> Comparison:
    base, tuned = scores(rows, tuned=False), scores(rows, tuned=True)
    return compare("domain", base, tuned, confidence=confidence, seed=seed)


def with_interval(low: float, change: float, high: float, documents: int = 50) -> Comparison:
    return Comparison("domain", documents, 1_000, 10.0, 10.0 * (1 + change), change, low, high, 0.95)


@given(rows=LOSSES)
def test_the_change_is_that_of_the_perplexities_and_lies_inside_its_interval(
    rows: list[tuple[int, float, float]],
) -> None:
    found = compared(rows)
    assert found.change == pytest.approx(found.tuned_perplexity / found.base_perplexity - 1)
    assert found.low - 1e-9 <= found.change <= found.high + 1e-9 or len({row[2] for row in rows}) < 4


@given(rows=LOSSES, seed=st.integers(0, 5))
def test_the_same_scores_and_seed_give_the_same_interval(rows: list[tuple[int, float, float]], seed: int) -> None:
    assert compared(rows, seed=seed) == compared(rows, seed=seed)


@given(rows=LOSSES)
def test_more_confidence_never_gives_a_narrower_interval(rows: list[tuple[int, float, float]]) -> None:
    narrow, wide = compared(rows, confidence=0.8), compared(rows, confidence=0.99)
    assert wide.low <= narrow.low + 1e-12
    assert wide.high >= narrow.high - 1e-12


@given(rows=LOSSES, shift=st.floats(-0.3, 0.3))
def test_what_is_hard_for_both_models_cancels_out(rows: list[tuple[int, float, float]], shift: float) -> None:
    moved = [(tokens, loss + shift, change) for tokens, loss, change in rows]
    assert compared(moved).change == pytest.approx(compared(rows).change, abs=1e-9)


def test_a_long_document_counts_for_its_tokens() -> None:
    rows = [(10, 2.0, 0.0)] * 8 + [(1_000, 2.0, 0.1)]
    assert compared(rows).change == pytest.approx(math.expm1(0.1 * 1_000 / 1_080))


def test_two_equal_models_do_not_pass_as_an_improvement() -> None:
    rows = [(50, 2.0 + place / 10, 0.0) for place in range(20)]
    same = compared(rows)
    assert (same.low, same.change, same.high) == (0, 0, 0)
    assert judge_domain(same, min_improvement=0).verdict == "fail"
    assert judge_general(same, max_regression=0).verdict == "pass"


def test_few_documents_are_inconclusive_however_good_they_look() -> None:
    few = compared([(100, 3.0, -1.0)] * 7)
    gated = judge_domain(few, min_improvement=0)
    assert gated.verdict == "inconclusive"
    assert "7 documents are too few" in gated.reason


def test_scores_of_different_texts_are_refused() -> None:
    base = [DocumentScore("a", 5, 1.0)]
    with pytest.raises(DataError, match="different domain documents"):
        compare("domain", base, [DocumentScore("a", 6, 1.0)], confidence=0.95, seed=1)
    with pytest.raises(DataError, match="no domain text"):
        compare("domain", [], [], confidence=0.95, seed=1)


def test_false_alarms_stay_near_their_stated_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models of equal merit: a 95 % interval calls one better in about 2.5 % of cases."""
    monkeypatch.setattr(comparison_module, "_RESAMPLES", 600)
    draw = np.random.default_rng(11)
    trials, better, worse = 600, 0, 0
    for trial in range(trials):
        rows = [(int(draw.integers(30, 256)), 2.5, float(draw.normal(0, 0.1))) for _ in range(40)]
        found = compared(rows, seed=trial)
        better += judge_domain(found, min_improvement=0).verdict == "pass"
        worse += judge_domain(found, min_improvement=0).verdict == "fail"
    # 2.5 % plus three standard errors of 600 trials, plus what 600 resamples are off.
    assert better / trials <= 0.045
    assert worse / trials <= 0.045
    assert better + worse > 0


@given(ends=st.tuples(*[st.floats(-0.5, 0.5)] * 3).map(sorted), limit=st.floats(0, 0.3))
def test_a_verdict_follows_from_where_the_interval_lies(ends: list[float], limit: float) -> None:
    found = with_interval(*ends)
    domain, general = judge_domain(found, min_improvement=limit), judge_general(found, max_regression=limit)
    assert (domain.verdict == "pass") == (found.high < -limit)
    assert (domain.verdict == "fail") == (found.low >= -limit)
    assert (general.verdict == "pass") == (found.high <= limit)
    assert (general.verdict == "fail") == (found.low > limit)


def test_the_worst_verdict_decides() -> None:
    assert overall(["pass", "pass"]) == "pass"
    assert overall(["inconclusive", "pass"]) == "inconclusive"
    assert overall(["inconclusive", "fail", "pass"]) == "fail"


def test_an_inconclusive_verdict_says_how_many_documents_would_decide() -> None:
    unsure = with_interval(-0.06, -0.02, 0.02)
    assert documents_needed(unsure, 0.0) == 200
    assert "about 200 documents would decide" in judge_domain(unsure, min_improvement=0).reason
    assert documents_needed(with_interval(-0.02, 0.0, 0.02), 0.0) is None

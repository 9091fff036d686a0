from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_llm.errors import DataError, EvaluationError
from nexus_llm.evaluate import comparison_statistics
from nexus_llm.evaluate.comparison import Comparison, compare
from nexus_llm.evaluate.comparison_statistics import (
    BootstrapT,
    FewDifferences,
    OneShare,
    PairedShares,
    bootstrap_t,
    holm,
    items_needed,
)
from nexus_llm.evaluate.gate import (
    GatedComparison,
    corrected,
    gate_json,
    judge_domain,
    judge_general,
    judge_tasks,
    overall,
)
from nexus_llm.evaluate.results import ItemResult, TaskResult
from nexus_llm.recipe import EvaluateRecipe, GateRecipe, TaskRule
from nexus_llm.records import CompleterFacts, DocumentScore

LOSSES = st.lists(st.tuples(st.integers(5, 200), st.floats(1, 5), st.floats(-0.5, 0.5)), min_size=8, max_size=30)


def scores(rows: list[tuple[int, float, float]], *, tuned: bool) -> list[DocumentScore]:
    return [
        DocumentScore(str(place), tokens, tokens * (loss + (change if tuned else 0)))
        for place, (tokens, loss, change) in enumerate(rows)
    ]


def compared(rows: list[tuple[int, float, float]], *, confidence: float = 0.95, seed: int = 1) -> Comparison:
    base, tuned = scores(rows, tuned=False), scores(rows, tuned=True)
    return compare("domain", base, tuned, confidence=confidence, seed=seed)


def task(scores: list[float | None], **changes: Any) -> TaskResult:
    """One result; None is an item that nobody could score."""
    items = tuple(
        ItemResult(str(place), {}, error="no answer") if score is None else ItemResult(str(place), {"accuracy": score})
        for place, score in enumerate(scores)
    )
    who = CompleterFacts(model="m", road="scripted", template_sha256=changes.pop("template", None))
    return replace(TaskResult("sst2", "1", "accuracy", "abc", 0, who, items), **changes)


def judged(base: TaskResult, tuned: TaskResult, **rule: float) -> GatedComparison:
    gate = GateRecipe(tasks={"sst2": TaskRule(**rule)})
    return corrected(judge_tasks([(base, tuned)], gate, seed=1), confidence=gate.confidence)[0]


def answered(*, right: int, wrong: int, won: int = 0, lost: int = 0) -> tuple[TaskResult, TaskResult]:
    base = [1.0] * right + [0.0] * wrong + [0.0] * won + [1.0] * lost
    tuned = [1.0] * right + [0.0] * wrong + [1.0] * won + [0.0] * lost
    return task([*base]), task([*tuned])


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
    monkeypatch.setattr(comparison_statistics, "_RESAMPLES", 600)
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


def test_an_inconclusive_verdict_says_how_many_more_documents_would_decide() -> None:
    unsure = with_interval(-0.06, -0.02, 0.02)
    effect = BootstrapT(math.log1p(-0.02), 0.02, unsure.documents, np.empty(0))
    # (1.96 + 0.84)² · 0.02² · 50 / ln(0.98)² = 385 in all.
    assert "needs about 335 more documents" in judge_domain(replace(unsure, effect=effect), min_improvement=0).reason
    none = replace(unsure, effect=replace(effect, estimate=0.0))
    assert "needs" not in judge_domain(none, min_improvement=0).reason


COUNTS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 200))


@settings(max_examples=40)
@given(counts=COUNTS, limit=st.floats(-0.3, 0.3), confidence=st.floats(0.6, 0.99))
def test_an_interval_of_paired_shares_leaves_out_what_its_p_value_rules_out(
    counts: tuple[int, int, int], limit: float, confidence: float
) -> None:
    wins, losses, rest = counts
    found = PairedShares(wins, losses, wins + losses + rest)
    low, high = found.interval(confidence)
    tail = (1 - confidence) / 2
    assert low - 1e-9 <= found.estimate <= high + 1e-9
    if abs(limit - low) > 1e-6:
        assert (found.p_above(limit) <= tail) == (limit < low)
    if abs(limit - high) > 1e-6:
        assert (found.p_below(limit) <= tail) == (limit > high)


def test_at_no_change_the_p_value_is_that_of_mcnemars_exact_test() -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs the [eval] extra")
    for wins, losses in ((10, 2), (3, 3), (0, 5), (25, 40)):
        found = PairedShares(wins, losses, 500)
        two_sided = min(1.0, 2 * min(found.p_above(0), found.p_below(0)))
        assert two_sided == pytest.approx(stats.binomtest(wins, wins + losses).pvalue)


def test_away_from_no_change_an_interval_also_doubts_how_often_the_two_disagree() -> None:
    """Twenty losses and no win among 1,000: given that there are 20, a loss of more than 0.02 would be ruled out."""
    low, high = PairedShares(0, 20, 1_000).interval(0.95)
    # Newcombe's and Tango's examples agree to the third digit: the Wilson interval of 20/1,000 is 0.013 to 0.031.
    assert (low, high) == (pytest.approx(-0.031, abs=0.0005), pytest.approx(-0.013, abs=0.0005))


@settings(max_examples=40)
@given(hits=st.integers(0, 60), misses=st.integers(0, 60), wanted=st.floats(0.05, 0.95))
def test_the_interval_of_one_share_is_clopper_and_pearsons(hits: int, misses: int, wanted: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs the [eval] extra")
    if not hits + misses:
        return
    low, high = OneShare(hits, hits + misses, wanted).interval(0.9)
    theirs = stats.binomtest(hits, hits + misses).proportion_ci(0.9, "exact")
    assert (low + wanted, high + wanted) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert OneShare(hits, hits + misses, wanted).p_below(0) == pytest.approx(
        stats.binom.cdf(hits, hits + misses, wanted)
    )


def test_resamples_in_pieces_are_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=50)
    whole = bootstrap_t(values, seed=5)
    monkeypatch.setattr(comparison_statistics, "_VALUES_AT_ONCE", 50 * 777)
    assert np.array_equal(bootstrap_t(values, seed=5).resampled, whole.resampled)


def test_a_change_on_a_handful_of_items_is_bounded_instead_of_resampled() -> None:
    few = FewDifferences(0.01, better=3, worse=0, items=100, largest=1.0)
    low, high = few.interval(0.95)
    assert low == pytest.approx(-0.0362, abs=1e-4)  # none of 100: 1 − 0.025^(1/100)
    assert few.p_above(low) == pytest.approx(0.025)
    assert few.p_below(high) == pytest.approx(0.025)
    same = judged(task([0.25, 0.75] * 100), task([0.25, 0.75] * 100), max_regression=0.05)
    assert same.verdict == "pass"
    assert "only 0 items differ" in same.comparison.method  # type: ignore[union-attr]


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]) -> None:
    ordered, rejected = sorted(p_values), 0
    while rejected < len(ordered) and ordered[rejected] <= 0.05 / (len(ordered) - rejected):
        rejected += 1
    found = holm(p_values)
    assert sum(one <= 0.05 * (1 + 1e-12) for one in found) >= rejected
    assert sum(one <= 0.05 * (1 - 1e-12) for one in found) <= rejected
    assert all(one >= raw for one, raw in zip(found, p_values, strict=True))


def test_a_task_passes_fails_or_says_how_many_more_items_would_decide() -> None:
    assert judged(*answered(right=600, wrong=340, won=50, lost=10), min_improvement=0).verdict == "pass"
    assert judged(*answered(right=600, wrong=340, won=10, lost=50), max_regression=0.01).verdict == "fail"
    unsure = judged(*answered(right=150, wrong=40, won=4, lost=6), max_regression=0.02)
    assert unsure.verdict == "inconclusive"
    needed = items_needed(PairedShares(4, 6, 200), -0.02, confidence=0.95)
    assert needed is not None
    assert f"needs about {needed - 200:,} more items" in unsure.reason


def test_with_as_many_items_as_it_asked_for_the_gate_mostly_decides() -> None:
    """The truth as it was estimated: 5 % won, 2 % lost; how many of 400 repetitions then show a gain?"""
    needed = items_needed(PairedShares(5, 2, 100), 0.0, confidence=0.95)
    assert needed is not None
    draws = np.random.default_rng(2).multinomial(needed, [0.05, 0.02, 0.93], size=400)
    decided = sum(PairedShares(int(won), int(lost), needed).p_above(0) <= 0.025 for won, lost, _ in draws)
    assert 0.7 <= decided / 400 <= 0.95  # asked for: 0.8; exactness and the spare disagreement add some


def test_a_score_of_its_own_is_asked_of_the_tuned_model_alone() -> None:
    base, tuned = answered(right=900, wrong=60, lost=40)
    assert judged(base, tuned, min_score=0.85).verdict == "pass"
    assert judged(base, tuned, min_score=0.95).verdict == "fail"
    row = gate_json([judged(base, tuned, min_score=0.9)])["comparisons"][0]
    assert (row["verdict"], row["base_score"], row["change"]) == ("inconclusive", None, pytest.approx(0.0))


def test_where_lower_is_better_a_fall_is_an_improvement() -> None:
    draw = np.random.default_rng(4)
    base = draw.normal(2.0, 0.3, 100)
    tuned = task([*(base - 0.1 + draw.normal(0, 0.05, 100))], higher_is_better=False)
    found = judged(task([*base], higher_is_better=False), tuned, min_improvement=0.05)
    assert found.verdict == "pass"
    assert found.comparison.change == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"few_shot": 5}, "few_shot 0 against 5"),
        ({"version": "2"}, "version 1 against 2"),
        ({"dataset_sha256": "xyz"}, "dataset_sha256 abc against xyz"),
        ({"template": "t"}, "chat template None against t"),
        ({"settings": {"seed": 3}}, "seed None against 3"),
        ({"metric": "f1"}, "metric accuracy against f1"),
    ],
)
def test_what_was_measured_differently_is_refused_by_name(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(EvaluationError, match=complaint):
        judged(task([1.0, 0.0]), task([1.0, 0.0], **changes), max_regression=0)


def test_results_of_other_items_are_refused() -> None:
    with pytest.raises(EvaluationError, match="1 items that only one of them has \\(2\\)"):
        judged(task([1.0, 0.0]), task([1.0, 0.0, 1.0]), max_regression=0)
    with pytest.raises(EvaluationError, match="item 1 has no accuracy"):
        broken = task([1.0, 0.0])
        judged(broken, replace(broken, items=(broken.items[0], ItemResult("1", {}))), max_regression=0)


def test_items_without_a_score_are_counted_on_both_sides_and_never_dropped_in_silence() -> None:
    base = task([None] * 3 + [1.0] * 297)
    tuned = task([1.0] * 297 + [None] * 3)
    few = judged(base, tuned, max_regression=0.05)
    row = gate_json([few])["comparisons"][0]
    assert (row["asked"], row["items"], row["base_errors"], row["tuned_errors"]) == (300, 294, 3, 3)
    assert few.verdict == "pass"
    many = judged(task([1.0] * 300), task([None] * 12 + [1.0] * 288), max_regression=0.05)
    assert many.verdict == "inconclusive"
    assert "base model left 0 and the tuned one 12 without a score; 1.0% may lack one" in many.reason
    none = judged(task([None] * 9), task([1.0] * 9), max_regression=0.05)
    assert (none.verdict, none.comparison.change) == ("inconclusive", None)


def test_a_verdict_that_is_chance_among_many_rules_becomes_inconclusive() -> None:
    base, tuned = answered(right=150, wrong=30, won=4, lost=16)  # p = 0.006
    alone = GateRecipe(tasks={"sst2": TaskRule(max_regression=0)})
    others = {f"task{place}": TaskRule(max_regression=0) for place in range(11)}
    calm = answered(right=100, wrong=90, won=5, lost=5)
    pairs = [(base, tuned), *((replace(calm[0], task=name), replace(calm[1], task=name)) for name in others)]
    assert corrected(judge_tasks(pairs[:1], alone, seed=1), confidence=0.95)[0].verdict == "fail"
    many = corrected(judge_tasks(pairs, GateRecipe(tasks=alone.tasks | others), seed=1), confidence=0.95)
    found = next(one for one in many if one.comparison.name == "sst2")
    assert found.verdict == "inconclusive"
    assert "among 12 rules that can be chance (Holm's p = 0.07" in found.reason
    assert overall(one.verdict for one in many) == "inconclusive"


def test_the_two_perplexities_alone_need_no_correction() -> None:
    """Two one-sided tests at half of 5 % each: the verdicts are those of the intervals, as they were without tasks."""
    draw = np.random.default_rng(8)
    seen = set()
    for trial in range(60):
        rows = [(100, 2.5, float(draw.normal(0.03, 0.1))) for _ in range(40)]
        found = compared(rows, seed=trial)
        pair = [judge_domain(found, min_improvement=0.0), judge_general(found, max_regression=0.0)]
        kept = corrected(pair, confidence=0.95)
        assert [one.verdict for one in kept] == [one.verdict for one in pair]
        seen |= {one.verdict for one in kept}
    assert seen == {"fail", "inconclusive"}


def test_a_rule_about_nothing_that_was_measured_is_refused() -> None:
    gate = GateRecipe(tasks={"mrpc": TaskRule(max_regression=0)})
    with pytest.raises(EvaluationError, match=r"nothing measured mrpc \(measured: sst2\)"):
        judge_tasks([(task([1.0]), task([1.0]))], gate, seed=1)
    with pytest.raises(ValueError, match="has rules, and nothing is measured"):
        EvaluateRecipe(gate=gate)
    with pytest.raises(ValueError, match="a task has no rule"):
        TaskRule()


def _simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "gate_error_rates.py"
    spec = importlib.util.spec_from_file_location("gate_error_rates", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gate_error_rates"] = module
    spec.loader.exec_module(module)
    return module


def test_equal_models_fail_a_gate_of_ten_tasks_no_more_often_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tasks, five of them means: a gate may fail in 5 % of cases, and without Holm would in about 20 %."""
    monkeypatch.setattr(comparison_statistics, "_RESAMPLES", 400)
    simulation = _simulation()
    scenario = simulation.SCENARIOS["5 tasks of 0/1 and 5 of means, 100 items, same models"] | {"items": 60}
    found = simulation.rates(**scenario, trials=150, seed=4)
    assert found.get("fail", 0) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)
    assert found["any pass"] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)
    assert found["any fail without Holm"] > 0.11
    loss = simulation.SCENARIOS["0/1, 1,000 items, 0.05 lost, none allowed"]
    assert simulation.rates(**loss, trials=60, seed=4)["fail"] > 0.9

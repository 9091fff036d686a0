"""Drift, burn rates of looks at a gateway, and the report made of them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from nexus_llm.observe.drift import LEAST_SAMPLES, binned, count_drift, embedding_drift, length_drift
from nexus_llm.observe.objectives import OBJECTIVES
from nexus_llm.observe.report import report_document, report_html
from nexus_llm.observe.snapshots import Snapshot, between, burns, firing, over_window, quantile, snapshot


def lengths(seed: int, count: int, mean: float = 5.0) -> list[float]:
    generator = random.Random(seed)
    return [generator.lognormvariate(mean, 1) for _ in range(count)]


def verdicts(count: int, mean: float, seed: int = 1) -> list[str]:
    return [one.verdict for one in length_drift("x", lengths(0, 2000), lengths(seed, count, mean))]


def test_lengths_that_doubled_have_drifted_and_the_same_ones_have_not() -> None:
    assert verdicts(LEAST_SAMPLES, 5.7) == ["drifted", "drifted"]
    assert verdicts(LEAST_SAMPLES, 5.0) == ["steady", "steady"]


def test_too_few_samples_are_inconclusive_however_far_apart_they_are() -> None:
    assert verdicts(LEAST_SAMPLES - 1, 9.0) == ["inconclusive", "inconclusive"]
    assert [one.verdict for one in length_drift("x", [], [])] == ["inconclusive", "inconclusive"]


def test_no_drift_is_seen_where_there_is_none_in_a_hundred_looks() -> None:
    found = [verdict for seed in range(1, 101) for verdict in verdicts(LEAST_SAMPLES, 5.0, seed)]
    assert found.count("drifted") <= 1  # 200 verdicts at one in a thousand: 0.2 expected


def test_a_language_that_comes_anew_has_drifted() -> None:
    known = {"en": 900, "de": 100}
    assert count_drift("x", known, {"en": 450, "de": 50}).verdict == "steady"
    assert count_drift("x", known, {"en": 250, "de": 50, "fr": 200}).verdict == "drifted"
    assert binned([1, 2, 3, 50], [2, 10, math.inf]) == {2: 2, 10: 1, math.inf: 1}


def test_embeddings_that_point_elsewhere_have_drifted() -> None:
    generator = np.random.default_rng(0)
    known, same = generator.normal(size=(60, 8)) + 1, generator.normal(size=(60, 8)) + 1
    assert embedding_drift("x", known, same).verdict == "steady"
    assert embedding_drift("x", known, same - 2).verdict == "drifted"
    assert embedding_drift("x", known, (same - 2)[:40]).verdict == "inconclusive"


PAGE = """# TYPE nexus_requests_total counter
nexus_requests_total{model_name="m",outcome="failed"} %d
nexus_requests_total{model_name="m",outcome="other"} %d
vllm:time_to_first_token_seconds_bucket{le="1.5",model_name="m"} 50.0
vllm:time_to_first_token_seconds_bucket{le="2.0",model_name="m"} 90.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 100.0
nexus_refused_total{model_name="a \\"quoted\\" m"} 1
"""


def look(minute: float, failed: int, other: int) -> Snapshot:
    return snapshot(PAGE % (failed, other), time=60.0 * minute)


def test_a_page_is_read_with_its_labels() -> None:
    one = look(0, 3, 7)
    assert one.total("nexus_requests_total") == 10
    assert one.total("nexus_requests_total", outcome="failed") == 3
    assert one.total("nexus_refused_total", model_name='a \\"quoted\\" m') == 1
    assert one.buckets("vllm:time_to_first_token_seconds") == {1.5: 50, 2.0: 90, math.inf: 100}


def test_a_counter_that_began_anew_loses_nothing() -> None:
    looks = [look(0, 100, 900), look(5, 110, 990), look(10, 5, 95)]
    grown = between(looks[1], looks[2])
    assert grown.total("nexus_requests_total") == 100
    whole = over_window(looks, 600)
    assert whole is not None
    assert whole.total("nexus_requests_total", outcome="failed") == 15
    assert over_window(looks, 3600) is None


def test_both_windows_have_to_burn_before_somebody_is_woken() -> None:
    quiet = [look(minute, 0, 100 * minute) for minute in range(0, 361, 5)]
    assert firing(burns("availability", quiet)) == []
    bad = [*quiet, *(look(360 + minute, 8 * minute, 36_000 + 92 * minute) for minute in range(5, 66, 5))]
    assert "page" in firing(burns("availability", bad))
    last = bad[-1].total("nexus_requests_total", outcome="failed")
    over = [*bad, *(look(425 + minute, int(last), 42_000 + 100 * minute) for minute in range(5, 41, 5))]
    rates = {one.window: one.rate for one in burns("availability", over)}
    assert rates["5m"] == 0
    assert (rates["6h"] or 0) > 6
    assert firing(burns("availability", over)) == []  # six hours still burn, the trouble is over


def test_too_few_requests_say_nothing() -> None:
    found = burns("availability", [look(0, 0, 0), look(5, 10, 30)])
    assert all(one.rate is None for one in found)


def test_percentiles_are_estimated_as_prometheus_does() -> None:
    buckets = {1.0: 10.0, 2.0: 30.0, math.inf: 40.0}
    assert quantile(buckets, 0.5) == pytest.approx(1.5)
    assert quantile(buckets, 0.99) == 2.0
    assert quantile({}, 0.5) is None


def test_the_report_tells_what_is_met_and_what_is_not_and_escapes_what_came_from_outside() -> None:
    drift = length_drift("<script>alert(1)</script>", lengths(0, 900), lengths(1, 900, 6.0))
    document = report_document("http://<b>", [look(0, 5, 995)], drift, ["a note"])
    states = {one["name"]: one["state"] for one in document["objectives"]}
    assert states == {"availability": "missed", "first-token": "missed", "answer": "inconclusive"}
    assert [one["name"] for one in document["objectives"]] == [one.name for one in OBJECTIVES]
    page = report_html(document)
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert "drifted" in page
    assert "http" not in page.replace("http://&lt;b&gt;", "")  # nothing is fetched from elsewhere

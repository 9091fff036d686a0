"""The states that alarms take, against the cases that AWS documents."""

from __future__ import annotations

import pytest

from nexus_llm.errors import UsageError
from nexus_llm.observe.alarms import (
    Metric,
    MetricAlarm,
    State,
    Treatment,
    composite_holds,
    evaluate,
    history,
    is_low_sample,
    points,
    statistic,
)
from nexus_llm.observe.metric_math import evaluated

TREATMENTS: tuple[Treatment, ...] = ("missing", "ignore", "breaching", "notBreaching")
KEPT = "kept"
LACKING = "INSUFFICIENT_DATA"
# CloudWatch user guide, alarms-and-missing-data.html, tables of "How alarm state is evaluated when data is missing":
# newest point right, 0 not breaching, X breaching, - missing; then the state for each treatment above.
THREE_OF_THREE = {
    "0 - X - X": ("OK", "OK", "OK", "OK"),
    "0 - - - -": ("OK", "OK", "OK", "OK"),
    "- - - - -": (LACKING, KEPT, "ALARM", "OK"),
    "0 X X - X": ("ALARM", "ALARM", "ALARM", "ALARM"),
    "- - X - -": ("ALARM", KEPT, "ALARM", "OK"),
}
TWO_OF_THREE = {
    "0 - X - X": ("ALARM", "ALARM", "ALARM", "ALARM"),
    "0 0 X 0 X": ("ALARM", "ALARM", "ALARM", "ALARM"),
    "0 - X - -": ("OK", "OK", "ALARM", "OK"),
    "- - - - 0": ("OK", "OK", "ALARM", "OK"),
    "- - - X -": ("ALARM", KEPT, "ALARM", "OK"),
}
# The same page, "Avoiding premature transitions to alarm state": 3 of 3, missing data missing.
NOT_YET = ("- - - - X", "- - - X -", "- - - X 0", "- - X - 0")


def alarm(needed: int, most: int, treatment: Treatment = "missing") -> MetricAlarm:
    metric = Metric("value", "N", "M", (), "Sum")
    return MetricAlarm("a", (metric,), "value", "GreaterThanThreshold", 5, 60, most, needed, treatment)


def read(line: str) -> list[float | None]:
    return [{"-": None, "0": 0.0, "X": 9.0}[one] for one in line.split()]


@pytest.mark.parametrize("previous", ["OK", "ALARM", "INSUFFICIENT_DATA"])
@pytest.mark.parametrize(
    ("needed", "line", "expected"),
    [(3, *row) for row in THREE_OF_THREE.items()] + [(2, *row) for row in TWO_OF_THREE.items()],
)
def test_the_documented_tables_hold(needed: int, line: str, expected: tuple[str, ...], previous: State) -> None:
    for treatment, state in zip(TREATMENTS, expected, strict=True):
        found = evaluate(alarm(needed, 3, treatment), read(line), previous=previous)
        assert found == (previous if state == KEPT else state), treatment


@pytest.mark.parametrize("line", NOT_YET)
def test_one_new_breaching_point_among_missing_ones_is_no_alarm_yet(line: str) -> None:
    assert evaluate(alarm(3, 3), read(line), previous="OK") == "OK"


def test_m_of_n_need_not_be_in_a_row_and_older_ones_do_not_count() -> None:
    assert evaluate(alarm(3, 5), read("X 0 X 0 X")) == "ALARM"
    assert evaluate(alarm(3, 3), read("X X X 0 X X")) == "OK"


def test_a_threshold_itself_breaches_only_where_the_comparison_says_equal() -> None:
    for comparison, state in {
        "GreaterThanThreshold": "OK",
        "GreaterThanOrEqualToThreshold": "ALARM",
        "LessThanThreshold": "OK",
        "LessThanOrEqualToThreshold": "ALARM",
    }.items():
        one = MetricAlarm("a", (), "value", comparison, 5, 60, 1, 1)
        assert evaluate(one, [5.0]) == state


def test_data_that_stops_is_judged_again_until_it_leaves_the_range() -> None:
    """The page's note: the last points are evaluated again for a while after a metric has stopped."""
    states = history(alarm(1, 1, "notBreaching"), read("X - - - -"))
    assert states == ["ALARM", "ALARM", "ALARM", "OK", "OK"]


def test_overlapping_periods_are_compared_a_whole_period_apart() -> None:
    assert history(alarm(2, 2), read("X X X"), stride=2)[-1] == "ALARM"
    assert history(alarm(2, 2), read("0 X X"), stride=2)[-1] == "OK"


def test_percentiles_wait_for_samples_as_documented() -> None:
    """percentiles-with-low-samples.html: fewer than 1000 samples for p99."""
    assert (is_low_sample(99, 999), is_low_sample(99, 1000)) == (True, False)
    assert (is_low_sample(95, 199), is_low_sample(95, 200)) == (True, False)
    assert (is_low_sample(10, 99), is_low_sample(10, 100)) == (True, False)


def test_statistics_of_a_period() -> None:
    samples = [float(one) for one in range(1, 101)]
    expected = {
        "Sum": 5050,
        "Average": 50.5,
        "Minimum": 1,
        "Maximum": 100,
        "SampleCount": 100,
        "p95": 95,
        "PR(:20)": 20,
    }
    assert {name: statistic(samples, name) for name in expected} == expected
    with pytest.raises(UsageError, match="IQM"):
        statistic(samples, "IQM")


# using-metric-math.html: the tables below "Comparison and logical operators" and "Using IF expressions".
MATHS = {
    "metric1 < metric2": ([30, 20, 0, 0], [20, None, 20, None], None, [0, 0, 1, 0]),
    "metric1 >= 30": ([30, 20, 0, 0], None, None, [1, 0, 0, 0]),
    "metric1 > 15 AND metric2 > 15": ([30, 20, 0, 0], [20, None, 20, None], None, [1, 0, 0, 0]),
    "IF(metric1, metric2, metric3)": (
        [1, 1, 0, 0, None],
        [30, None, 0, 0, 30],
        [0, 0, 20, None, 20],
        [30, 0, 20, None, None],
    ),
    "IF(metric1, 5, metric3)": ([1, 1, 0, 0, None], None, [0, 0, 20, None, 20], [5, 5, 20, None, None]),
    "IF(metric1, metric2, 5)": ([1, 1, 0, 0, None], [30, None, 0, 0, 30], None, [30, 0, 5, 5, None]),
    # The same page: missing values are 0 in arithmetic, and a point that would divide by zero is dropped.
    "metric1 + metric2": ([1, None, None], [1, 2, None], None, [2, 2, None]),
    "metric1 / metric2": ([1, None, 3], [2, 2, 0], None, [0.5, 0, None]),
    "-metric1 * 2 || 0": ([1, 0], None, None, [1, 0]),
    "FILL(metric1, 7)": ([1, None], None, None, [1, 7]),
}


@pytest.mark.parametrize("expression", MATHS)
def test_the_documented_expressions_hold(expression: str) -> None:
    *series, expected = MATHS[expression]
    named = {f"metric{number}": one for number, one in enumerate(series, 1) if one is not None}
    assert evaluated(expression, named) == expected


@pytest.mark.parametrize("expression", ["RATE(m)", "m +", "n", "FILL(m, REPEAT)", "1 < m < 2", "__import__('os')"])
def test_what_is_not_known_is_refused_and_not_guessed(expression: str) -> None:
    with pytest.raises(UsageError, match="cannot be evaluated"):
        evaluated(expression, {"m": [1.0]})


def test_an_alarm_on_an_expression_sees_what_its_metrics_sent() -> None:
    metrics = (Metric("errors", "N", "Errors", (), "Sum"), Metric("all", "N", "All", (), "Sum"))
    rate = MetricAlarm("a", metrics, "100 * FILL(errors, 0) / all", "GreaterThanThreshold", 5, 60, 1, 1)
    assert points(rate, {"Errors": [[], [1.0]], "All": [[1.0, 1.0], [1.0, 1.0]]}) == [0.0, 50.0]


def test_composite_alarms_combine_states() -> None:
    """PutCompositeAlarm: names with or without quotes, AND before OR, NOT, and both constants."""
    states: dict[str, State] = {"a b": "ALARM", "c": "OK", "d": "INSUFFICIENT_DATA"}
    assert composite_holds('ALARM("a b") AND NOT ALARM(c)', states)
    assert composite_holds('ALARM(c) AND ALARM(d) OR ALARM("a b")', states)
    assert not composite_holds('ALARM("a b") AND (OK(d) OR FALSE)', states)
    assert composite_holds("INSUFFICIENT_DATA(d) AND TRUE", states)
    for rule in ("ALARM(nobody)", "ALARM(c) AND", "c"):
        with pytest.raises(UsageError):
            composite_holds(rule, states)

"""Windows of a minute are exact wherever they begin, and money never drifts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_llm.serve.access.limits import (
    Hold,
    Limits,
    Meter,
    Prices,
    Refusal,
    Second,
    admit,
    at_time,
    month_of,
    settle,
    standing,
)

NOON = 1_795_348_800.0
MONTH = month_of(NOON)
waits = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 60)), min_size=1, max_size=80)


def admitted(meter: Meter, limits: Limits, now: float, *, tokens: int = 1, nano_usd: int = 0) -> tuple[Meter, Hold]:
    decision = admit(meter, limits, tokens=tokens, nano_usd=nano_usd, now=now)
    assert not isinstance(decision, Refusal), decision
    return decision


def refused(meter: Meter, limits: Limits, now: float, *, tokens: int = 1, nano_usd: int = 0) -> Refusal:
    decision = admit(meter, limits, tokens=tokens, nano_usd=nano_usd, now=now)
    assert isinstance(decision, Refusal)
    return decision


@settings(max_examples=40)
@given(waits, st.integers(1, 12), st.integers(1, 100))
def test_no_sixty_seconds_ever_hold_more_than_the_limits(
    asked: list[tuple[float, int]], requests: int, tokens: int
) -> None:
    limits, meter, now = Limits(requests, tokens), Meter(month=MONTH), NOON
    passed: list[tuple[float, int]] = []
    for wait, wanted in asked:
        now += wait
        decision = admit(meter, limits, tokens=wanted, nano_usd=0, now=now)
        if not isinstance(decision, Refusal):
            meter = decision[0]
            passed.append((now, wanted))
    for begin, _ in passed:
        inside = [amount for at, amount in passed if begin <= at < begin + 60]
        assert len(inside) <= requests
        assert sum(inside) <= tokens
    assert len(meter.seconds) <= 61


@settings(max_examples=40)
@given(waits, st.integers(1, 12), st.integers(60, 100))
def test_whoever_waits_as_long_as_told_is_let_in(asked: list[tuple[float, int]], requests: int, tokens: int) -> None:
    limits, meter, now = Limits(requests, tokens), Meter(month=MONTH), NOON
    for wait, wanted in asked:
        now += wait
        decision = admit(meter, limits, tokens=wanted, nano_usd=0, now=now)
        while isinstance(decision, Refusal):
            assert decision.retry_after_seconds is not None
            assert decision.retry_after_seconds <= 61
            now += decision.retry_after_seconds
            decision = admit(meter, limits, tokens=wanted, nano_usd=0, now=now)
        meter = decision[0]


def test_tokens_that_were_reserved_and_not_used_come_back() -> None:
    limits = Limits(tokens_per_minute=100)
    meter, hold = admitted(Meter(month=MONTH), limits, NOON, tokens=90)
    assert refused(meter, limits, NOON + 1, tokens=20).reason == "tokens"
    meter = settle(meter, hold, tokens=30, nano_usd=0)
    assert standing(meter, limits, NOON + 1).tokens.remaining == 70  # type: ignore[union-attr]
    admitted(meter, limits, NOON + 1, tokens=70)


def test_a_request_larger_than_the_limit_is_told_that_waiting_does_not_help() -> None:
    refusal = refused(Meter(month=MONTH), Limits(tokens_per_minute=10), NOON, tokens=11)
    assert refusal == Refusal("too_large", None)


def test_a_budget_holds_what_requests_under_way_may_still_cost() -> None:
    limits = Limits(nano_usd_per_month=100)
    meter, hold = admitted(Meter(month=MONTH), limits, NOON, nano_usd=80)
    assert refused(meter, limits, NOON, nano_usd=30) == Refusal("budget_held", 1.0)
    meter = settle(meter, hold, tokens=0, nano_usd=60)
    admitted(meter, limits, NOON, nano_usd=30)
    assert refused(meter, limits, NOON, nano_usd=50) == Refusal("budget", None)


def test_a_budget_that_is_spent_admits_nothing_even_if_it_is_free() -> None:
    meter = Meter(month=MONTH, spent_nano_usd=100)
    assert refused(meter, Limits(nano_usd_per_month=100), NOON, nano_usd=0).reason == "budget"


def test_a_request_of_last_month_that_ends_now_is_not_paid_from_this_budget() -> None:
    old = Hold(int(NOON) - 40 * 86_400, tokens=5, nano_usd=70)
    meter = Meter(month=MONTH, spent_nano_usd=1, held_nano_usd=2)
    settled = settle(meter, old, tokens=5, nano_usd=60)
    assert (settled.spent_nano_usd, settled.held_nano_usd) == (1, 2)


def test_a_clock_that_was_an_hour_ahead_blocks_for_a_minute_and_not_for_an_hour() -> None:
    limits = Limits(requests_per_minute=1)
    meter, _ = admitted(Meter(month=MONTH), limits, NOON + 3_600)
    refusal = refused(meter, limits, NOON)
    assert refusal.retry_after_seconds == 61
    assert at_time(meter, NOON).seconds == (Second(int(NOON), 1, 1),)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), max_size=20))
def test_costs_are_rounded_up_and_never_by_more_than_a_billionth(asked: list[tuple[int, int]]) -> None:
    for prompt, completion in asked:
        cost = Prices(0.037, 0.2).nano_usd(prompt_tokens=prompt, completion_tokens=completion)
        assert 0 <= cost - (prompt * 37 + completion * 200) <= 1


@pytest.mark.parametrize(("now", "reset"), [(NOON, 61), (NOON + 60.5, 1), (NOON + 61, 0)])
def test_the_reset_is_told_to_the_second(now: float, reset: int) -> None:
    limits = Limits(requests_per_minute=5)
    meter, _ = admitted(Meter(month=MONTH), limits, NOON)
    told = standing(meter, limits, now).requests
    assert told is not None
    assert told.reset_seconds == reset
    assert told.remaining == (4 if reset else 5)

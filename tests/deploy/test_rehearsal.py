"""The steps of a rehearsal, and its page: a failure is named, what cleans up runs all the same."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from nexus_llm.deploy.rehearsal import STEPS, FaultMet, Outcome, Step, document, holds, rehearse
from nexus_llm.deploy.rehearsal_page import page
from nexus_llm.errors import DeploymentError

UP = Step("up", "make it", "terraform", "the account")
JOB = Step("job", "run it", "Spark", "", ("up",))
DOWN = Step("down", "take it down", "the search", "the account")
MET = FaultMet("kms:CreateKey denied", "it is named", 1)


def lived(*, up: Any = dict, job: Any = dict, down: Any = dict, requested: Any = lambda: None) -> list[Outcome]:
    ticks = iter(range(100))
    return rehearse(
        (UP, JOB, DOWN),
        {"up": up, "job": job, "down": down},
        clock=lambda: float(next(ticks)),
        requested=requested,
        tell=lambda line: None,
    )


def refused() -> Any:
    raise DeploymentError("AWS refused <b>it</b>", fix="ask AWS")


def broken() -> Any:
    raise KeyError("serving")


def test_a_failed_step_is_named_what_needs_it_is_not_reached_and_what_cleans_up_still_runs() -> None:
    cleaned: list[str] = []
    ends = lived(up=refused, down=lambda: cleaned.append("down") or {"left": 0})
    assert [one.verdict for one in ends] == ["failed", "not reached", "done"]
    assert (ends[0].error, ends[0].fix, ends[1].error) == ("AWS refused <b>it</b>", "ask AWS", "it needs up")
    assert cleaned == ["down"]
    assert not holds(ends, [])


def test_a_fault_of_our_own_in_a_step_ends_that_step_alone() -> None:
    ends = lived(job=broken)
    assert [one.verdict for one in ends] == ["done", "failed", "done"]
    assert ends[1].error == "KeyError: 'serving'"


def test_who_asks_to_stop_ends_it_before_the_next_step() -> None:
    asked = iter([None, "SIGINT", "SIGINT"])
    ends = lived(requested=lambda: next(asked))
    assert [one.verdict for one in ends] == ["done", "not reached", "not reached"]
    assert ends[1].error == "stopped by SIGINT"


def test_a_step_aside_goes_on_beside_those_that_do_not_need_it_and_the_last_waits_for_it() -> None:
    met, order = threading.Event(), list[str]()

    def waits() -> dict[str, Any]:
        assert met.wait(30)
        order.append("aside")
        return {}

    steps = (
        UP,
        replace(JOB, is_aside=True),
        Step("beside", "meet it", "", ""),
        Step("after", "", "", "", ("job",)),
        DOWN,
    )
    works = {
        "up": dict,
        "job": waits,
        "beside": lambda: met.set() or {},
        "after": lambda: order.append("after") or {},
        "down": lambda: order.append("down") or {},
    }
    ends = rehearse(steps, works, clock=time.monotonic, requested=lambda: None, tell=lambda line: None)
    assert [one.step.name for one in ends] == ["up", "job", "beside", "after", "down"]
    assert {one.verdict for one in ends} == {"done"}
    assert order == ["aside", "after", "down"]
    told = document(ends, [])
    assert told["seconds"] == pytest.approx(ends[-1].began_at + ends[-1].seconds, abs=0.1)


def test_what_needs_a_step_aside_that_failed_is_not_reached() -> None:
    works = {"up": dict, "job": broken, "after": dict, "down": dict}
    steps = (UP, replace(JOB, is_aside=True), Step("after", "", "", "", ("job",)), DOWN)
    ends = rehearse(steps, works, clock=time.monotonic, requested=lambda: None, tell=lambda line: None)
    assert [one.verdict for one in ends] == ["done", "failed", "not reached", "done"]


def test_a_fault_that_never_happened_was_not_survived() -> None:
    ends = lived()
    assert holds(ends, [MET])
    assert not holds(ends, [MET, FaultMet("glue:GetJobRun throttled", "it waits", 0)])


def test_every_step_needs_only_what_comes_before_it_and_taking_down_needs_nothing() -> None:
    for number, step in enumerate(STEPS):
        assert set(step.needs) <= {one.name for one in STEPS[:number]}
    assert (STEPS[-1].name, STEPS[-1].needs) == ("down", ())


@pytest.fixture
def shown() -> str:
    ends = lived(up=lambda: {"resources made": 278, "destroyed": {"0-state": 3}}, job=refused)
    left = {"kind": "public address", "id": "eip-1", "usd_per_hour": 0.005, "note": ""}
    receipt = {
        "destroyed": {"0-state": 3},
        "left": [left],
        "not_asked": [],
        "pending_deletion": [],
        "usd_per_hour": 0.005,
    }
    return page(
        document(
            ends,
            [MET],
            date="2026-11-22",
            recipe="recipe.yaml",
            machine="2 cores",
            emulator="moto 5.2",
            shortened="12 steps",
            usd_per_month=200.58,
            rests_on_patches=[{"kind": "aws_kms_key", "reason": "moto forgets the period"}],
            known_gaps=[{"stage": "1-platform", "what": "aws_thing.colour", "reason": "forgotten"}],
            ledger=[{"at": "2026-11-22T10:00:00+00:00", "stage": "0-state", "action": "apply", "event": "intent"}],
            receipts=[receipt],
        )
    )


def test_the_page_says_what_was_real_what_was_emulated_what_failed_and_what_is_left(shown: str) -> None:
    for words in (
        "not every step was done", "Spark", "the account", "resources made", "kms:CreateKey denied", "once",
        "1 left, 0.0050 USD an hour", "eip-1", "aws_kms_key", "aws_thing.colour", "What cannot be proved here",
        "200.58 USD", "ask AWS",
    ):  # fmt: skip
        assert words in shown, words


def test_the_page_stands_alone_and_takes_no_text_for_markup(shown: str) -> None:
    assert "AWS refused &lt;b&gt;it&lt;/b&gt;" in shown
    assert not re.search(r"<script|<link|https?://|src=", shown)

"""The rollout's state machine and its driver: what is turned back, what goes on, and what a kill leaves behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.deploy.rollout import (
    STEPS,
    Health,
    Judgement,
    Lane,
    Limits,
    Plan,
    Rollout,
    Seen,
    after,
    judge_health,
)
from nexus_llm.deploy.rollout_driver import Hands, RolloutFolder, drive
from nexus_llm.errors import DeploymentError, PreflightError, TryAgainError, UsageError

PLAN = Plan("local", "http://here", "/models/new", canary_seconds=10, bake_seconds=20)
GOOD = Health(Lane(100, 0, 0.1), Lane(900, 0, 0.1))


class Scripted:
    """A target that does what it is told, and writes down what it was asked."""

    def __init__(self, **failures: Exception) -> None:
        self.failures, self.calls, self.seen = failures, [], GOOD
        self.unhealthy_in: str | None = None

    def advance(self, rollout: Rollout) -> dict[str, Any] | None:
        self.calls.append(rollout.step)
        if rollout.step in self.failures:
            raise self.failures[rollout.step]
        return {"load_seconds": 2.0, "warm_seconds": 1.0} if rollout.step == "warm" else {}

    def health(self, rollout: Rollout) -> Health:
        return Health(Lane(50, 40, 0.1)) if rollout.step == self.unhealthy_in else self.seen

    def turn_back(self, rollout: Rollout) -> dict[str, Any] | None:
        self.calls.append("back")
        return {"how": "blue was warm"}


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def hands(time: Time, verdict: str = "pass", **more: Any) -> Hands:
    check = lambda _: Judgement(verdict, "said so")  # type: ignore[arg-type]  # noqa: E731
    return Hands(check, now=lambda: time.now, sleep=time.sleep, **more)


def test_a_sound_model_goes_through_all_steps_and_each_lasts_as_long_as_planned(tmp_path: Path) -> None:
    target, time, folder = Scripted(), Time(), RolloutFolder(tmp_path)
    done = drive(folder.begin(PLAN, now=time.now), target, folder, hands(time))
    assert done.status == "done"
    assert list(done.facts) == list(STEPS)
    assert done.facts["canary"]["seconds"] >= 10
    assert done.facts["bake"]["seconds"] >= 20
    assert "back" not in target.calls
    assert folder.last() == done


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_worse_answers_and_answers_that_cannot_be_told_apart_never_get_traffic(tmp_path: Path, verdict: str) -> None:
    target, time = Scripted(), Time()
    done = drive(Rollout("0001", PLAN, began_at=time.now), target, RolloutFolder(tmp_path), hands(time, verdict))
    assert (done.status, done.verdict) == ("rolled_back", verdict)
    assert target.calls == ["stage", "preflight", "warm", "back"]


@pytest.mark.parametrize("step", ["canary", "shift", "bake"])
def test_failures_turn_back_from_every_step_with_traffic(tmp_path: Path, step: str) -> None:
    target, time = Scripted(), Time()
    target.unhealthy_in = step
    done = drive(Rollout("0001", PLAN, began_at=time.now), target, RolloutFolder(tmp_path), hands(time))
    assert done.status == "rolled_back"
    assert "40 of green's 50 requests failed" in done.reason
    assert target.calls[-2:] == [step, "back"]


def test_a_target_that_breaks_after_the_start_is_turned_back_and_before_it_only_says_so(tmp_path: Path) -> None:
    time, folder = Time(), RolloutFolder(tmp_path)
    broken = Scripted(shift=DeploymentError("gone", fix="read the log"))
    assert drive(folder.begin(PLAN, now=0), broken, folder, hands(time)).reason == "gone (read the log)"
    refusing = Scripted(preflight=PreflightError("no memory", fix="-"))
    with pytest.raises(PreflightError):
        drive(folder.begin(PLAN, now=0), refusing, folder, hands(time))
    assert "back" not in refusing.calls
    last = folder.last()
    assert last is not None
    assert (last.id, last.status) == ("0002", "rolled_back")


@pytest.mark.parametrize("step", STEPS)
def test_a_rollout_that_was_killed_in_any_step_goes_on_from_there(tmp_path: Path, step: str) -> None:
    time, folder = Time(), RolloutFolder(tmp_path)
    killed = Scripted(**{step: KeyboardInterrupt()})  # type: ignore[arg-type]
    if step == "check":
        kill: Any = lambda _: (_ for _ in ()).throw(KeyboardInterrupt())  # noqa: E731
        begun = replace(hands(time), check=kill)
    else:
        begun = hands(time)
    with pytest.raises(KeyboardInterrupt):
        drive(folder.begin(PLAN, now=time.now), killed, folder, begun)
    again = folder.begin(PLAN, now=time.now)
    assert (again.id, again.step) == ("0001", step)
    target = Scripted()
    done = drive(again, target, folder, hands(time))
    assert done.status == "done"
    assert list(done.facts) == list(STEPS)
    assert target.calls[:1] == ([step] if step != "check" else ["canary"])


def test_a_rollout_that_was_killed_on_its_way_back_goes_on_going_back(tmp_path: Path) -> None:
    time, folder, target = Time(), RolloutFolder(tmp_path), Scripted()
    asked = iter([None] * 4 + ["SIGINT"] * 9)  # it stops once it turns back
    with pytest.raises(TryAgainError):
        drive(folder.begin(PLAN, now=time.now), target, folder, hands(time, "fail", stop_requested=lambda: next(asked)))
    again = folder.begin(PLAN, now=time.now)
    assert (again.id, again.status) == ("0001", "rolling_back")
    done = drive(again, target, folder, hands(time))
    assert (done.status, done.reason) == ("rolled_back", "said so")


def test_who_asks_to_stop_is_told_how_to_go_on_and_another_model_has_to_wait(tmp_path: Path) -> None:
    time, folder = Time(), RolloutFolder(tmp_path)
    asked = iter([None, None, None, "SIGINT"])
    with pytest.raises(TryAgainError, match="SIGINT in the step check"):
        drive(folder.begin(PLAN, now=0), Scripted(), folder, hands(time, stop_requested=lambda: next(asked)))
    with pytest.raises(UsageError, match=r"/models/new .* is not over \(check\)"):
        folder.begin(replace(PLAN, model="/models/other"), now=0)
    with folder.locked(), pytest.raises(TryAgainError), folder.locked():
        pass


def test_who_wants_the_old_model_back_need_not_wait_for_the_command_that_drives(tmp_path: Path) -> None:
    time, folder, target = Time(), RolloutFolder(tmp_path), Scripted()

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if time.now > 1020:  # while it bakes
            folder.ask_back()

    with folder.locked():
        done = drive(folder.begin(PLAN, now=time.now), target, folder, replace(hands(time), sleep=sleep))
    assert (done.status, done.reason, done.step) == ("rolled_back", "nexus rollback", "bake")
    with folder.locked():  # what was asked of an earlier one does not hold for the next
        assert not folder.is_asked_back()


def test_a_step_without_an_end_is_given_up_and_a_slow_start_is_beyond_its_budget() -> None:
    warm = Rollout("0001", replace(PLAN, limits=Limits(cold_start_seconds=60)), step="warm", began_at=100.0)
    assert after(warm, Seen(), now=150.0) is warm
    assert after(warm, Seen(), now=161.0).reason == "warm was not over after 61 s"
    slow = after(warm, Seen({"pull_seconds": 40, "load_seconds": 30, "warm_seconds": None}), now=150.0)
    assert slow.status == "rolling_back"
    assert slow.reason == "the cold start took 70.0 s (pull 40.0, load 30.0); 60 s may be"


@pytest.mark.parametrize(
    ("green", "blue", "verdict"),
    [
        (Lane(0, 0, None), Lane(50, 0, 0.1), "inconclusive"),
        (Lane(100, 1, 0.1), Lane(900, 9, 0.1), "pass"),
        (Lane(2, 2, None), Lane(20, 0, 0.1), "fail"),
        (Lane(100, 8, 0.1), Lane(900, 0, 0.1), "fail"),
        (Lane(100, 0, 1.9), Lane(900, 0, 0.1), "pass"),  # both are fast enough
        (Lane(100, 0, 5.0), Lane(900, 0, 4.5), "pass"),  # blue is as slow: not green's fault
        (Lane(100, 0, 5.0), Lane(900, 0, 3.0), "fail"),
        (Lane(19, 0, 9.0), Lane(900, 0, 0.1), "pass"),  # a 95th percentile of 19 is one request
    ],
)
def test_health_is_judged_against_chance_and_against_blue(green: Lane, blue: Lane, verdict: str) -> None:
    assert judge_health(Health(green, blue), Limits()).verdict == verdict


def test_an_alarm_decides_where_the_target_has_its_own() -> None:
    assert judge_health(Health(alarm="late"), Limits()).reason == "the alarm late fired"
    assert judge_health(Health(), Limits()).verdict == "pass"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, {}]),
            st.sampled_from([None, "pass", "inconclusive", "fail"]),
            st.floats(0, 100),
        ),
        max_size=60,
    )
)
def test_whatever_is_seen_green_keeps_everything_only_after_a_passed_check(
    looks: list[tuple[dict[str, Any] | None, Any, float]],
) -> None:
    rollout, now = Rollout("0001", PLAN), 0.0
    for facts, verdict, seconds in looks:
        now += seconds
        judgement = Judgement(verdict, "-") if verdict else None
        if rollout.step == "check" and rollout.status == "running" and facts is not None:
            judgement = judgement or Judgement("pass", "-")
        before, rollout = rollout, after(rollout, Seen(facts, judgement), now=now)
        assert STEPS.index(rollout.step) - STEPS.index(before.step) in (0, 1)
        assert not before.is_over or rollout == before
        if before.status == "rolling_back":
            assert rollout.status in ("rolling_back", "rolled_back")
    if STEPS.index(rollout.step) > STEPS.index("check"):
        assert rollout.facts["check"]["verdict"] == "pass"

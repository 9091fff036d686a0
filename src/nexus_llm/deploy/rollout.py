"""A new model takes over from the old one: one state machine for every place where models run. Pure.

    stage → preflight → warm → check → canary → shift → bake → drain → done
                                 └──────┴─ a gate fails ─┴→ rolling_back → rolled_back

Blue is what answers, green what shall. A target brings each step about (`Target`); `after` decides what comes next by
what was seen. A rollout is a value that is written down before each step begins, so whoever reads it goes on, or back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

Step = Literal["stage", "preflight", "warm", "check", "canary", "shift", "bake", "drain"]
STEPS: tuple[Step, ...] = ("stage", "preflight", "warm", "check", "canary", "shift", "bake", "drain")
"""stage: green is put where it will run. preflight: nothing is known that would fail later. warm: weights are loaded,
one question was answered. check: the same token ids, and answers as good as blue's. canary: a share of the requests.
shift: all of them. bake: blue stays warm. drain: blue ends with its last answer."""
Status = Literal["running", "rolling_back", "rolled_back", "done"]
Verdict = Literal["pass", "inconclusive", "fail"]
CHANCE = 0.001  # of turning back a sound green at one look: health is looked at often
FEWEST_TIMES = 20  # a 95th percentile of fewer is the slowest of them
PATIENCE_SECONDS = 3_600.0  # for a step without a time of its own, such as a balancer's shift


@dataclass(frozen=True, slots=True)
class Limits:
    """What green may do before it is turned back."""

    error_share: float = 0.01
    """Of its requests that fail by the server's fault."""
    first_token_seconds: float = 2.0
    """95th percentile that is always allowed: `nexus_llm.observe`'s objective."""
    first_token_ratio: float = 1.2
    """Above that, as a multiple of blue's in the same time."""
    cold_start_seconds: float = 300.0
    """From staged to the first answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall be rolled out, and how carefully."""

    target: str
    """`local`, `ecs` or `sagemaker`."""
    service: str
    """The address, service or endpoint that blue answers at."""
    model: str
    """What green is: a package folder, an image or a model's location."""
    canary_share: float = 0.1
    canary_seconds: float = 60.0
    bake_seconds: float = 300.0
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a gate says."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One colour's requests so far."""

    requests: int
    failures: int
    ttft_p95_seconds: float | None


@dataclass(frozen=True, slots=True)
class Health:
    """Both colours over the same time; `alarm` names one that fired, where the target has alarms of its own."""

    green: Lane | None = None
    """None: not told by this target, which has alarms."""
    blue: Lane | None = None
    alarm: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the current step showed."""

    facts: dict[str, Any] | None = None
    """Of the step once it is over; None while it is under way."""
    judgement: Judgement | None = None
    """Of the step's gate; None where nobody was asked."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout as it is written down."""

    id: str
    plan: Plan
    step: Step = "stage"
    status: Status = "running"
    began_at: float = 0.0
    """Of the current step, seconds since 1970."""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Step → what came of it, with its `seconds`."""
    verdict: Verdict | None = None
    """Of the gate that decided; None while nothing is decided."""
    reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.status in ("rolled_back", "done")


class Target(Protocol):
    """A place where models run. Each call does what can be done at once and may be repeated without harm: a rollout
    that was killed asks again."""

    def advance(self, rollout: Rollout) -> dict[str, Any] | None:
        """Brings about what `rollout.step` says; its facts once that is so, None while it is under way.

        Raises:
            NexusError: it cannot be.
        """

    def health(self, rollout: Rollout) -> Health:
        """How both colours do since the canary began."""

    def turn_back(self, rollout: Rollout) -> dict[str, Any] | None:
        """Gives blue everything again, and ends green; facts once that is so, None while it is under way.

        Raises:
            NexusError: it cannot be.
        """


def after(rollout: Rollout, seen: Seen, *, now: float) -> Rollout:
    """The rollout after one look, at `now` seconds since 1970; the same one while the step is under way."""
    if rollout.is_over or (rollout.status == "rolling_back" and seen.facts is None):
        return rollout
    if rollout.status == "rolling_back":
        return _noted(replace(rollout, status="rolled_back"), "rollback", seen, now)
    why = _why_back(rollout, seen, seconds=now - rollout.began_at)
    if why is not None:
        return turned_back(rollout, why, now=now)
    if seen.facts is None or now - rollout.began_at < watched_seconds(rollout):
        return rollout
    noted = _noted(rollout, rollout.step, seen, now)
    if rollout.step == STEPS[-1]:
        return replace(noted, status="done", verdict="pass")
    return replace(noted, step=STEPS[STEPS.index(rollout.step) + 1])


def turned_back(rollout: Rollout, why: Judgement, *, now: float) -> Rollout:
    """The rollout on its way back."""
    return replace(rollout, status="rolling_back", verdict=why.verdict, reason=why.reason, began_at=now)


def judge_health(health: Health, limits: Limits) -> Judgement:
    """Whether green may go on: no alarm, no more failures than allowed, no later first tokens than blue's.

    Inconclusive where green had no request yet: then nobody knows, and nobody was hurt.
    """
    if health.alarm is not None:
        return Judgement("fail", f"the alarm {health.alarm} fired")
    green, blue = health.green, health.blue
    if green is None:
        return Judgement("pass", "no alarm fired")
    if not green.requests:
        return Judgement("inconclusive", "green had no request")
    if _chance(green.failures, green.requests, limits.error_share) < CHANCE:
        return Judgement(
            "fail",
            f"{green.failures} of green's {green.requests} requests failed; {limits.error_share:.1%} may",
        )
    has_times = green.requests >= FEWEST_TIMES and green.ttft_p95_seconds is not None
    blues = blue.ttft_p95_seconds if blue is not None and blue.requests >= FEWEST_TIMES else None
    most = max(limits.first_token_seconds, (blues or 0.0) * limits.first_token_ratio)
    if has_times and (green.ttft_p95_seconds or 0.0) > most:
        return Judgement(
            "fail", f"the 95th percentile of green's first token is {green.ttft_p95_seconds:.2f} s; {most:.2f} s may be"
        )
    return Judgement("pass", f"{green.requests} requests, {green.failures} failed")


def judge_cold_start(phases: dict[str, Any], limits: Limits) -> Judgement:
    """The phases `pull_seconds`, `load_seconds`, `warm_seconds` (null: not told) together against their budget."""
    told = {name: float(phases[name]) for name in _PHASES if phases.get(name) is not None}
    total = sum(told.values())
    words = f"{total:.1f} s ({', '.join(f'{name[:-8]} {seconds:.1f}' for name, seconds in told.items())})"
    if total > limits.cold_start_seconds:
        return Judgement("fail", f"the cold start took {words}; {limits.cold_start_seconds:g} s may be")
    return Judgement("pass", f"the cold start took {words}")


_PHASES = ("pull_seconds", "load_seconds", "warm_seconds")


def watched_seconds(rollout: Rollout) -> float:
    """How long a step lasts at least, because green is watched."""
    return {"canary": rollout.plan.canary_seconds, "bake": rollout.plan.bake_seconds}.get(rollout.step, 0.0)


def patience(rollout: Rollout) -> float:
    """After how many seconds a step that is still under way counts as failed."""
    if rollout.step == "warm":
        return rollout.plan.limits.cold_start_seconds
    return PATIENCE_SECONDS + watched_seconds(rollout)


def _why_back(rollout: Rollout, seen: Seen, *, seconds: float) -> Judgement | None:
    """Why green must go; None while it may stay. Requests that did not come decide nothing, answers that could not be
    told apart do."""
    said = seen.judgement
    if rollout.step == "warm" and seen.facts is not None:
        said = judge_cold_start(seen.facts, rollout.plan.limits)
    if seen.facts is None and seconds > patience(rollout):
        said = said or Judgement("fail", f"{rollout.step} was not over after {seconds:.0f} s")
    allowed = ("pass",) if rollout.step == "check" else ("pass", "inconclusive")
    return None if said is None or said.verdict in allowed else said


def _noted(rollout: Rollout, name: str, seen: Seen, now: float) -> Rollout:
    said = {} if seen.judgement is None else {"verdict": seen.judgement.verdict, "reason": seen.judgement.reason}
    facts = {**(seen.facts or {}), **said, "seconds": round(now - rollout.began_at, 3)}
    return replace(rollout, facts={**rollout.facts, name: facts}, began_at=now)


def _chance(failures: int, requests: int, share: float) -> float:
    """How likely so many failures or more are, if `share` of all requests fail: the binomial distribution's tail.

    >>> round(_chance(2, 2, 0.01), 6), _chance(0, 50, 0.01)
    (0.0001, 1.0)
    """
    if not failures or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    ways = math.lgamma(requests + 1)
    return min(1.0, sum(
        math.exp(
            ways - math.lgamma(count + 1) - math.lgamma(requests - count + 1)
            + count * math.log(share) + (requests - count) * math.log1p(-share)
        )
        for count in range(failures, requests + 1)
    ))  # fmt: skip

"""The scaling policies with the numbers of infra/, against traces: enough tasks in time, no flapping, no stream cut.

Application Auto Scaling as its user guide has it (read 2026-11): target tracking adds tasks in proportion after 3
minutes above the target, and takes some away after 15 minutes below 0.9 of it, if every policy that may scale in
agrees; a step policy adds what it says. How many tasks go at once is not documented: proportion, the worst case, is
taken. The service is a queue: a task answers so many requests at once, each as long as the others.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

MODULES = Path(__file__).parents[2] / "infra" / "modules"
SCALING = (MODULES / "serving-scaling" / "scaling.tf").read_text(encoding="utf-8")
VARIABLES = (MODULES / "serving-scaling" / "variables.tf").read_text(encoding="utf-8")
COLD_START_MINUTES = 5
ANSWER_MINUTES = 0.25
ALARM_LOW_MINUTES = 15  # of target tracking, user guide
ALARM_HIGH_MINUTES = 3


def block(name: str, text: str = SCALING) -> str:
    """A resource or variable by its name."""
    found = re.search(rf'^(?:resource "\w+"|variable) "{name}" {{\n(.*?)^}}', text, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def number(name: str, text: str) -> float:
    """The number, or the default of the variable, that a field is set to."""
    found = re.search(rf"\b{name}\s*=\s*(?:var\.(\w+)|([\d.]+))", text)
    assert found, name
    return float(found[2]) if found[2] else number("default", block(found[1], VARIABLES))


def is_true(name: str, text: str) -> bool:
    return bool(re.search(rf"\b{name}\s*=\s*true", text))


@dataclass(frozen=True)
class Tracking:
    """One target tracking policy."""

    metric: str
    target: float
    out_cooldown: float
    in_cooldown: float
    may_scale_in: bool


def trackings() -> list[Tracking]:
    """All that infra/ has."""
    return [
        Tracking(
            re.findall(r'metric_name = "(\w+)"', text)[0],
            number("target_value", text),
            number("scale_out_cooldown", text) / 60,
            number("scale_in_cooldown", text) / 60,
            not is_true("disable_scale_in", text),
        )
        for text in re.findall(r'^resource "aws_appautoscaling_policy" "\w+" {\n(.*?)^}', SCALING, re.M | re.S)
        if "TargetTrackingScaling" in text
    ]


@dataclass
class Service:
    """Tasks, those that start, and who waits."""

    at_once: int
    most: int
    tasks: int
    waiting: float = 0.0
    running: float = 0.0

    def __post_init__(self) -> None:
        self.starting: deque[int] = deque()
        self.changes: list[tuple[int, int]] = []
        self.history: list[tuple[int, float]] = []

    @property
    def wanted(self) -> int:
        return self.tasks + len(self.starting)

    def minute(self, now: int, arriving: float) -> dict[str, float]:
        """One minute of requests; the metrics that CloudWatch gets of it."""
        while self.starting and self.starting[0] <= now:
            self.starting.popleft()
            self.tasks += 1
        can = self.tasks * self.at_once / ANSWER_MINUTES
        asked = self.waiting + arriving
        served = min(asked, can)
        self.waiting = asked - served
        self.running = served * ANSWER_MINUTES
        self.history.append((self.wanted, self.waiting / can))
        each = max(1, self.tasks)
        in_flight = (self.running + self.waiting) / each
        return {"QueueDepth": self.waiting / each, "RequestsInFlight": in_flight, "wait": 60 * self.waiting / can}

    def want(self, now: int, count: int) -> None:
        count = max(1, min(self.most, count))
        if count == self.wanted:
            return
        self.changes.append((now, count - self.wanted))
        while self.wanted < count:
            self.starting.append(now + COLD_START_MINUTES)
        self.tasks -= self.wanted - count


def simulated(load: Callable[[int], float], *, minutes: int, tasks: int = 2, at_once: int = 64) -> Service:
    """A service under `load` requests a minute, with the policies of infra/."""
    service, policies = Service(at_once, 20, tasks), trackings()
    first_token, late = number("default", block("first_token_seconds", VARIABLES)), 0
    late_minutes = number("evaluation_periods", SCALING)
    late_cooldown = number("cooldown", block("first_token", SCALING)) / 60
    high, low = [0] * len(policies), [0] * len(policies)
    last_out = last_in = -math.inf
    for now in range(minutes):
        seen = service.minute(now, load(now))
        late = late + 1 if seen["wait"] > first_token else 0
        for place, policy in enumerate(policies):
            value = seen[policy.metric]
            high[place] = high[place] + 1 if value > policy.target else 0
            low[place] = low[place] + 1 if value < 0.9 * policy.target else 0
        out = [
            math.ceil(service.tasks * seen[policy.metric] / policy.target)
            for place, policy in enumerate(policies)
            if high[place] >= ALARM_HIGH_MINUTES and now - last_out >= policy.out_cooldown
        ]
        if late >= late_minutes and now - last_out >= late_cooldown:
            out.append(service.wanted + 1)
        inward = [
            (low[place] >= ALARM_LOW_MINUTES and now - max(last_in, last_out) >= policy.in_cooldown,
             math.ceil(service.tasks * seen[policy.metric] / policy.target))
            for place, policy in enumerate(policies) if policy.may_scale_in
        ]  # fmt: skip
        if out and max(out) > service.wanted:
            service.want(now, max(out))
            last_out = now
        elif inward and all(ready for ready, _ in inward) and max(count for _, count in inward) < service.wanted:
            service.want(now, max(count for _, count in inward))
            last_in = now
    return service


def turns(service: Service) -> int:
    """How often out follows in or in follows out."""
    signs = [change > 0 for _, change in service.changes]
    return sum(before != after for before, after in itertools.pairwise(signs))


@pytest.mark.parametrize("share", [0.5, 1.5, 2.3, 3.7, 6.1])
def test_a_steady_load_comes_to_rest_and_stays_there(share: float) -> None:
    service = simulated(lambda _: share * 64 / ANSWER_MINUTES, minutes=24 * 60)
    assert turns(service) <= 1, service.changes
    assert all(at < 120 for at, _ in service.changes), service.changes
    assert service.history[-1][1] == 0, "requests wait although there are tasks to be had"


def test_a_day_with_a_noon_and_a_night_goes_up_and_down_once() -> None:
    def load(minute: int) -> float:
        return (0.8 + 3 * (1 - math.cos(2 * math.pi * minute / 1440))) * 64 / ANSWER_MINUTES

    service = simulated(load, minutes=2 * 1440)
    assert turns(service) <= 4, service.changes
    late = sum(waits > 0.5 for _, waits in service.history) / len(service.history)
    assert late < 0.02, f"{late:.1%} of all minutes had half a minute of waiting"
    assert min(count for count, _ in service.history[200:]) < 4 < max(count for count, _ in service.history)


def test_a_burst_is_answered_with_enough_tasks_and_forgotten_slowly() -> None:
    service = simulated(lambda minute: (4.0 if 100 <= minute < 130 else 1.0) * 64 / ANSWER_MINUTES, minutes=400)
    assert max(count for count, _ in service.history) >= 4
    assert turns(service) <= 2, service.changes
    first_out = next(at for at, change in service.changes if at >= 100 and change > 0)
    assert first_out <= 100 + ALARM_HIGH_MINUTES + 1
    last_out = max(at for at, change in service.changes if change > 0)
    assert all(at >= last_out + ALARM_LOW_MINUTES for at, change in service.changes if change < 0 and at > 100)


def test_a_task_that_leaves_may_finish_its_longest_answer() -> None:
    balancer = (MODULES / "serving-balancer" / "balancer.tf").read_text(encoding="utf-8")
    service = (MODULES / "serving-service" / "containers.tf").read_text(encoding="utf-8")
    # The balancer sends nothing new and waits; ECS says SIGTERM only then, and the gateway drains what is left.
    assert re.search(r"deregistration_delay\s*=\s*var\.longest_answer_seconds", balancer)
    assert re.search(r'"--drain-seconds", tostring\(min\(110, var\.longest_answer_seconds\)\)', service)
    assert number("stopTimeout", service) > 110

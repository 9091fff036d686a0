"""Replicas that come and go: what a month of traffic costs in replica-hours, and what users feel while they start.

The policy is target tracking on requests a second and replica, as an ALB's request count per target drives it: at each
period's end, as many replicas as the period's rate needs, plus `spare`; more at once, fewer only after a pause. The
replicas themselves are simulated request by request (`simulate`), and so is what waits while one starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nexus_llm.cost.capacity.fleet import run_until, take_away
from nexus_llm.cost.capacity.scheduler_state import (
    DRAINING,
    OFF,
    READY,
    Engine,
    Replicas,
    Requests,
    engine,
    new_replicas,
    new_requests,
)
from nexus_llm.cost.capacity.simulate import Demand, check, percentiles
from nexus_llm.cost.quantities import EngineLimits, Percentiles, StepTime

_STARTING = 3  # known here only: the fleet sees such a replica as off


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """When replicas start and stop."""

    target_requests_per_second: float
    """That one replica should take: at most what `capacity` found."""
    min_replicas: int = 1
    """0 scales to zero: the first request then waits for a cold start."""
    max_replicas: int = 64
    spare: int = 0
    """More than the rate needs: 1 keeps the objective when one fails."""
    cold_start_seconds: float = 300.0
    """From the decision to the first request taken; paid for."""
    period_seconds: float = 60.0
    scale_in_cooldown_seconds: float = 300.0
    """A replica stops only when none was wanted for so long."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """What a policy comes to under one demand."""

    requests: int
    hours: float
    replica_hours: float
    """Paid for: from each start until its stop, cold start and draining included."""
    ttft: Percentiles
    tpot: Percentiles
    e2e: Percentiles
    starts: int
    interruptions: int
    """Replicas that the spot market took."""
    restarted_requests: int
    """Answers that an interruption cut and that began anew elsewhere."""
    unanswered: int
    """At the end: more came than all replicas could take."""
    most_replicas: int


def autoscale(
    demand: Demand,
    step_time: StepTime,
    limits: EngineLimits,
    policy: ScalingPolicy,
    *,
    interruptions_per_hour: float = 0.0,
    seed: int = 0,
) -> Scaled:
    """The whole demand under a policy; it begins with the replicas that the first period needs, ready. On spot each
    replica is taken away at random, so often an hour.

    Raises:
        UsageError: as `simulate`.
    """
    check(demand, step_time, limits)
    of = engine(step_time, limits)
    requests = new_requests(
        demand.arrived_seconds, demand.input_tokens, demand.output_tokens, admission_seconds=limits.admission_seconds
    )
    fleet = _Fleet(new_replicas(policy.max_replicas, of), requests, of, policy, interruptions_per_hour / 3600, seed)
    fleet.run(demand)
    return fleet.result(demand)


class _Fleet:
    """The control loop. Everything that users feel happens in compiled code; this decides once a period."""

    def __init__(
        self,
        replicas: Replicas,
        requests: Requests,
        of: Engine,
        policy: ScalingPolicy,
        interruptions_per_second: float,
        seed: int,
    ) -> None:
        self.replicas, self.requests, self.of, self.policy = replicas, requests, of, policy
        self.interruptions_per_second = interruptions_per_second
        self.rows = replicas.rows[:-1]
        count = policy.max_replicas
        self.source = np.random.default_rng(seed)
        self.starting = np.full(count, math.inf)  # when it is ready
        self.ends = np.full(count, math.inf)  # when the market takes it
        self.since = np.zeros(count)
        self.paid = self.now = 0.0
        self.starts = self.interruptions = self.restarted = self.most = 0
        self._target = 0
        self.wanted_at: list[float] = [0.0] * (count + 1)  # when so many were last wanted

    def run(self, demand: Demand) -> None:
        """Period by period, until everything is answered or can never be."""
        period = self.policy.period_seconds
        last = math.ceil(float(demand.arrived_seconds[-1] + self.of.admission) / period + 1e-9)
        ends = np.arange(1, last + 1) * period
        arrivals = np.diff(np.searchsorted(self.requests.rows["visible"], np.concatenate([[0.0], ends]), side="right"))
        self._scale(self._needed(arrivals[0]), ready_now=True)
        for end, count in zip(ends, arrivals, strict=True):
            self._period(float(end), int(count))
        deadline = self.now + 100 * (period + self.policy.cold_start_seconds) + 86_400
        while self._has_open_requests() and self.now < deadline:
            self._period(self.now + period, 0)
        for r in np.flatnonzero(self._states() != OFF):
            self._stop_paying(int(r))

    def _period(self, end: float, arrivals: int) -> None:
        while True:
            # A whole number would have everything compiled once more, for another type.
            event = float(min(self.starting.min(), self.ends.min(), end))
            run_until(self.replicas, self.requests, self.of, event)
            self._account(event)
            self._happen(event)
            if event >= end:
                break
        self._scale(self._needed(arrivals), ready_now=False)
        self.most = max(self.most, int((self._states() != OFF).sum()))

    def _account(self, event: float) -> None:
        self.now = event
        for r in np.flatnonzero((self._states() == OFF) & (self.since > 0)):
            self._stop_paying(int(r))  # it was draining and is empty now

    def _happen(self, now: float) -> None:
        for r in np.flatnonzero(self.ends <= now):
            self._interrupt(int(r), now)
        for r in np.flatnonzero(self.starting <= now):
            self.starting[r] = math.inf
            self.rows["state"][r] = READY
            self.rows["clock"][r] = now

    def _interrupt(self, r: int, now: float) -> None:
        self.interruptions += 1
        self.restarted += take_away(self.replicas, self.requests, r, self.of, now)
        self.starting[r] = math.inf
        self._stop_paying(r)
        self._scale(self._target, ready_now=False)

    def _needed(self, arrivals: int) -> int:
        rate = arrivals / self.policy.period_seconds
        by_rate = math.ceil(rate / self.policy.target_requests_per_second - 1e-9)
        needed = max(by_rate, self.policy.min_replicas, int(self._has_open_requests()))
        return min(needed + (self.policy.spare if needed else 0), self.policy.max_replicas)

    def _scale(self, wanted: int, *, ready_now: bool) -> None:
        """Starts what is missing at once; stops what nobody wanted for the whole cool-down."""
        self._target = wanted
        for count in range(wanted + 1):
            self.wanted_at[count] = self.now
        states = self._states()
        alive = np.flatnonzero((states == READY) | (states == _STARTING))
        for r in np.flatnonzero(states == OFF)[: max(0, wanted - len(alive))]:
            self.starts += 1
            self.since[r] = max(self.now, 1e-12)
            self.starting[r] = self.now if ready_now else self.now + self.policy.cold_start_seconds
            rate = self.interruptions_per_second
            self.ends[r] = self.now + self.source.exponential(1 / rate) if rate else math.inf
            if ready_now:
                self.starting[r], self.rows["state"][r] = math.inf, READY
        for place in range(len(alive), wanted, -1):
            if self.now - self.wanted_at[place] < self.policy.scale_in_cooldown_seconds:
                break
            r = int(alive[place - 1])
            if states[r] == _STARTING:
                self.starting[r] = math.inf
                self._stop_paying(r)
            else:
                self.rows["state"][r] = DRAINING

    def _stop_paying(self, r: int) -> None:
        if self.since[r] > 0:
            self.paid += self.now - self.since[r]
        self.since[r] = 0.0
        self.ends[r] = math.inf

    def _states(self) -> NDArray[np.int64]:
        return np.where(np.isinf(self.starting), self.rows["state"], _STARTING)

    def _has_open_requests(self) -> bool:
        rows = self.replicas.rows  # with the queue at the door
        return bool(rows["waiting"].any() or rows["decoding"].any() or rows["prefilling"].any())

    def result(self, demand: Demand) -> Scaled:
        """Everything, once it is over."""
        first, last = self.requests.rows["first"], self.requests.rows["last"]
        gaps = np.where(demand.output_tokens > 1, demand.output_tokens - 1, np.nan)
        return Scaled(
            requests=len(demand),
            hours=self.now / 3600,
            replica_hours=self.paid / 3600,
            ttft=percentiles(first - demand.arrived_seconds),
            tpot=percentiles((last - first) / gaps),
            e2e=percentiles(last - demand.arrived_seconds),
            starts=self.starts,
            interruptions=self.interruptions,
            restarted_requests=self.restarted,
            unanswered=int(np.isnan(last).sum()),
            most_replicas=self.most,
        )

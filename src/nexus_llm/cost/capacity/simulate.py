"""What users of one or more replicas would measure: every request's latencies, simulated event by event.

Approximations, all of them: a step takes what the linear step time says; a prompt's blocks of the cache are taken when
it is let in, not chunk by chunk; no prefix is shared between prompts; the scheduler itself takes no time beyond
`fixed_seconds`; sampling never ends an answer early. How steps are scheduled is told in `scheduler`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nexus_llm.cost.capacity.fleet import fill_closed_loop, run_until
from nexus_llm.cost.capacity.scheduler_state import (
    READY,
    Replicas,
    Requests,
    engine,
    new_replicas,
    new_requests,
)
from nexus_llm.cost.quantities import EngineLimits, LoadPoint, Percentiles, StepTime
from nexus_llm.errors import UsageError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
WARMUP_SHARE = 0.1
"""Of the requests, first in time, that the figures leave out: the replicas start empty."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests in the order of their arrival."""

    arrived_seconds: Floats
    input_tokens: Counts
    output_tokens: Counts

    def __len__(self) -> int:
        return len(self.arrived_seconds)


@dataclass(frozen=True, slots=True)
class Simulated:
    """One row a request; seconds since the start."""

    demand: Demand
    first_token_seconds: Floats
    last_token_seconds: Floats
    replicas: int
    steps: int
    """Of all replicas, as what follows."""
    busy_seconds: float
    preemptions: int
    mean_sequences: float

    @property
    def ttft(self) -> Floats:
        """Seconds from arrival to the first token."""
        return self.first_token_seconds - self.demand.arrived_seconds

    @property
    def tpot(self) -> Floats:
        """Mean seconds between the tokens after the first; not-a-number for answers of one token."""
        gaps = (self.demand.output_tokens - 1).astype(np.float64)
        gaps[gaps == 0] = math.nan
        return (self.last_token_seconds - self.first_token_seconds) / gaps

    @property
    def e2e(self) -> Floats:
        """Seconds from arrival to the last token."""
        return self.last_token_seconds - self.demand.arrived_seconds

    def load_point(self) -> LoadPoint:
        """One replica's share of the load, without the first requests; rates are those of arrivals after them."""
        skip = int(len(self.demand) * WARMUP_SHARE)
        arrived = self.demand.arrived_seconds[skip:]
        span = float(self.last_token_seconds.max() - self.demand.arrived_seconds[0])
        seconds = float(self.last_token_seconds[skip:].max() - arrived[0])
        rate = len(arrived) / seconds / self.replicas
        return LoadPoint(
            requests_per_second=rate,
            output_tokens_per_second=rate * float(self.demand.output_tokens[skip:].mean()),
            ttft=percentiles(self.ttft[skip:]),
            tpot=percentiles(self.tpot[skip:]),
            e2e=percentiles(self.e2e[skip:]),
            utilisation=min(1.0, self.busy_seconds / span / self.replicas),
            mean_sequences=self.mean_sequences,
        )


def percentiles(seconds: Floats) -> Percentiles:
    """By nearest rank, of those that are numbers; not-a-number where none is."""
    known = seconds[~np.isnan(seconds)]
    if not len(known):
        return Percentiles(math.nan, math.nan, math.nan)
    found = np.quantile(known, [0.50, 0.95, 0.99], method="inverted_cdf")
    return Percentiles(*(float(value) for value in found))


def simulate(demand: Demand, step_time: StepTime, limits: EngineLimits, *, replicas: int = 1) -> Simulated:
    """Every request of an open loop, on so many replicas.

    Raises:
        UsageError: limits or step time that no engine has, or a request that no cache of this size holds.
    """
    check(demand, step_time, limits)
    of = engine(step_time, limits)
    requests = new_requests(
        demand.arrived_seconds, demand.input_tokens, demand.output_tokens, admission_seconds=limits.admission_seconds
    )
    fleet = new_replicas(replicas, of)
    fleet.rows["state"][:-1] = READY
    run_until(fleet, requests, of, math.inf)
    return simulated(demand, requests, fleet)


def simulate_closed(
    input_tokens: Counts, output_tokens: Counts, step_time: StepTime, limits: EngineLimits, *, concurrency: int
) -> Simulated:
    """A closed loop on one replica: so many requests at once, each followed by the next as soon as it has ended.

    Raises:
        UsageError: as `simulate`.
    """
    sent = Demand(np.zeros(len(input_tokens)), input_tokens, output_tokens)
    check(sent, step_time, limits)
    of = engine(step_time, limits, is_closed=True)
    requests = new_requests(sent.arrived_seconds, input_tokens, output_tokens, admission_seconds=0.0)
    fleet = new_replicas(1, of)
    fleet.rows["state"][:-1] = READY
    fill_closed_loop(fleet, requests, concurrency, limits.admission_seconds)
    run_until(fleet, requests, of, math.inf)
    return simulated(replace(sent, arrived_seconds=requests.rows["arrived"].copy()), requests, fleet)


def simulated(demand: Demand, requests: Requests, fleet: Replicas) -> Simulated:
    """What came out of a finished simulation."""
    steps = int(fleet.rows["counter"].sum())
    return Simulated(
        demand=demand,
        first_token_seconds=requests.rows["first"].copy(),
        last_token_seconds=requests.rows["last"].copy(),
        replicas=len(fleet.rows) - 1,
        steps=steps,
        busy_seconds=float(fleet.rows["busy"].sum()),
        preemptions=int(fleet.rows["preemptions"].sum()),
        mean_sequences=float(fleet.rows["sequence_steps"].sum()) / max(1, steps),
    )


def check(demand: Demand, step_time: StepTime, limits: EngineLimits) -> None:
    """Refuses what cannot be simulated.

    Raises:
        UsageError: with the value that does not fit.
    """
    if not len(demand):
        raise UsageError("there is no request to simulate", fix="more requests, or a longer time")
    _check_step_time(step_time)
    check_limits(limits)
    if min(int(demand.input_tokens.min()), int(demand.output_tokens.min())) < 1:
        raise UsageError("a request has no token to read or to say", fix="lengths of at least 1")
    longest = int((demand.input_tokens + demand.output_tokens - 1).max())
    blocks = limits.kv_cache_tokens // limits.kv_block_tokens
    if math.ceil(longest / limits.kv_block_tokens) > blocks:
        raise UsageError(
            f"a request of {longest:,} tokens does not fit a cache of {limits.kv_cache_tokens:,} tokens",
            fix="shorter requests, or more memory for the cache",
        )


def _check_step_time(step_time: StepTime) -> None:
    values = step_time.numbers
    is_timeless = values[0] + min(values[1], values[2] + values[3]) <= 0
    if is_timeless or any(not 0 <= value < math.inf for value in values):
        raise UsageError(
            f"a step time of {values} seconds (fixed, a prefill token, a sequence, a context token, a batch "
            "change) is none",
            fix="no value below 0, and time for a step with one prompt token as for one with one sequence",
        )


def check_limits(limits: EngineLimits) -> None:
    """Refuses limits that no engine has.

    Raises:
        UsageError: with the value that does not fit.
    """
    if min(limits.kv_cache_tokens, limits.max_sequences, limits.kv_block_tokens) < 1 or limits.admission_seconds < 0:
        raise UsageError(f"{limits} cannot be an engine's", fix="sizes of at least 1, and no negative time")
    if limits.max_batched_tokens < limits.max_sequences:
        raise UsageError(
            f"max_batched_tokens {limits.max_batched_tokens} is below max_sequences {limits.max_sequences}: "
            "not every sequence would get a token a step",
            fix=f"max_batched_tokens of at least {limits.max_sequences}",
        )

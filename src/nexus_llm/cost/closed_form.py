"""One replica's capacity in closed form: the stand-in where no simulation is at hand. It simulates no queue.

Steady load on continuous batching: with B answers at work a step takes T(B) = fixed + B x (sequence + context x cached
tokens + prefill x input / output) + change x min(1, (chunks + 1) B / output), as a prompt changes its steps and the
next, and B / (output x T) requests are finished a second. The spread around these means is assumed: 95 % stay under
1.25 times, 99 % under 1.5 times the mean, and arrivals scatter as Poisson's.
"""

from __future__ import annotations

from nexus_llm.cost.quantities import (
    EngineLimits,
    LatencyObjective,
    LoadPoint,
    Percentiles,
    ReplicaCapacity,
    StepTime,
    Traffic,
)

P95_OVER_MEAN, P99_OVER_MEAN = 1.25, 1.5


def closed_form_capacity(
    step_time: StepTime, limits: EngineLimits, traffic: Traffic, objective: LatencyObjective, seed: int
) -> ReplicaCapacity:
    """The largest steady load that keeps the objective; 0 requests a second where one request alone misses it, or
    does not fit into the cache. `seed` is not used: nothing is drawn."""
    del seed
    most = min(limits.max_sequences, limits.kv_cache_tokens / (traffic.input_tokens + traffic.output_tokens))
    alone = _load(step_time, limits, traffic, 1.0)
    if most < 1 or objective.missed(alone):
        return ReplicaCapacity(alone.as_none, step_time)
    low, high = 1e-3, _mean_below(most)
    if objective.missed(_load(step_time, limits, traffic, high)):
        for _ in range(60):
            middle = (low + high) / 2
            is_missed = objective.missed(_load(step_time, limits, traffic, middle))
            low, high = (low, middle) if is_missed else (middle, high)
        high = low
    return ReplicaCapacity(_load(step_time, limits, traffic, high), step_time)


def _mean_below(most: float) -> float:
    """The mean of a Poisson number that stays under `most` in 95 % of all moments: m + 1.645 sqrt(m) = most."""
    root = ((1.645**2 + 4 * most) ** 0.5 - 1.645) / 2
    return float(max(root * root, 1e-3))


def _load(time: StepTime, limits: EngineLimits, traffic: Traffic, sequences: float) -> LoadPoint:
    inputs, outputs = traffic.input_tokens, traffic.output_tokens
    each = (
        time.seconds_per_sequence
        + time.seconds_per_context_token * (inputs + outputs / 2)
        + time.seconds_per_prefill_token * inputs / outputs
    )
    chunks = -(-inputs // limits.max_batched_tokens)
    changed = min(1.0, (chunks + 1) * sequences / outputs)
    step = time.fixed_seconds + sequences * each + changed * time.seconds_per_batch_change
    prompt_step = step + (1 - changed) * time.seconds_per_batch_change
    ttft = chunks * prompt_step + time.seconds_per_prefill_token * inputs
    e2e = ttft + (outputs - 1) * step
    rate = sequences / (outputs * step)
    return LoadPoint(
        requests_per_second=rate,
        output_tokens_per_second=rate * outputs,
        ttft=_spread(ttft),
        tpot=_spread(step),
        e2e=_spread(e2e),
        utilisation=min(sequences, 1.0),
        mean_sequences=sequences,
    )


def _spread(mean: float) -> Percentiles:
    return Percentiles(mean, mean * P95_OVER_MEAN, mean * P99_OVER_MEAN)

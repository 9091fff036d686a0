"""A long even load, and whether anything grows: memory and open files of gateway and engine.

The load is `nexus bench`: a closed loop tells the capacity, then a Poisson process asks at 80 % of it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from claims import Claim, short
from proof_faults import Plan, Scenario, settle
from served import Served, served, sizes

LOAD_SHARE = 0.8
GROWTH_TARGET_SHARE = "≤ 0.05"
SAMPLES = 300
MOST_FILLINGS, FULL_SHARE = 12, 1.005  # of memory after a filling that added nothing


def soak(plan: Plan) -> Scenario:
    """The load for `soak_seconds`. The first quarter is warm-up; growth is from the second quarter to the last."""
    with served(plan.model, engine=plan.engine) as server:
        _fill(server, plan)
        capacity = _capacity(server, plan)
        settle(server)
        before = _descriptors(server)
        rate = LOAD_SHARE * capacity
        samples: list[dict[str, float]] = []
        stop = threading.Event()
        sampler = threading.Thread(target=_sample, args=(server, samples, stop, plan.soak_seconds / SAMPLES))
        sampler.start()
        try:
            told = _bench(server, plan, "--rate", f"{rate:.4f}", "--duration", f"{plan.soak_seconds:g}")
        finally:
            stop.set()
            sampler.join()
        settle(server)
        after = _descriptors(server)
    growth_target = GROWTH_TARGET_SHARE if plan.is_full else None
    growth = {name: grown(samples, name) for name in ("gateway_rss_mb", "engine_rss_mb")}
    scenario = Scenario(
        f"{plan.soak_seconds / 60:.3g} minutes at {LOAD_SHARE:.0%} of capacity",
        f"{short(rate)} requests a second of {plan.prompt_tokens} tokens in and {plan.answer_tokens} out.",
    )
    scenario.claims = [
        Claim("requests answered", told["requests"]["good"]),
        Claim("requests that failed", told["requests"]["failed"], target="≤ 0"),
        Claim("capacity, closed loop with 32 clients", capacity, "requests/s"),
        Claim("time to first token, p50", told["ttft_seconds"]["p50"], "s"),
        Claim("time to first token, p99", told["ttft_seconds"]["p99"], "s"),
        *(
            Claim(f"{name}: growth of resident memory", growth[f"{name}_rss_mb"], "of itself", growth_target)
            for name in ("gateway", "engine")
        ),
        *(
            Claim(f"{name}: descriptors left when the load has gone", after[name] - before[name], target="≤ 2")
            for name in ("gateway", "engine")
        ),
        Claim("the load test's client kept up", int(told["is_valid"]), target="≥ 1" if plan.is_full else None),
    ]
    scenario.details = {"samples": samples, "errors": told["errors"], "not_valid_because": told["not_valid_because"]}
    return scenario


def grown(samples: Sequence[dict[str, float]], name: str) -> float | None:
    """Median of the last quarter over the median of the second one, less 1; None with too few samples.

    >>> grown([{"a": value} for value in (1, 1, 10, 10, 10, 10, 11, 11)], "a")
    0.1
    """
    values = [sample[name] for sample in samples if name in sample]
    quarter = len(values) // 4
    if not quarter:
        return None
    early, late = statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])
    return round(late / early - 1, 6)


def _fill(server: Served, plan: Plan) -> None:
    """Fills what is bounded, so that only what keeps growing shows: the engine's key-value cache, what its largest
    batch takes and keeps, and the kernels that OpenVINO keeps for every number of tokens that a step has had. Mixed
    lengths reach those; two fillings in a row that add nothing are the end. What never stands still goes on into the
    soak."""
    if not plan.is_full:
        return
    lengths = ["--input-tokens", "32-512", "--output-tokens", "16-64"]
    still = 0
    for number in range(MOST_FILLINGS):
        before = sizes(server.engine())["rss_mb"]
        _bench_with(server, lengths, "--concurrency", "128", "--requests", "256", "--seed", str(number))
        after = sizes(server.engine())["rss_mb"]
        print(f"filling {number + 1}: the engine takes {after:.0f} MB", file=sys.stderr, flush=True)
        still = still + 1 if after < FULL_SHARE * before else 0
        if still == 2:
            break


def _capacity(server: Served, plan: Plan) -> float:
    requests = 192 if plan.is_full else 32
    told = _bench(server, plan, "--concurrency", "32", "--requests", str(requests), "--warmup", "8")
    return float(told["requests_per_second"])


def _bench(server: Served, plan: Plan, *load: str) -> dict[str, Any]:
    lengths = ["--input-tokens", str(plan.prompt_tokens), "--output-tokens", str(plan.answer_tokens)]
    return _bench_with(server, lengths, *load)


def _bench_with(server: Served, lengths: Sequence[str], *load: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "nexus_llm.cli", "bench", server.url, "--json", *lengths, *load]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _descriptors(server: Served) -> dict[str, float]:
    return {
        name: sizes(process)["descriptors"]
        for name, process in (("gateway", server.gateway), ("engine", server.engine()))
    }


def _sample(server: Served, samples: list[dict[str, float]], stop: threading.Event, pause_seconds: float) -> None:
    started = time.monotonic()
    while not stop.wait(max(0.2, pause_seconds)):
        sample = {"seconds": round(time.monotonic() - started, 2)}
        for name, process in (("gateway", server.gateway), ("engine", server.engine())):
            sample |= {f"{name}_{what}": value for what, value in sizes(process).items()}
        samples.append(sample)

"""A month of ten million requests through the capacity simulation, on one core.

    python benchmarks/cost_month.py [--requests 10000000] [--replicas 2] [--note TEXT]

Llama 3.1 8B on an L40S-like card by roofline; a day's rhythm with a peak of 3; conversation lengths. Said are the
seconds of the simulation itself, compiled beforehand, and of drawing the arrivals. `process_time` beside the clock on
the wall tells a busy machine from a slow program.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from nexus_llm.cost.capacity.arrivals import month
from nexus_llm.cost.capacity.simulate import simulate
from nexus_llm.cost.quantities import EngineLimits, StepTime, Traffic

RESULTS = Path(__file__).parent / "results"
STEP = StepTime(0.022, 2.2e-4, 4e-5, 2e-7, "roofline", "an example: 16 GB of weights at 730 GB/s")
LIMITS = EngineLimits(kv_cache_tokens=160_000, max_sequences=256, max_batched_tokens=2048)
TARGET_SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=float, default=1e7)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    traffic = Traffic(requests_per_month=arguments.requests, input_tokens=500, output_tokens=300)
    simulate(month(Traffic(1_000, 500, 300), seed=0), STEP, LIMITS, replicas=2)  # compiles
    demand, drawing = _timed(lambda: month(traffic, seed=1))
    rows = []
    for replicas in arguments.replicas:
        found, seconds = _timed(lambda count=replicas: simulate(demand, STEP, LIMITS, replicas=count))
        point = found.load_point()
        rows.append(
            {
                "replicas": replicas,
                "seconds": seconds,
                "utilisation": round(point.utilisation, 3),
                "ttft_p95_seconds": round(point.ttft.p95, 3),
                "steps": found.steps,
            }
        )
        print(rows[-1], flush=True)
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, one used",
        "note": arguments.note,
        "requests": len(demand),
        "target_seconds": TARGET_SECONDS,
        "drawing_arrivals": drawing,
        "runs": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    stem = f"cost_month_{platform.machine()}-{os.cpu_count()}-cores_{result['date']}"
    (RESULTS / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _timed(work: Any) -> tuple[Any, dict[str, float]]:
    wall, own = time.perf_counter(), time.process_time()
    done = work()
    return done, {"wall": round(time.perf_counter() - wall, 2), "cpu": round(time.process_time() - own, 2)}


if __name__ == "__main__":
    main()

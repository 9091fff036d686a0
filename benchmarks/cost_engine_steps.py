"""Single steps of the OpenVINO engine, timed: what a step costs whose batch is not that of the step before.

    python benchmarks/cost_engine_steps.py --model PACKAGED_FOLDER [--rounds 2] [--note TEXT]

The engine alone, without gateway and clients, set up as `nexus serve` does it. Closed loops of equal answers are
fitted (relative least squares over their steps) with and without a term for a changed batch; both then predict the
steps of open loops at several shares of the saturated engine. Told are also the mean errors without the term, of open
loops' decoding steps whose batch changed and of those whose did not: where the term is real, they differ by it.
Eight minutes on two quiet cores. Needs the `serve` extra.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results"
MAX_BATCHED_TOKENS = 512
GIVEN, SAID, SATURATED = 128, 64, 64
LOAD_SHARES = (0.3, 0.6, 0.8, 0.95)
GRID = list(itertools.product((1, 4, 16, 32), (32, 128, 512), (16, 64)))
COLUMNS = ("fixed", "prefill_token", "sequence", "context_token", "batch_change")
Steps = NDArray[np.float64]
"""(steps, 6): the terms of `COLUMNS` (tokens, sequences, 0 or 1), and the seconds that the step took."""


@dataclass
class Sequence:
    """One request that the engine works on."""

    handle: Any
    prompt_left: int
    cached: int = 0
    said: int = 0
    chunk: int = 0


class Engine:
    """The pipeline, and what each of its steps is given."""

    def __init__(self, weights: Path) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
        scheduler.enable_prefix_caching = True
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(weights), scheduler, "CPU", {}, {}, {})
        self.sent = 0
        self.drawn = np.random.default_rng(0)

    def add(self, given: int, said: int) -> Sequence:
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = said, True, False
        prompt = openvino.Tensor(self.drawn.integers(100, 40_000, (1, given)))
        self.sent += 1
        return Sequence(self.pipeline.add_request(self.sent, prompt, config), given)

    def run(
        self, given: int, said: int, requests: int, *, concurrency: int = 0, arrivals: Any = ()
    ) -> tuple[Steps, float]:
        """The steps of a closed loop, or of requests that come when they come, and the seconds of all."""
        steps: list[tuple[float, ...]] = []
        live: list[Sequence] = []
        sent, decoded, was_prefill = 0, -1, False
        began = time.perf_counter()
        while sent < requests or live:
            now = time.perf_counter() - began
            while sent < requests and (len(live) < concurrency if concurrency else arrivals[sent] <= now):
                live.append(self.add(given, said))
                sent += 1
            if not live:
                time.sleep(arrivals[sent] - now)
                continue
            prefilled, decoding, cached = _deal(live)
            is_changed = prefilled > 0 or was_prefill or decoding != decoded
            before = time.perf_counter()
            self.pipeline.step()
            steps.append((1, prefilled, decoding, cached, is_changed, time.perf_counter() - before))
            decoded, was_prefill = decoding, prefilled > 0
            live = [one for one in live if _hand_out(one) < said]
        return np.array(steps), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a packaged model folder")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    engine = Engine(arguments.model / "model-q8_0.gguf")
    closed: list[Steps] = []
    opened: list[tuple[float, Steps]] = []
    for number in range(arguments.rounds + 1):
        if number == 1:  # the first round warms up: it prepares kernels for nearly every shape
            closed, opened = [], []
        saturated, seconds = engine.run(GIVEN, SAID, 2 * SATURATED, concurrency=SATURATED)
        closed.append(saturated)
        for share in LOAD_SHARES:
            count = int(120 * share)
            arrivals = np.cumsum(engine.drawn.exponential(seconds / (2 * SATURATED) / share, count))
            opened.append((share, engine.run(GIVEN, SAID, count, arrivals=arrivals)[0]))
        closed += [engine.run(i, o, max(8, 2 * n), concurrency=n)[0] for n, i, o in GRID]
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "note": arguments.note,
        "rounds": arguments.rounds,
        **found(np.vstack(closed), opened),
    }
    text = json.dumps(result, indent=2) + "\n"
    (RESULTS / f"cost_engine_steps_{platform.machine()}-{os.cpu_count()}-cores_{result['date']}.json").write_text(text)
    print(text)


def found(closed: Steps, opened: list[tuple[float, Steps]]) -> dict[str, Any]:
    """What is fitted to the closed loops, and how it tells the open ones."""
    plain, whole = _fitted(closed, len(COLUMNS) - 1), _fitted(closed, len(COLUMNS))
    everything = np.vstack([steps for _, steps in opened])
    decoding = everything[everything[:, 1] == 0]
    late = decoding[:, -1] - decoding[:, : len(plain)] @ plain
    return {
        "microseconds_without_the_term": _named(plain),
        "microseconds": _named(whole),
        "open_loops": [
            {
                "load_share": share,
                "steps": len(steps),
                "longer_than_told_without_the_term": _over(steps, plain),
                "longer_than_told": _over(steps, whole),
            }
            for share, steps in opened
        ],
        "open_decoding_steps_later_by_ms_without_the_term": {
            "same batch": round(1000 * float(late[decoding[:, 4] == 0].mean()), 2),
            "changed batch": round(1000 * float(late[decoding[:, 4] == 1].mean()), 2),
        },
    }


def _deal(live: list[Sequence]) -> tuple[int, int, int]:
    """(prompt tokens, decoding sequences, cached tokens read) of the next step, as the engine's scheduler deals."""
    decoding = [one for one in live if not one.prompt_left]
    budget = MAX_BATCHED_TOKENS - len(decoding)
    for one in live:
        one.chunk = min(one.prompt_left, budget)
        budget -= one.chunk
    read = sum(one.cached for one in live if one.chunk or not one.prompt_left)
    return sum(one.chunk for one in live), len(decoding), read


def _hand_out(one: Sequence) -> int:
    """Takes what the step gave to a sequence; its tokens so far."""
    is_prompt = one.prompt_left > 0
    one.prompt_left -= one.chunk
    one.cached += one.chunk if is_prompt else 1
    if one.handle.can_read():
        one.said += sum(len(output.generated_ids) for output in one.handle.read().values())
    return one.said


def _fitted(steps: Steps, terms: int) -> Steps:
    weights = 1 / steps[:, -1:]
    numbers: Steps = np.linalg.lstsq(steps[:, :terms] * weights, np.ones(len(steps)), rcond=None)[0]
    return numbers


def _over(steps: Steps, numbers: Steps) -> float:
    return round(float(steps[:, -1].sum() / (steps[:, : len(numbers)] @ numbers).sum()) - 1, 4)


def _named(numbers: Steps) -> dict[str, float]:
    return {name: float(f"{1e6 * value:.4g}") for name, value in zip(COLUMNS, numbers, strict=False)}


if __name__ == "__main__":
    main()

"""How fast log-likelihood tasks are read, beside lm-evaluation-harness's own `hf` backend: same weights, same items.

    python benchmarks/evaluation_speed.py --model FOLDER --data ../shared/data [--items 40] [--pairs 5] [--quick]

The machine's speed drifts, so both sides take turns on the same items, new ones each pair, and the ratio of neighbours
counts: HellaSwag without examples, and MMLU with five (`anatomy`, as the benchmark is defined). Items are drawn from
the whole set, since HellaSwag's first thousands are its short ones. Both compute in float32 from the same file, in
this process, with as many threads. The `hf` backend gets the best of several batch sizes, found beforehand on items
that are not timed. Before any time is told, the answers are compared: every likelihood, every greedy flag, every
item's score.
Requests are built before the clock starts; reading the model and tokenising count for both.

Result: results/evaluation_speed_*.json. Claims: at least twice as fast on both, with the same answers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}

from nexus_llm.evaluate.harness import CompleterLM, HarnessTasks
from nexus_llm.evaluate.in_process import InProcessCompleter
from nexus_llm.ports import Ports

RESULTS = Path(__file__).parent / "results"
TASKS = {"hellaswag": 0, "mmlu_anatomy": 5}
BATCH_SIZES = (1, 4, 16)
CLAIMED = 2.0


@dataclass(frozen=True)
class Timed:
    """One side's answers to the requests of some items."""

    answers: list[tuple[float, bool]]
    seconds: float
    cpu_seconds: float
    """Of all threads: what a busy machine does to it is less."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--items", type=int, default=20, help="Items a turn.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="One batch size; the result is stored as quick.")
    options = parser.parse_args()
    import torch
    from lm_eval.models.huggingface import HFLM

    tasks, ours = HarnessTasks(), InProcessCompleter.load(options.model)
    theirs = HFLM(str(options.model), dtype="float32", device="cpu", batch_size=1)
    found = {}
    for name, few_shot in TASKS.items():
        task = tasks.load(name, folder=options.data, few_shot=few_shot)
        turns = requests_of(task, options.items, options.pairs + 1)
        our_turn(ours, turns[0])  # what happens once is nobody's
        theirs.batch_size_per_gpu = best_batch_size(
            theirs, turns[0], BATCH_SIZES[1:2] if options.quick else BATCH_SIZES
        )
        pairs = [pair(ours, theirs, turn, turns_first=number % 2 == 0) for number, turn in enumerate(turns[1:])]
        found[name] = told(task, turns[1:], pairs) | {"hf batch size": theirs.batch_size_per_gpu, "few-shot": few_shot}
        print(name, json.dumps({key: value for key, value in found[name].items() if key != "pairs"}), flush=True)
    result = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "model": options.model.name,
        "threads": torch.get_num_threads(),
        "items a turn": options.items,
        "is_quick": options.quick,
        "tasks": found,
        "claim": f"at least {CLAIMED} times as fast as lm-eval's hf backend, same answers",
        "holds": all(one["median ratio"] >= CLAIMED and not one["differences"] for one in found.values()),
    }
    kind = "quick_" if options.quick else ""
    path = RESULTS / f"evaluation_speed_{kind}{platform.machine()}-{os.cpu_count()}-cores_{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


def requests_of(task: Any, items: int, turns: int) -> list[list[Any]]:
    """The requests of `turns` times `items` items, none twice, drawn by a fixed seed."""
    drawn = random.Random(17).sample(range(len(task.eval_docs)), items * turns)
    task.build_all_requests(samples=drawn)
    by_item: dict[int, list[Any]] = {}
    for request in task.instances:
        by_item.setdefault(request.doc_id, []).append(request)
    kept = list(by_item.values())
    return [[one for item in kept[turn * items : (turn + 1) * items] for one in item] for turn in range(turns)]


def best_batch_size(theirs: Any, requests: list[Any], sizes: tuple[int, ...]) -> int:
    def seconds(size: int) -> float:
        theirs.batch_size_per_gpu = size
        return their_turn(theirs, requests).seconds

    return min(sizes, key=seconds) if len(sizes) > 1 else sizes[0]


def pair(ours: InProcessCompleter, theirs: Any, requests: list[Any], *, turns_first: bool) -> tuple[Timed, Timed]:
    """Both sides' turns, one behind the other; who is first changes."""
    if turns_first:
        first = our_turn(ours, requests)
        return first, their_turn(theirs, requests)
    second = their_turn(theirs, requests)
    return our_turn(ours, requests), second


def our_turn(ours: InProcessCompleter, requests: list[Any]) -> Timed:
    with tempfile.TemporaryDirectory() as folder:
        lm = CompleterLM(ours, Path(folder), Ports())
        return timed(lambda: lm.loglikelihood(requests))


def their_turn(theirs: Any, requests: list[Any]) -> Timed:
    return timed(lambda: theirs.loglikelihood(requests, disable_tqdm=True))


def timed(work: Callable[[], list[tuple[float, bool]]]) -> Timed:
    started, cpu = time.perf_counter(), time.process_time()
    answers = work()
    return Timed(answers, time.perf_counter() - started, time.process_time() - cpu)


def told(task: Any, turns: list[list[Any]], pairs: list[tuple[Timed, Timed]]) -> dict[str, Any]:
    differences, farthest, items = [], 0.0, 0
    for requests, (ours, theirs) in zip(turns, pairs, strict=True):
        of_item: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            of_item.setdefault(request.doc_id, []).append(place)
            farthest = max(farthest, abs(ours.answers[place][0] - theirs.answers[place][0]))
        items += len(of_item)
        for item, places in of_item.items():
            doc = requests[places[0]].doc
            scores = [task.process_results(doc, [side.answers[place] for place in places]) for side in (ours, theirs)]
            flags = [[side.answers[place][1] for place in places] for side in (ours, theirs)]
            if scores[0] != scores[1] or flags[0] != flags[1]:
                differences.append(item)
    ratios = [theirs.seconds / ours.seconds for ours, theirs in pairs]
    return {
        "median ratio": round(statistics.median(ratios), 3),
        "ratios": [round(one, 3) for one in ratios],
        "median ratio of CPU time": round(
            statistics.median(theirs.cpu_seconds / ours.cpu_seconds for ours, theirs in pairs), 3
        ),
        "ratios of CPU time": [round(theirs.cpu_seconds / ours.cpu_seconds, 3) for ours, theirs in pairs],
        "items": items,
        "differences": differences,
        "largest difference of a log probability": farthest,
        "pairs": [{"ours_seconds": ours.seconds, "hf_seconds": theirs.seconds} for ours, theirs in pairs],
    }


if __name__ == "__main__":
    main()

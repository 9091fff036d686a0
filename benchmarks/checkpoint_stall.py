"""What checkpoints cost training: the share of all time that it stands still, and how much slower steps beside a write
are than others.

    python benchmarks/checkpoint_stall.py --model MODEL_FOLDER [--method full] [--steps 64] [--save-steps 20]

MODEL_FOLDER is a Hugging Face folder of a Llama-shaped model. The text is random tokens: what is saved has the same
size. The last checkpoint, which nothing runs beside, is not counted. Results: results/checkpoint_stall_*.json.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

THREADS = 2
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--method", choices=("lora", "full"), default="full")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--save-steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "date": datetime.date.today().isoformat(),
            "hardware": f"{os.cpu_count()} CPUs, {THREADS} threads used, {platform.platform()}",
            "setting": {name: getattr(arguments, name) for name in ("method", "rows", "max_length", "steps")},
            **measure(arguments, Path(folder)),
        }
    stem = f"checkpoint_stall_{arguments.method}_{os.cpu_count()}cpu-{platform.machine()}_{found['date']}"
    (RESULTS / f"{stem}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Seconds and shares of one run."""
    import numpy as np
    import torch

    from nexus_llm.recipe import TrainRecipe
    from nexus_llm.train.fused.learner import FusedLearner
    from nexus_llm.train.loop import Surroundings, Training
    from nexus_llm.train.packing import Shard, pack

    torch.set_num_threads(THREADS)
    recipe = TrainRecipe(
        method=arguments.method,
        max_length=arguments.max_length,
        per_device_train_batch_size=arguments.rows,
        max_steps=arguments.steps,
        save_steps=arguments.save_steps,
        eval_documents=0,
    )
    count = arguments.rows * arguments.max_length * 4
    tokens = np.random.default_rng(1).integers(0, 1000, count).astype(np.uint16)
    shard = Shard(tokens, np.array([0, count]), np.ones(count, bool), np.zeros(1, bool))
    rows = pack([shard], max_length=arguments.max_length, objective="continued-pretraining")
    learner = FusedLearner(arguments.model, recipe, seed=1, base_name="model")
    training = Training(learner, recipe=recipe, seed=1, train=rows, validation=None, folder=folder)
    marks: list[tuple[float, float]] = []

    def on_step(row: dict[str, object]) -> None:
        marks.append((time.perf_counter(), training.seconds_in_saving))
        print(row["step"], round(marks[-1][0] - marks[0][0], 1), round(marks[-1][1], 3), file=sys.stderr)

    training.run(Surroundings(on_step=on_step, stop_reason=lambda: None, seconds=time.perf_counter))
    # From the end of the first step to the end of the last but one: the last one waits for its checkpoint.
    seconds, stalled = (end - start for end, start in zip(marks[-2], marks[0], strict=True))
    lengths = [after[0] - before[0] for before, after in itertools.pairwise(marks[:-1])]
    beside = [lengths[place] for place in range(len(lengths)) if (place + 1) % arguments.save_steps == 0 and place]
    return {
        "checkpoint_bytes": sum(tensor.nbytes for tensor in learner.tensors().values()),
        "steps_per_checkpoint": arguments.save_steps,
        "stalled_share": round(stalled / seconds, 5),
        "stalled_seconds_per_checkpoint": round(stalled / max(1, (arguments.steps - 1) // arguments.save_steps), 3),
        # Standing still included: all time beyond what as many median steps take.
        "lost_share": round(1 - statistics.median(lengths) * len(lengths) / sum(lengths), 4),
        "median_step_seconds": round(statistics.median(lengths), 3),
        "median_seconds_of_the_step_beside_a_write": round(statistics.median(beside), 3) if beside else 0.0,
    }


if __name__ == "__main__":
    main()

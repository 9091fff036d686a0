"""What torchrun starts in the tests: a tiny model trained under one strategy after another."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from nexus_llm.errors import NexusError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train import checkpoint
from nexus_llm.train.distributed.build import build
from nexus_llm.train.distributed.launch import end_rank, leave_last_words
from nexus_llm.train.distributed.process_group import TorchRanks, joined, place
from nexus_llm.train.loop import Surroundings, Training, share_of_rank
from nexus_llm.train.packing import PackedRows, pack
from tiny_training import make_shard

STEPS = 6
SEED = 1


def recipe(strategy: str = "none", *, processes: int = 1, rows: int = 2, **changes: Any) -> TrainRecipe:
    """Eight rows a step, divided as asked."""
    distributed = {name: changes.pop(name) for name in ("zero_stage", "offload_param") if name in changes}
    base = {
        "max_length": 32,
        "method": "full",
        "dtype": "float32",
        "implementation": "transformers",
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": 8 // rows // processes,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "lora_r": 4,
        "max_steps": STEPS,
        "save_steps": 2,
        "eval_steps": 3,
        "warmup_steps": 1,
        "distributed": {"strategy": strategy, "num_processes": processes, **distributed},
    }
    return TrainRecipe.model_validate(base | changes)


def packed_rows() -> PackedRows:
    return pack([make_shard([40, 12, 30, 25, 9, 31, 60, 18] * 3)], max_length=32, objective="continued-pretraining")


class Abandoned(Exception):
    """The process would be dead now."""


def train(root: Path, job: dict[str, Any], ranks: TorchRanks) -> dict[str, Any]:
    """Trains one job of `jobs`, or goes on with it; gives what process 0 knows."""
    job = dict(job)
    name, dies_at, kills = job.pop("name"), job.pop("dies_at", None), job.pop("kills", False)
    made = recipe(job.pop("strategy"), processes=ranks.size, **job)
    learner = build(root / "model", made, ranks, seed=0, base="tiny")
    stop = Signalled()

    def on_step(row: dict[str, Any]) -> None:
        (root / name / f"alive-{ranks.rank}").write_text(str(os.getpid()))
        if dies_at and row["step"] == dies_at - 1:  # the next step then makes a checkpoint of it on a slow disk, too
            training._checkpoints._writer.wait()
        if row["step"] == dies_at:
            ranks.barrier()  # so that both have come equally far
            if kills:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Abandoned

    folder = root / name
    folder.mkdir(exist_ok=True)
    rows = packed_rows()
    training = Training(learner, recipe=made, seed=SEED, train=rows, validation=rows, folder=folder, ranks=ranks)
    began_at = training.step
    training.run(Surroundings(on_step=on_step, stop_reason=stop.requested, seconds=lambda: 0.0))
    learner.write(folder / "result")
    facts = learner.describe() | {"began_at": began_at, "forgets": forgets(learner, ranks)}
    if made.method == "full" and made.dtype == "float32":
        facts["from_one"] = from_one(root, learner, ranks)
    facts["kinds"] = sorted({type(one).__name__ for one in learner.packed.parameters()})
    return facts


def from_one(root: Path, learner: Any, ranks: TorchRanks) -> list[float]:
    """The losses of the fifth and sixth step after the fourth checkpoint of one process alone."""
    alone = root / "alone-full-float32"
    learner.restore_parts([checkpoint.open_step(alone / "checkpoints", 4).tensors()])
    rows = [json.loads(line) for line in (alone / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = []
    for step in (4, 5):
        batch = packed_rows().batch(SEED, step, size=8)
        mine = share_of_rank(batch, ranks)
        losses.append(ranks.total(learner.gradients(mine, learned_tokens=batch.learned_tokens)))
        learner.update(step, learning_rate=rows[step]["learning_rate"], max_grad_norm=1.0)
    return losses


def forgets(learner: Any, ranks: TorchRanks) -> bool:
    """Whether gradients that were forgotten, and those that are no numbers, leave no trace."""
    batch = packed_rows().batch(SEED, 0, size=8)
    mine = share_of_rank(batch, ranks)

    def norm() -> float:
        learner.gradients(mine, learned_tokens=batch.learned_tokens)
        return float(learner.update(STEPS, learning_rate=0.0, max_grad_norm=1.0))

    before = norm()
    learner.gradients(mine, learned_tokens=1)
    learner.forget_gradients()
    after = norm()
    saved = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    learner.backward(learner._summed_loss(mine.part(0, 2)) * float("inf"))
    broken = learner.update(STEPS, learning_rate=1.0, max_grad_norm=1.0)
    unchanged = all(torch.equal(tensor, saved[name]) for name, tensor in learner.tensors().items())
    return before == after and not broken < float("inf") and unchanged and norm() == before


class Signalled:
    """Remembers SIGTERM."""

    def __init__(self) -> None:
        self._name: str | None = None
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, _frame: Any) -> None:
        self._name = signal.Signals(number).name

    def requested(self) -> str | None:
        return self._name


def main() -> None:
    torch.set_num_threads(1)
    root, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
    here = place(os.environ)
    assert here is not None
    try:
        with joined(here, patience_seconds=120) as ranks:
            for job in jobs:
                facts: dict[str, Any] = {}
                try:
                    facts = train(root, job, ranks)
                except Abandoned:
                    continue
                if ranks.rank == 0:
                    (root / job["name"] / "facts.json").write_text(json.dumps(facts))
    except NexusError as error:
        leave_last_words(error, os.environ)
        print(f"{error.what}\n{error.fix}", file=sys.stderr)
        end_rank(error.exit_code)
    end_rank(0)


if __name__ == "__main__":
    main()

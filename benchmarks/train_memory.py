"""Peak resident memory of training processes, beside what train/plan.py said before.

    python benchmarks/train_memory.py [--config CONFIG_JSON] [--rows 4] [--lengths 256 512] [--threads 2] [--held-out]

Each case is a process of its own: a model with random weights (SmolLM2-135M's sizes unless a config.json is given),
two steps and a snapshot's copies between them, then the kernel's own highest mark (VmHWM). Random tokens, four
documents in a row. `--held-out` adds cases whose sizes had no part in the plan's constants. Needs the `train` extra.
Linux.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nexus_llm.recipe import TrainRecipe
from nexus_llm.train import plan

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("nexus-llm-platform", "torch", "transformers", "peft")
# The sizes of SmolLM2-135M's config.json (Apache-2.0).
CONFIG = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
# Wider and flatter, heads not grouped, a head of its own: nothing of it is in the plan's constants.
HELD_OUT = CONFIG | {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_hidden_layers": 12,
    "num_key_value_heads": 16,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(_child(**json.loads(arguments.child))))
        return
    config = json.loads(arguments.config.read_text(encoding="utf-8")) if arguments.config else CONFIG
    cases = _cases(config, "given" if arguments.config else "SmolLM2-135M", arguments.rows, arguments.lengths)
    if arguments.held_out:
        cases += _cases(HELD_OUT, "held out", 2, [384])
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            measured.append(_one(case, Path(folder), arguments.threads))
            print(measured[-1], file=sys.stderr)
            _write_results(measured, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _cases(config: dict[str, Any], model: str, rows: int, lengths: list[int]) -> list[dict[str, Any]]:
    """The fused layers do not checkpoint; all else in all combinations."""
    ways = (("fused", False), ("transformers", False), ("transformers", True))
    return [
        {
            "model": model,
            "config": config,
            "recipe": {
                "implementation": implementation,
                "method": method,
                "max_length": length,
                "per_device_train_batch_size": rows,
                "gradient_checkpointing": checkpointing,
            },
        }
        for implementation, checkpointing in ways
        for method in ("lora", "full")
        for length in lengths
    ]


def _one(case: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    recipe = TrainRecipe.model_validate(case["recipe"])
    planned = plan.memory(case["config"], recipe)
    # Weights are written by a process of its own, so that making them does not count.
    told = {"folder": str(folder / case["model"].replace(" ", "-")), "config": case["config"], "recipe": case["recipe"]}
    for job in ("make", "train"):
        command = [sys.executable, __file__, "--child", json.dumps({**told, "job": job})]
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{case} failed:\n{done.stderr[-3000:]}")
    peak = json.loads(done.stdout.strip().splitlines()[-1])["peak_bytes"]
    return {
        "model": case["model"],
        **case["recipe"],
        "planned_gb": round(planned.device_bytes / plan.GB, 3),
        "measured_gb": round(peak / plan.GB, 3),
        "error_share": round(planned.device_bytes / peak - 1, 4),
        "moment": planned.moment,
        "parts_gb": {part.name: round(part.bytes / plan.GB, 3) for part in planned.parts},
    }


def _child(*, job: str, folder: str, config: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    if job == "make":
        _make_model(Path(folder), config)
        return {}
    _train(Path(folder), TrainRecipe.model_validate(recipe), vocabulary=config["vocab_size"])
    status = Path("/proc/self/status").read_text(encoding="ascii")
    highest = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return {"peak_bytes": int(highest.split()[1]) * 1024}


def _make_model(folder: Path, config: dict[str, Any]) -> None:
    if (folder / "config.json").exists():
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    fields = {key: value for key, value in config.items() if key != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **fields), dtype=torch.bfloat16)
    model.save_pretrained(folder)


def _train(folder: Path, recipe: TrainRecipe, *, vocabulary: int) -> None:
    import numpy as np

    from nexus_llm.train.packing import NOT_LEARNED, Batch

    learner = _learner(folder, recipe)
    shape = (recipe.per_device_train_batch_size, recipe.max_length)
    places = np.broadcast_to(np.arange(recipe.max_length), shape)
    piece = recipe.max_length // 4
    copies: dict[str, Any] = {}
    for step in range(2):
        token_ids = np.random.default_rng(step).integers(0, vocabulary, shape)
        labels = np.where(places % piece == 0, NOT_LEARNED, token_ids)
        batch = Batch(token_ids, labels, places % piece, places // piece)
        learner.gradients(batch, learned_tokens=batch.learned_tokens)
        learner.update(step, learning_rate=1e-4, max_grad_norm=1.0)
        if not copies:  # as train/snapshot.py keeps them
            copies = {name: tensor.detach().clone() for name, tensor in learner.tensors().items()}


def _learner(folder: Path, recipe: TrainRecipe) -> Any:
    if recipe.implementation == "fused":
        from nexus_llm.train.fused.learner import FusedLearner

        return FusedLearner(folder, recipe, seed=1, base_name="random")
    from nexus_llm.train.hf import build

    return build(folder, recipe, seed=1, base="random")


def _write_results(measured: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    worst = max(measured, key=lambda row: abs(row["error_share"]))
    stem = f"train_memory_{os.cpu_count()}cpu-{platform.machine()}_{datetime.date.today().isoformat()}"
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
    result = {
        "hardware": f"{os.cpu_count()} CPUs, {arguments.threads} threads used, {platform.platform()}",
        "versions": versions,
        "worst_error_share": worst["error_share"],
        "cases": measured,
    }
    lines = [
        "# Memory of training: planned, and the kernel's highest mark",
        "",
        f"{result['hardware']}. {', '.join(f'{name} {version}' for name, version in versions.items())}. bfloat16.",
        "",
        "| model | implementation | method | rows × tokens | checkpointing | planned GB | measured GB | error |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    for row in measured:
        size = f"{row['per_device_train_batch_size']} × {row['max_length']}"
        checkpointing = "yes" if row["gradient_checkpointing"] else "no"
        lines.append(
            f"| {row['model']} | {row['implementation']} | {row['method']} | {size} | {checkpointing} "
            f"| {row['planned_gb']:.2f} | {row['measured_gb']:.2f} | {row['error_share']:+.1%} |"
        )
    lines += ["", f"Largest error: {worst['error_share']:+.1%}."]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{stem}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

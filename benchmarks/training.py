"""Tokens per second of our training loop and of TRL's SFTTrainer, in one interleaved run.

    python benchmarks/training.py --model MODEL_FOLDER --data DATA_FOLDER [--method lora] [--segments 4] [--steps 10]

MODEL_FOLDER and DATA_FOLDER are artifacts of `nexus run` (`artifacts/model/KEY`, `artifacts/data/KEY`). Each segment is
a process of its own with two threads, and the contestants take turns, so a noisy neighbour hits all alike. Both read
the same documents. Counted are learned tokens: no padding, no first token of a document. TRL runs in several
configurations; the ratio is taken against the fastest. Beside them, the fastest bfloat16 matrix product of any size
tried is measured in turns too: our floating-point operations (`nexus_llm.arithmetic`; no padding, no recomputation
counted) are told as a share of it. Needs the `train` and `bench` extras.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

THREADS = 2
WARM_UP_STEPS = 2
RANK, ALPHA = 16, 32
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("nexus-llm-platform", "torch", "transformers", "trl", "peft", "accelerate", "datasets")

CONTESTANTS = {
    "nexus": "this project",
    "trl default": "TRL, packing bfd_split (no text lost), bf16=True (autocast), no gradient checkpointing",
    "trl wrapped": "TRL, packing wrapped (rows cut anywhere, documents see each other), bf16=True, no checkpointing",
    "trl wrapped, pure bf16": "the same without autocast: weights and adapters in bfloat16",
    "trl checkpointing": "TRL default with its default gradient_checkpointing=True",
}

PEAK = "matrix product"
# (rows, inner, columns): the model's own (tokens of a step, channels, feed-forward; the head) and large ones.
PEAK_SIZES = ((1024, 576, 1536), (1024, 1536, 576), (256, 576, 49152), (1024, 1024, 1024), (2048, 2048, 2048))
PEAK_SECONDS = 1.5

Moment = tuple[float, float]
"""(seconds on the wall, seconds of processor time)."""


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(_child(arguments)))
        return
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.contestants}
    peaks: list[dict[str, Any]] = []
    for segment in range(arguments.segments):
        peaks.append(_segment(PEAK, arguments))
        print(f"segment {segment + 1} {PEAK}: {peaks[-1]}", file=sys.stderr)
        for name in arguments.contestants:
            measured[name].append(_segment(name, arguments))
            print(f"segment {segment + 1} {name}: {measured[name][-1]}", file=sys.stderr)
    _write_results(measured, peaks, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--segments", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="steps in a segment, warm-up included")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--child", choices=(*CONTESTANTS, PEAK), help=argparse.SUPPRESS)
    return parser.parse_args()


def _segment(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", name, "--method", arguments.method]
    for option in ("model", "data", "rows", "max_length", "steps"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(THREADS),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _child(arguments: argparse.Namespace) -> dict[str, Any]:
    import resource

    import torch

    torch.set_num_threads(THREADS)
    if arguments.child == PEAK:
        return _measure_peak()
    measure = _measure_nexus if arguments.child == "nexus" else _measure_trl
    with tempfile.TemporaryDirectory() as folder:
        ends, tokens, last_loss = measure(arguments, Path(folder))
    seconds, processor_seconds = (end - start for end, start in zip(ends[-1], ends[WARM_UP_STEPS - 1], strict=True))
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "tokens_per_second": round(sum(tokens[WARM_UP_STEPS:]) / seconds, 1),
        "tokens_per_processor_second": round(sum(tokens[WARM_UP_STEPS:]) / processor_seconds, 1),
        "tokens_per_step": round(statistics.mean(tokens)),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2),
        "last_loss": round(last_loss, 3),
    }


def _measure_peak() -> dict[str, Any]:
    """The fastest bfloat16 product, in 10¹² floating-point operations a second, and all that were tried."""
    import torch

    found = {}
    for rows, inner, columns in PEAK_SIZES:
        left, right = torch.randn(rows, inner).bfloat16(), torch.randn(inner, columns).bfloat16()
        out = torch.empty(rows, columns, dtype=torch.bfloat16)
        torch.mm(left, right, out=out)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < PEAK_SECONDS:
            torch.mm(left, right, out=out)
            count += 1
        rate = 2 * rows * inner * columns * count / (time.perf_counter() - started)
        found[f"{rows} x {inner} x {columns}"] = round(rate / 1e12, 4)
    return {"tera_operations_per_second": max(found.values()), "sizes": found}


def _measure_nexus(arguments: argparse.Namespace, folder: Path) -> tuple[list[Moment], list[int], float]:
    """When each step ended, how many tokens it learned, and the last loss."""
    from nexus_llm.artifacts import load
    from nexus_llm.ports import Ports
    from nexus_llm.recipe import Recipe
    from nexus_llm.train.loop import Surroundings, Training
    from nexus_llm.train.stage import prepare

    train = {
        "method": arguments.method,
        "lora_r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": TARGETS,
        "max_length": arguments.max_length,
        "per_device_train_batch_size": arguments.rows,
        "max_steps": arguments.steps,
        "save_steps": 10_000,
        "eval_documents": 0,
    }
    recipe = Recipe.model_validate({"name": "benchmark", "train": train})
    inputs = {"model": load(arguments.model), "data": load(arguments.data)}
    learner, (rows, _) = prepare(recipe, inputs, folder, Ports())
    ends: list[Moment] = []
    training = Training(learner, recipe=recipe.train, seed=recipe.seed, train=rows, validation=None, folder=folder)
    training.run(
        Surroundings(on_step=lambda _row: ends.append(_now()), stop_reason=lambda: None, seconds=time.perf_counter)
    )
    learned = [rows.batch(recipe.seed, step, size=arguments.rows).learned_tokens for step in range(arguments.steps)]
    return ends, learned, training.metrics()[-1]["loss"]


def _measure_trl(arguments: argparse.Namespace, folder: Path) -> tuple[list[Moment], list[int], float]:
    """The same for TRL, with its own data preparation, collator, loss and optimizer."""
    import numpy as np
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tokens = np.load(arguments.data / "train-00000.tokens.npy")
    offsets = np.load(arguments.data / "train-00000.offsets.npy")
    documents = [tokens[start:stop].tolist() for start, stop in itertools.pairwise(offsets)]
    config = SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16="pure" not in arguments.child,
        packing=True,
        packing_strategy="wrapped" if "wrapped" in arguments.child else "bfd_split",
        gradient_checkpointing="checkpointing" in arguments.child,
        max_length=arguments.max_length,
        per_device_train_batch_size=arguments.rows,
        max_steps=arguments.steps,
        learning_rate=5e-4,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=17,
    )
    adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    ends: list[Moment] = []
    learned: list[int] = []

    class Stopwatch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(_now())

    class CountingTrainer(SFTTrainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            # A prediction is learned where the next label is; the first label of every row or document has none.
            first = inputs["position_ids"] == 0 if "position_ids" in inputs else torch.zeros_like(inputs["labels"])
            first[:, 0] = 1
            learned.append(int(((inputs["labels"] != -100) & (first == 0)).sum()))
            return super().training_step(model, inputs, *rest)

    trainer = CountingTrainer(
        model=AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16),
        args=config,
        train_dataset=Dataset.from_dict({"input_ids": documents}),
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
        peft_config=adapter if arguments.method == "lora" else None,
        callbacks=[Stopwatch()],
    )
    if "pure" in arguments.child:
        trainer.model.to(torch.bfloat16)
    trainer.train()
    return ends, learned, [row["loss"] for row in trainer.state.log_history if "loss" in row][-1]


def _now() -> Moment:
    return time.perf_counter(), time.process_time()


def _shares_of_peak(
    ours: list[dict[str, Any]], peaks: list[dict[str, Any]], arguments: argparse.Namespace
) -> list[float]:
    """Of each segment, the share of the fastest matrix product beside it that the learned tokens' operations are."""
    from nexus_llm import arithmetic

    model = arithmetic.shape(json.loads((arguments.model / "config.json").read_text(encoding="utf-8")))
    adapters = None
    if arguments.method == "lora":
        adapters = arithmetic.adapter_parameters(model, rank=RANK, target_modules=TARGETS)
    operations = arithmetic.training_flops_per_token(
        model, context_tokens=arguments.max_length / 2, trained_adapter_parameters=adapters
    )
    return [
        round(row["tokens_per_second"] * operations / (peak["tera_operations_per_second"] * 1e12), 3)
        for row, peak in zip(ours, peaks, strict=True)
    ]


def _write_results(
    measured: dict[str, list[dict[str, Any]]], peaks: list[dict[str, Any]], arguments: argparse.Namespace
) -> None:
    medians = {name: statistics.median(row["tokens_per_second"] for row in rows) for name, rows in measured.items()}
    peers = {name: value for name, value in medians.items() if name != "nexus"}
    fastest = max(peers, key=lambda name: peers[name])
    shares = {
        name: statistics.median(row["tokens_per_processor_second"] for row in rows) for name, rows in measured.items()
    }
    ratios = [
        ours["tokens_per_second"] / theirs["tokens_per_second"]
        for ours, theirs in zip(measured["nexus"], measured[fastest], strict=True)
    ]
    hardware = f"{os.cpu_count()}cpu-{platform.machine()}"
    size = f"{arguments.max_length}x{arguments.rows}"
    stem = f"training_{arguments.method}_{size}_{hardware}_{datetime.date.today().isoformat()}"
    result = {
        "setting": {key: getattr(arguments, key) for key in ("method", "rows", "max_length", "segments", "steps")},
        "hardware": f"{_processor()}, {os.cpu_count()} cores, {THREADS} threads used, {platform.platform()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "medians_tokens_per_second": medians,
        "medians_tokens_per_processor_second": shares,
        "fastest_peer": fastest,
        "ratio_of_medians": round(medians["nexus"] / peers[fastest], 3),
        "ratio_per_segment": [round(ratio, 3) for ratio in ratios],
        "ratio_of_processor_time": round(shares["nexus"] / shares[fastest], 3),
        "share_of_matrix_product_per_segment": _shares_of_peak(measured["nexus"], peaks, arguments),
        "matrix_product": peaks,
        "segments": measured,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{stem}.md").write_text(_report(result, measured, medians), encoding="utf-8")
    print((RESULTS / f"{stem}.md").read_text(encoding="utf-8"))


def _report(result: dict[str, Any], measured: dict[str, list[dict[str, Any]]], medians: dict[str, float]) -> str:
    setting = result["setting"]
    lines = [
        f"# Training, {setting['method']}, {setting['max_length']} x {setting['rows']}, against TRL",
        "",
        f"{result['hardware']}. {', '.join(f'{name} {version}' for name, version in result['versions'].items())}.",
        "",
        f"{setting['segments']} segments of {setting['steps']} steps each, in turns; the first {WARM_UP_STEPS} steps "
        f"of each are not counted. LoRA has r={RANK} on all seven linear layers. Learned tokens per second.",
        "",
        "| contestant | what | median tokens/s | each segment | peak memory GiB | last loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in measured.items():
        each = ", ".join(f"{row['tokens_per_second']:.0f}" for row in rows)
        memory = max(row["peak_memory_gib"] for row in rows)
        lines.append(
            f"| {name} | {CONTESTANTS[name]} | {medians[name]:.0f} | {each} | {memory} | {rows[-1]['last_loss']} |"
        )
    lines += [
        "",
        f"Against the fastest peer ({result['fastest_peer']}): **{result['ratio_of_medians']} x** "
        f"(per segment {', '.join(str(ratio) for ratio in result['ratio_per_segment'])}; "
        f"{result['ratio_of_processor_time']} x per second of processor time, which other load disturbs less).",
        "",
        "Share of the fastest bfloat16 matrix product "
        f"({', '.join(str(peak['tera_operations_per_second']) for peak in result['matrix_product'])} · 10¹² operations "
        f"a second): {', '.join(f'{share:.1%}' for share in result['share_of_matrix_product_per_segment'])}.",
        "",
    ]
    return "\n".join(lines)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return platform.processor()
    names = [line.split(":")[1].strip() for line in information.read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()

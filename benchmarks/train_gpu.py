"""Tokens per second of one GPU on a Llama of 8 billion random weights: ours, HF Trainer, TRL, and TRL with Liger.

    python benchmarks/train_gpu.py [--method lora full] [--contestants nexus trainer trl trl-liger] [--tiny]

Each contestant is a process of its own that makes the same model (random weights from one seed, made on the GPU), reads
the same random tokens (no padding, rows of 4,096), and does the same steps; counted is the time between the first and
the last one after warming up. `--long` adds one LoRA step over 131,072 tokens. `--tiny` takes a model of a few MB and a
few steps, on any machine: to see that the script runs. Result: results/train_gpu_*.json. Needs the extras train, bench.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CONTESTANTS = ("nexus", "trainer", "trl", "trl-liger")
WARM_UP_STEPS = 2
# Llama 3.1 8B (its config.json; the sizes also stand in the paper, arXiv:2407.21783, table 3).
LLAMA_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4_096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rope_theta": 500_000.0,
    "tie_word_embeddings": False,
}
TINY = LLAMA_8B | {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                   "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
RANK, ALPHA = 16, 32
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Marks = list[float]
"""When each step ended."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="*", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--contestants", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rows", type=int, default=2, help="in one forward pass")
    parser.add_argument("--length", type=int, default=4_096)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("CONTESTANT", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        options.length, options.steps = min(options.length, 128), 4
    if options.child:
        print(json.dumps(child(*options.child, options)))
        return
    rows = [measured(name, method, options) for method in options.method for name in options.contestants]
    if options.long:
        options.length, options.rows, options.steps = (256 if options.tiny else 131_072), 1, WARM_UP_STEPS + 1
        rows.append(measured("nexus", "lora", options))
    result = {"date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(), "device": device_name(), "runs": rows}
    result["versions"] = {name: version(name) for name in ("torch", "transformers", "trl", "peft", "liger-kernel")}
    print(json.dumps(result, indent=1))
    if not options.tiny:
        (RESULTS / f"train_gpu_{result['date']}.json").write_text(json.dumps(result, indent=1) + "\n")


def measured(name: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """One contestant's row; an error is told, not raised: the others go on."""
    command = [sys.executable, __file__, "--child", name, method, "--steps", str(options.steps)]
    command += ["--rows", str(options.rows), "--length", str(options.length), *(["--tiny"] if options.tiny else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    row: dict[str, Any] = {"contestant": name, "method": method, "length": options.length, "rows": options.rows}
    lines = done.stdout.strip().splitlines()
    row |= json.loads(lines[-1]) if done.returncode == 0 else {"error": f"ended with {done.returncode}"}
    print(row, file=sys.stderr, flush=True)
    return row


def child(name: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Trains, and tells tokens a second and the highest memory of the GPU."""
    import torch

    torch.manual_seed(1)
    train: dict[str, Callable[..., Marks]] = {"nexus": nexus, "trainer": trainer, "trl": trl, "trl-liger": trl}
    with tempfile.TemporaryDirectory() as folder:
        marks = train[name](method, options, Path(folder), liger=name == "trl-liger")
    steps = len(marks) - WARM_UP_STEPS
    seconds = marks[-1] - marks[WARM_UP_STEPS - 1]
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    return {"tokens_per_second": round(steps * options.rows * options.length / seconds), "peak_gb": peak}


def model_config(options: argparse.Namespace) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**(TINY if options.tiny else LLAMA_8B), dtype="bfloat16")


def random_model(options: argparse.Namespace) -> Any:
    """Random weights, made where they are used."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(model_config(options), dtype=torch.bfloat16)


def random_rows(options: argparse.Namespace) -> Any:
    """Token ids, shape (rows of all steps, length)."""
    import numpy as np

    shape = (options.rows * options.steps, options.length)
    return np.random.default_rng(1).integers(0, TINY["vocab_size"], shape)


def nexus(method: str, options: argparse.Namespace, folder: Path, *, liger: bool) -> Marks:
    """This project's loop and learner."""
    del liger
    import numpy as np

    from nexus_llm.recipe import TrainRecipe
    from nexus_llm.train.hf import build
    from nexus_llm.train.loop import Surroundings, Training
    from nexus_llm.train.packing import Shard, pack

    random_model(options).save_pretrained(folder / "model")
    rows = random_rows(options)
    shard = Shard(
        rows.ravel(), np.arange(0, rows.size + 1, options.length), np.ones(rows.size, bool), np.zeros(len(rows), bool)
    )
    recipe = TrainRecipe(
        method=method,
        implementation="transformers",
        lora_r=RANK,
        lora_alpha=ALPHA,
        max_length=options.length,
        per_device_train_batch_size=options.rows,
        max_steps=options.steps,
        gradient_checkpointing=method == "full" or options.length > 16_384,
        save_steps=10_000,
        eval_documents=0,
        learning_rate=1e-5,
    )
    learner = build(folder / "model", recipe, seed=1, base="random")
    packed = pack([shard], max_length=options.length, objective="continued-pretraining")
    training = Training(learner, recipe=recipe, seed=1, train=packed, validation=None, folder=folder)
    marks: Marks = []
    training.run(
        Surroundings(on_step=lambda _: marks.append(now()), stop_reason=lambda: None, seconds=time.perf_counter)
    )
    return marks


def trainer(method: str, options: argparse.Namespace, folder: Path, *, liger: bool) -> Marks:
    """transformers' Trainer, with PEFT for LoRA."""
    import torch
    from transformers import Trainer, TrainingArguments

    model = with_adapters(random_model(options), method)
    rows = [{"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in random_rows(options)]
    arguments = TrainingArguments(**peer_arguments(method, options, folder), use_liger_kernel=liger)
    return timed(Trainer(model=model, args=arguments, train_dataset=rows))


def trl(method: str, options: argparse.Namespace, folder: Path, *, liger: bool) -> Marks:
    """TRL's SFTTrainer on rows that are packed already."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_dict({"input_ids": random_rows(options).tolist()})
    arguments = SFTConfig(
        **peer_arguments(method, options, folder),
        max_length=options.length,
        use_liger_kernel=liger,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return timed(SFTTrainer(model=with_adapters(random_model(options), method), args=arguments, train_dataset=rows))


def peer_arguments(method: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The same work as ours, in the peers' words."""
    import torch

    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": options.rows,
        "max_steps": options.steps,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": method == "full",
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }


def with_adapters(model: Any, method: str) -> Any:
    if method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def timed(one: Any) -> Marks:
    """When each step of a Trainer ended."""
    from transformers import TrainerCallback

    marks: Marks = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(now())

    one.add_callback(Clock())
    one.train()
    return marks


def now() -> float:
    """Seconds, when the GPU has done all that it was asked to do."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()

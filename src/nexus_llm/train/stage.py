"""The train stage: a base model and token shards become an adapter or new weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm import storage
from nexus_llm.artifacts import Artifact, Draft, Estimate, Stage, file_sha256
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe

if TYPE_CHECKING:
    from nexus_llm.train.decoder import Decoder
    from nexus_llm.train.loop import Training
    from nexus_llm.train.optimizer import MasterAdamW
    from nexus_llm.train.packing import PackedRows

FULL_WEIGHTS = "model.safetensors"
METRICS = "metrics.jsonl"

# Tokens per second of SmolLM2-135M, LoRA, on 2 vCPU of an AMD EPYC with bfloat16 instructions (benchmarks/training.py).
ASSUMED_TOKENS_PER_SECOND = 400
ASSUMED_MEMORY_BYTES = {"lora": 2 * 2**30, "dora": 2 * 2**30, "qlora": 2 * 2**30, "full": 4 * 2**30}

# They decide where it runs, when something is saved and who hears of it, not what comes out.
_WITHOUT_EFFECT = {"save_steps", "save_total_limit", "launcher", "sagemaker", "tracking"}


def recipe_part(recipe: Recipe) -> dict[str, Any]:
    """The fields that change the weights or the facts."""
    return {"seed": recipe.seed, "train": recipe.train.model_dump(mode="json", exclude=_WITHOUT_EFFECT)}


def estimate(recipe: Recipe) -> Estimate:
    """Time and memory for the small model on two cores."""
    train = recipe.train
    rows = train.max_steps * train.gradient_accumulation_steps * train.per_device_train_batch_size
    return Estimate(
        seconds=10 + rows * train.max_length / ASSUMED_TOKENS_PER_SECOND,
        memory_bytes=ASSUMED_MEMORY_BYTES[train.method],
    )


def run(recipe: Recipe, inputs: Mapping[str, Artifact], draft: Draft, ports: Ports) -> Artifact:
    """Trains, or goes on where an interrupted run stopped, and writes the learned weights.

    Raises:
        ModelError: the base model cannot be read, or is of a kind that cannot be trained here.
        DataError: there are no token shards, or they belong to another vocabulary.
        TrainingError: nothing to learn from, or the loss is not finite.
        TryAgainError: asked to stop; the same command continues.
    """
    with storage.explained(str(draft.folder)):
        decoder, optimizer, rows = prepare(recipe, inputs["model"].folder, inputs["data"].folder)
        training = _train(recipe, decoder, optimizer, rows, draft.work, ports)
        weights = _write(recipe, decoder, optimizer, inputs["model"].folder, draft.folder)
        shutil.copyfile(draft.work / METRICS, draft.folder / METRICS)
        facts = _facts(training, optimizer, rows[0], weights, draft.work)
    return draft.finish(facts=facts, logs=(METRICS,))


def prepare(recipe: Recipe, model: Path, data: Path) -> tuple[Decoder, MasterAdamW, tuple[PackedRows, PackedRows]]:
    """The model, its optimizer, and the packed rows of training and validation, from the folders of two artifacts."""
    from nexus_llm.train import lora
    from nexus_llm.train.decoder import Decoder
    from nexus_llm.train.model import load_model
    from nexus_llm.train.optimizer import MasterAdamW
    from nexus_llm.train.packing import pack, read_shards

    train = recipe.train
    decoder = Decoder(load_model(model, dtype=train.dtype), max_length=train.max_length)
    training, validation = (
        pack(
            read_shards(data, split, vocabulary=len(decoder.embedding)),
            max_length=train.max_length,
            objective=train.objective,
        )
        for split in ("train", "validation")
    )
    if train.method == "lora":
        start = lora.add_adapters(
            decoder,
            rank=train.lora_r,
            alpha=train.lora_alpha,
            dropout=train.lora_dropout,
            target_modules=train.target_modules,
            seed=recipe.seed,
        )
        parameters = lora.adapter_parameters(decoder)
    else:
        start = parameters = decoder.parameters()
    return decoder, MasterAdamW(parameters, start, weight_decay=train.weight_decay), (training, validation)


def _train(
    recipe: Recipe,
    decoder: Decoder,
    optimizer: MasterAdamW,
    rows: tuple[PackedRows, PackedRows],
    work: Path,
    ports: Ports,
) -> Training:
    from nexus_llm.train.loop import MetricsRow, Surroundings, Training

    def on_step(row: MetricsRow) -> None:
        ports.progress.advance(1, note=f"loss {row['loss']:.3f}, {row['tokens_per_second'] or 0:.0f} tokens/s")

    ports.progress.start("training", total=recipe.train.max_steps, unit="steps")
    training = Training(
        decoder, optimizer, recipe=recipe.train, seed=recipe.seed, train=rows[0], validation=rows[1], folder=work
    )
    if training.step:
        ports.progress.advance(training.step, note=f"continued after step {training.step}")
    training.run(Surroundings(on_step=on_step, stop_reason=ports.interrupt.requested, seconds=ports.clock.monotonic))
    ports.progress.finish()
    return training


def _write(recipe: Recipe, decoder: Decoder, optimizer: MasterAdamW, model: Path, target: Path) -> Path:
    """Writes the learned weights; gives the file's path."""
    import torch

    from nexus_llm.train import lora
    from nexus_llm.train.checkpoint import write_tensors

    train = recipe.train
    if train.method == "lora":
        config = lora.adapter_config(
            base=recipe.model.base,
            rank=train.lora_r,
            alpha=train.lora_alpha,
            dropout=train.lora_dropout,
            target_modules=train.target_modules,
        )
        (target / lora.ADAPTER_CONFIG).write_text(config, encoding="utf-8")
        weights, tensors = target / lora.ADAPTER_WEIGHTS, optimizer.masters
    else:
        shutil.copyfile(model / "config.json", target / "config.json")
        learned = decoder.state_dict(optimizer.masters)
        weights, tensors = target / FULL_WEIGHTS, {name: value.to(torch.bfloat16) for name, value in learned.items()}
    write_tensors(tensors, weights)
    return weights


def _facts(training: Training, optimizer: MasterAdamW, rows: PackedRows, weights: Path, work: Path) -> dict[str, Any]:
    from nexus_llm.train.checkpoint import broken_checkpoints

    metrics = training.metrics()
    return {
        "steps": training.step,
        "tokens": sum(row["tokens"] for row in metrics),
        "rows": rows.rows,
        "dropped_documents": rows.dropped,
        "first_loss": metrics[0]["loss"],
        "last_loss": metrics[-1]["loss"],
        "validation_losses": [{"step": step, "loss": loss} for step, loss in training.validation_losses],
        "trainable_parameters": sum(master.numel() for master in optimizer.masters.values()),
        "weights_sha256": file_sha256(weights),
        "broken_checkpoints": [
            {"name": broken.name, "reason": broken.reason} for broken in broken_checkpoints(work / "checkpoints")
        ],
    }


STAGE = Stage(
    kind="train",
    version=1,
    needs=("model", "data"),
    recipe_part=recipe_part,
    outside_inputs=lambda _recipe, _ports: {},
    run=run,
    estimate=estimate,
)

"""The train stage: a base model and token shards become an adapter or new weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm import storage
from nexus_llm.artifacts import Artifact, Draft, Estimate, Stage, file_sha256
from nexus_llm.errors import TrainingError
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe, TrainRecipe

if TYPE_CHECKING:
    from nexus_llm.train.learner import Learner
    from nexus_llm.train.loop import Training
    from nexus_llm.train.packing import PackedRows

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
        learner, rows = prepare(recipe, inputs["model"].folder, inputs["data"].folder)
        ids = {name: artifact.id for name, artifact in inputs.items()}
        training = _train(recipe, learner, rows, draft.work, ports, ids)
        weights = learner.write(draft.folder)
        shutil.copyfile(draft.work / METRICS, draft.folder / METRICS)
        facts = _facts(recipe.train, training, learner, rows[0], weights, draft.work)
    return draft.finish(facts=facts, logs=(METRICS,))


def prepare(recipe: Recipe, model: Path, data: Path) -> tuple[Learner, tuple[PackedRows, PackedRows]]:
    """The model in training, and the packed rows of training and validation, from the folders of two artifacts."""
    from nexus_llm.train.packing import pack, read_shards

    train = recipe.train
    learner = make_learner(recipe, model)
    training, validation = (
        pack(
            read_shards(data, split, vocabulary=_vocabulary(model)),
            max_length=train.max_length,
            objective=train.objective,
        )
        for split in ("train", "validation")
    )
    return learner, (training, validation)


def make_learner(recipe: Recipe, model: Path) -> Learner:
    """The model in `model`, ready to be trained by the implementation that the recipe asks for.

    Raises:
        ModelError: the model cannot be read.
        TrainingError: `implementation: fused`, and the fused layers cannot do it.
    """
    import torch

    from nexus_llm.train.fused.learner import FusedLearner, why_not

    train, base = recipe.train, recipe.model.base
    reason = None if train.implementation == "transformers" else why_not(model, train)
    if train.implementation == "fused" and reason:
        raise TrainingError(
            f"train.implementation is fused, and {reason}", fix="set train.implementation to auto or transformers"
        )
    is_fused = train.implementation == "fused" or (
        train.implementation == "auto" and not reason and not torch.cuda.is_available()
    )
    if is_fused:
        return FusedLearner(model, train, seed=recipe.seed, base_name=base)
    from nexus_llm.train.hf import build

    return build(model, train, seed=recipe.seed, base=base)


def _vocabulary(model: Path) -> int:
    """Entries of the embedding, as the model's config says."""
    config = dict(json.loads((model / "config.json").read_bytes()))
    return int(config.get("vocab_size") or config["text_config"]["vocab_size"])


def _train(
    recipe: Recipe,
    learner: Learner,
    rows: tuple[PackedRows, PackedRows],
    work: Path,
    ports: Ports,
    ids: Mapping[str, str],
) -> Training:
    from nexus_llm.train.loop import MetricsRow, Surroundings, Training

    def on_step(row: MetricsRow) -> None:
        told = f"skipped: {row['skipped']}" if "skipped" in row else f"loss {row['loss']:.3f}"
        if "rolled_back_to_step" in row:
            told += f"; back to the weights of step {row['rolled_back_to_step']}"
        ports.progress.advance(1, note=f"{told}, {row['tokens_per_second'] or 0:.0f} tokens/s")

    ports.progress.start("training", total=recipe.train.max_steps, unit="steps")
    training = Training(
        learner,
        recipe=recipe.train,
        seed=recipe.seed,
        train=rows[0],
        validation=rows[1],
        folder=work,
        inputs=ids,
    )
    if training.step:
        ports.progress.advance(training.step, note=f"continued after step {training.step}")
    training.run(Surroundings(on_step=on_step, stop_reason=ports.interrupt.requested, seconds=ports.clock.monotonic))
    ports.progress.finish()
    return training


def _facts(
    recipe: TrainRecipe, training: Training, learner: Learner, rows: PackedRows, weights: Path, work: Path
) -> dict[str, Any]:
    from nexus_llm.train.checkpoint import broken_checkpoints

    history, totals = training.history, training.totals
    best = {"best_step": training.best_step} if recipe.load_best_model_at_end else {}
    return {
        **learner.describe(),
        **best,
        "steps": training.step,
        "stopped_early": training.stopped_early,
        "tokens": totals.tokens,
        "rows": rows.rows,
        "dropped_documents": rows.dropped,
        "first_loss": totals.first_loss,
        "last_loss": totals.last_loss,
        "validation_losses": [{"step": step, "loss": loss} for step, loss in training.validation_losses],
        "skipped_steps": [asdict(one) for one in history.skipped],
        "rollbacks": [asdict(one) for one in history.rollbacks],
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

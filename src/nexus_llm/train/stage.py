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
from nexus_llm.errors import ModelError, TryAgainError
from nexus_llm.ports import Ports, RunStart, TrackingStatus
from nexus_llm.recipe import Recipe, TrainRecipe

if TYPE_CHECKING:
    from nexus_llm.train.activations import Device
    from nexus_llm.train.distributed.process_group import TorchRanks
    from nexus_llm.train.learner import Learner
    from nexus_llm.train.loop import Training
    from nexus_llm.train.packing import PackedRows
    from nexus_llm.train.preferences import PackedPairs

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
        TrainingError: nothing to learn from, it does not fit into memory, or too many steps went wrong.
        TryAgainError: asked to stop; the same command continues.
    """
    with storage.explained(str(draft.folder)):
        if recipe.train.launcher != "local" or recipe.train.distributed.strategy != "none":
            folders = {kind: artifact.folder for kind, artifact in inputs.items()}
            facts = ports.train_service.train(recipe, folders, draft.folder.name, draft.folder)
        else:
            facts = train_here(recipe, inputs, draft.folder, draft.work, ports)
    return draft.finish(facts=facts, logs=(METRICS,))


def train_here(
    recipe: Recipe,
    inputs: Mapping[str, Artifact],
    folder: Path,
    work: Path,
    ports: Ports,
    ranks: TorchRanks | None = None,
) -> dict[str, Any]:
    """Trains in this process, one of `ranks` where there are several, all of which call it; gives the facts.

    The weights and the log come into `folder`, checkpoints lie in `work`; process 0 alone writes either. Errors: `run`.
    """
    learner, rows = prepare(recipe, inputs, work, ports, ranks)
    training = _train(recipe, learner, rows, work, ports, ranks, inputs)
    weights = learner.write(folder)
    if ranks is not None and ranks.rank:
        return {}
    shutil.copyfile(work / METRICS, folder / METRICS)
    return _facts(recipe.train, training, learner, rows[0], weights, work)


def prepare(
    recipe: Recipe, inputs: Mapping[str, Artifact], work: Path, ports: Ports, ranks: TorchRanks | None = None
) -> tuple[Learner, tuple[PackedRows, PackedRows]]:
    """The model in training, and the packed rows of training and validation."""
    from nexus_llm.train.packing import pack, read_shards
    from nexus_llm.train.preferences import pack_pairs, read_pair_shards

    train, model, data = recipe.train, inputs["model"], inputs["data"].folder
    _refuse_what_does_not_fit(train, model.folder)
    learner = make_learner(recipe, model.folder, ranks)
    vocabulary = _vocabulary(model.folder)
    if train.objective == "dpo":
        pairs = tuple(
            pack_pairs(read_pair_shards(data, split, vocabulary=vocabulary), max_length=train.max_length)
            for split in ("train", "validation")
        )
        return _dpo_learner(recipe, learner, (pairs[0], pairs[1]), inputs, work, ports, ranks), (pairs[0], pairs[1])
    training, validation = (
        pack(read_shards(data, split, vocabulary=vocabulary), max_length=train.max_length, objective=train.objective)
        for split in ("train", "validation")
    )
    return learner, (training, validation)


def _refuse_what_does_not_fit(train: TrainRecipe, model: Path) -> None:
    """Raises before a model is loaded whose training would end in a full memory, hours later perhaps."""
    import torch

    from nexus_llm.train import fitting, plan
    from nexus_llm.train.measure import available_memory

    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    config = _config(model)
    available = available_memory(device)
    try:
        planned = plan.memory(config, train, device=device)
    except ModelError:
        return  # an architecture that nobody has counted
    if available and (error := fitting.refusal(config, planned, available.bytes)):
        raise error


def make_learner(recipe: Recipe, model: Path, ranks: TorchRanks | None = None) -> Learner:
    """The model in `model`, ready to be trained by the implementation that the recipe asks for.

    Raises:
        ModelError: the model cannot be read.
        TrainingError: `implementation: fused`, and the fused layers cannot do it.
    """
    import torch

    from nexus_llm.train.plan import resolved

    train, base = recipe.train, recipe.model.base
    if ranks is not None:
        from nexus_llm.train.distributed.build import build as build_divided

        return build_divided(model, train, ranks, seed=recipe.seed, base=base)
    if resolved(_config(model), train, device="cuda" if torch.cuda.is_available() else "cpu") == "fused":
        from nexus_llm.train.fused.learner import FusedLearner

        return FusedLearner(model, train, seed=recipe.seed, base_name=base)
    from nexus_llm.train.hf import build

    return build(model, train, seed=recipe.seed, base=base)


def _config(model: Path) -> dict[str, Any]:
    """The model's config.json; empty where none can be read: who loads the model says what is wrong."""
    try:
        return dict(json.loads((model / "config.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _vocabulary(model: Path) -> int:
    """Entries of the embedding, as the model's config says."""
    config = _config(model)
    return int(config.get("vocab_size") or config["text_config"]["vocab_size"])


def _dpo_learner(
    recipe: Recipe,
    learner: Any,
    rows: tuple[PackedPairs, PackedPairs],
    inputs: Mapping[str, Artifact],
    work: Path,
    ports: Ports,
    ranks: TorchRanks | None,
) -> Learner:
    """The learner of preferences; with full weights, the reference's answers are computed first."""
    from nexus_llm.train.dpo import dpo_learner

    return dpo_learner(
        learner,
        recipe=recipe.train,
        seed=recipe.seed,
        train=rows[0],
        validation=rows[1],
        folder=work / "reference",
        identity=" ".join(inputs[kind].id for kind in ("model", "data")),
        ranks=ranks,
        stop_reason=ports.interrupt.requested,
    )


def _train(
    recipe: Recipe,
    learner: Learner,
    rows: tuple[PackedRows, PackedRows],
    work: Path,
    ports: Ports,
    ranks: TorchRanks | None,
    inputs: Mapping[str, Artifact],
) -> Training:
    from nexus_llm.train.loop import MetricsRow, Surroundings, Training
    from nexus_llm.train.progress_note import measured, memory_in_use, step_note

    def on_step(row: MetricsRow) -> None:
        ports.progress.advance(1, note=step_note(row, used_bytes=memory_in_use()))
        ports.tracker.log(row["step"], measured(row))

    training = Training(
        learner,
        recipe=recipe.train,
        seed=recipe.seed,
        train=rows[0],
        validation=rows[1],
        folder=work,
        ranks=ranks,
        inputs={kind: artifact.id for kind, artifact in inputs.items()},
    )
    label = f"training, continued after step {training.step}" if training.step else "training"
    ports.progress.start(label, total=recipe.train.max_steps - training.step, unit="steps")
    ports.tracker.start(RunStart(recipe.name, recipe_part(recipe), work, first_step=training.step + 1))
    status: TrackingStatus = "failed"
    try:
        training.run(
            Surroundings(on_step=on_step, stop_reason=ports.interrupt.requested, seconds=ports.clock.monotonic)
        )
        status = "finished"
    except TryAgainError:
        status = "stopped"
        raise
    finally:
        ports.tracker.finish(status)
    ports.progress.finish()
    return training


def _facts(
    recipe: TrainRecipe, training: Training, learner: Learner, rows: PackedRows, weights: Path, work: Path
) -> dict[str, Any]:
    from nexus_llm.train.checkpoint import broken_checkpoints, newest_files

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
        "last_checkpoint": newest_files(work / "checkpoints"),
        "broken_checkpoints": [
            {"name": broken.name, "reason": broken.reason} for broken in broken_checkpoints(work / "checkpoints")
        ],
    }


STAGE = Stage(
    kind="train",
    version=3,
    needs=("model", "data"),
    recipe_part=recipe_part,
    outside_inputs=lambda _recipe, _ports: {},
    run=run,
    estimate=estimate,
)

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nexus_llm.errors import DataError, ModelError, TrainingError, TryAgainError
from nexus_llm.recipe import Recipe
from nexus_llm.train.stage import make_learner, recipe_part
from tiny_training import make_shard, write_shard
from train_stage_process import make_inputs, run_stage


def recipe(**train: Any) -> Recipe:
    settings = {
        "max_length": 32,
        "max_steps": 12,
        "save_steps": 4,
        "eval_steps": 5,
        "learning_rate": 0.02,
        "warmup_steps": 2,
        "lora_r": 4,
        "lora_dropout": 0.1,
    }
    return Recipe.model_validate({"name": "tiny", "train": settings | train})


class StopAfter:
    """An `Interrupt` that asks to stop when it is asked for the n-th time."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    def requested(self) -> str | None:
        self.left -= 1
        return "SIGTERM" if self.left == 0 else None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_inputs(tmp_path)
    return tmp_path


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_training_lowers_the_loss_and_writes_what_it_promises(root, method, dtype):
    made = run_stage(
        root, recipe(method=method, dtype=dtype, max_steps=30, learning_rate=0.02 if method == "lora" else 0.003)
    )
    facts = made.manifest.facts
    assert facts["last_loss"] < facts["first_loss"] - 0.3
    losses = facts["validation_losses"]
    assert [point["step"] for point in losses] == [0, 5, 10, 15, 20, 25, 30]
    assert losses[-1]["loss"] < losses[0]["loss"]
    names = {entry.path for entry in made.manifest.files}
    if method == "lora":
        assert names == {"adapter_config.json", "adapter_model.safetensors"}
    else:
        assert names == {"config.json", "model.safetensors"}
    rows = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert {"step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second"} <= rows[0].keys()
    assert facts["tokens"] == sum(row["tokens"] for row in rows)
    assert not (made.folder / "work").exists()


def test_full_weights_have_the_names_and_shapes_of_the_base(root):
    made = run_stage(root, recipe(method="full"))
    base = load_file(root / "artifacts" / "model" / "model" / "model.safetensors")
    learned = load_file(made.folder / "model.safetensors")
    assert {name: tensor.shape for name, tensor in base.items()} == {
        name: tensor.shape for name, tensor in learned.items()
    }
    assert all(tensor.dtype == torch.bfloat16 for tensor in learned.values())
    assert not torch.equal(base["model.norm.weight"].bfloat16(), learned["model.norm.weight"])


def test_two_runs_make_the_same_artifact(root):
    first = run_stage(root, recipe())
    again = run_stage(root, recipe())
    assert (first.id, first.manifest.facts) == (again.id, again.manifest.facts)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_stopping_anywhere_and_going_on_makes_the_same_artifact(root, method):
    settings = recipe(method=method, gradient_accumulation_steps=2)
    undisturbed = run_stage(root, settings)
    for more_steps, step in ((1, 1), (3, 4), (5, 9)):
        with pytest.raises(TryAgainError, match=f"stopped by SIGTERM after step {step} of 12"):
            run_stage(root, settings, interrupt=StopAfter(more_steps))
    resumed = run_stage(root, settings)
    assert resumed.id == undisturbed.id
    assert resumed.manifest.facts == undisturbed.manifest.facts
    rows = (resumed.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, 13))


def test_the_key_ignores_when_checkpoints_are_written():
    assert recipe_part(recipe(save_steps=3, save_total_limit=5)) == recipe_part(recipe())
    assert recipe_part(recipe(lora_r=8)) != recipe_part(recipe())


def test_how_often_checkpoints_are_written_changes_nothing(root):
    assert run_stage(root, recipe(save_steps=1)).id == run_stage(root, recipe(save_steps=100)).id


def test_sft_without_conversations_is_refused_with_the_reason(root):
    with pytest.raises(TrainingError, match="24 x nothing to learn") as refused:
        run_stage(root, recipe(objective="sft"))
    assert "continued-pretraining" in refused.value.fix


def test_sft_learns_from_conversations(root):
    data = root / "artifacts" / "data" / "data"
    write_shard(data, "train", make_shard([20, 30, 25, 50], conversations=(0, 1, 3)))
    made = run_stage(root, recipe(objective="sft"))
    assert made.manifest.facts["dropped_documents"] == {"conversation longer than max_length": 1, "nothing to learn": 1}


def test_an_exploding_loss_stops_with_the_step(root):
    with pytest.raises(TrainingError, match=r"became (nan|inf) at step \d+ \(learning rate"):
        run_stage(root, recipe(method="full", learning_rate=1.0, max_grad_norm=1e30, weight_decay=1e30))


def test_weights_that_are_not_numbers_are_refused_before_the_first_step(root):
    from safetensors.torch import save_file

    file = root / "artifacts" / "model" / "model" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="validation loss became nan before the first step"):
        run_stage(root, recipe())
    write_shard(root / "artifacts" / "data" / "data", "validation", make_shard([]))
    with pytest.raises(
        TrainingError, match=r"nan at step 1 \(learning rate 0.01\); .*nan at step 6 .*max_skipped_steps"
    ):
        run_stage(root, recipe())


def test_no_validation_documents_means_no_validation(root):
    write_shard(root / "artifacts" / "data" / "data", "validation", make_shard([]))
    assert run_stage(root, recipe()).manifest.facts["validation_losses"] == []


def test_one_short_document_is_enough(root):
    write_shard(root / "artifacts" / "data" / "data", "train", make_shard([2]))
    assert run_stage(root, recipe()).manifest.facts["tokens"] == 12 * 4 * 2


def test_an_empty_training_split_is_refused(root):
    write_shard(root / "artifacts" / "data" / "data", "train", make_shard([]))
    with pytest.raises(TrainingError, match="training split is empty"):
        run_stage(root, recipe())


def test_data_of_another_vocabulary_and_missing_inputs_are_refused(root):
    data = root / "artifacts" / "data" / "data"
    np.save(data / "train-00000.tokens.npy", np.full(675, 4000, np.uint16))
    with pytest.raises(DataError, match="token id 4000"):
        run_stage(root, recipe())
    shutil.rmtree(data.parent / "data", ignore_errors=False)
    make_inputs(root)
    (root / "artifacts" / "model" / "model" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        run_stage(root, recipe())


def test_a_model_that_cannot_be_fused_goes_to_transformers_and_fused_is_refused_with_the_reason(root):
    model = root / "artifacts" / "model" / "model"
    refused = {
        "gradient_checkpointing": recipe(gradient_checkpointing=True, implementation="fused"),
        "method dora": recipe(method="dora", implementation="fused"),
    }
    for reason, settings in refused.items():
        with pytest.raises(TrainingError, match=f"implementation is fused, and train.{reason}"):
            make_learner(settings, model)
    assert type(make_learner(recipe(), model)).__name__ == "FusedLearner"
    assert type(make_learner(recipe(implementation="transformers"), model)).__name__ == "TransformersLearner"
    assert type(make_learner(recipe(method="dora"), model)).__name__ == "TransformersLearner"


def test_both_implementations_learn_the_same_from_the_same_rows(root):
    settings = {"dtype": "float32", "lora_dropout": 0.0, "max_steps": 4}
    fused = run_stage(root, recipe(**settings, method="full")).manifest.facts
    plain = run_stage(root, recipe(**settings, method="full", implementation="transformers")).manifest.facts
    assert (fused["implementation"], plain["implementation"]) == ("fused", "transformers")
    assert plain["last_loss"] == pytest.approx(fused["last_loss"], rel=1e-3)
    assert plain["tokens"] == fused["tokens"]

"""Direct preference optimisation with any transformers model and PEFT's adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.dpo import DpoLearner, dpo_learner
from nexus_llm.train.fused.learner import FusedLearner
from nexus_llm.train.hf.learner import TransformersLearner
from nexus_llm.train.hf.load import load
from nexus_llm.train.loop import Surroundings, Training
from nexus_llm.train.preferences import PackedPairs, pack_pairs
from nexus_llm.train.reference import AdaptersOff, stored_reference
from preference_shards import DecoderOfPairs, make_pair_shard
from tiny_training import make_model

SIZES = [(4, 5, 6), (3, 9, 4), (6, 3, 3), (5, 5, 7), (4, 8, 8), (7, 4, 6), (3, 3, 9), (5, 6, 5)]


def recipe(**changes: Any) -> TrainRecipe:
    return TrainRecipe.model_validate(
        {
            "objective": "dpo",
            "dtype": "float32",
            "max_length": 48,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "lora_r": 4,
            "max_steps": 8,
            "warmup_steps": 0,
            "learning_rate": 1e-2,
            "dpo": {"beta": 0.3},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def pairs() -> PackedPairs:
    return pack_pairs([make_pair_shard(SIZES)], max_length=48)


def learner_of(folder: Path, settings: TrainRecipe) -> DpoLearner:
    inner = TransformersLearner(load(folder, settings, seed=1, base="tiny", device="cpu"))
    unused = pack_pairs([], max_length=48)
    return dpo_learner(
        inner, recipe=settings, seed=1, train=unused, validation=unused, folder=folder, identity="none is stored"
    )


def finished(learner: DpoLearner, settings: TrainRecipe, pairs: PackedPairs, folder: Path, **more: Any) -> Training:
    training = Training(learner, recipe=settings, seed=1, train=pairs, validation=pairs, folder=folder)
    training.run(Surroundings(on_step=lambda _row: None, stop_reason=lambda: None, seconds=lambda: 0.0, **more))
    return training


@pytest.mark.parametrize("changes", [{}, {"method": "dora"}, {"gradient_checkpointing": True, "lora_dropout": 0.1}])
def test_adapters_learn_to_prefer_the_chosen_answers(tiny_model, pairs, tmp_path, changes):
    settings = recipe(**changes)
    learner = learner_of(tiny_model, settings)
    batch = pairs.take(np.arange(pairs.rows))
    before = learner._reference(batch)
    training = finished(learner, settings, pairs, tmp_path)
    assert training.validation_losses[0] == (0, pytest.approx(np.log(2), abs=1e-5))
    learner.measurements()
    first, again = learner.loss(batch), learner.loss(batch)
    assert first == again  # no dropout, not even after the reference was asked
    assert learner.measurements()["reward_accuracy"] == 2 * batch.learned_tokens
    torch.testing.assert_close(learner._reference(batch), before, rtol=0, atol=0)


def test_all_weights_learn_against_answers_of_their_own_beginning(tiny_model, pairs, tmp_path):
    settings = recipe(method="full", learning_rate=1e-3)
    inner = TransformersLearner(load(tiny_model, settings, seed=1, base="tiny", device="cpu"))
    learner = dpo_learner(
        inner, recipe=settings, seed=1, train=pairs, validation=pairs, folder=tmp_path / "reference", identity="a"
    )
    training = finished(learner, settings, pairs, tmp_path)
    learner.measurements()
    batch = pairs.take(np.arange(pairs.rows))
    assert learner.loss(batch) / batch.learned_tokens < 0.4
    assert learner.measurements()["reward_accuracy"] == batch.learned_tokens
    assert training.metrics()[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert learner.describe()["reference"] == "computed before training"


def test_a_models_own_dropout_is_off_when_it_is_the_reference(pairs, tmp_path):
    settings = recipe(method="full")
    make_model(tmp_path / "model", attention_dropout=0.5)
    inner = TransformersLearner(load(tmp_path / "model", settings, seed=1, base="tiny", device="cpu"))
    rows = [(pairs, np.arange(pairs.rows))]
    one, other = (
        stored_reference(inner, rows, folder=tmp_path / name, identity="a", rows_at_once=2) for name in ("one", "other")
    )
    batch = pairs.batch(1, 0, size=2)
    assert torch.equal(one(batch), other(batch))


def test_gradients_equal_those_of_the_fused_layers(tiny_model, pairs):
    settings = recipe(method="full")
    batch = pairs.batch(1, 0, size=4)
    theirs = TransformersLearner(load(tiny_model, settings, seed=1, base="tiny", device="cpu"))
    fused = FusedLearner(tiny_model, settings, seed=1, base_name="tiny")
    losses = []
    for inner, model in ((theirs, theirs), (fused, DecoderOfPairs(fused._decoder))):
        learner = DpoLearner(inner, model, recipe=settings, reference=Shifted(model))
        losses.append(learner.gradients(batch, learned_tokens=batch.learned_tokens))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    ours = fused._decoder.state_dict(fused._optimizer.gradients)
    for name, gradient in theirs.optimizer.gradients().items():
        torch.testing.assert_close(gradient, ours[name], rtol=1e-3, atol=1e-5)


class Shifted(AdaptersOff):
    """Another model: it likes chosen answers more and rejected ones less."""

    def __call__(self, batch: Any) -> torch.Tensor:
        return super().__call__(batch) + torch.tensor([2.0, -1.0])

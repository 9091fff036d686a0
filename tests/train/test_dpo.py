"""Direct preference optimisation against its formula, and against itself under other circumstances."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.dpo import DpoLearner, dpo_losses
from nexus_llm.train.fused.learner import FusedLearner
from nexus_llm.train.log_probabilities import answer_log_probabilities, log_probabilities
from nexus_llm.train.loop import Surroundings, Training, share_of_rank
from nexus_llm.train.preferences import PackedPairs, pack_pairs
from nexus_llm.train.reference import AdaptersOff, StoredReference, rows_of_training, stored_reference
from preference_shards import DecoderOfPairs, make_pair_shard
from tiny_training import VOCABULARY

SIZES = [(4, 5, 6), (3, 9, 4), (6, 3, 3), (5, 5, 7), (4, 8, 8), (7, 4, 6), (3, 3, 9), (5, 6, 5)]
BETA = 0.3


def recipe(**changes: Any) -> TrainRecipe:
    return TrainRecipe.model_validate(
        {
            "objective": "dpo",
            "dtype": "float32",
            "max_length": 48,
            "per_device_train_batch_size": 2,
            "lora_r": 4,
            "max_steps": 12,
            "warmup_steps": 0,
            "learning_rate": 1e-2,
            "save_steps": 3,
            "dpo": {"beta": BETA},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def pairs() -> PackedPairs:
    return pack_pairs([make_pair_shard(SIZES)], max_length=48)


@pytest.fixture
def learner_of(tiny_model: Path) -> Callable[[TrainRecipe], DpoLearner]:
    """A learner of pairs whose reference is the adapters' base."""

    def make(settings: TrainRecipe) -> DpoLearner:
        inner = FusedLearner(tiny_model, settings, seed=1, base_name="tiny")
        model = DecoderOfPairs(inner._decoder)
        return DpoLearner(inner, model, recipe=settings, reference=AdaptersOff(model))

    return make


def plain_log_probability(model: Any, tokens: np.ndarray, learned_from: int) -> torch.Tensor:
    """Of one conversation alone, by transformers: all logits, log-softmax, sum over the answer."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    logits = model(ids[None]).logits[0, :-1]
    each = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    return each[learned_from - 1 :].double().sum()


def test_without_any_change_every_pair_costs_the_logarithm_of_two():
    same = torch.tensor([[-30.0, -20.0], [-4.0, -8.0]], dtype=torch.float64)
    losses, rewards = dpo_losses(same, same, beta=0.1, label_smoothing=0.2)
    assert losses.tolist() == pytest.approx([np.log(2)] * 2)
    assert not rewards.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_losses_and_their_gradients_are_the_papers(smoothing):
    random = np.random.default_rng(0)
    numbers = random.normal(-20, 5, (2, 6, 2))
    policy = torch.tensor(numbers[0], requires_grad=True)
    losses, rewards = dpo_losses(policy, torch.tensor(numbers[1]), beta=BETA, label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(losses.sum(), policy)
    rose = numbers[0] - numbers[1]
    margin = BETA * (rose[:, 0] - rose[:, 1])
    chosen_wins = 1 / (1 + np.exp(-margin))
    # cDPO: a share of the labels is the wrong way round.
    expected = -(1 - smoothing) * np.log(chosen_wins) - smoothing * np.log(1 - chosen_wins)
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(rewards.numpy(), BETA * rose, rtol=1e-12)
    # Section 4 of the paper: the gradient weighs a pair by how wrong the rewards order it.
    slope = -BETA * ((1 - smoothing) * (1 - chosen_wins) - smoothing * chosen_wins)
    np.testing.assert_allclose(gradient.numpy(), np.stack([slope, -slope], 1), rtol=1e-9)


@pytest.mark.parametrize("tokens", [0, 1, 5, 600])
@pytest.mark.parametrize("head_learns", [False, True])
def test_log_probabilities_and_gradients_are_those_of_all_logits_at_once(tokens, head_learns):
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(tokens, 24, generator=generator, requires_grad=True)
    head = torch.randn(VOCABULARY, 24, generator=generator, requires_grad=head_learns)
    labels = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    factors = torch.randn(tokens, generator=generator)
    leaves = (hidden, head) if head_learns else (hidden,)
    plain = (hidden @ head.t()).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    ours = log_probabilities(hidden, head, labels)
    torch.testing.assert_close(ours, plain)
    for one, other in zip(
        torch.autograd.grad((ours * factors).sum(), leaves),
        torch.autograd.grad((plain * factors).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_answers_packed_in_rows_are_as_likely_as_alone_in_transformers(load_decoder, tiny_model, pairs):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    batch = pairs.take(np.arange(pairs.rows))
    decoder = load_decoder(max_length=48)
    with torch.no_grad():
        packed = answer_log_probabilities(decoder.hidden(batch), decoder.head, batch)
        alone = [
            plain_log_probability(model, half.tokens[start:stop], question)
            for shard in [pairs.shards]
            for row in range(pairs.rows)
            for half, start, stop, question in conversations_of_row(pairs, shard, row)
        ]
    torch.testing.assert_close(packed, torch.stack(alone).view(-1, 2), rtol=1e-5, atol=1e-4)


def conversations_of_row(pairs: PackedPairs, shards: Any, row: int) -> Iterator[tuple[Any, int, int, int]]:
    """(half of the shard, first token, end, tokens of the question) of each conversation."""
    for half, start, length in pairs.pieces[pairs.row_starts[row] : pairs.row_starts[row + 1]]:
        shard = shards[half]
        yield shard, start, start + length, int(np.argmax(shard.loss_mask[start : start + length]))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_loss_and_gradients_equal_a_plain_implementation(method, tiny_model, pairs):
    """transformers, one conversation at a time, all logits, autograd: against packed, chunked and fused."""
    from transformers import AutoModelForCausalLM

    settings = recipe(method=method)
    inner = FusedLearner(tiny_model, settings, seed=1, base_name="tiny")
    model = DecoderOfPairs(inner._decoder)
    batch = pairs.take(np.arange(pairs.rows))
    with torch.no_grad():
        reference = answer_log_probabilities(inner._decoder.hidden(batch), inner._decoder.head, batch) - torch.tensor(
            np.random.default_rng(0).normal(0, 3, (len(SIZES), 2))
        )
    learner = DpoLearner(inner, model, recipe=settings, reference=Fixed(reference))
    loss = learner.gradients(batch, learned_tokens=batch.learned_tokens)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    logps = torch.stack(
        [
            plain_log_probability(plain, half.tokens[start:stop], question)
            for row in range(pairs.rows)
            for half, start, stop, question in conversations_of_row(pairs, pairs.shards, row)
        ]
    ).view(-1, 2)
    ratio = logps - reference
    expected = -functional.logsigmoid(BETA * (ratio[:, 0] - ratio[:, 1])).mean()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    if method == "full":
        expected.backward()
        found = inner._decoder.state_dict(inner._optimizer.gradients)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, plain.get_parameter(name).grad, rtol=1e-3, atol=1e-5)


class Fixed:
    """A reference that knows its answers in the order in which they will be asked for."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.place = values, 0

    def __call__(self, batch: Any) -> torch.Tensor:
        pairs = batch.documents.max(1)
        count = int(((pairs + 1) // 2).sum())
        self.place += count
        return self.values[self.place - count : self.place]

    def describe(self) -> dict[str, Any]:
        return {}


def test_two_forward_passes_add_up_to_the_gradients_of_one(learner_of, pairs):
    one, two = (learner_of(recipe(per_device_train_batch_size=size)) for size in (4, 2))
    batch = pairs.batch(7, 0, size=4)
    for learner in (one, two):
        move(learner)
    losses = [learner.gradients(batch, learned_tokens=batch.learned_tokens) for learner in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, gradient in one._inner._optimizer.gradients.items():
        torch.testing.assert_close(gradient, two._inner._optimizer.gradients[name], rtol=1e-4, atol=1e-7)
        assert gradient.any() or "lora_A" in name


def move(learner: DpoLearner) -> None:
    """Away from the base model, where all losses are log 2."""
    generator = torch.Generator().manual_seed(2)
    tensors = {
        name: tensor + (0.05 * torch.randn(tensor.shape, generator=generator) if name.startswith("master/") else 0)
        for name, tensor in learner.tensors().items()
    }
    learner.restore(tensors)


def test_two_processes_add_up_to_one(learner_of, pairs):
    batch = pairs.batch(7, 0, size=3)
    whole, *halves = (learner_of(recipe()) for _ in range(3))
    for learner in (whole, *halves):
        move(learner)
    expected = whole.gradients(batch, learned_tokens=batch.learned_tokens)
    found = 0.0
    for rank, learner in enumerate(halves):
        mine = share_of_rank(batch, SimpleNamespace(rank=rank, size=2))
        found += learner.gradients(mine, learned_tokens=batch.learned_tokens)
    assert found == pytest.approx(expected, rel=1e-6)
    one, other = (learner.measurements() for learner in halves)
    assert whole.measurements() == pytest.approx({name: one[name] + other[name] for name in one}, rel=1e-5)
    for name, gradient in whole._inner._optimizer.gradients.items():
        parts = [learner._inner._optimizer.gradients[name] for learner in halves]
        torch.testing.assert_close(gradient, sum(parts), rtol=1e-4, atol=1e-7)


def test_rows_of_padding_weigh_nothing(learner_of, pairs):
    from dataclasses import replace

    learner = learner_of(recipe())
    move(learner)
    batch = pairs.batch(7, 0, size=2)
    empty = {"token_ids": 0, "labels": -100, "positions": 0, "documents": -1}
    padded = replace(
        batch,
        **{
            name: np.pad(getattr(batch, name), ((0, 2), (0, 0)), constant_values=value) for name, value in empty.items()
        },
    )
    assert learner.loss(batch) == learner.loss(padded)
    assert padded.learned_tokens == batch.learned_tokens


def test_with_the_adapters_off_the_reference_stays_where_the_training_began(learner_of, pairs):
    learner = learner_of(recipe(lora_dropout=0.5))
    batch = pairs.batch(7, 0, size=2)
    before = learner._reference(batch)
    move(learner)
    assert torch.equal(learner._reference(batch), before)
    moved = answer_log_probabilities(learner._model.hidden(batch), learner._model.head, batch)
    assert not torch.allclose(moved, before)


def surroundings(rows: list[dict[str, Any]], *, die_after: int | None = None) -> Surroundings:
    def on_step(row: dict[str, Any]) -> None:
        rows.append(row)
        if row["step"] == die_after:
            raise KeyboardInterrupt

    return Surroundings(on_step=on_step, stop_reason=lambda: None, seconds=lambda: 0.0)


def test_the_chosen_answers_win_after_some_steps(learner_of, pairs, tmp_path):
    settings = recipe()
    learner = learner_of(settings)
    training = Training(learner, recipe=settings, seed=1, train=pairs, validation=pairs, folder=tmp_path)
    training.run(surroundings([]))
    last = training.metrics()[-1]
    assert last["reward_accuracy"] == last["validation_reward_accuracy"] == 1
    learner.measurements()
    batch = pairs.take(np.arange(pairs.rows))
    loss = learner.loss(batch) / batch.learned_tokens
    found = {name: value / batch.learned_tokens for name, value in learner.measurements().items()}
    assert training.validation_losses[0] == (0, pytest.approx(np.log(2)))
    assert loss < 0.3
    assert found["reward_accuracy"] == 1
    assert found["reward_margin"] == pytest.approx(found["chosen_reward"] - found["rejected_reward"])
    assert learner.measurements() == {}


def test_a_killed_run_comes_out_as_an_undisturbed_one(learner_of, pairs, tmp_path):
    settings = recipe(lora_dropout=0.1)
    results = []
    for name, deaths in (("calm", []), ("killed", [4, 8])):
        for death in [*deaths, None]:
            learner = learner_of(settings)
            training = Training(learner, recipe=settings, seed=1, train=pairs, validation=None, folder=tmp_path / name)
            try:
                training.run(surroundings([], die_after=death))
            except KeyboardInterrupt:
                continue
        results.append((learner.tensors(), training.metrics()))
    (calm, calm_rows), (killed, killed_rows) = results
    assert calm_rows == killed_rows
    assert all(torch.equal(tensor, killed[name]) for name, tensor in calm.items())


class Counted(DecoderOfPairs):
    """Counts forward passes."""

    passes = 0

    def hidden(self, batch: Any) -> Any:
        self.passes += 1
        return super().hidden(batch)


@pytest.fixture
def many_pairs() -> PackedPairs:
    """80 rows."""
    return pack_pairs([make_pair_shard([(3, 4, 5)] * 80)], max_length=16)


def test_the_reference_is_asked_once_for_the_rows_of_the_run_only(load_decoder, many_pairs, tmp_path):
    rows = rows_of_training(many_pairs, seed=3, steps=5, size=4)
    assert len(rows) == 20
    model = Counted(load_decoder(max_length=16))
    reference = stored_reference(model, [(many_pairs, rows)], folder=tmp_path, identity="a", rows_at_once=4)
    assert model.passes == 5
    batch = many_pairs.batch(3, 4, size=4)
    expected = answer_log_probabilities(model.hidden(batch), model.head, batch)
    torch.testing.assert_close(reference(batch), expected.detach())
    assert reference.describe() == {"reference": "computed before training", "reference_bytes": 20 * 24}
    with pytest.raises(TrainingError, match="not asked for before training"):
        reference(many_pairs.batch(3, 5, size=4))


def test_an_interrupted_or_damaged_reference_is_completed_to_the_same_bits(load_decoder, many_pairs, tmp_path):
    everything = [(many_pairs, np.arange(many_pairs.rows))]

    def asked(folder: str, *, identity: str = "a", **more: Any) -> tuple[StoredReference, int]:
        model = Counted(load_decoder(max_length=16))
        kept = stored_reference(model, everything, folder=tmp_path / folder, identity=identity, rows_at_once=1, **more)
        return kept, model.passes

    whole, passes = asked("calm")
    assert passes == 80
    with pytest.raises(TryAgainError, match=r"stopped by SIGTERM .* all answers are saved"):
        asked("stopped", stop_reason=lambda: "SIGTERM")
    done: list[int] = []
    again, passes = asked("stopped", on_rows=done.append)
    assert (passes, sum(done), done[0]) == (80 - 32, 80, 32)
    assert again._values.tobytes() == whole._values.tobytes()
    parts = sorted((tmp_path / "stopped").glob("*/part-*.npy"))
    assert sum(part.stat().st_size for part in parts) < 80 * 24 + len(parts) * 200
    content = parts[1].read_bytes()
    parts[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again, passes = asked("stopped")
    assert passes == 32
    assert again._values.tobytes() == whole._values.tobytes()
    assert asked("stopped", identity="another model")[1] == 80


def test_full_fine_tuning_resumes_with_the_reference_of_its_first_start(tiny_model, pairs, tmp_path):
    settings = recipe(method="full", learning_rate=1e-3)
    rows = rows_of_training(pairs, seed=1, steps=settings.max_steps, size=2)
    results = []
    for name, deaths in (("calm", []), ("killed", [5])):
        for death in [*deaths, None]:
            inner = FusedLearner(tiny_model, settings, seed=1, base_name="tiny")
            model = DecoderOfPairs(inner._decoder)
            reference = stored_reference(
                model, [(pairs, rows)], folder=tmp_path / name / "reference", identity="a", rows_at_once=2
            )
            learner = DpoLearner(inner, model, recipe=settings, reference=reference)
            training = Training(learner, recipe=settings, seed=1, train=pairs, validation=None, folder=tmp_path / name)
            try:
                training.run(surroundings([], die_after=death))
            except KeyboardInterrupt:
                continue
        results.append((learner.tensors(), training.metrics()))
    (calm, calm_rows), (killed, killed_rows) = results
    assert json.dumps(calm_rows) == json.dumps(killed_rows)
    assert calm_rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert calm_rows[-1]["loss"] < 0.6
    assert all(torch.equal(tensor, killed[name]) for name, tensor in calm.items())

"""The learner of any model: the same numbers as the fused one, whatever the model does to its logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nexus_llm.errors import DataError, ModelError
from nexus_llm.train.fused.learner import FusedLearner
from nexus_llm.train.hf import build, head
from nexus_llm.train.hf.learner import FULL_WEIGHTS, TransformersLearner
from nexus_llm.train.hf.load import load
from nexus_llm.train.packing import pack
from tiny_architectures import recipe, tiny
from tiny_training import VOCABULARY, make_shard

SHARD = make_shard([20, 9, 11, 25, 30, 6, 17])


def rows(seed_step=0, size=2):
    return pack([SHARD], max_length=32, objective="continued-pretraining").batch(1, seed_step, size=size)


def train(learner, steps, *, first=0, size=2):
    """(losses, norms) of some steps."""
    found = []
    for step in range(first, first + steps):
        batch = rows(step, size)
        loss = learner.gradients(batch, learned_tokens=batch.learned_tokens)
        found.append((loss, learner.update(step, learning_rate=1e-2, max_grad_norm=1.0)))
    return found


@pytest.mark.parametrize("method", ["full", "lora"])
def test_three_steps_equal_the_fused_learners(tmp_path, method):
    """Losses and gradient norms within 2e-4; weights within 2e-4 of the 0.01 that a step of Adam moves each.

    Adam divides a gradient by its own size, so rounding shows most where gradients are near nothing: 1 weight in
    1,000 may be off by more.
    """
    base = tmp_path / "base"
    tiny(base, "llama")
    settings = recipe(method=method, lora_r=4, lora_alpha=6.0, weight_decay=0.1)
    ours = build(base, settings, seed=7, base="tiny")
    fused = FusedLearner(base, settings, seed=7, base_name="tiny")
    assert np.array(train(ours, 3)) == pytest.approx(np.array(train(fused, 3)), rel=2e-4)
    written = []
    for learner, name in ((ours, "ours"), (fused, "fused")):
        (tmp_path / name).mkdir()
        written.append(load_file(learner.write(tmp_path / name)))
    assert written[0].keys() == written[1].keys()
    off = torch.cat([(written[0][key].float() - written[1][key].float()).abs().ravel() for key in written[0]])
    # A full model is written in bfloat16, where one weight may round the other way.
    limit = 2e-6 if method == "lora" else 2**-8 * 1.0
    assert float((off > limit).float().mean()) < 1e-3


@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere", "phi", "gpt2", "qwen2"])
def test_loss_and_every_gradient_equal_those_of_transformers(tmp_path, kind):
    """Through soft caps, scales and biases of the logits, in float32 within 1e-3 of a gradient's largest value."""
    model = tiny(tmp_path, kind, **{"pad_token_id": 0} if kind == "cohere" else {})
    learner = build(tmp_path, recipe(), seed=1, base="tiny")
    batch = pack([make_shard([32])], max_length=32, objective="continued-pretraining").take(np.array([0]))
    ids = torch.from_numpy(batch.token_ids)
    model.eval()
    expected = model(ids, labels=ids).loss
    expected.backward()
    loss = learner.gradients(batch, learned_tokens=batch.learned_tokens)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    theirs = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    ours = learner.optimizer.gradients()
    for name, gradient in theirs.items():
        limit = 1e-3 * float(gradient.abs().max()) + 1e-7
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=limit, msg=lambda text, name=name: name + text)
    assert all(not bool(ours[name].any()) for name in ours.keys() - theirs.keys())


@pytest.mark.parametrize(("kind", "plain"), [("llama", True), ("gemma2", False), ("granite", False), ("phi", False)])
def test_a_head_is_plain_only_where_one_matrix_is_all(tmp_path, kind, plain):
    assert head.has_plain_head(tiny(tmp_path, kind)) is plain


def test_a_head_that_is_not_plain_never_makes_all_logits(tmp_path, monkeypatch):
    model = tiny(tmp_path, "gemma2")
    monkeypatch.setattr(head, "TOKENS_AT_ONCE", 4)
    seen = []
    model.lm_head.register_forward_hook(lambda *_: seen.append(_[2].shape[1]))
    hidden = torch.randn(10, 64, requires_grad=True)
    head.summed_loss(model, hidden, torch.arange(10), plain=False).backward()
    assert max(seen) == 4
    assert hidden.grad is not None


def test_rows_may_be_divided_among_forward_passes_as_one_likes(tmp_path):
    tiny(tmp_path, "llama")
    batch, found = rows(size=4), []
    for at_once in (1, 4):
        learner = build(tmp_path, recipe(per_device_train_batch_size=at_once), seed=1, base="tiny")
        loss = learner.gradients(batch, learned_tokens=batch.learned_tokens)
        found.append((loss, learner.optimizer.gradients()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-3, atol=1e-6)


def test_layers_computed_again_change_no_gradient(tmp_path):
    tiny(tmp_path, "llama")
    found, calls = [], []
    for checkpointing in (False, True):
        settings = recipe(gradient_checkpointing=checkpointing, method="lora", lora_dropout=0.5)
        learner = build(tmp_path, settings, seed=1, base="tiny")
        for name, parameter in learner.packed.learning().items():
            if "lora_B" in name:
                parameter.data.fill_(0.1)
        calls.append(0)
        learner.packed.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(calls.pop() + 1))
        torch.manual_seed(3)  # the loop does this at every step: dropout is drawn again as it was
        learner.gradients(rows(), learned_tokens=100)
        found.append(learner.optimizer.gradients())
    assert calls == [1, 2]
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name
        assert bool(gradient.any())


def test_bfloat16_weights_learn_steps_that_they_cannot_hold(tmp_path):
    tiny(tmp_path, "llama")
    learner = build(tmp_path, recipe(dtype="bfloat16"), seed=1, base="tiny")
    name = "model.layers.0.mlp.up_proj.weight"
    before = learner.packed.learning()[name].detach().clone()
    for step in range(2):
        learner.gradients(rows(step), learned_tokens=rows(step).learned_tokens)
        learner.update(step, learning_rate=1e-7, max_grad_norm=1.0)
    master = learner.tensors()[f"master/{name}"]
    assert master.dtype == torch.float32
    still = learner.packed.learning()[name] == before
    assert float(still.float().mean()) > 0.99  # those that are nearly zero can hold it
    moved = (master - before.float()).abs()
    assert float(moved.median()) == pytest.approx(2e-7, rel=0.3)


def test_a_second_gradient_is_added_in_float32(tmp_path):
    tiny(tmp_path, "llama")
    learner = build(tmp_path, recipe(dtype="bfloat16"), seed=1, base="tiny")
    single = []
    for step in (0, 1):
        learner.gradients(rows(step), learned_tokens=50)
        single.append(learner.optimizer.gradients())
        learner.forget_gradients()
    for step in (0, 1):
        learner.gradients(rows(step), learned_tokens=50)
    for name, both in learner.optimizer.gradients().items():
        assert torch.equal(both, single[0][name] + single[1][name])


def test_float32_weights_are_their_own_masters(tmp_path):
    tiny(tmp_path, "llama")
    learner = build(tmp_path, recipe(), seed=1, base="tiny")
    for name, parameter in learner.packed.learning().items():
        assert learner.tensors()[f"master/{name}"].data_ptr() == parameter.data_ptr()


def test_another_process_goes_on_bit_for_bit(tmp_path):
    tiny(tmp_path, "llama")
    settings = recipe(method="dora", lora_r=4, dtype="bfloat16")
    straight, stopped, resumed = (build(tmp_path, settings, seed=1, base="tiny") for _ in range(3))
    expected = train(straight, 4)
    train(stopped, 2)
    resumed.restore({name: tensor.clone() for name, tensor in stopped.tensors().items()})
    assert train(resumed, 2, first=2) == expected[2:]
    for name, tensor in resumed.tensors().items():
        assert torch.equal(tensor, straight.tensors()[name]), name


def test_a_norm_that_is_no_number_changes_nothing_and_is_forgotten(tmp_path):
    tiny(tmp_path, "llama")
    learner = build(tmp_path, recipe(), seed=1, base="tiny")
    before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    learner.gradients(rows(), learned_tokens=10)
    next(iter(learner.optimizer._gradients.values())).fill_(math.nan)
    assert math.isnan(learner.update(0, learning_rate=1e-2, max_grad_norm=1.0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.tensors().items())
    assert learner.optimizer.squared_norm() == 0


def test_validation_draws_no_dropout_and_leaves_no_gradient(tmp_path):
    tiny(tmp_path, "gpt2", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    learner = build(tmp_path, recipe(), seed=1, base="tiny")
    assert learner.loss(rows()) == learner.loss(rows())
    assert learner.optimizer.squared_norm() == 0
    assert learner.module.training


@pytest.mark.parametrize("tied", [True, False])
def test_full_weights_are_written_as_transformers_would(tmp_path, tied):
    from transformers import AutoModelForCausalLM

    (tmp_path / "base").mkdir()
    tiny(tmp_path / "base", "mixtral", tie_word_embeddings=tied)
    learner = build(tmp_path / "base", recipe(), seed=1, base="tiny")
    train(learner, 1)
    path = learner.write(tmp_path / "written")
    ours = load_file(path)
    assert path.name == FULL_WEIGHTS
    assert ours.keys() == load_file(tmp_path / "base" / "model.safetensors").keys()
    assert {tensor.dtype for tensor in ours.values()} == {torch.bfloat16}
    assert ("lm_head.weight" in ours) is not tied
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "written", dtype=torch.float32)
    for name, master in learner.whole_weights().items():
        torch.testing.assert_close(again.state_dict()[name], master.to(torch.bfloat16).float(), rtol=0, atol=0)


def test_it_says_what_it_is(tmp_path):
    model = tiny(tmp_path, "llama")
    facts = build(tmp_path, recipe(method="lora", lora_r=4), seed=1, base="tiny").describe()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert facts == {
        "implementation": "transformers",
        "method": "lora",
        "device": "cpu",
        "attention": "sdpa",
        "trainable_parameters": 2
        * 4
        * sum(a + b for a, b in [(64, 64), (64, 32), (64, 32), (64, 64)] + 3 * [(64, 96)]),
        "total_parameters": total,
    }


def test_a_token_that_the_model_does_not_know_is_named(tmp_path):
    tiny(tmp_path, "llama")
    learner = build(tmp_path, recipe(), seed=1, base="tiny")
    batch = rows()
    batch.token_ids[0, 3] = VOCABULARY
    with pytest.raises(DataError, match=f"{VOCABULARY}, and the model's vocabulary ends at {VOCABULARY - 1}"):
        learner.gradients(batch, learned_tokens=10)


def test_a_loss_of_ones_own_reads_hidden_states_head_and_the_base_model(tmp_path):
    tiny(tmp_path, "llama")
    learner = build(tmp_path, recipe(method="lora"), seed=1, base="tiny")
    plain = build(tmp_path, recipe(), seed=1, base="tiny")
    train(learner, 2)
    batch = rows()
    with torch.no_grad(), learner.evaluating(), learner.without_adapters():
        torch.testing.assert_close(learner.hidden(batch), plain.hidden(batch))
    logits = learner.hidden(batch) @ learner.head.t()
    learner.backward(logits.logsumexp(-1).sum())
    assert learner.optimizer.squared_norm() > 0


def test_a_capped_head_is_refused_to_a_loss_that_wants_one_matrix(tmp_path):
    tiny(tmp_path, "gemma2")
    with pytest.raises(ModelError, match="gemma2"):
        _ = build(tmp_path, recipe(), seed=1, base="tiny").head


def test_a_wrapper_stands_where_the_model_stood(tmp_path):
    """What learners of several processes build on: load, wrap, attach."""
    tiny(tmp_path, "llama")

    class Wrapper(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, *arguments):
            self.calls += 1
            return self.inner(*arguments)

    alone = build(tmp_path, recipe(), seed=1, base="tiny")
    packed = load(tmp_path, recipe(), seed=1, base="tiny")
    wrapper = Wrapper(packed)

    class Doubled(TransformersLearner):
        def reduce_gradients(self):
            for gradient in self.optimizer.gradients().values():
                gradient.mul_(2)

    learner = Doubled(packed, hooks=False)
    learner.module = wrapper
    single, double = train(alone, 1)[0], train(learner, 1)[0]
    assert double == pytest.approx((single[0], 2 * single[1]), rel=1e-6)
    assert wrapper.calls == 1
    assert len(packed.layers) == 2

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from nexus_llm.train import loss as loss_module
from nexus_llm.train.fused.learner import collect_gradients
from nexus_llm.train.loss import summed_cross_entropy
from nexus_llm.train.packing import pack
from tiny_training import make_shard


@pytest.mark.parametrize("tokens", [1, 16, 37])
def test_loss_and_gradients_equal_torchs_cross_entropy(monkeypatch, tokens):
    monkeypatch.setattr(loss_module, "TOKENS_AT_ONCE", 8)
    monkeypatch.setattr(loss_module, "TOKENS_IN_CACHE", 3)
    hidden, head = torch.randn(tokens, 12, requires_grad=True), torch.randn(50, 12, requires_grad=True)
    labels = torch.randint(0, 50, (tokens,))
    ours = summed_cross_entropy(hidden, head, labels)
    theirs = functional.cross_entropy(hidden @ head.t(), labels, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    for mine, plain in zip(
        torch.autograd.grad(ours * 0.5, (hidden, head)), torch.autograd.grad(theirs * 0.5, (hidden, head)), strict=True
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)


def test_a_heads_gradient_is_added_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(loss_module, "TOKENS_AT_ONCE", 8)
    monkeypatch.setattr(loss_module, "ROWS_AT_ONCE", 7)
    hidden, head = torch.randn(21, 12, requires_grad=True), torch.randn(50, 12, requires_grad=True)
    labels = torch.randint(0, 50, (21,))
    expected = torch.autograd.grad(functional.cross_entropy(hidden @ head.t(), labels) * 3, (hidden, head))
    total = torch.ones(50, 12)
    loss = summed_cross_entropy(hidden, head, labels, scale=3 / 21, head_gradient=total)
    (grad_hidden,) = torch.autograd.grad(loss, (hidden,))
    torch.testing.assert_close(grad_hidden, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(total - 1, expected[1], rtol=1e-4, atol=1e-5)


def test_a_label_that_the_model_holds_for_impossible_gives_a_finite_loss():
    hidden, head = torch.tensor([[1.0]]), torch.tensor([[0.0], [500.0]])
    assert summed_cross_entropy(hidden, head, torch.tensor([0])).item() == pytest.approx(500)


def test_no_tokens_cost_nothing():
    hidden = torch.zeros(0, 4, requires_grad=True)
    loss = summed_cross_entropy(hidden, torch.zeros(9, 4), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.shape == (0, 4)


def test_accumulated_gradients_equal_those_of_one_big_batch(load_decoder):
    """Rows with very different numbers of learned tokens: a mean of means would be wrong."""
    packed = pack([make_shard([32, 4, 30, 3, 32, 20])], max_length=32, objective="continued-pretraining")
    batch = packed.take(np.arange(packed.rows))
    gradients = []
    for rows_at_once in (packed.rows, 1):
        decoder = load_decoder()
        parameters = decoder.parameters()
        for parameter in parameters.values():
            parameter.requires_grad_()
        loss = collect_gradients(decoder, batch, rows_at_once=rows_at_once, learned_tokens=batch.learned_tokens)
        gradients.append((loss, [parameter.grad for parameter in parameters.values()]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for whole, added in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(whole, added, rtol=1e-4, atol=1e-6)

from __future__ import annotations

import pytest
import torch

from nexus_llm.train.fused.optimizer import MasterAdamW


@pytest.mark.parametrize("max_grad_norm", [0.1, 1000.0])
def test_in_float32_it_is_torchs_adamw_with_torchs_clipping(max_grad_norm):
    start = {"weight": torch.randn(4, 3), "norm": torch.randn(3)}
    ours = {name: tensor.clone() for name, tensor in start.items()}
    theirs = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = MasterAdamW(ours, start, weight_decay=0.1)
    plain = torch.optim.AdamW(
        [{"params": [theirs["weight"]], "weight_decay": 0.1}, {"params": [theirs["norm"]], "weight_decay": 0.0}],
        lr=0.03,
    )
    for step in range(5):
        for parameters in (ours, theirs):
            ((parameters["weight"] * parameters["norm"] + step).square().sum()).backward()
        expected = torch.nn.utils.clip_grad_norm_(list(theirs.values()), max_grad_norm)
        plain.step()
        plain.zero_grad()
        norm = optimizer.step(step, learning_rate=0.03, max_grad_norm=max_grad_norm)
        assert norm == pytest.approx(expected.item(), rel=1e-5)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor)


def test_steps_too_small_for_bfloat16_still_add_up():
    weight = torch.ones(1, dtype=torch.bfloat16)
    optimizer = MasterAdamW({"weight": weight}, {"weight": weight}, weight_decay=0.0)
    for step in range(100):
        weight.float().sum().backward()
        optimizer.step(step, learning_rate=1e-4, max_grad_norm=10.0)
    assert weight.item() == pytest.approx(0.99, abs=0.002)


def test_a_gradient_that_is_not_a_number_changes_nothing():
    weight = torch.ones(2)
    optimizer = MasterAdamW({"weight": weight}, {"weight": weight}, weight_decay=0.0)
    (weight * float("nan")).sum().backward()
    assert not optimizer.step(0, learning_rate=0.1, max_grad_norm=1.0) < float("inf")
    assert weight.tolist() == [1.0, 1.0]

"""From hidden states to a loss, through whatever a model does to its logits, and without ever holding all of them.

Shapes: M tokens, C channels, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nexus_llm.errors import ModelError
from nexus_llm.train.loss import TOKENS_AT_ONCE, summed_cross_entropy


def trunk_of(model: Any) -> Any:
    """The part of a causal language model below its head: token ids in, hidden states out.

    Raises:
        ModelError: the model is not built from a trunk and a head.
    """
    trunk = getattr(model, model.base_model_prefix, None)
    if trunk is None or trunk is model:
        raise ModelError(
            f"a model of type {model.config.model_type!r} has no trunk that can be told from its head",
            fix="use a model that transformers' AutoModelForCausalLM builds from a trunk and a language-model head",
        )
    return trunk


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """The logits (M, V) that the model's own code makes of hidden states (M, C): scaled, capped, with bias."""
    with _answering(model, hidden.unsqueeze(0)):
        logits: Tensor = model.forward(input_ids=None, inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits
    return logits.squeeze(0)


def has_plain_head(model: Any) -> bool:
    """Whether logits are hidden states times one matrix and nothing else.

    Asked with states so large that a soft cap would flatten them.
    """
    head = model.get_output_embeddings()
    # A low-rank adapter on the head, or a matrix of 4-bit weights, is of another type.
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    weight = head.weight
    numbers = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0)) * 100
    hidden = numbers.to(weight.device, weight.dtype)
    with torch.no_grad():
        ours, theirs = functional.linear(hidden, weight).float(), logits_of(model, hidden).float()
    return bool((ours - theirs).norm() <= 1e-3 * theirs.norm())


def summed_loss(model: Any, hidden: Tensor, labels: Tensor, *, plain: bool) -> Tensor:
    """Sum over tokens of -log p(label), in nats, as a float32 scalar. `hidden` is (M, C), `labels` (M,).

    A head that is not `plain` is asked for a few tokens at a time, and once more in the backward pass.
    """
    if plain:
        head = model.get_output_embeddings().weight
        if not torch.is_grad_enabled():
            head = head.detach()  # the gradient would be computed at once, for nobody
        return summed_cross_entropy(hidden.to(head.dtype), head, labels)
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, targets in zip(hidden.split(TOKENS_AT_ONCE), labels.split(TOKENS_AT_ONCE), strict=True):
        total = total + checkpoint(_part_loss, model, part, targets, use_reentrant=False)
    return total


def _part_loss(model: Any, hidden: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits_of(model, hidden).float(), labels, reduction="sum")


class _Answer(nn.Module):  # type: ignore[misc]
    """Stands where the trunk stood and gives the hidden states that it was made with."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self._hidden = hidden

    @property
    def decoder(self) -> _Answer:
        """Some heads (OPT's) ask a part of the trunk."""
        return self

    def forward(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        found = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self._hidden)
        found.router_logits = None  # heads of experts ask for it
        return found


@contextmanager
def _answering(model: Any, hidden: Tensor) -> Iterator[None]:
    name = model.base_model_prefix
    trunk = model._modules[name]
    model._modules[name] = _Answer(hidden)
    try:
        yield
    finally:
        model._modules[name] = trunk

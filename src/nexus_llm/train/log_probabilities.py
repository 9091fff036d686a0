"""Log-probabilities of answers without ever holding all logits.

Shapes: M learned tokens, C channels, V vocabulary entries, B rows, T tokens in a row, P pairs, which are documents
2k and 2k + 1 of a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from nexus_llm.train.packing import Batch, Integers
from nexus_llm.train.preferences import pairs_of_rows

# Tokens whose logits exist at one time: as in the cross-entropy, 25 MB in bfloat16 for 49,152 entries.
TOKENS_AT_ONCE = 256
# On a CPU, tokens whose logits are float32 at one time: few enough to stay in its cache.
TOKENS_IN_CACHE = 16


def answer_log_probabilities(hidden: Tensor, head: Tensor, batch: Batch) -> Tensor:
    """The log-probability of every pair's chosen and rejected answer in nats, (P, 2), float64, in the order of rows.

    `hidden` is (B * T, C), ready for `head`, (V, C). Sums over learned tokens are made in one order only, so they are
    the same bits at every call.
    """
    places, labels = batch.learned()
    chosen, targets = (torch.from_numpy(one).to(hidden.device) for one in (places, labels))
    each = log_probabilities(hidden[chosen], head, targets)
    answers = each.double().split(_answer_lengths(batch, places))
    return torch.stack([answer.sum() for answer in answers]).view(-1, 2) if answers else each.double().view(0, 2)


def log_probabilities(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """log p(label) of each token in nats, (M,), float32. `hidden` is (M, C), `head` (V, C), `labels` (M,).

    Memory for logits does not grow with M. Where the head is frozen, the gradient is made in the forward pass; where it
    learns, logits are computed again in the backward pass.
    """
    result: Tensor = _LogProbabilities.apply(hidden, head, labels)
    return result


class _LogProbabilities(Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        wants_hidden, ctx.wants_head = ctx.needs_input_grad[:2]
        result = hidden.new_empty(len(hidden), dtype=torch.float32)
        # Each answer has its own factor, known later; but one token has only one, so its gradient can be made now.
        gradient = torch.empty_like(hidden) if wants_hidden and not ctx.wants_head else None
        for start in range(0, len(hidden), TOKENS_AT_ONCE):
            chunk = slice(start, start + TOKENS_AT_ONCE)
            logits = hidden[chunk] @ head.t()
            result[chunk] = _read_and_differentiate(logits, labels[chunk], differentiate=gradient is not None)
            if gradient is not None:
                torch.mm(logits, head, out=gradient[chunk])
        ctx.save_for_backward(*((hidden, head, labels) if gradient is None else (gradient,)))
        return result

    @staticmethod
    def backward(ctx: Any, factors: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if not ctx.wants_head:
            (gradient,) = ctx.saved_tensors
            return gradient * factors.unsqueeze(1).to(gradient.dtype), None, None
        hidden, head, labels = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # float32, because bfloat16 would lose the small contributions of late chunks.
        grad_head = torch.zeros_like(head, dtype=torch.float32)
        for start in range(0, len(hidden), TOKENS_AT_ONCE):
            chunk = slice(start, start + TOKENS_AT_ONCE)
            logits = hidden[chunk] @ head.t()
            _read_and_differentiate(logits, labels[chunk], differentiate=True)
            logits *= factors[chunk].unsqueeze(1).to(logits.dtype)
            torch.mm(logits, head, out=grad_hidden[chunk])
            grad_head += logits.t() @ hidden[chunk]
        return grad_hidden, grad_head.to(head.dtype), None


def _read_and_differentiate(logits: Tensor, labels: Tensor, *, differentiate: bool) -> Tensor:
    """log p(label) of each token, (tokens,); logits may be overwritten by its gradient, one_hot - softmax."""
    at_once = TOKENS_IN_CACHE if logits.device.type == "cpu" else TOKENS_AT_ONCE
    found = []
    for part, targets in zip(logits.split(at_once), labels.split(at_once), strict=True):
        wide, column = part.float(), targets.unsqueeze(1)
        log_sum = torch.logsumexp(wide, -1, keepdim=True)
        found.append((wide.gather(1, column) - log_sum).squeeze(1))
        if differentiate:
            shares = wide.sub_(log_sum).exp_().neg_()
            part.copy_(shares.scatter_add_(1, column, shares.new_ones(column.shape)))
    return torch.cat(found)


def _answer_lengths(batch: Batch, places: Integers) -> list[int]:
    """Learned tokens of every answer: chosen and rejected of the first pair, of the second, …"""
    pairs = pairs_of_rows(batch)
    rows, columns = np.divmod(places, batch.token_ids.shape[1])
    answers = 2 * (np.cumsum(pairs) - pairs)[rows] + batch.documents[rows, columns + 1]
    return [int(length) for length in np.bincount(answers, minlength=2 * int(pairs.sum()))]

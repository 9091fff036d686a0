"""Cross-entropy over a large vocabulary without ever holding all logits.

Shapes: M tokens, C channels, V vocabulary entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nexus_llm.train.packing import Batch

# Tokens whose logits exist at one time: enough for full matrix speed, 25 MB in bfloat16 for 49,152 entries.
TOKENS_AT_ONCE = 256
# A GPU wants larger pieces: 0.5 GB in bfloat16 and 1 GB in float32 for the 128,256 entries of Llama 3.
TOKENS_AT_ONCE_ON_GPU = 2048
# Rows of the head whose gradient is made at one time: buffers of 14 MB for 576 channels are used again and again, where
# new ones for the whole head cost as much time as the product (2026-11).
ROWS_AT_ONCE = 4096
# Tokens whose logits are float32 at one time: few enough to stay in the processor's cache (3 MB; 5 x faster than 64).
TOKENS_IN_CACHE = 16


def packed_cross_entropy(
    hidden: Tensor, head: Tensor, batch: Batch, *, scale: float = 1.0, head_gradient: Tensor | None = None
) -> Tensor:
    """`scale` times the sum over the learned tokens of packed rows of -log p(token), in nats, as a float32 scalar.

    `hidden` is (B * T, C). The others as in `summed_cross_entropy`.
    """
    chosen, targets = (torch.from_numpy(one).to(hidden.device) for one in batch.learned())
    return summed_cross_entropy(hidden[chosen], head, targets, scale=scale, head_gradient=head_gradient)


def summed_cross_entropy(
    hidden: Tensor, head: Tensor, labels: Tensor, *, scale: float = 1.0, head_gradient: Tensor | None = None
) -> Tensor:
    """`scale` times the sum over tokens of -log p(label), in nats, as a float32 scalar.

    `hidden` is (M, C), `head` (V, C), `labels` (M,) with real token ids only. The gradient is computed at once, so
    memory for logits does not grow with M. Where `head_gradient` (V, C) in float32 is given, the head's gradient is
    added to it here and now, and autograd gets none: for a head that learns, that spares it three copies.
    """
    result: Tensor = _SummedCrossEntropy.apply(hidden, head, labels, scale, head_gradient)
    return result


class _SummedCrossEntropy(Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, scale: float, head_gradient: Tensor | None
    ) -> Tensor:
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_head = head_gradient
        if wants_head and grad_head is None:
            # float32, because bfloat16 would lose the small contributions of late chunks.
            grad_head = torch.zeros_like(head, dtype=torch.float32)
        total = hidden.new_zeros((), dtype=torch.float64)
        at_once = TOKENS_AT_ONCE if hidden.device.type == "cpu" else TOKENS_AT_ONCE_ON_GPU
        # One piece of memory for all: new pages for each chunk would take as long as its product.
        memory = hidden.new_empty(min(at_once, len(hidden)), len(head))
        for start in range(0, len(hidden), at_once):
            chunk = slice(start, start + at_once)
            logits = torch.mm(hidden[chunk], head.t(), out=memory[: len(hidden[chunk])])
            total += _losses_and_gradient(logits, labels[chunk])
            if grad_hidden is not None:
                torch.mm(logits, head, out=grad_hidden[chunk])
            if grad_head is not None:
                _add_product(grad_head, logits, hidden[chunk], scale=scale)
        returned = None if grad_head is None or head_gradient is not None else grad_head.to(head.dtype)
        ctx.scale = scale
        ctx.save_for_backward(grad_hidden, returned)
        return (total * scale).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return _scaled(grad_hidden, grad * ctx.scale), _scaled(grad_head, grad), None, None, None


def _add_product(total: Tensor, logits: Tensor, hidden: Tensor, *, scale: float) -> None:
    """Adds `scale` logitsᵀ hidden to `total`, (V, C) in float32."""
    if logits.device.type != "cpu":
        total.add_(logits.t() @ hidden, alpha=scale)
        return
    product = hidden.new_empty(min(ROWS_AT_ONCE, len(total)), hidden.shape[1])
    wide = torch.empty_like(product, dtype=torch.float32)
    for start in range(0, len(total), ROWS_AT_ONCE):
        part = total[start : start + ROWS_AT_ONCE]
        torch.mm(logits[:, start : start + ROWS_AT_ONCE].t(), hidden, out=product[: len(part)])
        part.add_(wide[: len(part)].copy_(product[: len(part)]), alpha=scale)


def _losses_and_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss of a chunk; its logits (tokens, V) are overwritten by their gradient, softmax - one_hot."""
    total = logits.new_zeros((), dtype=torch.float64)
    in_cache = TOKENS_IN_CACHE if logits.device.type == "cpu" else len(logits)
    # Used again and again: new memory for each part would cost as much as the arithmetic.
    buffers = [torch.empty_like(logits[:in_cache], dtype=torch.float32) for _ in range(2)]
    for part, targets in zip(logits.split(in_cache), labels.split(in_cache), strict=True):
        wide, shares = (buffer[: len(part)] for buffer in buffers)
        column = targets.unsqueeze(1)
        torch.softmax(wide.copy_(part), -1, out=shares)
        # The largest share is exp(0) / sum, so this is logsumexp without another pass over the vocabulary.
        log_sum = wide.amax(-1) - shares.amax(-1).log()
        total += (log_sum - wide.gather(1, column).squeeze(1)).sum(dtype=torch.float64)
        part.copy_(shares.scatter_add_(1, column, shares.new_full(column.shape, -1.0)))
    return total


def _scaled(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if gradient is None else gradient * factor

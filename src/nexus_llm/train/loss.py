"""Cross-entropy over a large vocabulary without ever holding all logits.

Shapes: M tokens, C channels, V vocabulary entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import Function

from nexus_llm.train.packing import NOT_LEARNED

# Tokens whose logits exist at one time: enough for full matrix speed, 25 MB in bfloat16 for 49,152 entries.
TOKENS_AT_ONCE = 256
# A GPU wants larger pieces: 0.5 GB in bfloat16 and 1 GB in float32 for the 128,256 entries of Llama 3.
TOKENS_AT_ONCE_ON_GPU = 2048
# Tokens whose logits are float32 at one time: few enough to stay in the processor's cache (3 MB; 5 x faster than 64).
TOKENS_IN_CACHE = 16


def packed_cross_entropy(hidden: Tensor, head: Tensor, labels: npt.NDArray[np.int64]) -> Tensor:
    """Sum over the learned tokens of packed rows of -log p(token), in nats, as a float32 scalar.

    `labels` is (B, T) as `packing.Batch` has it; `hidden` is (B * T, C).
    """
    # The prediction at one place is compared with the token at the next; a row's last prediction has no token.
    following = np.full_like(labels, NOT_LEARNED)
    following[:, :-1] = labels[:, 1:]
    places = np.flatnonzero(following != NOT_LEARNED)
    chosen = torch.from_numpy(places).to(hidden.device)
    return summed_cross_entropy(hidden[chosen], head, torch.from_numpy(following.ravel()[places]).to(hidden.device))


def summed_cross_entropy(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Sum over tokens of -log p(label), in nats, as a float32 scalar.

    `hidden` is (M, C), `head` (V, C), `labels` (M,) with real token ids only. The gradient is computed at once, so
    memory for logits does not grow with M.
    """
    result: Tensor = _SummedCrossEntropy.apply(hidden, head, labels)
    return result


class _SummedCrossEntropy(Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # float32, because bfloat16 would lose the small contributions of late chunks.
        grad_head = torch.zeros_like(head, dtype=torch.float32) if wants_head else None
        total = hidden.new_zeros((), dtype=torch.float64)
        at_once = TOKENS_AT_ONCE if hidden.device.type == "cpu" else TOKENS_AT_ONCE_ON_GPU
        for start in range(0, len(hidden), at_once):
            chunk = slice(start, start + at_once)
            logits = hidden[chunk] @ head.t()
            total += _losses_and_gradient(logits, labels[chunk])
            if grad_hidden is not None:
                torch.mm(logits, head, out=grad_hidden[chunk])
            if grad_head is not None:
                grad_head += logits.t() @ hidden[chunk]
        ctx.save_for_backward(grad_hidden, None if grad_head is None else grad_head.to(head.dtype))
        return total.float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return _scaled(grad_hidden, grad), _scaled(grad_head, grad), None


def _losses_and_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss of a chunk; its logits (tokens, V) are overwritten by their gradient, softmax - one_hot."""
    total = logits.new_zeros((), dtype=torch.float64)
    in_cache = TOKENS_IN_CACHE if logits.device.type == "cpu" else len(logits)
    for part, targets in zip(logits.split(in_cache), labels.split(in_cache), strict=True):
        wide, column = part.float(), targets.unsqueeze(1)
        shares = torch.softmax(wide, -1)
        # The largest share is exp(0) / sum, so this is logsumexp without another pass over the vocabulary.
        log_sum = wide.amax(-1) - shares.amax(-1).log()
        total += (log_sum - wide.gather(1, column).squeeze(1)).sum(dtype=torch.float64)
        part.copy_(shares.scatter_add_(1, column, shares.new_full(column.shape, -1.0)))
    return total


def _scaled(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if gradient is None else gradient * factor

"""The differentiable operations of a Llama layer, each with its backward pass written out.

On a CPU a third of the time of transformers' modules goes into small element-wise operations, their copies for
autograd, and an attention kernel that reaches a third of the speed of a plain matrix product. Written out, every
operation keeps only what its backward pass needs, and what is cheap to make again is not kept: one layer's
probabilities of 512 tokens are half as large as its weights. `tests/train/test_decoder.py` compares all of it with
transformers.

Shapes: B rows, T tokens in a row, M = B * T, H query heads, K key and value heads, G = H / K, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

# Queries are taken in blocks, each with the keys up to its end, so that nearly half of the square is never computed.
# Shorter blocks make the matrix products too small to run at full speed.
QUERY_BLOCK = 256


class Embedding(Function):  # type: ignore[misc]
    """Rows of a matrix by their numbers: (V, C), (B, T) → (B, T, C).

    Where `gradient` (V, C) in float32 is given, the matrix's gradient is added to it during the backward pass: a step
    reads some hundred rows, and autograd would write and add up all of the others too.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, token_ids: Tensor, gradient: Tensor | None) -> Tensor:
        ctx.save_for_backward(token_ids)
        ctx.gradient, ctx.rows = gradient, len(weight)
        return functional.embedding(token_ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        (token_ids,) = ctx.saved_tensors
        if ctx.gradient is None:
            return torch.ops.aten.embedding_dense_backward(grad, token_ids, ctx.rows, -1, False), None, None
        ctx.gradient.index_add_(0, token_ids.flatten(), grad.flatten(0, 1).float())
        return None, None, None


class RootMeanSquareNorm(Function):  # type: ignore[misc]
    """x / sqrt(mean(x²) + epsilon) * weight, over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        return functional.rms_norm(x, weight.shape, weight, epsilon)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        return *_norm_gradients(x, weight, ctx.epsilon, grad, wants_weight=ctx.needs_input_grad[1]), None


class NormalLinear(Function):  # type: ignore[misc]
    """A linear layer on normalised input, `RootMeanSquareNorm` and W x + b in one, for a W that learns: (M, in) →
    (M, out). Keeps x alone; its gradients need the normalised x, which is made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, epsilon: float, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, norm, weight)
        ctx.epsilon = epsilon
        return functional.linear(functional.rms_norm(x, norm.shape, norm, epsilon), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, Tensor, Tensor | None]:
        x, norm, weight = ctx.saved_tensors
        grad_weight = grad.t() @ functional.rms_norm(x, norm.shape, norm, ctx.epsilon)
        grad_bias = grad.sum(0) if ctx.needs_input_grad[4] else None
        grad_x, grad_norm = _norm_gradients(x, norm, ctx.epsilon, grad @ weight, wants_weight=ctx.needs_input_grad[1])
        return grad_x, grad_norm, None, grad_weight, grad_bias


def _norm_gradients(
    x: Tensor, weight: Tensor, epsilon: float, grad: Tensor, *, wants_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the input and of the weight of a root mean square norm."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    normal = wide * scale
    grad_weight = (grad * normal).flatten(0, -2).sum(0).to(weight.dtype) if wants_weight else None
    weighted = grad.float() * weight
    grad_x = (weighted - normal * (weighted * normal).mean(-1, keepdim=True)).mul_(scale)
    return grad_x.to(x.dtype), grad_weight


class GatedUnit(Function):  # type: ignore[misc]
    """silu(gate) * up, where the input holds gate and up side by side: (…, 2 I) → (…, I) (Shazeer 2020,
    arXiv:2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor) -> Tensor:
        gate, up = gate_and_up.chunk(2, -1)
        activated = functional.silu(gate)
        ctx.save_for_backward(gate_and_up, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_and_up, activated = ctx.saved_tensors
        return _gate_gradients(gate_and_up, activated, grad)


class GatedLinear(Function):  # type: ignore[misc]
    """`GatedUnit` and the linear layer behind it in one, for a weight W (out, I) that learns: (M, 2 I) → (M, out).
    Keeps gate and up alone."""

    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor, weight: Tensor) -> Tensor:
        gate, up = gate_and_up.chunk(2, -1)
        ctx.save_for_backward(gate_and_up, weight)
        return functional.silu(gate).mul_(up) @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate_and_up, weight = ctx.saved_tensors
        gate, up = gate_and_up.chunk(2, -1)
        activated = functional.silu(gate)
        grad_weight = grad.t() @ (activated * up)
        return _gate_gradients(gate_and_up, activated, grad @ weight), grad_weight


def _gate_gradients(gate_and_up: Tensor, activated: Tensor, grad: Tensor) -> Tensor:
    """Gradients of gate and up side by side; `activated` is silu(gate)."""
    gate, up = gate_and_up.chunk(2, -1)
    result = torch.empty_like(gate_and_up)
    grad_gate, grad_up = result.chunk(2, -1)
    grad_gate.copy_(torch.ops.aten.silu_backward(grad * up, gate))
    torch.mul(grad, activated, out=grad_up)
    return result


class LowRankLinear(Function):  # type: ignore[misc]
    """x Wᵀ + x' Aᵀ Bᵀ for a frozen weight W and a trained low-rank pair (Hu et al. 2021, arXiv:2106.09685).

    x is (M, in), x' its copy after dropout or None where nothing is dropped, W (out, in), A (r, in), B (out, r) with
    the scaling folded in.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_dropped: Tensor | None, weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
        seen = x if x_dropped is None else x_dropped
        narrow = seen @ down.t()
        ctx.drops = x_dropped is not None
        ctx.save_for_backward(seen, narrow, weight, down, up)
        return (x @ weight.t()).addmm_(narrow, up.t())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor, Tensor]:
        seen, narrow, weight, down, up = ctx.saved_tensors
        grad_narrow = grad @ up
        grad_down, grad_up = grad_narrow.t() @ seen, grad.t() @ narrow
        if not ctx.needs_input_grad[0]:  # the first layer reads frozen embeddings
            return None, None, None, grad_down, grad_up
        grad_x = grad @ weight
        if ctx.drops:
            return grad_x, grad_narrow @ down, None, grad_down, grad_up
        return grad_x.addmm_(grad_narrow, down), None, None, grad_down, grad_up


class PackedAttention(Function):  # type: ignore[misc]
    """Causal attention inside each document of packed rows, with rotary positions: (B, T, (H + 2K) D) → (B, T, H D).

    `cosine` and `sine` are (B, T, 1, D / 2); `mask` is (B, 1, T, T): 0 where a token may look, -inf elsewhere.
    The probabilities of rows of one block are kept for the backward pass; of longer ones they would be most of what a
    layer keeps, and are made again.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor, heads: int, kv_heads: int) -> Tensor:
        rows, length, width = qkv.shape
        size = width // (heads + 2 * kv_heads)
        by_head = qkv.view(rows, length, -1, size)
        query, key, value = by_head.split((heads, kv_heads, kv_heads), 2)
        # (B K, G, T, D) and (B K, T, D): the queries that share a key head become one tall matrix.
        query = _rotated(query, cosine, sine).transpose(1, 2).reshape(rows * kv_heads, -1, length, size)
        key = _rotated(key, cosine, sine).transpose(1, 2).reshape(rows * kv_heads, length, size)
        value = value.transpose(1, 2).reshape(rows * kv_heads, length, size)
        result = qkv.new_empty(rows, heads, length, size)
        grouped = result.view(query.shape)
        kept = []
        for start, stop in _blocks(length):
            tall = query[:, :, start:stop].reshape(rows * kv_heads, -1, size)
            shares = _shares(tall, key[:, :stop], mask[:, :, start:stop, :stop])
            if length <= QUERY_BLOCK:
                kept.append(shares)
            grouped[:, :, start:stop] = torch.bmm(shares, value[:, :stop]).view_as(grouped[:, :, start:stop])
        ctx.save_for_backward(query, key, value, cosine, sine, mask, *kept)
        return result.transpose(1, 2).reshape(rows, length, heads * size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        query, key, value, cosine, sine, mask, *kept = ctx.saved_tensors
        (rows, length), (groups, _, _, size) = grad.shape[:2], query.shape
        grad_result = grad.view(rows, length, -1, size).transpose(1, 2).reshape(query.shape)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for start, stop in _blocks(length):
            tall = query[:, :, start:stop].reshape(groups, -1, size)
            shares = kept[0] if kept else _shares(tall, key[:, :stop], mask[:, :, start:stop, :stop])
            grad_tall = grad_result[:, :, start:stop].reshape(groups, -1, size)
            grad_value[:, :stop] += torch.bmm(shares.transpose(1, 2), grad_tall)
            grad_shares = torch.bmm(grad_tall, value[:, :stop].transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_shares, shares, -1, shares.dtype)
            block = torch.bmm(grad_scores, key[:, :stop]).mul_(size**-0.5)
            grad_query[:, :, start:stop] = block.view_as(grad_query[:, :, start:stop])
            grad_key[:, :stop] += torch.bmm(grad_scores.transpose(1, 2), tall).mul_(size**-0.5)
        whole = [_tokens_first(part, rows) for part in (grad_query, grad_key, grad_value)]
        whole[:2] = [_rotated(part, cosine, -sine) for part in whole[:2]]
        return torch.cat(whole, 2).view(rows, length, -1), None, None, None, None, None


def _shares(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Attention's probabilities, (B K, G Q, S), of a block of Q queries (B K, G Q, D) over S keys (B K, S, D)."""
    scores = torch.bmm(query, key.transpose(1, 2))
    by_row = scores.view(len(mask), -1, *mask.shape[2:])
    torch.add(mask, by_row, alpha=query.shape[-1] ** -0.5, out=by_row)
    return torch.softmax(by_row, -1).view_as(scores)


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(B, T, heads, D) with channel i turned against channel i + D / 2 (Su et al. 2021, arXiv:2104.09864)."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


def _tokens_first(x: Tensor, rows: int) -> Tensor:
    """(B K, …, T, D) → (B, T, heads, D)."""
    return x.reshape(rows, -1, *x.shape[-2:]).transpose(1, 2)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, length)) for start in range(0, length, QUERY_BLOCK)]

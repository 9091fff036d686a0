"""Attention that keeps the documents of a packed row apart, in any transformers model.

Two ways lead there, and a probe at the start decides which of them a model really follows:

- Positions that start again tell transformers' mask functions where a document begins; sliding windows then count
  within the document. Masks for `sdpa` and `eager` take rows x length² bytes: on a CPU, and on a GPU up to
  `LONGEST_MASK_TOKENS`. `flex_attention` keeps blocks of 128 x 128 tokens instead.
- `flash_attention_2` and torch's own variable-length kernel (`torch_varlen`) get all rows as one, with the places where
  documents begin: memory grows with the tokens alone. Both want bfloat16 on a GPU.

Shapes: B rows, T tokens in a row, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nexus_llm.errors import ModelError
from nexus_llm.train.packing import NOT_LEARNED, Batch

TORCH_VARLEN = "torch_varlen"
LONGEST_MASK_TOKENS = 8192
"""On a GPU: a row's mask in bfloat16 takes 128 MiB then, and four times as much at each doubling."""

_REFUSALS = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, ImportError, AssertionError)
Told = Literal["positions", "mask", "boundaries"]


@dataclass(frozen=True)
class Attention:
    """How the model is told which tokens belong together."""

    implementation: str
    """transformers' name, or `torch_varlen`."""
    told: Told
    """By positions, by a mask of ours, or by the boundaries of documents laid end to end."""

    def inputs(self, batch: Batch, *, device: str, dtype: Any) -> dict[str, Any]:
        """The trunk's arguments for these rows; with boundaries, all rows are one row of B * T tokens."""
        shape = (1, -1) if self.told == "boundaries" else batch.token_ids.shape
        arguments: dict[str, Any] = {
            "input_ids": torch.from_numpy(batch.token_ids.reshape(shape)).to(device),
            "position_ids": torch.from_numpy(batch.positions.reshape(shape)).to(device),
        }
        if self.told == "boundaries":
            cuts = boundaries(batch.documents)
            starts = torch.from_numpy(cuts.astype(np.int32)).to(device)
            longest = int(np.diff(cuts).max())
            arguments |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts}
            arguments |= {"max_length_q": longest, "max_length_k": longest}
        elif self.told == "mask":
            allowed = _block_diagonal(torch.from_numpy(batch.documents).to(device))
            blocked = torch.zeros(allowed.shape, dtype=dtype, device=device)
            arguments["attention_mask"] = blocked.masked_fill_(~allowed, torch.finfo(dtype).min)
        return arguments


def boundaries(documents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each stretch of one number begins when the (B, T) rows are laid end to end, and the end of all.

    >>> boundaries(np.array([[0, 0, 1, -1], [0, 0, 0, 1]]))
    array([0, 2, 3, 4, 7, 8])
    """
    begins = np.ones(documents.shape, bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return np.append(np.flatnonzero(begins), documents.size)


def choose(model: Any, *, device: str, dtype: Any, max_length: int) -> Attention:
    """The first attention with which `model` keeps documents apart; the model is left set to it.

    Raises:
        ModelError: there is none, or the model's answers are not finite numbers.
    """
    tried: dict[str, str] = {}
    for attention in _candidates(model.config, device=device, dtype=dtype, max_length=max_length):
        try:
            model.set_attn_implementation(attention.implementation)
            fault = _fault(model, attention, device=device, dtype=dtype)
        except _REFUSALS as error:  # kernels and models refuse in their own ways; another candidate may do
            fault = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        if fault is None:
            return attention
        tried.setdefault(fault, f"{attention.implementation} by {attention.told}: {fault}")
    raise ModelError(
        f"a model of type {model.config.model_type!r} does not keep apart the documents of a packed row "
        f"({'; '.join(tried.values()) or f'nothing here reads rows of {max_length} tokens'})",
        fix="use a model whose attention follows position_ids, such as llama, qwen, mistral, gemma, phi or gpt2"
        + (f", or set train.max_length to {LONGEST_MASK_TOKENS}" if device.startswith("cuda") else ""),
    )


def _candidates(config: Any, *, device: str, dtype: Any, max_length: int) -> Iterator[Attention]:
    on_gpu = device.startswith("cuda")
    if on_gpu and dtype == torch.bfloat16:
        if find_spec("flash_attn"):
            yield Attention("flash_attention_2", "boundaries")
        if find_spec("torch.nn.attention.varlen"):
            _register_torch_varlen()
            yield Attention(TORCH_VARLEN, "boundaries")
    if on_gpu and find_spec("triton"):
        yield Attention("flex_attention", "positions")
    if on_gpu and max_length > LONGEST_MASK_TOKENS:
        return
    yield Attention("sdpa", "positions")
    yield Attention("eager", "positions")
    # A mask of ours would replace that of a sliding window, so it serves only where the window never cuts.
    window = getattr(config.get_text_config(), "sliding_window", None)
    if window is None or window >= max_length:
        yield Attention("sdpa", "mask")
        yield Attention("eager", "mask")


def _fault(model: Any, attention: Attention, *, device: str, dtype: Any) -> str | None:
    """What is wrong with two short documents in one row; None: nothing.

    The second must not change at all when the first is another text, and hardly when it stands alone.
    """
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    first, other, second = np.random.default_rng(0).integers(0, vocabulary, (3, 7))

    def answer(*pieces: npt.NDArray[np.int64]) -> Tensor:
        arguments = attention.inputs(_row(*pieces), device=device, dtype=dtype)
        found = model.base_model(**arguments, use_cache=False)[0].float().squeeze(0)
        start = sum(map(len, pieces[:-1]))
        return found[start : start + len(pieces[-1])]

    was_training = model.training
    model.eval()
    with torch.no_grad():
        packed, beside_other, alone = answer(first, second), answer(other, second), answer(second)
    model.train(was_training)
    if not bool(torch.isfinite(alone).all()):
        raise ModelError("the base model's answers are not finite numbers", fix="fetch the model again")
    # A dense model gives 0 for the first; experts may be cut into other batches. The second is rounding.
    leak, shift = (1e-4, 1e-3) if dtype == torch.float32 else (1e-2, 1e-1)
    for difference, limit, words in (
        (_difference(packed, beside_other), leak, "a document sees the one before it"),
        (_difference(packed, alone), shift, "a document's positions depend on the one before it"),
    ):
        if not difference <= limit:
            return f"{words}, {difference:.1%} of its answer"
    return _training_fault(model, attention.inputs(_row(first, second), device=device, dtype=dtype))


def _training_fault(model: Any, arguments: dict[str, Any]) -> str | None:
    """What is wrong with the backward pass: kernels refuse dropout or a size of heads there that they read with.

    Only activations get a gradient, so that this takes no memory for those of weights.
    """
    seen: list[Tensor] = []

    def start_here(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    was_training = model.training
    model.train()
    hook = model.get_input_embeddings().register_forward_hook(start_here)
    try:
        with torch.random.fork_rng():
            hidden = model.base_model(**arguments, use_cache=False)[0]
            (gradient,) = torch.autograd.grad(hidden.float().square().sum(), seen[0])
    finally:
        hook.remove()
        model.train(was_training)
    return None if bool(torch.isfinite(gradient).all()) else "its gradients are not finite numbers"


def _difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm() / right.norm().clamp_min(1e-12))


def _row(*pieces: npt.NDArray[np.int64]) -> Batch:
    """One row of 16 tokens: the pieces, then padding."""
    token_ids, positions = np.zeros((1, 16), np.int64), np.zeros((1, 16), np.int64)
    documents = np.full((1, 16), -1, np.int64)
    column = 0
    for number, piece in enumerate(pieces):
        here = slice(column, column + len(piece))
        token_ids[0, here], positions[0, here], documents[0, here] = piece, np.arange(len(piece)), number
        column += len(piece)
    return Batch(token_ids, np.full((1, 16), NOT_LEARNED, np.int64), positions, documents)


def _block_diagonal(documents: Tensor) -> Tensor:
    """(B, 1, T, T): True where a token sees one of its own document that is not later."""
    return (documents.unsqueeze(2) == documents.unsqueeze(1)).tril_().unsqueeze(1)


def _register_torch_varlen() -> None:
    from transformers import AttentionInterface

    # transformers makes no mask for a name that its mask functions do not know, which is what we want here.
    AttentionInterface.register(TORCH_VARLEN, _torch_varlen)


def _torch_varlen(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one row of documents laid end to end: (1, H, T, D) → (1, T, H, D)."""
    from torch.nn.attention.varlen import varlen_attn

    if attention_mask is not None or softcap or dropout or s_aux is not None:
        raise ValueError("this kernel knows no mask, soft cap, dropout or sink")
    result = varlen_attn(
        *(tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value)),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return result.unsqueeze(0), None

"""A Llama-shaped decoder whose layers run as few, large operations.

The weights come from a transformers model and go back under its names. Linear layers that read the same input (query,
key and value; gate and up) are stored as one matrix.

Shapes: B rows, T tokens in a row, M = B * T, C channels, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nexus_llm.errors import ModelError
from nexus_llm.train.fused.operations import (
    Embedding,
    GatedLinear,
    GatedUnit,
    LowRankLinear,
    NormalLinear,
    PackedAttention,
    RootMeanSquareNorm,
)
from nexus_llm.train.packing import Batch
from nexus_llm.train.plan import why_not_fused_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained low-rank pair: `down` is PEFT's A (r, in), `up` its B (out, r)."""

    down: Tensor
    up: Tensor


@dataclass
class Projections:
    """Linear layers that read the same input, as one matrix: (M, in) → (M, sum of `sizes`)."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None
    adapters: dict[str, Adapter] = field(default_factory=dict)
    """By the name of the linear layer that it belongs to."""
    scaling: float = 1.0
    dropout: float = 0.0

    def __call__(self, x: Tensor, *, training: bool) -> Tensor:
        if not self.adapters:
            return functional.linear(x, self.weight, self.bias)
        down = torch.cat([adapter.down for adapter in self.adapters.values()])
        dropped = functional.dropout(x, self.dropout) if training and self.dropout else None
        result: Tensor = LowRankLinear.apply(x, dropped, self.weight, down, self._up())
        return result if self.bias is None else result + self.bias

    def _up(self) -> Tensor:
        """All B on the diagonal of one matrix, so that each reads the narrow channels of its own A."""
        blocks = [
            self.adapters[name].up if name in self.adapters else self.weight.new_zeros(size, 0)
            for name, size in zip(self.names, self.sizes, strict=True)
        ]
        return torch.block_diag(*blocks) * self.scaling

    def named_tensors(self) -> Iterator[tuple[tuple[str, ...], tuple[int, ...], Tensor]]:
        """(names of the linear layers' tensors, their rows, all of them as one tensor)."""
        for kind, tensor in (("weight", self.weight), ("bias", self.bias)):
            if tensor is not None:
                yield tuple(f"{name}.{kind}" for name in self.names), self.sizes, tensor


@dataclass
class Layer:
    """One decoder layer."""

    name: str
    attention_norm: Tensor
    qkv: Projections
    output: Projections
    feed_forward_norm: Tensor
    gate_and_up: Projections
    down: Projections

    @property
    def projections(self) -> tuple[Projections, ...]:
        return self.qkv, self.output, self.gate_and_up, self.down


class Decoder:
    """The model in training. `parameters` are leaves: mark those to learn with `requires_grad_()`."""

    def __init__(self, source: Any, *, max_length: int) -> None:
        """Takes the weights out of `source`, a transformers model, which is of no use afterwards.

        Raises:
            ModelError: the model is not Llama-shaped, or cannot see `max_length` tokens.
        """
        config = source.config
        _refuse_unfit(config, max_length)
        self.training = True
        self._epsilon: float = config.rms_norm_eps
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self.embedding = _own(source.model.embed_tokens.weight)
        tied = source.lm_head.weight is source.model.embed_tokens.weight
        self.head = self.embedding if tied else _own(source.lm_head.weight)
        self.embedding_gradient: Tensor | None = None
        self.head_gradient: Tensor | None = None
        """Where the gradients of these two are added, in float32; while they are None, autograd has them."""
        self.norm = _own(source.model.norm.weight)
        self.layers = [_layer(f"model.layers.{index}", layer) for index, layer in enumerate(source.model.layers)]
        cosine, sine = source.model.rotary_emb(self.embedding, torch.arange(max_length)[None])
        half = cosine.shape[-1] // 2  # transformers repeats the same angles for both halves of a head
        self._cosine, self._sine = cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous()

    def hidden(self, batch: Batch) -> Tensor:
        """What the last layer says of every token: (M, C), normalised, ready for the head."""
        positions = torch.from_numpy(batch.positions)
        cosine, sine = self._cosine[positions].unsqueeze(2), self._sine[positions].unsqueeze(2)
        mask = _attention_mask(torch.from_numpy(batch.documents), self.embedding.dtype)
        embedded = Embedding.apply(self.embedding, torch.from_numpy(batch.token_ids), self.embedding_gradient)
        x = embedded.flatten(0, 1)
        for layer in self.layers:
            qkv = self._after_norm(x, layer.attention_norm, layer.qkv)
            seen = PackedAttention.apply(
                qkv.view(*positions.shape, -1), cosine, sine, mask, self._heads, self._kv_heads
            )
            x = x + layer.output(seen.flatten(0, 1), training=self.training)
            gate_and_up = self._after_norm(x, layer.feed_forward_norm, layer.gate_and_up)
            if layer.down.weight.requires_grad:
                x = x + GatedLinear.apply(gate_and_up, layer.down.weight)
            else:
                x = x + layer.down(GatedUnit.apply(gate_and_up), training=self.training)
        return self._normal(x, self.norm)

    def parameters(self) -> dict[str, Tensor]:
        """Every weight once, by name; linear layers that are stored as one have their names joined by `+`."""
        return {"+".join(names): tensor for names, _, tensor in self._named_tensors()}

    def collect_vocabulary_gradients(self, gradients: dict[str, Tensor]) -> None:
        """Has the gradients of embedding and head, the largest tensors of a small model, added to `gradients` (float32,
        named as `parameters`) instead of given to autograd."""
        self.embedding_gradient = gradients[EMBEDDING]
        self.head_gradient = gradients[EMBEDDING if self.head is self.embedding else HEAD]

    def state_dict(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """`values` (as `parameters` names them) under the names and in the shapes of the transformers model."""
        return {
            name: part.contiguous()
            for names, sizes, _ in self._named_tensors()
            for name, part in zip(names, values["+".join(names)].split(sizes), strict=True)
        }

    def _named_tensors(self) -> Iterator[tuple[tuple[str, ...], tuple[int, ...], Tensor]]:
        singles = [(EMBEDDING, self.embedding), ("model.norm.weight", self.norm)]
        if self.head is not self.embedding:
            singles.append((HEAD, self.head))
        for layer in self.layers:
            singles.append((f"{layer.name}.input_layernorm.weight", layer.attention_norm))
            singles.append((f"{layer.name}.post_attention_layernorm.weight", layer.feed_forward_norm))
            for projections in layer.projections:
                yield from projections.named_tensors()
        yield from (((name,), (len(tensor),), tensor) for name, tensor in singles)

    def _after_norm(self, x: Tensor, norm: Tensor, projections: Projections) -> Tensor:
        if projections.weight.requires_grad:
            result: Tensor = NormalLinear.apply(x, norm, self._epsilon, projections.weight, projections.bias)
            return result
        return projections(self._normal(x, norm), training=self.training)

    def _normal(self, x: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = RootMeanSquareNorm.apply(x, weight, self._epsilon)
        return result


def _refuse_unfit(config: Any, max_length: int) -> None:
    if reason := why_not_fused_model(config.to_dict()):
        raise ModelError(reason, fix="set train.implementation to auto")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    limit = min(config.max_position_embeddings, window or max_length)
    if max_length > limit:
        raise ModelError(
            f"train.max_length is {max_length}, and the model sees at most {limit} tokens",
            fix=f"set train.max_length to {limit} or less",
        )


def _layer(name: str, source: Any) -> Layer:
    attention, feed_forward = source.self_attn, source.mlp
    return Layer(
        name=name,
        attention_norm=_own(source.input_layernorm.weight),
        qkv=_joined(attention, f"{name}.self_attn", "q_proj", "k_proj", "v_proj"),
        output=_joined(attention, f"{name}.self_attn", "o_proj"),
        feed_forward_norm=_own(source.post_attention_layernorm.weight),
        gate_and_up=_joined(feed_forward, f"{name}.mlp", "gate_proj", "up_proj"),
        down=_joined(feed_forward, f"{name}.mlp", "down_proj"),
    )


def _joined(owner: Any, prefix: str, *names: str) -> Projections:
    modules = [getattr(owner, name) for name in names]
    biases = [module.bias for module in modules if module.bias is not None]
    joined = Projections(
        names=tuple(f"{prefix}.{name}" for name in names),
        sizes=tuple(len(module.weight) for module in modules),
        weight=torch.cat([module.weight.detach() for module in modules]),
        bias=torch.cat([bias.detach() for bias in biases]) if biases else None,
    )
    for name in names:
        delattr(owner, name)  # so that the weights do not lie in memory twice
    return joined


def _own(weight: Tensor) -> Tensor:
    """A copy: a weight that still lies in the mapped file would keep the whole file in memory."""
    return weight.detach().clone()


def _attention_mask(documents: Tensor, dtype: Any) -> Tensor:
    """(B, 1, T, T): 0 where a token sees one of its own document that is not later, -inf elsewhere."""
    allowed = (documents.unsqueeze(2) == documents.unsqueeze(1)).tril_()
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, float("-inf")).unsqueeze(1)

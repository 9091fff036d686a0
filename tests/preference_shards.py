"""Hand-made pairs, and a decoder that learns from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm.train.packing import Batch, Shard
from nexus_llm.train.preferences import PairShard
from tiny_training import VOCABULARY, write_shard

Sizes = list[tuple[int, int, int]]
"""Of each pair: tokens of the question, of the chosen and of the rejected answer (0: there is none)."""


def make_pair_shard(sizes: Sizes, *, seed: int = 5) -> PairShard:
    """Chosen answers count upwards from where the question ends, rejected ones downwards."""
    starts = np.random.default_rng(seed).permutation(VOCABULARY)[: len(sizes)]  # no two pairs are equal
    chosen, rejected = [], []
    for (question, better, worse), start in zip(sizes, starts, strict=True):
        before = np.arange(question) + start
        chosen.append((np.concatenate([before, before[-1] + 1 + np.arange(better)]), question))
        rejected.append((np.concatenate([before, before[-1] - 1 - np.arange(worse)] if worse else [[]]), question))
    return PairShard(_shard(chosen), _shard(rejected))


def _shard(conversations: list[tuple[Any, int]]) -> Shard:
    tokens = [np.asarray(one, np.int64) % VOCABULARY for one, _ in conversations]
    return Shard(
        np.concatenate(tokens).astype(np.uint16),
        np.cumsum([0, *map(len, tokens)]).astype(np.int64),
        np.concatenate([np.arange(len(one)) >= question for one, question in conversations]),
        np.ones(len(tokens), bool),
    )


def write_pair_shard(folder: Path, split: str, shard: PairShard) -> None:
    write_shard(folder, split, shard.chosen)
    for name in ("tokens", "offsets", "loss_mask"):
        np.save(folder / f"{split}-00000.rejected_{name}.npy", getattr(shard.rejected, name))


class DecoderOfPairs:
    """A fused decoder as DPO needs a model."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    @property
    def head(self) -> Any:
        return self.decoder.head

    def hidden(self, batch: Batch) -> Any:
        return self.decoder.hidden(batch)

    def backward(self, loss: Any) -> None:
        if loss.requires_grad:
            loss.backward()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        before, self.decoder.training = self.decoder.training, False
        yield
        self.decoder.training = before

    @contextlib.contextmanager
    def without_adapters(self) -> Iterator[None]:
        places = [part for layer in self.decoder.layers for part in layer.projections]
        before = [part.adapters for part in places]
        for part in places:
            part.adapters = {}
        yield
        for part, adapters in zip(places, before, strict=True):
            part.adapters = adapters

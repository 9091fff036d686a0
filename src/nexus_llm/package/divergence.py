"""How far one model's predictions lie from another's, token by token; pure numbers.

Legend of shapes: T tokens that are predicted, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
_ROWS = 64
"""Tokens at once: 64 × 49,152 × 8 bytes = 25 MB."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """One model beside the reference, on the same text."""

    tokens: int
    mean_kl: float
    """Kullback-Leibler divergence of the next-token distributions from the reference's, in nats."""
    max_kl: float
    top_1_share: float
    """Share of the tokens after which both find the same token likeliest."""
    perplexity: float
    reference_perplexity: float

    @property
    def perplexity_change_share(self) -> float:
        """Relative difference of the perplexities; below 0: lower than the reference's."""
        return self.perplexity / self.reference_perplexity - 1


def divergence(rows: Iterable[tuple[Float32, Float32, list[int]]]) -> Divergence:
    """Over rows of (reference's log-probabilities TV, the other model's log-probabilities TV, the T actual tokens).

    KL(reference ‖ other) over the whole vocabulary: no token is left out.

    Raises:
        ValueError: there are no tokens, the shapes differ, or a value is not finite.
    """
    kls: list[npt.NDArray[np.float64]] = []
    same, losses, reference_losses = 0, 0.0, 0.0
    for reference_TV, other_TV, targets_T in rows:
        if reference_TV.shape != other_TV.shape or len(targets_T) != len(other_TV):
            raise ValueError(f"{other_TV.shape} predictions beside {reference_TV.shape} for {len(targets_T)} tokens")
        places = np.arange(len(targets_T))
        losses -= float(other_TV[places, targets_T].sum(dtype=np.float64))
        reference_losses -= float(reference_TV[places, targets_T].sum(dtype=np.float64))
        same += int((reference_TV.argmax(axis=1) == other_TV.argmax(axis=1)).sum())
        for start in range(0, len(targets_T), _ROWS):
            kls.append(_kl(reference_TV[start : start + _ROWS], other_TV[start : start + _ROWS]))
    kl_T = np.concatenate(kls) if kls else np.empty(0)
    if not len(kl_T):
        raise ValueError("no tokens to compare on")
    if not np.isfinite(kl_T).all() or not np.isfinite(losses):
        raise ValueError("predictions that are not numbers")
    tokens = len(kl_T)
    return Divergence(
        tokens,
        mean_kl=float(kl_T.mean()),
        max_kl=float(kl_T.max()),
        top_1_share=same / tokens,
        perplexity=float(np.exp(losses / tokens)),
        reference_perplexity=float(np.exp(reference_losses / tokens)),
    )


def log_softmax(logits_TV: npt.NDArray[np.floating]) -> Float32:
    """Logits as log-probabilities."""
    shifted = logits_TV - logits_TV.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float32)


def _kl(reference_TV: Float32, other_TV: Float32) -> npt.NDArray[np.float64]:
    """One divergence a token; rounding may make nothing of equal distributions slightly negative, which is cut off."""
    wide = reference_TV.astype(np.float64)
    return np.asarray(np.maximum((np.exp(wide) * (wide - other_TV)).sum(axis=1), 0.0))

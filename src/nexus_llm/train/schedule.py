"""The learning rate of every step: pure numbers."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int, least_share: float) -> float:
    """The rate of a step, counted from 0: a straight rise to `peak`, then half a cosine down to `least_share` of it.

    Source: Loshchilov and Hutter 2017, "SGDR" (arXiv:1608.03983), equation 5 without restarts.

    >>> [round(learning_rate(s, peak=1.0, warmup_steps=2, total_steps=4, least_share=0.0), 3) for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps  # step + 1: a rate of exactly 0 would waste the first batch
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (least_share + (1 - least_share) * (1 + math.cos(math.pi * progress)) / 2)

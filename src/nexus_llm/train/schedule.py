"""The learning rate of every step: pure numbers."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "warmup_stable_decay", "constant_with_warmup"]
_DECAY_SHARE = 5  # of warmup_stable_decay: a fifth of all steps


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    least_share: float,
    schedule: Schedule = "cosine",
    decay_steps: int | None = None,
) -> float:
    """The rate of a step, counted from 0: a straight rise to `peak`, then what `schedule` says.

    - `cosine`: half a cosine down to `least_share` of the peak (Loshchilov and Hutter 2017, "SGDR", arXiv:1608.03983,
      equation 5 without restarts);
    - `warmup_stable_decay`: the peak, and a straight fall to `least_share` of it in the last `decay_steps`, None for a
      fifth of all (Hu et al. 2024, "MiniCPM", arXiv:2404.06395, section 4);
    - `constant_with_warmup`: the peak.

    >>> [round(learning_rate(s, peak=1.0, warmup_steps=2, total_steps=4, least_share=0.0), 3) for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    >>> wsd = {"schedule": "warmup_stable_decay", "decay_steps": 2, "least_share": 0.0, "peak": 1.0}
    >>> [learning_rate(s, warmup_steps=2, total_steps=6, **wsd) for s in range(6)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps  # step + 1: a rate of exactly 0 would waste the first batch
    if schedule == "constant_with_warmup":
        return peak
    start = warmup_steps
    if schedule == "warmup_stable_decay":
        falling = max(1, total_steps // _DECAY_SHARE) if decay_steps is None else decay_steps
        start = max(warmup_steps, total_steps - falling)
    progress = min(1.0, max(0, step - start) / max(1, total_steps - start))
    remaining = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
    return peak * (least_share + (1 - least_share) * remaining)

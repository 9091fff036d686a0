"""What is worth telling of a training step: beside the bar (which has the time itself), and to trackers."""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def step_note(row: Mapping[str, Any], *, used_bytes: int) -> str:
    """A row of `metrics.jsonl` in a few words, with the memory in use.

    >>> step_note({"loss": 2.34567, "tokens_per_second": 412.3}, used_bytes=3 * 2**30)
    'loss 2.346, 412 tokens/s, 3.0 GiB'
    >>> step_note({"loss": 9.1, "skipped": "loss 9.1 is a spike", "rolled_back_to_step": 40}, used_bytes=2**29)
    'skipped: loss 9.1 is a spike, back to step 40, 512 MiB'
    """
    parts = [f"skipped: {row['skipped']}" if row.get("skipped") else f"loss {row['loss']:.3f}"]
    if "rolled_back_to_step" in row:
        parts.append(f"back to step {row['rolled_back_to_step']}")
    if row.get("validation_loss") is not None:
        parts.append(f"validation {row['validation_loss']:.3f}")
    if row.get("tokens_per_second"):
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    return ", ".join([*parts, _size(used_bytes)])


def measured(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of `metrics.jsonl` that a curve can show: finite, and not the step itself.

    >>> measured({"step": 3, "loss": 2.5, "tokens_per_second": None, "skipped": True, "grad_norm": float("nan")})
    {'loss': 2.5}
    """
    numbers = {
        name: float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def memory_in_use() -> int:
    """Bytes that this process holds: on its GPU where it uses one, else resident in the machine's memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.memory_reserved())
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the highest so far: all that macOS tells
    return peak if sys.platform == "darwin" else peak * 1024


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"

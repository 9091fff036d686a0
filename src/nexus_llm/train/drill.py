"""A drill: at which moments a training run is killed, and whether what came out equals the undisturbed run's.

Pure: `nexus_llm.cloud.drill_runs` starts, watches and kills the processes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Moment = Literal["within a step", "between steps", "while a checkpoint is written"]
MOMENTS: tuple[Moment, ...] = ("while a checkpoint is written", "within a step", "between steps")
LEAST_STEPS = 4
"""Below that there is no room for two checkpoints and something to lose behind them."""
FEWEST_CHECKPOINTS = 4
_MEASURED_IN_TIME = ("_per_second", "_seconds", "_bytes", "time")
"""Endings of fields in `metrics.jsonl` that differ between two equal runs."""


@dataclass(frozen=True)
class Kill:
    """When the run is killed next, in terms of what it has done."""

    moment: Moment
    step: int
    """Steps done when the kill comes due; of a checkpoint: the one after so many steps, or the next one."""
    share: float
    """How far into the step or the writing, in 0-1."""
    corrupts: bool = False
    """Whether one byte of the newest checkpoint is changed afterwards."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run left behind."""

    files: dict[str, str]
    """File of the artifact → its sha256."""
    checkpoints: dict[int, dict[str, str]]
    """Steps done → file of the checkpoint written there → its sha256."""
    rows: tuple[dict[str, Any], ...]
    """`metrics.jsonl`."""


@dataclass(frozen=True)
class Agreement:
    """One thing in both runs."""

    what: str
    equal: bool
    undisturbed: str
    """The first 16 digits of the sha256 over it."""
    killed: str
    note: str
    """Where it was compared, or the first difference."""


def shortened(*, max_steps: int, save_steps: int, wanted: int) -> tuple[int, int]:
    """(steps, steps between checkpoints) of the drill: the recipe's where they are few and enough.

    >>> shortened(max_steps=1000, save_steps=50, wanted=16)
    (16, 3)
    >>> shortened(max_steps=12, save_steps=2, wanted=16)
    (12, 2)
    """
    steps = max(min(max_steps, wanted), LEAST_STEPS)
    return steps, save_steps if steps // save_steps >= FEWEST_CHECKPOINTS else max(1, steps // 5)


def plan_kills(*, kills: int, steps: int, save_steps: int, corrupt: bool, seed: int) -> tuple[Kill, ...]:
    """So many kills in the order in which a run of `steps` steps meets them, drawn from `seed`.

    Three kinds of moment take turns. With `corrupt`, one kill that comes behind two checkpoints (or one, where none
    does) also changes a byte of the newest.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = [_draw(MOMENTS[number % len(MOMENTS)], steps, save_steps, random) for number in range(kills)]
    if corrupt and kills and not any(_checkpoints_before(one, save_steps) for one in drawn):
        drawn[-1] = Kill("within a step", steps - 1, drawn[-1].share)
    drawn.sort(key=lambda kill: (kill.step, kill.moment == "within a step"))
    if not corrupt or not drawn:
        return tuple(drawn)
    most = min(2, max(_checkpoints_before(one, save_steps) for one in drawn))
    candidates = [place for place, one in enumerate(drawn) if _checkpoints_before(one, save_steps) >= most > 0]
    chosen = candidates[int(random.integers(len(candidates)))] if candidates else None
    return tuple(Kill(one.moment, one.step, one.share, corrupts=place == chosen) for place, one in enumerate(drawn))


def damage(content_bytes: int, *, seed: int) -> tuple[int, int]:
    """(place, value to XOR with) of the byte that is changed in a file of that size; never 0, which would change
    nothing."""
    random = np.random.Generator(np.random.PCG64(seed))
    return int(random.integers(content_bytes)), int(random.integers(1, 256))


def compare(undisturbed: Outcome, killed: Outcome) -> list[Agreement]:
    """Weights, optimizer state, order of the data and every measured number of both runs, side by side."""
    return [
        _weights(undisturbed, killed),
        _optimizer(undisturbed, killed),
        _data_order(undisturbed.rows, killed.rows),
        _rows("loss and gradient norm of each step", *(_numbers(one.rows) for one in (undisturbed, killed))),
    ]


def first_different_tensor(one: Path, other: Path) -> str | None:
    """The first tensor, by name, that is not the same to the bit in two safetensors files, and by how much; None where
    all are."""
    import torch
    from safetensors import safe_open

    with safe_open(one, framework="pt") as left, safe_open(other, framework="pt") as right:
        names, others = sorted(left.keys()), sorted(right.keys())
        if odd := sorted(set(names) ^ set(others)):
            return f"{odd[0]} is in one of the two only"
        for name in names:
            first, second = left.get_tensor(name), right.get_tensor(name)
            if first.shape != second.shape or first.dtype != second.dtype:
                return f"{name} has another shape or type"
            if not torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8)):
                furthest = (first.double() - second.double()).abs().max().item()
                return f"{name} differs, by {furthest:.3g} at most"
    return None


def _draw(moment: Moment, steps: int, save_steps: int, random: np.random.Generator) -> Kill:
    share = float(random.uniform(0.1, 0.9))
    if moment == "while a checkpoint is written":
        # The last save is one of them: what a run leaves behind is written right after it.
        return Kill(moment, save_steps * int(random.integers(1, steps // save_steps + 1)), share)
    return Kill(moment, int(random.integers(0 if moment == "within a step" else 1, steps)), share)


def _checkpoints_before(kill: Kill, save_steps: int) -> int:
    """How many whole checkpoints lie there at the kill, were none deleted."""
    # Between steps, the checkpoint of that very step may still be on its way to the disk.
    return kill.step // save_steps if kill.moment == "within a step" else (kill.step - 1) // save_steps


def _weights(undisturbed: Outcome, killed: Outcome) -> Agreement:
    return _agreement("weights", undisturbed.files, killed.files, note=f"{len(undisturbed.files)} files of the result")


def _optimizer(undisturbed: Outcome, killed: Outcome) -> Agreement:
    what, both = "optimizer state", sorted(undisturbed.checkpoints.keys() & killed.checkpoints.keys())
    if not both:
        return Agreement(what, False, "", "", "no checkpoint of the same step was seen in both runs")
    for step in both:
        if undisturbed.checkpoints[step] != killed.checkpoints[step]:
            first, second = (_digest(one.checkpoints[step]) for one in (undisturbed, killed))
            return Agreement(what, False, first, second, f"first different in the checkpoint after step {step}")
    steps = ", ".join(str(step) for step in both)
    before, after = ({step: one.checkpoints[step] for step in both} for one in (undisturbed, killed))
    return _agreement(what, before, after, note=f"checkpoints after step {steps}")


def _data_order(undisturbed: Sequence[Mapping[str, Any]], killed: Sequence[Mapping[str, Any]]) -> Agreement:
    for field, note in (("rows_sha256", "row ids of each step"), ("tokens", "number of tokens of each step")):
        pair = [[{"step": row["step"], field: row.get(field)} for row in rows] for rows in (undisturbed, killed)]
        if all(row[field] is not None for row in pair[0]):
            return _rows("order of the data", *pair, note=note)
    return Agreement("order of the data", False, "", "", "metrics.jsonl tells nothing about it")


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.endswith(_MEASURED_IN_TIME)} for row in rows]


def _rows(what: str, undisturbed: list[dict[str, Any]], killed: list[dict[str, Any]], *, note: str = "") -> Agreement:
    found = _agreement(what, undisturbed, killed, note=note or f"{len(undisturbed)} steps, to the last digit")
    if found.equal:
        return found
    return Agreement(what, False, found.undisturbed, found.killed, _first_difference(undisturbed, killed))


def _first_difference(undisturbed: list[dict[str, Any]], killed: list[dict[str, Any]]) -> str:
    for before, after in zip(undisturbed, killed, strict=False):
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                return f"step {before.get('step')}: {name} {before.get(name)} against {after.get(name)}"
    return f"{len(undisturbed)} steps against {len(killed)}"


def _agreement(what: str, undisturbed: Any, killed: Any, *, note: str) -> Agreement:
    return Agreement(what, undisturbed == killed, _digest(undisturbed), _digest(killed), note)


def _digest(value: Any) -> str:
    # sort_keys would compare integers with strings only after json has made them strings: order does not matter here.
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

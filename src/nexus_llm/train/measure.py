"""The edges of the plan: how much memory is free here, and how fast a learner really is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.learner import Learner
from nexus_llm.train.packing import PackedRows
from nexus_llm.train.run_identity import rows_per_step

UNLIMITED_BYTES = 2**60
"""cgroup v1 writes a number above this where there is no limit."""


@dataclass(frozen=True, slots=True)
class Available:
    """Memory that a new process may take, and who says so."""

    bytes: int
    source: str


def available_memory(device: str = "cpu", *, root: Path = Path("/")) -> Available | None:
    """What is free now: of the GPU for `cuda`, else of the machine and of this process's cgroup, whichever is less.

    A cgroup's pages of files count as free, because they are given back first. None: nobody says (macOS). `root` is
    where `proc` and `sys` lie.
    """
    if device.startswith("cuda"):
        import torch

        free, _total = torch.cuda.mem_get_info(device)
        return Available(int(free), "torch.cuda.mem_get_info")
    found = [one for one in (_machine(root), *_cgroups(root)) if one is not None]
    return min(found, key=lambda one: one.bytes, default=None)


def measure_speed(
    learner: Learner,
    rows: PackedRows,
    recipe: TrainRecipe,
    *,
    seed: int,
    seconds: Callable[[], float],
    steps: int = 3,
) -> float:
    """Tokens per second of this one process, padding not counted, over `steps` steps after one to warm up.

    The steps are real ones of the run's own batches. Masters, moments and torch's random state are put back afterwards,
    bit for bit; meanwhile they lie in memory twice, as they do under a snapshot.
    """
    import torch

    size = rows_per_step(recipe, processes=1)
    before = {name: tensor.detach().clone() for name, tensor in learner.tensors().items()}
    tokens, started = 0, 0.0
    with torch.random.fork_rng():
        try:
            for step in range(steps + 1):
                if step == 1:
                    started = seconds()
                batch = rows.batch(seed, step, size=size)
                learner.gradients(batch, learned_tokens=max(1, batch.learned_tokens))
                # Its norm is a number that the device must have computed: no work is left over when it is there.
                learner.update(step, learning_rate=0.0, max_grad_norm=recipe.max_grad_norm)
                tokens += batch.tokens if step else 0
            duration = seconds() - started
        finally:
            learner.forget_gradients()
            learner.restore(before)
    return tokens / duration


def _machine(root: Path) -> Available | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return Available(int(line.split()[1]) * 1024, "/proc/meminfo")
    return None


def _cgroups(root: Path) -> list[Available]:
    """One for every group with a limit, from this process's own up to the root: each parent's limit holds too."""
    found = []
    for line in _lines(root / "proc/self/cgroup"):
        _number, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, limit, usage = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            folder = root / "sys/fs/cgroup/memory"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # Inside a container the path is often the host's, and the container's own group lies at the top.
        own = folder / path.strip("/")
        for group in (own, *own.parents):
            if group == folder or folder in group.parents:
                found.append(_group(group, limit, usage))
    return [one for one in found if one is not None]


def _group(folder: Path, limit: str, usage: str) -> Available | None:
    most, used = _number(folder / limit), _number(folder / usage)
    if most is None or used is None or most >= UNLIMITED_BYTES:
        return None
    pages = dict(line.split(maxsplit=1) for line in _lines(folder / "memory.stat") if " " in line)
    files = int(pages.get("total_inactive_file", pages.get("inactive_file", 0)))
    return Available(max(0, most - used + files), str(folder / limit))


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)[:1])
    return int(text) if text.isdigit() else None  # `max` is no limit


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []

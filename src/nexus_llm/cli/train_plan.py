"""`nexus train RECIPE --plan` and `--fit`: what training needs, before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.cli.console import print_json
from nexus_llm.errors import TrainingError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.ports import Ports
    from nexus_llm.recipe import Recipe
    from nexus_llm.train.activations import Device
    from nexus_llm.train.measure import Available
    from nexus_llm.train.plan import MemoryPlan


def fitted(recipe: Recipe, model: Path) -> Recipe:
    """The recipe with as many rows in a pass as fit into the memory that is free here; a step keeps its rows."""
    from nexus_llm.train import fitting

    config, planned, available = _planned(recipe, model)
    if available is None:
        raise TrainingError("this machine does not say how much memory is free", fix="leave --fit out")
    train = fitting.fit(config, recipe.train, available.bytes, device=planned.device)
    if train is None:
        raise fitting.refusal(config, planned, available.bytes) or AssertionError(planned)
    return recipe.model_copy(update={"train": train})


def show(recipe: Recipe, made: dict[str, Artifact], ports: Ports, *, as_json: bool) -> None:
    """Prints memory part by part, the speed of three real steps, and how long all of them take."""
    from nexus_llm.train import fitting, plan

    config, planned, available = _planned(recipe, made["model"].folder)
    refusal = fitting.refusal(config, planned, available.bytes) if available else None
    speed = None if refusal else _measured_speed(recipe, made, ports)
    seconds = planned.tokens / speed if speed else None
    if as_json:
        document: dict[str, Any] = {
            **plan.to_json(planned),
            "available_bytes": available.bytes if available else None,
            "fits": refusal is None,
            "tokens_per_second": round(speed, 1) if speed else None,
            "seconds": round(seconds) if seconds else None,
        }
        print_json(document)
    else:
        _print(planned, available, speed, seconds)
    if refusal:
        raise refusal


def _planned(recipe: Recipe, model: Path) -> tuple[dict[str, Any], MemoryPlan, Available | None]:
    """The model's config, its plan, and the memory that is free."""
    import torch

    from nexus_llm.train import plan
    from nexus_llm.train.measure import available_memory

    config = dict(json.loads((model / "config.json").read_bytes()))
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    return config, plan.memory(config, recipe.train, device=device), available_memory(device)


def _measured_speed(recipe: Recipe, made: dict[str, Artifact], ports: Ports) -> float | None:
    """Tokens per second of three warm steps, of one process; None where several would have to be started for it."""
    import tempfile

    from nexus_llm.train.measure import measure_speed
    from nexus_llm.train.stage import prepare

    if recipe.train.distributed.strategy != "none":
        return None
    ports.progress.start("measuring three steps", total=None, unit="")
    with tempfile.TemporaryDirectory(prefix="nexus-") as work:
        learner, rows = prepare(recipe, made, Path(work), ports)
        speed = measure_speed(learner, rows[0], recipe.train, seed=recipe.seed, seconds=ports.clock.monotonic)
    ports.progress.finish(f"{speed:,.0f} tokens/s")
    return speed


def _print(planned: MemoryPlan, available: Available | None, speed: float | None, seconds: float | None) -> None:
    from nexus_llm.train import plan

    for name, size, place in plan.report(planned):
        print(f"{name:<24} {size:>9} GB  {place}")
    print(f"by the {planned.implementation} implementation, on a {planned.device}")
    if available:
        print(f"{available.bytes / 1e9:.1f} GB are free ({available.source})")
    if speed and seconds:
        print(f"{speed:,.0f} tokens/s, measured: about {seconds / 60:,.0f} min for {planned.recipe.max_steps:,} steps")
    else:
        print("speed: not measured")

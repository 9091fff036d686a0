"""What the evaluate stage can measure besides perplexity: one evaluator a field of the recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nexus_llm.evaluate.results import TaskResult, read_result
from nexus_llm.recipe import EvaluateRecipe

if TYPE_CHECKING:
    from nexus_llm.ports import Completer, Ports


@dataclass(frozen=True)
class Evaluator:
    """What measures the tasks that one field of the recipe's `evaluate` names."""

    field: Literal["benchmarks", "tasks"]
    run: Callable[[Completer, EvaluateRecipe, Path, Ports], Sequence[TaskResult]]
    """(who answers, the recipe's part, a folder that outlives an interruption, ports) → one result a task."""


def open_model(folder: Path, name: str) -> Completer:
    """The model in `folder`, in this process and in bfloat16, as perplexity is read."""
    from nexus_llm.evaluate.in_process import InProcessCompleter

    return InProcessCompleter.load(folder, precision="bfloat16", name=name)


def _benchmarks(completer: Completer, recipe: EvaluateRecipe, folder: Path, ports: Ports) -> list[TaskResult]:
    from nexus_llm.evaluate.benchmarks import BenchmarkWishes, run_task
    from nexus_llm.evaluate.harness import HarnessTasks
    from nexus_llm.evaluate.local_sets import tasks_of

    datasets = Path(recipe.datasets) if recipe.datasets else None
    names, _ = tasks_of(recipe.benchmarks, datasets)
    known, wishes = HarnessTasks(), BenchmarkWishes(datasets, limit=recipe.benchmark_items)
    return [run_task(name, known, completer, wishes, folder / name, ports).result for name in names]


def _tasks(completer: Completer, recipe: EvaluateRecipe, folder: Path, ports: Ports) -> list[TaskResult]:
    from nexus_llm.evaluate.domain_tasks import run_tasks

    summaries = run_tasks([Path(name) for name in recipe.tasks], completer, folder, ports)
    return [read_result(folder / one.task) for one in summaries]


EVALUATORS = (Evaluator("benchmarks", _benchmarks), Evaluator("tasks", _tasks))

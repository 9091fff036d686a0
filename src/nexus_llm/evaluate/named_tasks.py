"""What the evaluate stage can measure besides perplexity: one evaluator a field of the recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nexus_llm.evaluate.local_sets import files_of, tasks_of
from nexus_llm.evaluate.results import TaskRun, read_result
from nexus_llm.evaluate.task_file import load_task, task_files
from nexus_llm.recipe import EvaluateRecipe

if TYPE_CHECKING:
    from nexus_llm.ports import Completer, Ports


@dataclass(frozen=True)
class Evaluator:
    """What measures the tasks that one field of the recipe's `evaluate` names."""

    field: Literal["benchmarks", "tasks"]
    run: Callable[[Completer, EvaluateRecipe, Path, Ports], Sequence[TaskRun]]
    """(who answers, the recipe's part, a folder that outlives an interruption, ports) → one run a task."""
    files: Callable[[EvaluateRecipe], Sequence[Path]] = lambda _: ()
    """What it reads. Raises where that is missing."""


def open_model(folder: Path, name: str) -> Completer:
    """The model in `folder`, in this process and in bfloat16, as perplexity is read."""
    from nexus_llm.evaluate.in_process import InProcessCompleter

    return InProcessCompleter.load(folder, precision="bfloat16", name=name)


def _benchmarks(completer: Completer, recipe: EvaluateRecipe, folder: Path, ports: Ports) -> list[TaskRun]:
    from nexus_llm.evaluate.benchmarks import BenchmarkWishes, run_task
    from nexus_llm.evaluate.harness import HarnessTasks

    datasets = Path(recipe.datasets) if recipe.datasets else None
    names, _ = tasks_of(recipe.benchmarks, datasets)
    known, wishes = HarnessTasks(), BenchmarkWishes(datasets, limit=recipe.benchmark_items)
    return [run_task(name, known, completer, wishes, folder / name, ports) for name in names]


def _benchmark_files(recipe: EvaluateRecipe) -> list[Path]:
    return files_of(recipe.benchmarks, Path(recipe.datasets)) if recipe.datasets else []


def _tasks(completer: Completer, recipe: EvaluateRecipe, folder: Path, ports: Ports) -> list[TaskRun]:
    from nexus_llm.evaluate.domain_tasks import run_tasks

    paths = [Path(name) for name in recipe.tasks]
    summaries = run_tasks(paths, completer, folder, ports)
    return [
        TaskRun(read_result(folder / one.task), {item.id: item.texts for item in load_task(path).items})
        for one, path in zip(summaries, paths, strict=True)
    ]


def _task_files(recipe: EvaluateRecipe) -> list[Path]:
    return [file for name in recipe.tasks for file in task_files(Path(name))]


EVALUATORS = (Evaluator("benchmarks", _benchmarks, _benchmark_files), Evaluator("tasks", _tasks, _task_files))

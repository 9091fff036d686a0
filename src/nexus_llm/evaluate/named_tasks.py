"""The tasks that a recipe names beside its texts: public benchmarks, and a team's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.evaluate.local_sets import files_of, tasks_of
from nexus_llm.evaluate.results import TaskRun, read_result
from nexus_llm.evaluate.task_file import load_task, task_files
from nexus_llm.recipe import EvaluateRecipe

if TYPE_CHECKING:
    from nexus_llm.ports import Completer, Ports


def open_model(folder: Path, name: str) -> Completer:
    """The model in `folder`, in this process and in bfloat16, as perplexity is read."""
    from nexus_llm.evaluate.in_process import InProcessCompleter

    return InProcessCompleter.load(folder, precision="bfloat16", name=name)


def files_read(recipe: EvaluateRecipe) -> list[Path]:
    """What the tasks are read from. Raises where that is missing."""
    sets = files_of(recipe.benchmarks, Path(recipe.datasets)) if recipe.benchmarks and recipe.datasets else []
    return sets + [file for name in recipe.tasks for file in task_files(Path(name))]


def run_named(completer: Completer, recipe: EvaluateRecipe, folder: Path, ports: Ports) -> list[TaskRun]:
    """One run a task; answers are kept in `folder`, which outlives an interruption."""
    benchmarks = _benchmarks(completer, recipe, folder / "benchmarks", ports) if recipe.benchmarks else []
    return benchmarks + (_tasks(completer, recipe, folder / "tasks", ports) if recipe.tasks else [])


def _benchmarks(completer: Completer, recipe: EvaluateRecipe, folder: Path, ports: Ports) -> list[TaskRun]:
    from nexus_llm.evaluate.benchmarks import BenchmarkWishes, run_task
    from nexus_llm.evaluate.harness import HarnessTasks

    datasets = Path(recipe.datasets) if recipe.datasets else None
    names, _ = tasks_of(recipe.benchmarks, datasets)
    known, wishes = HarnessTasks(), BenchmarkWishes(datasets, limit=recipe.benchmark_items)
    return [run_task(name, known, completer, wishes, folder / name, ports) for name in names]


def _tasks(completer: Completer, recipe: EvaluateRecipe, folder: Path, ports: Ports) -> list[TaskRun]:
    from nexus_llm.evaluate.domain_tasks import run_tasks

    paths = [Path(name) for name in recipe.tasks]
    summaries = run_tasks(paths, completer, folder, ports)
    return [
        TaskRun(read_result(folder / one.task), {item.id: item.texts for item in load_task(path).items})
        for one, path in zip(summaries, paths, strict=True)
    ]

"""The tasks that a recipe names beside its texts: public benchmarks, and a team's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.errors import EvaluationError
from nexus_llm.evaluate.gate import require_measured
from nexus_llm.evaluate.local_sets import files_of, mapping, size_of, tasks_of
from nexus_llm.evaluate.results import TaskRun, read_result, texts_in
from nexus_llm.evaluate.task_file import load_task, task_files
from nexus_llm.recipe import EvaluateRecipe

if TYPE_CHECKING:
    from nexus_llm.evaluate.task_file import Task
    from nexus_llm.ports import Completer, Ports

_TOKENS_PER_SECOND, _STEPS_PER_SECOND, _TOGETHER = 850, 20, 16
_CHARACTERS_PER_TOKEN = 4
_HUB = (1_000, 1_000 * 400)
"""Items and characters of a set that is not here."""


def open_model(folder: Path, name: str) -> Completer:
    """The model in `folder`, in this process and in bfloat16, as perplexity is read."""
    from nexus_llm.evaluate.in_process import InProcessCompleter

    return InProcessCompleter.load(folder, precision="bfloat16", name=name)


def files_read(recipe: EvaluateRecipe) -> list[Path]:
    """What the tasks are read from.

    Raises:
        RecipeError, EvaluationError, DataError: a file is missing or wrong, two tasks share a name, or a rule of the
            gate is about none of them: what would else be told when the model is trained.
    """
    own = _own(recipe)
    datasets = Path(recipe.datasets) if recipe.datasets else None
    sets = files_of(recipe.benchmarks, datasets) if recipe.benchmarks and datasets else []
    names = tasks_of(recipe.benchmarks, datasets)[0] if recipe.benchmarks else []
    names += [one.definition.task for one in own]
    if twice := [one for one in names if names.count(one) > 1]:
        raise EvaluationError(f"two tasks are called {twice[0]}", fix="give each a name of its own")
    require_measured(recipe.gate, names)
    return sets + [file for name in recipe.tasks for file in task_files(Path(name))]


def seconds(*, tokens: float, questions: int = 0, new_tokens: int = 0) -> float:
    """What SmolLM2-135M takes in bfloat16 on 2 cores of an AMD EPYC (2026-11) to read `tokens` tokens, and to answer
    questions together, 16 at a time."""
    return tokens / _TOKENS_PER_SECOND + new_tokens * -(-questions // _TOGETHER) / _STEPS_PER_SECOND


def task_seconds(recipe: EvaluateRecipe) -> float:
    """What one model takes for all tasks, with answers as long as they may be. A set of the hub, whose size is not
    known, counts as 1,000 items."""
    found = 0.0
    datasets = Path(recipe.datasets) if recipe.datasets else None
    for name in tasks_of(recipe.benchmarks, datasets)[0] if recipe.benchmarks else ():
        items, characters = size_of(name, datasets) if datasets else _HUB
        asked = min(items, recipe.benchmark_items or items)
        tokens = characters * asked / max(1, items) / _CHARACTERS_PER_TOKEN
        found += seconds(tokens=tokens, questions=asked, new_tokens=mapping()["answer_tokens"].get(name, 0))
    for task in _own(recipe):
        questions = [one.question for one in task.items]
        tokens = sum(len("".join(texts_in((one.text, one.messages, one.tools)))) for one in questions)
        is_said = getattr(task.definition.scorer, "by", "") != "likelihood"
        found += seconds(
            tokens=tokens / _CHARACTERS_PER_TOKEN,
            questions=len(questions) * is_said,
            new_tokens=task.definition.max_new_tokens,
        )
    return found


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


def _own(recipe: EvaluateRecipe) -> list[Task]:
    from nexus_llm.evaluate.domain_tasks import read_tasks

    return read_tasks([Path(name) for name in recipe.tasks], has_judge=False)

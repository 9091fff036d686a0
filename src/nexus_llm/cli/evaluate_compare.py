"""`nexus evaluate compare`: two models' stored results, item by item."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.gate import print_gate
from nexus_llm.cli.options import AsJson
from nexus_llm.errors import EvaluationError

if TYPE_CHECKING:
    from nexus_llm.evaluate.results import TaskResult

Folder = Annotated[Path, typer.Argument(help="A folder with result.json, or with folders that have one.")]
MaxRegression = Annotated[
    float, typer.Option("--max-regression", min=0, help="Loss that is allowed, in the unit of each metric.")
]
Confidence = Annotated[float, typer.Option("--confidence", min=0.5, max=0.9999, help="Of all verdicts together.")]


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command("compare", help="Two models' results of the same tasks: the second against the first.")(compare)


def compare(
    first: Folder,
    second: Folder,
    max_regression: MaxRegression = 0.0,
    confidence: Confidence = 0.95,
    as_json: AsJson = False,
) -> int:
    """The second model's results against the first one's; exit 0 whatever comes out (`nexus gate` judges)."""
    from nexus_llm.evaluate.gate import corrected, gate_json, judge_tasks
    from nexus_llm.recipe import GateRecipe, TaskRule

    pairs = _pairs(first, second)
    rules = {tuned.task: TaskRule(max_regression=max_regression) for _, tuned in pairs}
    judged = judge_tasks(pairs, GateRecipe(confidence=confidence, tasks=rules), seed=0)
    found = gate_json(corrected(judged, confidence=confidence))
    if as_json:
        print_json(found)
    else:
        print_gate(found)
    return 0


def _pairs(first: Path, second: Path) -> list[tuple[TaskResult, TaskResult]]:
    """The results that both folders have, by task.

    Raises:
        EvaluationError: one has a task that the other has not, or none at all.
    """
    before, after = _results(first), _results(second)
    if alone := sorted(before.keys() ^ after.keys()):
        here, there = (first, second) if alone[0] in before else (second, first)
        raise EvaluationError(
            f"{alone[0]} has a result in {here} and none in {there}", fix="evaluate both models with the same tasks"
        )
    return [(before[task], after[task]) for task in sorted(before)]


def _results(folder: Path) -> dict[str, TaskResult]:
    from nexus_llm.evaluate.results import RESULT_FILE, read_result

    found: dict[str, TaskResult] = {}
    for path in sorted(folder.rglob(RESULT_FILE)):
        result = read_result(path.parent)
        if result.task in found:
            raise EvaluationError(f"{folder} has two results of {result.task}", fix="name the folder of one of them")
        found[result.task] = result
    if not found:
        raise EvaluationError(f"{folder} has no {RESULT_FILE}", fix="give a folder that nexus evaluate wrote")
    return found

"""Domain tasks, asked and scored: one `TaskResult` a task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.errors import EvaluationError
from nexus_llm.evaluate.asking import answers_to, kept_file, likelihoods_of
from nexus_llm.evaluate.judge import judge_questions, verdict
from nexus_llm.evaluate.results import ItemResult, TaskResult, write_result
from nexus_llm.evaluate.scorers import ClassificationScorer, JudgeScorer
from nexus_llm.evaluate.summary import Summary, summary_of
from nexus_llm.evaluate.task_file import Task, TaskItem, load_task
from nexus_llm.records import Answer, Continuation

if TYPE_CHECKING:
    from nexus_llm.ports import Completer, Ports


@dataclass(frozen=True)
class Drawing:
    """Which items of each task are asked."""

    limit: int | None = None
    """At most so many; None: all."""
    seed: int = 0


def run_tasks(
    paths: Sequence[Path],
    completer: Completer,
    folder: Path,
    ports: Ports,
    *,
    drawing: Drawing | None = None,
    judge: Completer | None = None,
    usd_per_hour: float | None = None,
) -> list[Summary]:
    """Asks every task in the YAML files `paths` and leaves each one's `TaskResult` in `folder / TASK`.

    All files are read before the first question. Stopped half-way, the same call goes on.

    Raises:
        RecipeError, EvaluationError: a file is wrong, two tasks share a name, one needs a judge, or see `answers_to`.
        TryAgainError: somebody asked to stop.
    """
    tasks = read_tasks(paths, has_judge=judge is not None)
    summaries = []
    for task in tasks:
        result, answers = run_task(task, completer, folder, ports, drawing=drawing or Drawing(), judge=judge)
        write_result(folder / result.task, result)
        summaries.append(summary_of(result, answers, usd_per_hour=usd_per_hour))
    return summaries


def read_tasks(paths: Sequence[Path], *, has_judge: bool) -> list[Task]:
    """The tasks in the YAML files `paths`.

    Raises:
        RecipeError, EvaluationError: a file is wrong, two tasks share a name, or one needs a judge and there is none.
    """
    tasks = [load_task(path) for path in paths]
    places: dict[str, Path] = {}
    for path, task in zip(paths, tasks, strict=True):
        name = task.definition.task
        if name in places:
            raise EvaluationError(f"{path}: a task of the name {name} stands in {places[name]} too", fix="rename one")
        places[name] = path
        if isinstance(task.definition.scorer, JudgeScorer) and not has_judge:
            raise EvaluationError(
                f"{path}: the task {name} needs a judge", fix="name one: nexus evaluate tasks FILE --judge MODEL"
            )
    return tasks


def run_task(
    task: Task, completer: Completer, folder: Path, ports: Ports, *, drawing: Drawing, judge: Completer | None = None
) -> tuple[TaskResult, list[Answer]]:
    """One task's result, and the answers that it stands on (none where likelihoods do)."""
    definition, items = task.definition, task.drawn(drawing.limit, drawing.seed)
    kept, scorer = folder / definition.task, definition.scorer
    answers: list[Answer] = []
    if isinstance(scorer, ClassificationScorer) and scorer.by == "likelihood":
        scored = _by_likelihood(items, scorer, completer, kept, ports)
    else:
        questions = [item.question for item in items]
        answers = answers_to(questions, completer, kept_file(kept, completer.describe(), questions), ports)
        pairs = list(zip(items, answers, strict=True))
        if isinstance(scorer, JudgeScorer):
            assert judge is not None
            scored = _by_judge(pairs, scorer, judge, kept, ports)
        else:
            scored = [_by_rule(task, item, answer) for item, answer in pairs]
    settings = {"limit": drawing.limit, "seed": drawing.seed, "definition_sha256": task.definition_sha256}
    if isinstance(scorer, JudgeScorer) and judge is not None:
        settings["judge"] = judge.describe().model
    return (
        TaskResult(
            task=definition.task,
            version=str(definition.version),
            metric=scorer.metric,
            dataset_sha256=task.dataset_sha256,
            few_shot=len(definition.examples),
            completer=completer.describe(),
            items=tuple(scored),
            settings=settings,
            aggregates=scorer.overall(scored),
        ),
        answers,
    )


def _by_rule(task: Task, item: TaskItem, answer: Answer) -> ItemResult:
    """One answer, scored by the task's own rule."""
    scorer = task.definition.scorer
    said = answer.text
    if answer.tool_calls:
        said = "\n".join([*([said] if said else []), *(str(call["function"]) for call in answer.tool_calls)])
    plain = ItemResult(
        item.id, {}, wanted="" if item.target is None else str(item.target), cut_tokens=answer.cut_tokens
    )
    if answer.error is not None:
        return replace(plain, error=answer.error)
    return replace(plain, scores=scorer.scores(answer, item.target, item.tools), answer=said)


def _by_likelihood(
    items: Sequence[TaskItem], scorer: ClassificationScorer, completer: Completer, folder: Path, ports: Ports
) -> list[ItemResult]:
    """Each item's likeliest choice; the first one where several are alike."""
    given = [
        Continuation(f"{item.id}#{number}", context=item.question.text, text=f" {choice}")
        for item in items
        for number, choice in enumerate(scorer.choices)
    ]
    found = likelihoods_of(given, completer, kept_file(folder, completer.describe(), given), ports)
    results = []
    for place, item in enumerate(items):
        ours = found[place * len(scorer.choices) : (place + 1) * len(scorer.choices)]
        error = next((one.error or "no number" for one in ours if one.error or math.isnan(one.log_probability)), None)
        if error is not None:
            results.append(ItemResult(item.id, {}, wanted=str(item.target), error=error))
            continue
        best = max(range(len(ours)), key=lambda number: ours[number].log_probability)
        said, cut = scorer.choices[best], max(one.cut_tokens for one in ours)
        score = {"accuracy": float(said == str(item.target))}
        results.append(ItemResult(item.id, score, answer=said, wanted=str(item.target), cut_tokens=cut))
    return results


def _by_judge(
    pairs: Sequence[tuple[TaskItem, Answer]], scorer: JudgeScorer, judge: Completer, folder: Path, ports: Ports
) -> list[ItemResult]:
    """Each answer against its target, by the judge; an answer with an error is not judged."""
    judged = [(item, answer) for item, answer in pairs if answer.error is None]
    questions = [
        question
        for item, answer in judged
        for question in judge_questions(item.question, answer.text, str(item.target), scorer.criteria)
    ]
    said = answers_to(questions, judge, kept_file(folder, judge.describe(), questions), ports)
    verdicts = {item.id: verdict(said[2 * place], said[2 * place + 1]) for place, (item, _) in enumerate(judged)}
    results = []
    for item, answer in pairs:
        found = verdicts.get(item.id, answer.error)
        plain = ItemResult(item.id, {}, answer.text, str(item.target), answer.cut_tokens)
        if found is None or isinstance(found, str):
            results.append(replace(plain, error=found))
        else:
            results.append(replace(plain, scores={"preferred": found.score, "flipped": float(found.is_flipped)}))
    return results

"""`nexus evaluate glue`: tunes a model on each task of GLUE by the ordinary stages, and measures it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, DryRun, Root, command_line, ports, workspace
from nexus_llm.errors import DataError, UsageError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.evaluate.glue import GlueTask, Row
    from nexus_llm.evaluate.results import TaskResult
    from nexus_llm.ports import Completer, Ports
    from nexus_llm.recipe import Recipe

Model = Annotated[str, typer.Argument(help="The base model, as model.base of a recipe names it.")]
Finetune = Annotated[bool, typer.Option("--finetune", help="Train per task; the only protocol of this command.")]
Tasks = Annotated[str | None, typer.Option("--tasks", help="Some of the nine, with commas.", metavar="sst2,mrpc,…")]
Datasets = Annotated[
    Path | None, typer.Option("--datasets", help="Folder with the sets' files [default: the hub].", metavar="DIR")
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", min=1, help="Passes over the training rows; 2 below 20,000 rows, else 1.")
]
Seed = Annotated[int, typer.Option("--seed", min=0)]
_NEW_TOKENS = 16
# SmolLM2-135M answered 11 questions a second on 2 cores of an AMD EPYC, 2026-11.
_ANSWERS_PER_SECOND = 11
_CHARACTERS_PER_TOKEN, _TOKENS_OF_A_CHAT = 4, 14


@dataclass(frozen=True)
class _Work:
    """One task, ready to be trained."""

    task: GlueTask
    train: list[Row]
    validation: list[Row]
    epochs: int


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command("glue", help="GLUE by fine-tuning: train per task, validation score, average.")(glue)


def glue(
    model: Model,
    finetune: Finetune = False,
    tasks: Tasks = None,
    datasets: Datasets = None,
    epochs: Epochs = None,
    seed: Seed = 17,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    root: Root = Path(),
) -> int:
    """GLUE by fine-tuning: train per task, validation score, average. The same command goes on after a stop."""
    from nexus_llm.evaluate.comparison_statistics import require_scipy

    if not finetune:
        raise UsageError("GLUE without training is a benchmark like others", fix=f"add --finetune to train {model}")
    works = _works(tasks, datasets, epochs)
    require_scipy()
    if dry_run:
        return _show_plan(works, model, seed, as_json=as_json)
    openings = ports()
    rows = [_measured(work, model, seed, root, openings) for work in works]
    document = {"model": model, "seed": seed, "tasks": rows} | _average(rows)
    if as_json:
        print_json(document)
        return 0
    for row in rows:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in row["metrics"].items())
        print(f"{row['task']:<6} {row['score']:6.2f}  {metrics}  ({row['items']:,} items, {row['result']})")
    print(f"average {document['average']:.2f} over {len(rows)} of 9 tasks")
    return 0


def _average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    from nexus_llm.evaluate.glue import TASKS

    done = {row["task"] for row in rows}
    return {
        "average": round(sum(row["score"] for row in rows) / len(rows), 2),
        "not_measured": [name for name in TASKS if name not in done],
    }


def _works(names: str | None, folder: Path | None, epochs: int | None) -> list[_Work]:
    """The tasks whose files are there; those that are not are told, and refused where they were asked for.

    Raises:
        UsageError: there is no such task.
        DataError: files are missing or malformed.
    """
    from nexus_llm.evaluate.glue import chosen, default_epochs, rows_of_split, training_rows

    works = []
    for task in chosen(names):
        missing = _missing(task, folder)
        if missing and names:
            raise DataError(
                f"{task.name}: {missing} is not there", fix="see docs/evaluation-benchmarks.md for the places"
            )
        if missing:
            print(f"not measured: {task.name} ({missing} is not there)", file=sys.stderr)
            continue
        validation = [row for split in task.validation for row in rows_of_split(task, _split(task, split, folder))]
        train = training_rows(task, _split(task, "train", folder), validation)
        works.append(_Work(task, train, validation, epochs or default_epochs(len(train))))
    if not works:
        raise DataError(f"{folder} has no task's train and validation split", fix="see docs/evaluation-benchmarks.md")
    return works


def _missing(task: GlueTask, folder: Path | None) -> Path | None:
    from nexus_llm.evaluate.local_sets import split_of

    splits = () if folder is None else [split_of(task.name, split, folder) for split in ("train", *task.validation)]
    return next((one.missing for one in splits if one.missing), None)


def _split(task: GlueTask, split: str, folder: Path | None) -> Iterable[Mapping[str, Any]]:
    """Rows of a local folder, or of the hub."""
    from nexus_llm.cloud.hub_datasets import DatasetPart, streamed_rows
    from nexus_llm.evaluate.local_sets import rows_of, split_of

    if folder is not None:
        return rows_of(split_of(task.name, split, folder))
    return streamed_rows(DatasetPart("nyu-mll/glue", config=task.name, split=split))


def _recipe(work: _Work, model: str, seed: int, file: Path, tokens: float | None = None) -> Recipe:
    from nexus_llm.evaluate.glue import max_steps, recipe_values
    from nexus_llm.recipe import Recipe

    values = recipe_values(f"glue-{work.task.name}", file, seed=seed, base=model)
    if tokens is not None:
        values["train"]["max_steps"] = max_steps(int(tokens), epochs=work.epochs)
    return Recipe.model_validate(values)


def _show_plan(works: list[_Work], model: str, seed: int, *, as_json: bool) -> int:
    """Hours of each task, by the stages' own estimates."""
    from nexus_llm.pipeline import stages

    rows: list[dict[str, Any]] = []
    for work in works:
        characters = sum(len(question) + len(answer) for question, answer in work.train)
        tokens = characters / _CHARACTERS_PER_TOKEN + _TOKENS_OF_A_CHAT * len(work.train)
        recipe = _recipe(work, model, seed, Path("train.jsonl"), tokens)
        seconds = sum(stage.estimate(recipe).seconds for stage in stages(until="package"))
        seconds += len(work.validation) / _ANSWERS_PER_SECOND
        counts: dict[str, Any] = {"train_rows": len(work.train), "items": len(work.validation), "epochs": work.epochs}
        plan = {"steps": recipe.train.max_steps, "estimated_hours": round(seconds / 3600, 2)}
        rows.append({"task": work.task.name} | counts | plan)
    hours = round(sum(row["estimated_hours"] for row in rows), 2)
    if as_json:
        print_json({"model": model, "tasks": rows, "estimated_hours": hours})
        return 0
    for row in rows:
        print(
            f"{row['task']:<6} {row['train_rows']:>8,} rows, {row['epochs']} epochs, {row['steps']:>7,} steps, "
            f"{row['items']:>6,} items  about {row['estimated_hours']} h"
        )
    print(f"in total about {hours} h for a model of 135M weights on 2 cores")
    return 0


def _measured(work: _Work, model: str, seed: int, root: Path, openings: Ports) -> dict[str, Any]:
    """Trains one task and asks its validation rows; what is made already is taken as it is."""
    from nexus_llm.evaluate.glue import glue_score, scores

    print(f"{work.task.name} …", file=sys.stderr, flush=True)
    made = _trained(work, model, seed, root, openings)
    folder = root / "runs" / f"glue-{work.task.name}" / "validation" / made.id
    result = _asked(work, made, folder, openings)
    given = {one.id: one.answer for one in result.items}
    wanted = [answer for _, answer in work.validation]
    metrics = scores(work.task, wanted, [given[str(place)] for place in range(len(wanted))])
    return {
        "task": work.task.name,
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
        "score": round(glue_score(metrics), 2),
        "items": len(wanted),
        "answers_that_are_no_label": sum(one not in set(wanted) for one in given.values()) if work.task.words else None,
        "train_rows": len(work.train),
        "epochs": work.epochs,
        "package": made.id,
        "result": str(folder),
    }


def _trained(work: _Work, model: str, seed: int, root: Path, openings: Ports) -> Artifact:
    from nexus_llm.cloud.local import provenance
    from nexus_llm.evaluate.glue import chats
    from nexus_llm.pipeline import execute, stages
    from nexus_llm.storage import write_atomically

    file = root / "runs" / f"glue-{work.task.name}" / "train.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "".join(chats(work.train)).encode())
    place, origin = workspace(root), provenance(command_line())
    data = execute(_recipe(work, model, seed, file), place, openings, line=stages(until="data"), provenance=origin)
    tokens = sum(data.artifacts["data"].manifest.facts["tokens"].values())
    recipe = _recipe(work, model, seed, file, tokens)
    return execute(recipe, place, openings, line=stages(until="package"), provenance=origin).artifacts["package"]


def _asked(work: _Work, made: Artifact, folder: Path, openings: Ports) -> TaskResult:
    """The validation rows with the model's answers, by their place in the files."""
    from nexus_llm.evaluate.asking import answers_to, kept_file
    from nexus_llm.evaluate.glue import asked
    from nexus_llm.evaluate.named_tasks import open_model
    from nexus_llm.evaluate.results import RESULT_FILE, content_sha256, read_result, write_result
    from nexus_llm.records import Question

    # The split may have been mended since.
    if (folder / RESULT_FILE).exists() and read_result(folder).dataset_sha256 == content_sha256(work.validation):
        return read_result(folder)
    completer = open_model(made.folder, made.folder.name)
    places = sorted(range(len(work.validation)), key=lambda place: len(work.validation[place][0]))  # batches alike
    questions = [
        Question(str(place), messages=tuple(asked(work.validation[place][0])), max_new_tokens=_NEW_TOKENS)
        for place in places
    ]
    kept = kept_file(folder, completer.describe(), questions)
    answers = answers_to(questions, completer, kept, openings)
    result = _result(work, completer, {int(one.id): (one.text.strip(), one.error) for one in answers})
    write_result(folder, result)
    return result


def _result(work: _Work, completer: Completer, given: dict[int, tuple[str, str | None]]) -> TaskResult:
    from nexus_llm.evaluate.glue import item_score
    from nexus_llm.evaluate.results import ItemResult, TaskResult, content_sha256

    items = tuple(
        ItemResult(
            str(place),
            {} if given[place][1] else item_score(work.task, wanted, given[place][0]),
            answer=given[place][0],
            wanted=wanted,
            error=given[place][1],
        )
        for place, (_, wanted) in enumerate(work.validation)
    )
    return TaskResult(
        task=f"glue-{work.task.name}",
        version="1",
        metric="accuracy" if work.task.words else "absolute_error",
        dataset_sha256=content_sha256(work.validation),
        few_shot=0,
        completer=completer.describe(),
        items=items,
        settings={"trained on": len(work.train), "epochs": work.epochs, "max_new_tokens": _NEW_TOKENS},
        higher_is_better=bool(work.task.words),
    )

"""Domain tasks as people write them: one YAML file a task, its items inside or in a file beside it.

Everything that is wrong with a task is said before a model is asked, with the file and the line.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from nexus_llm.errors import EvaluationError, RecipeError
from nexus_llm.evaluate.function_calls import as_tools
from nexus_llm.evaluate.results import content_sha256, texts_in
from nexus_llm.evaluate.scorers import ClassificationScorer, FunctionCallScorer, Scorer
from nexus_llm.recipe import load_section
from nexus_llm.recipe.section import Section
from nexus_llm.records import Message, Question

if TYPE_CHECKING:
    from jinja2 import Template

_FIX = "a copy of the example in docs/evaluation-tasks.md"


class TaskDefinition(Section):
    """One task."""

    task: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)]
    """Its name, which is also that of its folder of results."""
    version: int = 1
    """Raise it when the task changes: results of different versions are not compared."""
    system: str | None = None
    """What the conversation begins with."""
    prompt: str
    """Jinja text that asks for one item, such as `{{ question }}`: the item's fields by name."""
    target: str | None = "target"
    """The item's field with what is wanted; null where the scorer needs none."""
    items: str | tuple[dict[str, Any], ...]
    """The items, or a file with them (jsonl, csv with a header, json with a list), relative to this file."""
    answers: str | None = None
    """A second such file, whose rows have the same `id` and complete the items'."""
    tools: str | None = None
    """The item's field with the functions that the model may call."""
    tools_by: Literal["template", "prompt"] = "template"
    """Who shows them to the model: its chat template, or the prompt, for models whose template knows no tools."""
    examples: tuple[dict[str, Any], ...] = ()
    """Solved items that are shown before each item."""
    chat: bool = True
    """Ask through the chat template; false: as running text, as base models know it."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    scorer: Scorer

    @model_validator(mode="after")
    def _fits(self) -> TaskDefinition:
        if isinstance(self.scorer, ClassificationScorer) and self.scorer.by == "likelihood" and self.chat:
            raise ValueError("scorer.by likelihood judges running text: write chat: false")
        if self.system and not self.chat:
            raise ValueError("system belongs to a conversation: write it into the prompt, or chat: true")
        if self.examples and self.target is None:
            raise ValueError("examples are solved items: name the field with the answer in target")
        if isinstance(self.scorer, FunctionCallScorer) and self.tools is None:
            raise ValueError("the scorer function_call needs the functions: name their field in tools")
        return self


@dataclass(frozen=True)
class TaskItem:
    """One item, ready to be asked."""

    id: str
    place: str
    """`file:line`."""
    question: Question
    target: Any
    """What is wanted, as the scorer takes it; None where the task has no target."""
    tools: tuple[dict[str, Any], ...] = ()
    """The functions that may be called, whoever shows them."""
    texts: tuple[str, ...] = ()
    """Every text that its row holds."""


@dataclass(frozen=True)
class Task:
    """A task whose items have all been read and checked."""

    definition: TaskDefinition
    items: tuple[TaskItem, ...]
    dataset_sha256: str
    """Of all its items as they were read."""

    @cached_property
    def definition_sha256(self) -> str:
        """Of all that the YAML says, but for the items."""
        return content_sha256(self.definition.model_dump(mode="json", exclude={"items", "answers"}))

    def drawn(self, limit: int | None, seed: int) -> tuple[TaskItem, ...]:
        """At most `limit` of the items, drawn by the seed and in their own order: files are often sorted by label."""
        if limit is None or limit >= len(self.items):
            return self.items
        # Not for secrets: the same draw in every run.
        places = sorted(random.Random(seed).sample(range(len(self.items)), limit))  # noqa: S311
        return tuple(self.items[place] for place in places)


def load_task(path: Path) -> Task:
    """The task in a YAML file, with its items.

    Raises:
        RecipeError: the YAML is absent, or a key, type or value of it is wrong; names the nearest right key.
        EvaluationError: a file of items is absent, empty or broken, or an item cannot be asked or scored.
    """
    definition, lines = load_section(path, TaskDefinition, what="a task", fix=_FIX)
    rows = list(_rows(definition, path, lines))
    if not rows:
        raise EvaluationError(f"{lines['items']}: the task has no items", fix="add some, or name another file")
    asking = _Asking(definition, lines)
    # Items inside the YAML may share a line.
    names = [Path(place).name if isinstance(definition.items, str) else str(n) for n, (_, place) in enumerate(rows, 1)]
    items = tuple(asking.item(row, place, name) for (row, place), name in zip(rows, names, strict=True))
    seen: dict[str, str] = {}
    for one in items:
        if one.id in seen:
            raise EvaluationError(f"{one.place}: the id {one.id!r} stands at {seen[one.id]} too", fix="give it another")
        seen[one.id] = one.place
    return Task(definition, items, content_sha256([row for row, _ in rows]))


def task_files(path: Path) -> list[Path]:
    """The files that `load_task` reads.

    Raises:
        RecipeError: as `load_task`.
    """
    definition, _ = load_section(path, TaskDefinition, what="a task", fix=_FIX)
    named = (one for one in (definition.items, definition.answers) if isinstance(one, str))
    return [path, *(path.parent / one for one in named)]


class _Asking:
    """Turns rows into items."""

    def __init__(self, definition: TaskDefinition, lines: Mapping[str, str]) -> None:
        import jinja2
        from jinja2.sandbox import SandboxedEnvironment

        self.definition = definition
        # A task may come from elsewhere: its template reads the item and nothing else.
        environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        try:
            self.template: Template = environment.from_string(definition.prompt)
        except jinja2.TemplateError as error:
            raise RecipeError(f"{lines['prompt']}: prompt: {error}", fix="mend the Jinja text") from error
        self.turns: list[tuple[str, str]] = []
        for number, example in enumerate(definition.examples):
            place = lines[f"examples.{number}"]
            self.turns.append((self.prompt(example, place), _target_text(self.check(example, place))))

    def item(self, row: Mapping[str, Any], place: str, name: str) -> TaskItem:
        """One row as an item, named by its `id`, else by `name`."""
        name = str(row.get("id", name))
        target = self.check(row, place)
        wanted = self.definition
        prompt = self.prompt(row, place)
        tools = as_tools(self._functions(row, place)) if wanted.tools else ()
        question = Question(
            id=name,
            messages=_conversation(wanted.system, self.turns, prompt) if wanted.chat else (),
            text="" if wanted.chat else "\n\n".join([*(f"{asked} {said}" for asked, said in self.turns), prompt]),
            tools=tools if wanted.tools_by == "template" else (),
            max_new_tokens=wanted.max_new_tokens,
            stop=wanted.stop,
        )
        return TaskItem(name, place, question, target, tools, tuple(texts_in(row)))

    def check(self, row: Mapping[str, Any], place: str) -> Any:
        """The row's target.

        Raises:
            EvaluationError: it has none, or one that cannot be scored against.
        """
        field = self.definition.target
        if field is not None and field not in row:
            raise EvaluationError(
                f"{place}: the item has no {field!r}, only: {', '.join(map(str, row))}",
                fix="name the field with the answer in target (null: there is none)",
            )
        target = row[field] if field is not None else None
        if wrong := self.definition.scorer.wrong_target(target):
            raise EvaluationError(f"{place}: {field or 'target'} {wrong[0]}", fix=wrong[1])
        return target

    def prompt(self, row: Mapping[str, Any], place: str) -> str:
        """The row's prompt."""
        import jinja2

        try:
            return self.template.render({str(key): value for key, value in row.items()})
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"{place}: the prompt cannot be made: {error}", fix=f"the item has: {', '.join(map(str, row))}"
            ) from error

    def _functions(self, row: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
        found = row.get(self.definition.tools or "")
        if (
            isinstance(found, list)
            and found
            and all(isinstance(one, dict) and isinstance(one.get("function", one).get("name"), str) for one in found)
        ):
            return found
        raise EvaluationError(
            f"{place}: {self.definition.tools} holds no functions", fix="a list of {name, description, parameters}"
        )


def _conversation(system: str | None, turns: Sequence[tuple[str, str]], prompt: str) -> tuple[Message, ...]:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for asked, said in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return (*messages, {"role": "user", "content": prompt})


def _target_text(target: Any) -> str:
    """How a solved example answers."""
    first = target[0] if isinstance(target, list) and target else target
    return first if isinstance(first, str) else json.dumps(first, ensure_ascii=False)


def _rows(definition: TaskDefinition, path: Path, lines: Mapping[str, str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every item's fields and its place."""
    more: dict[str, dict[str, Any]] = {}
    if definition.answers is not None:
        for row, place in _file_rows(path.parent / definition.answers, lines["answers"]):
            if "id" not in row:
                raise EvaluationError(f"{place}: the row has no id", fix="answers are joined to items by their ids")
            more[str(row["id"])] = row
    if isinstance(definition.items, str):
        found = _file_rows(path.parent / definition.items, lines["items"])
    else:
        found = ((row, lines[f"items.{number}"]) for number, row in enumerate(definition.items))
    for row, place in found:
        if definition.answers is not None and str(row.get("id")) not in more:
            raise EvaluationError(
                f"{place}: {definition.answers} has no row with its id", fix="add one, or drop the item"
            )
        yield {**row, **more.get(str(row.get("id")), {})}, place


def _file_rows(path: Path, named_at: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows of a file and their places.

    Raises:
        EvaluationError: it is absent, of another kind, no UTF-8, or has a broken row.
    """
    if path.suffix not in (".jsonl", ".csv", ".json"):
        raise EvaluationError(f"{named_at}: {path.name} is not jsonl, csv or json", fix="give one of these")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _csv_rows(file, path) if path.suffix == ".csv" else _json_rows(file.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EvaluationError(f"{named_at}: {path} cannot be read ({reason})", fix="check the path") from error


def _csv_rows(file: Any, path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    reader = csv.DictReader(file, strict=True)
    line = 2
    try:
        for row in reader:
            if None in row or None in row.values():
                raise EvaluationError(
                    f"{path}:{line}: the row has another number of columns than the header", fix="mend that row"
                )
            yield row, f"{path}:{line}"
            line = reader.line_num + 1  # a quoted text may take several lines
    except csv.Error as error:
        raise EvaluationError(f"{path}:{line}: {error}", fix="mend that row") from error


def _json_rows(text: str, path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    if path.suffix == ".json":
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise EvaluationError(f"{path} is no JSON ({error})", fix="mend the file") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise EvaluationError(f"{path} is no list of objects", fix="give one object an item")
        yield from ((row, f"{path}:{number}") for number, row in enumerate(rows, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EvaluationError(f"{path}:{number} is no JSON ({error})", fix="mend or remove that line") from error
        if not isinstance(row, dict):
            raise EvaluationError(f"{path}:{number} is no JSON object", fix="mend or remove that line")
        yield row, f"{path}:{number}"

"""What a model did with the items of one task, item by item, in one folder: `result.json` and `items.jsonl`.

Every evaluation writes this shape, whatever it asks, and every comparison reads it: two results can be compared item
for item only where all that `identity` holds is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nexus_llm import storage
from nexus_llm.errors import EvaluationError
from nexus_llm.records import CompleterFacts

RESULT_FILE = "result.json"
ITEMS_FILE = "items.jsonl"


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One item of a task."""

    id: str
    scores: Mapping[str, float]
    """Metric → value; empty where `error` says why there is none."""
    answer: str = ""
    """What the model said, or the choice that it found likeliest."""
    wanted: str = ""
    cut_tokens: int = 0
    """Tokens left out at the start because the model's context is shorter."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """All items of one task."""

    task: str
    version: str
    """Of the task's definition."""
    metric: str
    """The one that comparisons are about; every item without an error has it."""
    dataset_sha256: str
    """Of the items as they were read."""
    few_shot: int
    """Solved examples before each item."""
    completer: CompleterFacts
    items: tuple[ItemResult, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All else that changes the numbers: seed, limit, temperature, maximum length."""
    higher_is_better: bool = True
    aggregates: Mapping[str, float] = field(default_factory=dict)
    """Metric → value over all items without an error, as the task's own definition puts them together."""

    def identity(self) -> dict[str, Any]:
        """What two results must share to be compared, by name."""
        return {
            "task": self.task,
            "version": self.version,
            "metric": self.metric,
            "dataset_sha256": self.dataset_sha256,
            "few_shot": self.few_shot,
            "chat template": self.completer.template_sha256,
            **self.settings,
        }


@dataclass(frozen=True)
class TaskRun:
    """A task that was run."""

    result: TaskResult
    texts: Mapping[str, tuple[str, ...]]
    """Item → every text that its row holds."""


def content_sha256(value: Any) -> str:
    """Of JSON values, whatever the order of their keys: `dataset_sha256` of items."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str).encode()).hexdigest()


def texts_in(value: object) -> Iterator[str]:
    """Every text in a row, whatever its fields are called.

    >>> list(texts_in({"question": "Who?", "choices": {"text": ["I", "you"]}, "gold": 1}))
    ['Who?', 'I', 'you']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from texts_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts_in(one)


def write_result(folder: Path, result: TaskResult) -> None:
    """Puts both files into `folder`; `result.json` last, so that a folder with it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    values = asdict(result)
    items: Iterable[dict[str, Any]] = values.pop("items")
    lines = "".join(json.dumps(one, ensure_ascii=False, sort_keys=True) + "\n" for one in items)
    storage.write_atomically(folder / ITEMS_FILE, lines.encode())
    text = json.dumps(values | {"count": len(result.items)}, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    storage.write_atomically(folder / RESULT_FILE, text.encode())


def rows_in(file: Path) -> list[Any]:
    """The rows of a jsonl file that was written here. Only newlines end a row: what a model says may hold U+2028 or
    U+0085, at which `str.splitlines` would cut."""
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def read_result(folder: Path) -> TaskResult:
    """The result in `folder`.

    Raises:
        EvaluationError: there is none, or its items are not all there.
    """
    try:
        values = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        items = tuple(ItemResult(**row) for row in rows_in(folder / ITEMS_FILE))
        count = values.pop("count")
        result = TaskResult(**{**values, "completer": CompleterFacts(**values["completer"]), "items": items})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EvaluationError(f"{folder}: no readable result: {error}", fix="run the evaluation again") from error
    if count != len(items):
        raise EvaluationError(f"{folder}: {len(items)} of {count} items are there", fix="run the evaluation again")
    return result

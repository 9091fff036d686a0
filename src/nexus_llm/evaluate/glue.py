"""GLUE as a protocol: a model is tuned on each task's training rows and answers its validation rows in words.

A question is one user turn, an answer one word; every task becomes chat. Scores are those of the GLUE paper (Wang et
al. 2018, arXiv:1804.07461, table 1); an answer that is no label counts as wrong. The test labels of GLUE are hidden,
so that validation rows are judged, as everybody's tables outside the leaderboard do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_llm.errors import DataError, UsageError
from nexus_llm.records import Message

Row = tuple[str, str]
"""(question, answer)."""
Fields = Mapping[str, Any]
"""A row of the hub's set."""
ROWS_AT_ONCE = 8  # packed rows of LENGTH tokens in a step
LENGTH = 256
LEARNING_RATE = 5e-5
_FEW_ROWS = 20_000  # fewer are seen twice: MRPC's 4,000 pairs are half learned after one pass


@dataclass(frozen=True, slots=True)
class GlueTask:
    """How a row of the hub's set (nyu-mll/glue) becomes a question, and how answers are scored."""

    name: str
    """As lm-evaluation-harness and the hub have it."""
    question: str
    """With the fields' names in braces."""
    words: tuple[str, ...]
    """What is said for label 0, 1, …; empty where the answer is a number."""
    metrics: tuple[str, ...] = ("accuracy",)
    validation: tuple[str, ...] = ("validation",)
    """The splits that are judged, together."""
    is_swapped_too: bool = False
    """Each training pair is also learned the other way round."""


_YES = ("no", "yes")
_FOLLOWS = ("yes", "no")
_PAIR = "1: {sentence1}\n2: {sentence2}\n"

TASKS: dict[str, GlueTask] = {
    one.name: one
    for one in (
        GlueTask("cola", "Sentence: {sentence}\nIs it correct English?", _YES, ("matthews",)),
        GlueTask("sst2", "Review: {sentence}\nSentiment?", ("negative", "positive")),
        GlueTask("mrpc", _PAIR + "Same meaning?", _YES, ("accuracy", "f1"), is_swapped_too=True),
        GlueTask("stsb", _PAIR + "How similar, from 0 to 5?", (), ("pearson", "spearman")),
        GlueTask("qqp", "1: {question1}\n2: {question2}\nSame question?", _YES, ("accuracy", "f1")),
        GlueTask(
            "mnli",
            "1: {premise}\n2: {hypothesis}\nDoes 2 follow from 1?",
            ("yes", "maybe", "no"),
            validation=("validation_matched", "validation_mismatched"),
        ),
        GlueTask("qnli", "Question: {question}\nText: {sentence}\nDoes the text answer it?", _FOLLOWS),
        GlueTask("rte", _PAIR + "Does 2 follow from 1?", _FOLLOWS),
        GlueTask("wnli", _PAIR + "Does 2 follow from 1?", _YES),
    )
}


def chosen(names: str | None) -> list[GlueTask]:
    """The tasks of a list with commas, or all.

    Raises:
        UsageError: there is no such task.
    """
    wanted = list(dict.fromkeys(one.strip() for one in names.split(","))) if names else list(TASKS)
    if unknown := [one for one in wanted if one not in TASKS]:
        raise UsageError(f"GLUE has no task {unknown[0]!r}", fix=f"one or more of: {','.join(TASKS)}")
    return [TASKS[one] for one in wanted]


def training_rows(task: GlueTask, given: Iterable[Fields], validation: Sequence[Row]) -> list[Row]:
    """What the model learns: questions, and answers as it is to say them.

    Rows that are judged too, whatever their spaces and punctuation, are left out: MRPC's validation pairs also stand in
    the training file of its first publication.

    Raises:
        DataError: see `rows_of_split`.
    """
    judged = {_letters(question) for question, _ in validation}
    rows = [row for row in rows_of_split(task, given) if _letters(row[0]) not in judged]
    if not task.words:
        return [(question, f"{float(answer):.1f}") for question, answer in rows]
    return [*rows, *((_swapped(question), answer) for question, answer in rows)] if task.is_swapped_too else rows


def rows_of_split(task: GlueTask, given: Iterable[Fields]) -> list[Row]:
    """Questions and answers.

    Raises:
        DataError: a field is missing, a label is unknown (the hub's test splits have −1), or there is no row.
    """
    rows = [_row(task, number, fields) for number, fields in enumerate(given, start=1)]
    if not rows:
        raise DataError(f"{task.name}: a split has no rows", fix="give GLUE's splits as published")
    return rows


def asked(question: str) -> list[Message]:
    """The conversation; an empty system turn keeps a template from adding its own."""
    return [{"role": "system", "content": ""}, {"role": "user", "content": question}]


def chats(rows: Sequence[Row]) -> Iterator[str]:
    """Training rows as lines of JSON."""
    for question, answer in rows:
        yield json.dumps({"messages": [*asked(question), {"role": "assistant", "content": answer}]}) + "\n"


def recipe_values(
    name: str, file: Path, *, seed: int, base: str | None = None, learning_rate: float = LEARNING_RATE
) -> dict[str, Any]:
    """The recipe that tunes on `file`, but for its `train.max_steps`: see `max_steps`."""
    values: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "data": {
            "sources": [{"type": "files", "path": str(file), "name": name}],
            "quality": {"families": []},  # rules for web pages would reject every row
            "language": {"identify": False},
            "pii": {"action": "keep"},
            "near_duplicates": {"keep": "all"},
            "split": {"validation_share": 0.02, "test_share": 0.001},
        },
        "train": {
            "objective": "sft",
            "method": "full",
            "max_length": LENGTH,
            "per_device_train_batch_size": ROWS_AT_ONCE,
            "learning_rate": learning_rate,
            "weight_decay": 0.01,
            "warmup_steps": 20,
            "min_learning_rate_share": 0.0,
            "save_steps": 100,
            "eval_steps": 100,
        },
    }
    return values | ({"model": {"base": base}} if base else {})


def max_steps(tokens: int, *, epochs: int, rows_at_once: int = ROWS_AT_ONCE) -> int:
    """Steps in which `tokens` are seen `epochs` times."""
    return math.ceil(epochs * tokens / (rows_at_once * LENGTH))


def default_epochs(rows: int) -> int:
    """How often the training rows are seen where nobody says."""
    return 2 if rows < _FEW_ROWS else 1


def scores(task: GlueTask, wanted: Sequence[str], given: Sequence[str]) -> dict[str, float]:
    """Each metric of the task, between 0 and 1 (Matthews and the correlations from −1)."""
    found = {
        "accuracy": lambda: _accuracy(wanted, given),
        "f1": lambda: _f1(wanted, given),
        "matthews": lambda: _matthews(wanted, given),
        "pearson": lambda: _correlation("pearsonr", wanted, given),
        "spearman": lambda: _correlation("spearmanr", wanted, given),
    }
    return {metric: found[metric]() for metric in task.metrics}


def item_score(task: GlueTask, wanted: str, given: str) -> dict[str, float]:
    """What one answer is worth, for comparisons item by item: 1 for the label, or how far a number is off."""
    if task.words:
        return {"accuracy": float(wanted == given)}
    return {"absolute_error": abs(float(wanted) - (float(given) if _is_number(given) else 2.5))}


def glue_score(found: Mapping[str, float]) -> float:
    """A task's part of the average, of 100: the mean of its metrics, as the leaderboard has it."""
    return 100 * sum(found.values()) / len(found)


def _swapped(question: str) -> str:
    """The question with its two sentences the other way round.

    >>> _swapped("1: a\\n2: b\\nSame meaning?")
    '1: b\\n2: a\\nSame meaning?'
    """
    first, second, rest = question.split("\n")
    return f"1: {second[3:]}\n2: {first[3:]}\n{rest}"


def _letters(question: str) -> str:
    return "".join(filter(str.isalnum, question)).lower()


def _row(task: GlueTask, number: int, fields: Fields) -> Row:
    try:
        label = fields["label"]
        question = task.question.format_map({name: str(value).strip() for name, value in fields.items()})
        answer = str(label) if not task.words else task.words[int(label)] if int(label) >= 0 else ""
        is_known = bool(answer) if task.words else _is_number(answer)
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"{task.name}, row {number}: {error!r}", fix="give the fields and labels of the hub") from error
    if not is_known:
        raise DataError(f"{task.name}, row {number}: the label is {label!r}", fix="take a split with public labels")
    return question, answer


def _accuracy(wanted: Sequence[str], given: Sequence[str]) -> float:
    return sum(one == other for one, other in zip(wanted, given, strict=True)) / len(wanted)


def _f1(wanted: Sequence[str], given: Sequence[str]) -> float:
    hits = sum(one == other == "yes" for one, other in zip(wanted, given, strict=True))
    said = list(wanted).count("yes") + list(given).count("yes")
    return 2 * hits / said if said else 0.0


def _matthews(wanted: Sequence[str], given: Sequence[str]) -> float:
    """The correlation of two that say yes or no; 0 where one never changes. No label counts as the wrong one."""
    said = [(one == "yes", (one == "yes") == (one == other)) for one, other in zip(wanted, given, strict=True)]
    both = sum(one and other for one, other in said)
    first, second, count = sum(one for one, _ in said), sum(other for _, other in said), len(said)
    spread = math.sqrt(first * (count - first) * second * (count - second))
    return (count * both - first * second) / spread if spread else 0.0


def _correlation(name: str, wanted: Sequence[str], given: Sequence[str]) -> float:
    """By scipy; an answer that is no number counts as the mean of the scale, and constant answers as 0."""
    from scipy import stats

    numbers = [float(one) if _is_number(one) else 2.5 for one in given]
    if len(set(numbers)) < 2:
        return 0.0
    return float(getattr(stats, name)([float(one) for one in wanted], numbers).statistic)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

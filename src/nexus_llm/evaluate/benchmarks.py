"""Public benchmarks: each task of lm-evaluation-harness becomes a folder with a result, item by item.

A task's folder holds `asked.json` (who was asked what: answers of another model or other items are never taken over),
the answers as they came, and at the end `items.jsonl` and `result.json`.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.errors import EvaluationError
from nexus_llm.evaluate.results import (
    RESULT_FILE,
    ItemResult,
    TaskResult,
    TaskRun,
    content_sha256,
    read_result,
    texts_in,
    write_result,
)

if TYPE_CHECKING:
    from nexus_llm.evaluate.harness import HarnessTasks
    from nexus_llm.ports import Completer, Ports

_ASKED = "asked.json"
# The metric that comparisons are about, where a task has it: normalised for length before raw.
_PREFERRED = ("acc_norm", "acc", "exact_match", "prompt_level_strict_acc", "answered")


@dataclass(frozen=True, slots=True)
class BenchmarkWishes:
    """How tasks are asked."""

    datasets: Path | None
    """Folder of local files; None takes them from the hub."""
    limit: int | None = None
    """Only a task's first items."""
    few_shot: int | None = None
    """Solved examples before each item; None takes the task's own number."""
    as_chat: bool = False
    """Ask in a conversation."""


def run_task(
    name: str,
    tasks: HarnessTasks,
    completer: Completer,
    wishes: BenchmarkWishes,
    folder: Path,
    ports: Ports,
) -> TaskRun:
    """One task, from where an earlier run of the same question stopped.

    Raises:
        EvaluationError: the folder holds answers to another question, or nobody can be asked.
        UsageError: there is no such task.
        DataError: its rows are not there.
        TryAgainError: somebody asked to stop.
    """
    task = tasks.load(name, folder=wishes.datasets, few_shot=wishes.few_shot)
    docs = list(task.eval_docs)[: wishes.limit]
    texts = {str(number): tuple(texts_in(doc)) for number, doc in enumerate(docs)}
    empty = TaskResult(
        task=name,
        version=f"{task.VERSION} of lm-eval {version('lm_eval')}",
        metric="",
        dataset_sha256=content_sha256(docs),
        few_shot=int(task.config.num_fewshot),
        completer=completer.describe(),
        items=(),
        settings={"limit": wishes.limit, "in a conversation": wishes.as_chat},
    )
    _refuse_other_question(folder, empty)
    if (folder / RESULT_FILE).exists():
        return TaskRun(read_result(folder), texts)
    from nexus_llm.evaluate.harness import CompleterLM, samples

    lm = CompleterLM(completer, folder, ports)
    rows = samples(lm, task, limit=wishes.limit, as_chat=wishes.as_chat)
    result = _result(empty, task, rows, lm.errors, lm.cut_tokens, count=len(docs))
    write_result(folder, result)
    return TaskRun(result, texts)


def _refuse_other_question(folder: Path, asked: TaskResult) -> None:
    now = {**asked.identity(), **asdict(asked.completer)}
    now.pop("metric")
    path = folder / _ASKED
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        # The items' hash comes last: most often something else that differs is why.
        for name in sorted(before.keys() | now.keys(), key=lambda one: (one == "dataset_sha256", one)):
            if before.get(name) != now.get(name):
                raise EvaluationError(
                    f"{folder} holds answers where {name} was {before.get(name)}, and now it is {now.get(name)}",
                    fix=f"give another --out, or delete {folder}",
                )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(now, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _result(
    empty: TaskResult,
    task: Any,
    rows: Sequence[Mapping[str, Any]],
    errors: Mapping[int, str],
    cut: Mapping[int, int],
    *,
    count: int,
) -> TaskResult:
    """The harness's samples, one row an item and filter, as one `ItemResult` an item."""
    by_item: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_item.setdefault(int(row["doc_id"]), []).append(row)
    assert sorted(by_item) == list(range(count)), "the harness left out items"
    values: dict[str, list[Any]] = {}
    items = []
    for number, about in sorted(by_item.items()):
        error = errors.get(number) or _bad_label(task, about[0])
        found = {} if error else {key: value for row in about for key, value in _metrics(row, filters=len(about))}
        for name, value in found.items():
            values.setdefault(name, []).append(value)
        scores = {key: score for name, value in found.items() for key, score in _as_number(name, value)}
        answer, wanted = _answer(task, about[0])
        items.append(ItemResult(str(number), scores, answer, wanted, cut.get(number, 0), error))
    aggregated = task.aggregation()
    aggregates = {
        name: float(aggregated[name.split(",")[0]](given))
        for name, given in values.items()
        if name.split(",")[0] in aggregated
    }
    named = {name for item in items for name in item.scores}
    metric = next(
        (one for wish in _PREFERRED for one in sorted(named) if one.split(",")[0] == wish), min(named, default="")
    )
    better = task.higher_is_better().get(metric.split(",")[0], True)
    return replace(empty, metric=metric, items=tuple(items), higher_is_better=bool(better), aggregates=aggregates)


def _metrics(row: Mapping[str, Any], *, filters: int) -> Iterator[tuple[str, Any]]:
    """(name, the harness's raw value) of a sample; named with its filter where there are several."""
    for name in row["metrics"]:
        if name == "bypass":  # generated only
            yield "answered", float(bool(str(row["resps"][0][0]).strip()))
        else:
            yield (f"{name},{row['filter']}" if filters > 1 else name), row[name]


def _as_number(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """What an item adds to a mean: pairs of label and guess, as F1 is made of, say whether it was right."""
    if isinstance(value, tuple) and len(value) == 2:
        yield "acc", float(value[0] == value[1])
    elif name == "perplexity":  # whose raw value is the item's log-likelihood
        yield "log_likelihood", float(value)
    elif isinstance(value, list):
        yield name, statistics.fmean(map(float, value))
    else:
        yield name, float(value)


def _bad_label(task: Any, row: Mapping[str, Any]) -> str | None:
    """Why an item's label fits none of its choices; None where it does."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    choices = task.doc_to_choice(row["doc"])
    gold = task.doc_to_text(row["doc"]) if task.multiple_input else row["target"]
    for one in gold if isinstance(gold, list) else [gold]:
        if not (one in choices if isinstance(one, str) else 0 <= int(one) < len(choices)):
            return f"the label {one!r} is none of its {len(choices)} choices"
    # Some tasks take their last choice for any label that they do not know; some count from 1.
    raw = row["doc"].get("label")
    if isinstance(raw, int) and not 0 <= raw <= len(choices):
        return f"the label {raw} is none of its {len(choices)} choices"
    return None


def _answer(task: Any, row: Mapping[str, Any]) -> tuple[str, str]:
    """What the model said or found likeliest, and what was right."""
    if task.OUTPUT_TYPE == "multiple_choice":
        values = [one[0] for one in row["filtered_resps"]]
        known = [place for place, value in enumerate(values) if math.isfinite(value)]
        choices = task.doc_to_choice(row["doc"])
        gold = task.doc_to_text(row["doc"]) if task.multiple_input else row["target"]
        is_place = isinstance(gold, int) and 0 <= gold < len(choices)
        best = max(known, key=values.__getitem__, default=None)
        return str(choices[best]) if best is not None else "", str(choices[gold] if is_place else gold)
    said, wanted = row["resps"][0][0], str(row["target"])
    if isinstance(said, tuple):  # (log probability of what is wanted, whether it is the likeliest)
        return (wanted if said[1] else "(something else)"), wanted
    return str(said), wanted

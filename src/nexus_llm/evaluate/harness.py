"""lm-evaluation-harness asks a `Completer`: its `LM`, and its tasks with rows from local files.

The harness's own prompts, few-shot examples, filters and metrics are used as they are; only the model and, with local
files, the rows are ours. Imported where it is needed and nowhere else: it takes seconds.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from nexus_llm.errors import DataError, EvaluationError, UsageError
from nexus_llm.evaluate.asking import answers_to, likelihoods_of
from nexus_llm.evaluate.local_sets import mapping, rows_of, split_of
from nexus_llm.records import Answer, Continuation, Likelihood, Message, Question

if TYPE_CHECKING:
    from nexus_llm.ports import Completer, Ports

Given = TypeVar("Given", Answer, Likelihood)
_SEED = 1234  # of few-shot examples: the harness's own (`DEFAULT_OTHER_SEED`, 0.4.13)
_MOST_NEW_TOKENS = 256  # where a task names none: the harness's `HFLM.max_gen_toks`, 0.4.13
_CONVERSATION = "\x00messages:"
"""Marks a context that is a conversation in JSON: the harness carries contexts as text."""


class CompleterLM(LM):  # type: ignore[misc]
    """A model of the harness that asks a `Completer`, keeps each answer in `folder` as it comes, and notes for each
    item (by its number) what went wrong and how many tokens were cut."""

    def __init__(self, completer: Completer, folder: Path, ports: Ports) -> None:
        super().__init__()
        self.errors: dict[int, str] = {}
        self.cut_tokens: dict[int, int] = {}
        self._completer, self._folder, self._ports = completer, folder, ports

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """(log probability, is greedy) a request; NaN where `errors` says why."""
        if any(one.args[0].startswith(_CONVERSATION) for one in requests):
            raise UsageError(
                "--chat is for tasks that are answered in words; this one compares likelihoods", fix="leave --chat out"
            )
        order = _long_first(requests)
        given = [Continuation(name, *requests[place].args) for name, place in _named(requests, order)]
        found = likelihoods_of(given, self._completer, self._folder / "likelihoods.jsonl", self._ports)
        return [(one.log_probability, one.is_greedy) for one in self._noted(requests, order, found)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:  # noqa: ARG002 - the harness's interface
        """Refused: perplexity is an evaluation of its own."""
        raise UsageError("this task measures perplexity, which is no benchmark of items", fix="nexus evaluate --help")

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The answer to each request; empty where `errors` says why."""
        order = _long_first(requests)
        given = [_question(name, requests[place]) for name, place in _named(requests, order)]
        found = answers_to(given, self._completer, self._folder / "answers.jsonl", self._ports)
        return [one.text for one in self._noted(requests, order, found)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation itself: who answers applies the template."""
        if not add_generation_prompt:
            raise UsageError("this task begins the model's answer itself, which --chat cannot", fix="leave --chat out")
        return _CONVERSATION + json.dumps(chat_history, ensure_ascii=False)

    @property
    def tokenizer_name(self) -> str:
        """What the harness would name its caches by; none are used."""
        return self._completer.describe().model

    def _noted(self, requests: Sequence[Any], order: Sequence[int], found: Sequence[Given]) -> list[Given]:
        """What was found, in the order of the requests; errors and cuts are noted."""
        for place, one in zip(order, found, strict=True):
            item = int(requests[place].doc_id)
            if one.error is not None:
                self.errors.setdefault(item, one.error)
            self.cut_tokens[item] = max(self.cut_tokens.get(item, 0), one.cut_tokens)
        back = dict(zip(order, found, strict=True))
        return [back[place] for place in range(len(requests))]


class HarnessTasks:
    """The tasks that the installed harness knows."""

    def __init__(self) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every default that it takes
        datasets.disable_progress_bars()
        self._index = TaskManager().task_index

    def load(self, name: str, *, folder: Path | None, few_shot: int | None) -> Any:
        """A task, with rows from below `folder`, or from the hub where that is None.

        Raises:
            UsageError: there is no such task, or it would run code that a model wrote.
            DataError: a split that it needs is not in the folder.
        """
        config = copy.deepcopy(mapping()["only_generated"].get(name)) or self._config(name)
        if few_shot is not None and config.get("num_fewshot") != 0:  # 0 in a task's own words is meant
            config["num_fewshot"] = few_shot
        if folder is not None:
            config |= _local(name, config, folder)
        task = ConfigurableTask(config=config)
        if task.config.num_fewshot is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_SEED)
        return task

    def _config(self, name: str) -> dict[str, Any]:
        entry = self._index.get(name)
        if entry is None or entry.yaml_path is None:
            near = ", ".join(difflib.get_close_matches(name, self._index, 8))
            raise UsageError(
                f"{name} is no task of lm-evaluation-harness", fix=f"near it: {near or 'lm-eval ls tasks'}"
            )
        # What a task's config names is code that runs when it is found, and some of it goes to the network.
        _refuse_what_cannot_run(name, load_yaml(entry.yaml_path, resolve_func=False))
        try:
            config: dict[str, Any] = load_yaml(entry.yaml_path, resolve_func=True)
        except (ImportError, OSError, LookupError) as error:
            raise EvaluationError(
                f"{name} cannot be loaded: {error}", fix="install what it names, or run it once with --hub"
            ) from error
        if "class" in config or "output_type" not in config:
            raise UsageError(f"{name} is a group, or has a class of its own", fix="name the tasks that it is made of")
        for key in ("tag", "group", "task_list"):
            config.pop(key, None)
        return config


def samples(lm: CompleterLM, task: Any, *, limit: int | None, as_chat: bool) -> list[dict[str, Any]]:
    """What the harness logs of each item: one row an item and filter."""
    name = task.config.task
    found = evaluate(
        lm,
        {"tasks": {name: task}, "groups": {}},
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=as_chat,
        fewshot_as_multiturn=as_chat,
    )
    rows: list[dict[str, Any]] = found["samples"][name]
    return rows


def _local(name: str, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The fields of a task's config that make it read local files."""
    change: dict[str, Any] = {"custom_dataset": lambda **_: _LocalSplits(name, folder)}
    if config.get("num_fewshot"):
        return change
    # The harness opens all splits that it could take examples from, even where it takes none.
    sources = ["training_split", "fewshot_split", *(["validation_split"] if config.get("test_split") else [])]
    for field in sources:
        if config.get(field) and split_of(name, config[field], folder).missing is not None:
            change |= {field: None, "fewshot_config": None}
    return change


class _LocalSplits(dict[str, Any]):
    """Split → rows, read when it is asked for."""

    def __init__(self, task: str, folder: Path) -> None:
        super().__init__()
        self._task, self._folder = task, folder

    def __missing__(self, split: str) -> Any:
        wanted = split_of(self._task, split, self._folder)
        if wanted.missing is not None:
            raise DataError(
                f"{self._task}: the split {split} is missing, {wanted.missing} is not there",
                fix="put it there (docs/evaluation-benchmarks.md tells the fields), or --hub to fetch it",
            )
        self[split] = datasets.Dataset.from_list(rows_of(wanted))
        return self[split]


def _refuse_what_cannot_run(name: str, config: Mapping[str, Any]) -> None:
    if config.get("unsafe_code"):
        raise UsageError(
            f"{name} would run code that the model wrote, and nexus has no sandbox for it",
            fix="humaneval is answered and stored without being run; score its answers in a sandbox of your own",
        )
    needs = mapping()["needs"].get(name, {})
    absent = [one for one in needs.get("modules", ()) if importlib.util.find_spec(one) is None]
    if absent:
        raise EvaluationError(f"{name} needs {', '.join(absent)}", fix="pip install 'lm-eval[ifeval]==0.4.13'")
    if wanted := needs.get("nltk"):
        import nltk

        try:
            nltk.data.find(wanted)
        except LookupError as error:
            place = wanted.rsplit("/", 1)[-1]
            raise EvaluationError(
                f"{name} needs NLTK's {place}, which is not on this machine",
                fix=f"python -m nltk.downloader {place}; without network see docs/evaluation-benchmarks.md",
            ) from error


def _long_first(requests: Sequence[Any]) -> list[int]:
    """Places: long contexts first, and what has the same one, or one of the same length, side by side."""
    return sorted(range(len(requests)), key=lambda place: (-len(requests[place].args[0]), requests[place].args[0]))


def _named(requests: Sequence[Any], order: Sequence[int]) -> Iterator[tuple[str, int]]:
    """(item and request, place); one that a task repeats has a number behind it from the second time on."""
    seen: Counter[str] = Counter()
    for place in order:
        name = f"{requests[place].doc_id}.{requests[place].idx}"
        yield (f"{name}.{seen[name]}" if seen[name] else name), place
        seen[name] += 1


def _question(name: str, request: Any) -> Question:
    context, wishes = request.args
    until = wishes.get("until") or []
    most = next((wishes[one] for one in ("max_gen_toks", "max_new_tokens", "max_tokens") if wishes.get(one)), None)
    is_sampled = bool(wishes.get("do_sample", wishes.get("temperature", 0) > 0))
    messages: tuple[Message, ...] = ()
    if context.startswith(_CONVERSATION):
        messages, context = tuple(json.loads(context.removeprefix(_CONVERSATION))), ""
    return Question(
        name,
        messages,
        context,
        max_new_tokens=int(most or _MOST_NEW_TOKENS),
        stop=tuple([until] if isinstance(until, str) else until),
        temperature=float(wishes.get("temperature", 0.0)) if is_sampled else 0.0,
    )

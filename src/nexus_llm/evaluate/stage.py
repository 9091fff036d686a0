"""The evaluate stage: base and tuned model on the same held-out and general text, a verdict, samples, a report."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nexus_llm import storage
from nexus_llm.artifacts import Artifact, Draft, Estimate, Stage, file_sha256
from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import DataError, EvaluationError, TryAgainError
from nexus_llm.evaluate.comparison import compare
from nexus_llm.evaluate.evaluators import EVALUATORS, Evaluator, open_model
from nexus_llm.evaluate.gate import GatedComparison, corrected, judge_domain, judge_general, judge_tasks
from nexus_llm.evaluate.general import general_files, read_general
from nexus_llm.evaluate.perplexity import TokenizedDocument, load_model, score
from nexus_llm.evaluate.report import PairedScore, Report, TaskReport, report_html, report_json, task_report
from nexus_llm.evaluate.results import TaskResult, write_result
from nexus_llm.evaluate.samples import answers, stop_ids_of
from nexus_llm.ports import Completer, Ports
from nexus_llm.recipe import EvaluateRecipe, Recipe
from nexus_llm.records import DocumentScore, Sample

# SmolLM2-135M read 850 tokens a second in bfloat16 on 2 cores of an AMD EPYC, 2026-11.
_TOKENS_PER_SECOND = 850
_GENERAL_TOKENS = 8_100
_MEMORY_BYTES = 1_500 * 2**20
_NEEDS = ("model", "data", "package")
_TASK_FIELDS = ("benchmarks", "datasets", "benchmark_items", "tasks")


@dataclass(frozen=True)
class _Reading:
    """What one model did with all texts and prompts."""

    domain: list[DocumentScore]
    general: list[DocumentScore]
    answers: list[str]


def evaluate_stage(
    evaluators: Sequence[Evaluator] = EVALUATORS, open_model: Callable[[Path, str], Completer] = open_model
) -> Stage:
    """The stage with what it can measure besides perplexity; `open_model` opens a model's folder under a name."""
    return Stage(
        kind="evaluate",
        version=1,
        needs=_NEEDS,
        recipe_part=_recipe_part,
        outside_inputs=_outside_inputs,
        run=partial(_run, evaluators=evaluators, open_model=open_model),
        estimate=_estimate,
    )


def _recipe_part(recipe: Recipe) -> dict[str, Any]:
    wanted = recipe.evaluate
    # Fields of tasks count only where tasks are named: without them an evaluation is what it was before there were any.
    of_tasks: Any = {"gate": {"tasks", "max_error_share"}, **dict.fromkeys(_TASK_FIELDS, True)}
    part = wanted.model_dump(mode="json", exclude=None if wanted.benchmarks or wanted.tasks else of_tasks)
    # The name stands in the report.
    return {"name": recipe.name, "evaluate": part, "seed": recipe.seed}


def _outside_inputs(recipe: Recipe, ports: Ports) -> dict[str, str]:  # noqa: ARG001 - the port of every stage
    wanted = recipe.evaluate
    if wanted.general_path is None:
        found = {"general text": f"sha256:{file_sha256(general_files(None)[0])}"}
    else:
        found = {str(file): f"sha256:{file_sha256(file)}" for file in general_files(wanted.general_path)}
    with storage.explained("evaluate.tasks"):
        files = [Path(name) for name in wanted.tasks]
        if wanted.benchmarks and wanted.datasets is not None:
            files += sorted(path for path in Path(wanted.datasets).rglob("*") if path.is_file())
        return found | {str(file): f"sha256:{file_sha256(file)}" for file in files}


def _run(
    recipe: Recipe,
    inputs: Mapping[str, Artifact],
    draft: Draft,
    ports: Ports,
    *,
    evaluators: Sequence[Evaluator],
    open_model: Callable[[Path, str], Completer],
) -> Artifact:
    _refuse_unknown(recipe.evaluate, evaluators)
    with storage.explained(str(draft.folder)):
        tokenizer = ChatTokenizer.load(inputs["model"].folder)
        domain, origins = _domain_documents(inputs["data"].folder, recipe, tokenizer)
        general = _general_documents(recipe.evaluate, tokenizer)
        readings = {
            name: _reading(name, inputs[kind].folder, domain, general, recipe.evaluate, draft.work, ports)
            for name, kind in (("base", "model"), ("tuned", "package"))
        }
        base, tuned = readings["base"], readings["tuned"]
        pairs = _task_results(recipe, inputs, draft, ports, evaluators, open_model)
        report = Report(
            name=recipe.name,
            base=recipe.model.base,
            gated=_gated(base, tuned, pairs, recipe),
            scores=_paired("domain", base.domain, tuned.domain, origins)
            + _paired("general", base.general, tuned.general, {}),
            samples=tuple(map(Sample, recipe.evaluate.prompts, base.answers, tuned.answers)),
            max_tokens_per_document=recipe.evaluate.max_tokens_per_document,
            inputs={kind: inputs[kind].id for kind in _NEEDS},
            tasks=tuple(_task_report(*pair, recipe) for pair in pairs),
            recipe=_recipe_part(recipe),
        )
        _write(report, draft.folder)
    facts = report_json(report)
    return draft.finish(facts={"gate": facts["gate"], "inputs": facts["inputs"]})


def _estimate(recipe: Recipe) -> Estimate:
    wanted = recipe.evaluate
    tokens = 2 * (wanted.domain_documents * wanted.max_tokens_per_document + _GENERAL_TOKENS)
    # Prompts are answered together, 16 at a time, at about 20 steps a second.
    steps = 2 * wanted.max_new_tokens * -(-len(wanted.prompts) // 16)
    return Estimate(seconds=10 + tokens / _TOKENS_PER_SECOND + steps / 20, memory_bytes=_MEMORY_BYTES)


def _domain_documents(
    folder: Path, recipe: Recipe, tokenizer: ChatTokenizer
) -> tuple[list[TokenizedDocument], dict[str, str]]:
    """Documents of the test split, drawn by the seed and cut to the recipe's length, and id → origin.

    Raises:
        DataError: the split has no document of two tokens or more.
    """
    found: list[tuple[str, list[int]]] = []
    origins: dict[str, str] = {}
    for shard in sorted(folder.glob("test-*.tokens.npy")):
        base = shard.name.removesuffix(".tokens.npy")
        tokens = np.load(shard, mmap_mode="r", allow_pickle=False)
        bounds = np.load(folder / f"{base}.offsets.npy", allow_pickle=False)
        rows = pl.read_parquet(folder / f"{base}.documents.parquet", columns=["id", "origin"])
        origins.update(rows.iter_rows())
        found += [
            (name, tokens[start:end].tolist()) for name, (start, end) in zip(rows["id"], pairwise(bounds), strict=True)
        ]
    documents = _to_score(found, recipe.evaluate, tokenizer)
    if not documents:
        raise DataError(
            "the test split is empty, so nobody can say whether tuning helped",
            fix="raise data.split.test_share, or give more text",
        )
    drawn = np.random.default_rng(recipe.seed).permutation(len(documents))[: recipe.evaluate.domain_documents]
    return [documents[index] for index in sorted(drawn)], origins


def _general_documents(recipe: EvaluateRecipe, tokenizer: ChatTokenizer) -> list[TokenizedDocument]:
    passages = read_general(general_files(recipe.general_path))
    encoded = tokenizer.encode_documents([text for _, text in passages])
    names = [name for name, _ in passages]
    documents = _to_score(list(zip(names, encoded, strict=True)), recipe, tokenizer)
    if not documents:
        raise DataError(
            f"evaluate.general_path: {recipe.general_path} holds no text",
            fix="give files with text, or null for the passages that ship with nexus",
        )
    return documents


def _to_score(
    named: Sequence[tuple[str, list[int]]], recipe: EvaluateRecipe, tokenizer: ChatTokenizer
) -> list[TokenizedDocument]:
    """Documents cut to the recipe's length, without the token that closes them; those of one token are left out.

    Tuning on documents can teach that closing token, which a chat model hardly expects; it says nothing about text.
    """
    documents = []
    for name, token_ids in named:
        is_closed = bool(token_ids) and token_ids[-1] == tokenizer.document_end_id
        text_ids = token_ids[: len(token_ids) - is_closed][: recipe.max_tokens_per_document]
        if len(text_ids) > 1:
            documents.append(TokenizedDocument(name, tuple(text_ids)))
    return documents


def _reading(
    name: str,
    folder: Path,
    domain: Sequence[TokenizedDocument],
    general: Sequence[TokenizedDocument],
    recipe: EvaluateRecipe,
    work: Path,
    ports: Ports,
) -> _Reading:
    """What the model in `folder` did; kept in `work`, so that an interrupted run does not read again."""
    kept = work / f"{name}.json"
    if kept.exists():
        return _reading_from(json.loads(kept.read_text(encoding="utf-8")))
    if reason := ports.interrupt.requested():
        raise TryAgainError(f"stopped by {reason} before scoring the {name} model", fix="run the same command again")
    model = load_model(folder)
    tokenizer = ChatTokenizer.load(folder)
    everything = [*domain, *general]
    ports.progress.start(f"scoring {name}", total=sum(len(one.token_ids) for one in everything), unit="tokens")
    scores = score(model, everything, advance=ports.progress.advance)
    ports.progress.finish(f"{len(everything)} documents")
    ports.progress.start(f"asking {name}", total=len(recipe.prompts), unit="prompts")
    answered = answers(
        model,
        tokenizer,
        recipe.prompts,
        stop_ids=stop_ids_of(folder, tokenizer),
        max_new_tokens=recipe.max_new_tokens,
        advance=ports.progress.advance,
    )
    ports.progress.finish()
    del model
    gc.collect()  # the next model must not lie in memory beside this one
    reading = _Reading(scores[: len(domain)], scores[len(domain) :], answered)
    storage.write_atomically(kept, json.dumps(asdict(reading), ensure_ascii=False).encode())
    return reading


def _reading_from(values: dict[str, Any]) -> _Reading:
    domain, general = ([DocumentScore(**one) for one in values[name]] for name in ("domain", "general"))
    return _Reading(domain, general, values["answers"])


def _gated(
    base: _Reading, tuned: _Reading, pairs: Sequence[tuple[TaskResult, TaskResult]], recipe: Recipe
) -> tuple[GatedComparison, ...]:
    gate = recipe.evaluate.gate
    domain = compare("domain", base.domain, tuned.domain, confidence=gate.confidence, seed=recipe.seed)
    general = compare("general", base.general, tuned.general, confidence=gate.confidence, seed=recipe.seed)
    return corrected(
        [
            judge_domain(domain, min_improvement=gate.min_domain_improvement),
            judge_general(general, max_regression=gate.max_general_regression),
            *judge_tasks(pairs, gate, seed=recipe.seed),
        ],
        confidence=gate.confidence,
    )


def _refuse_unknown(wanted: EvaluateRecipe, evaluators: Sequence[Evaluator]) -> None:
    """Raises before anything is measured.

    Raises:
        EvaluationError: the recipe names tasks that nothing here can measure.
    """
    known = {one.field for one in evaluators}
    for field in ("benchmarks", "tasks"):
        if getattr(wanted, field) and field not in known:
            raise EvaluationError(
                f"evaluate.{field}: nothing here can measure {', '.join(getattr(wanted, field))}",
                fix=f"run it by the nexus command, or take evaluate.{field} away",
            )


def _task_results(
    recipe: Recipe,
    inputs: Mapping[str, Artifact],
    draft: Draft,
    ports: Ports,
    evaluators: Sequence[Evaluator],
    open_model: Callable[[Path, str], Completer],
) -> list[tuple[TaskResult, TaskResult]]:
    """(base, tuned) of every task that the recipe names; both are kept below `tasks/` of the artifact.

    Raises:
        EvaluationError: two tasks have one name, or a task cannot be measured.
    """
    found: dict[str, dict[str, TaskResult]] = {"base": {}, "tuned": {}}
    wanted = recipe.evaluate
    chosen = [one for one in evaluators if getattr(wanted, one.field)]
    sides = (("base", "model", recipe.model.base), ("tuned", "package", recipe.name))
    for name, kind, title in sides if chosen else ():
        completer = open_model(inputs[kind].folder, title)
        for evaluator in chosen:
            for result in evaluator.run(completer, wanted, draft.work / name / evaluator.field, ports):
                if result.task in found[name]:
                    raise EvaluationError(f"two tasks are called {result.task}", fix="give each a name of its own")
                found[name][result.task] = result
                write_result(draft.folder / "tasks" / name / result.task, result)
        del completer
        gc.collect()  # as above
    return [(found["base"][task], result) for task, result in sorted(found["tuned"].items())]


def _task_report(base: TaskResult, tuned: TaskResult, recipe: Recipe) -> TaskReport:
    return task_report(base, tuned, confidence=recipe.evaluate.gate.confidence, seed=recipe.seed)


def _paired(
    name: str, base: Sequence[DocumentScore], tuned: Sequence[DocumentScore], origins: Mapping[str, str]
) -> tuple[PairedScore, ...]:
    return tuple(
        PairedScore(
            set=name,
            id=a.id,
            origin=origins.get(a.id, a.id),
            tokens=a.tokens,
            base_nll=a.negative_log_likelihood,
            tuned_nll=b.negative_log_likelihood,
        )
        for a, b in zip(base, tuned, strict=True)
    )


def _write(report: Report, folder: Path) -> None:
    scores = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in report.scores)
    (folder / "scores.jsonl").write_text(scores, encoding="utf-8")
    samples = json.dumps([asdict(one) for one in report.samples], ensure_ascii=False, indent=2) + "\n"
    (folder / "samples.json").write_text(samples, encoding="utf-8")
    values = json.dumps(report_json(report), ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    (folder / "report.json").write_text(values, encoding="utf-8")
    (folder / "report.html").write_text(report_html(report), encoding="utf-8")


STAGE = evaluate_stage()

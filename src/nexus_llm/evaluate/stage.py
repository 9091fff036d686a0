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
from nexus_llm.errors import DataError, TryAgainError
from nexus_llm.evaluate.comparison import compare
from nexus_llm.evaluate.contamination import Contamination, Overlaps
from nexus_llm.evaluate.gate import GatedComparison, corrected, judge_domain, judge_general, judge_tasks
from nexus_llm.evaluate.general import general_files, read_general
from nexus_llm.evaluate.in_process import InProcessCompleter
from nexus_llm.evaluate.named_tasks import files_read, open_model, run_named, seconds, task_seconds
from nexus_llm.evaluate.perplexity import BATCH_TOKENS, TokenizedDocument, batches, score
from nexus_llm.evaluate.report import PairedScore, Report, report_html, report_json, task_report
from nexus_llm.evaluate.results import TaskResult, TaskRun, read_result, rows_in, write_result
from nexus_llm.ports import Completer, Ports
from nexus_llm.recipe import EvaluateRecipe, Recipe
from nexus_llm.records import DocumentScore, Question, Sample

_GENERAL_TOKENS = 8_100
_MEMORY_BYTES = 1_500 * 2**20
_NEEDS = ("model", "data", "package")
_OVERLAPS = "contamination.json"
_Open = Callable[[Path, str], Completer]
_TASK_FIELDS = ("benchmarks", "datasets", "benchmark_items", "tasks")


@dataclass(frozen=True)
class _Reading:
    """What one model did with all texts and prompts."""

    domain: list[DocumentScore]
    general: list[DocumentScore]
    answers: list[str]


@dataclass(frozen=True)
class _Measured:
    """All that the two models did; the verdict is made of nothing else."""

    scores: tuple[PairedScore, ...]
    samples: tuple[Sample, ...]
    tasks: list[tuple[TaskResult, TaskResult]]
    overlaps: Mapping[str, Contamination]
    """Of tasks with the training text."""


def evaluate_stage(open_model: _Open = open_model, overlaps: Overlaps = lambda *_: {}) -> Stage:
    """The stage; `open_model` opens a model's folder under a name, and `overlaps` looks for items in the data
    artifact's training text."""
    return Stage(
        kind="evaluate",
        version=2,
        needs=_NEEDS,
        recipe_part=_recipe_part,
        outside_inputs=_outside_inputs,
        run=partial(_run, open_model=open_model, overlaps=overlaps),
        estimate=_estimate,
    )


def _recipe_part(recipe: Recipe) -> dict[str, Any]:
    wanted = recipe.evaluate
    # Fields of tasks count only where tasks are named: without them an evaluation is what it was before there were any.
    of_tasks: Any = {"gate": {"tasks", "max_error_share"}, **dict.fromkeys(_TASK_FIELDS, True)}
    part = wanted.model_dump(mode="json", exclude=None if wanted.benchmarks or wanted.tasks else of_tasks)
    # The name stands in the report.
    return {"name": recipe.name, "evaluate": part, "seed": recipe.seed}


def _outside_inputs(recipe: Recipe, _ports: Ports) -> dict[str, str]:
    wanted = recipe.evaluate
    with storage.explained("evaluate"):
        files = general_files(wanted.general_path)
        found = {"general text" if wanted.general_path is None else str(one): one for one in files}
        found |= {str(one): one for one in files_read(wanted)}
        return {name: f"sha256:{file_sha256(file)}" for name, file in found.items()}


def _run(
    recipe: Recipe, inputs: Mapping[str, Artifact], draft: Draft, ports: Ports, *, open_model: _Open, overlaps: Overlaps
) -> Artifact:
    with storage.explained(str(draft.folder)):
        earlier = next((one for one in draft.made_of_the_same() if _differs_in_gate(one, recipe)), None)
        if earlier:
            measured = _measured_before(earlier.folder)
        else:
            measured = _measure(recipe, inputs, draft, ports, open_model, overlaps)
        report = Report(
            name=recipe.name,
            base=recipe.model.base,
            gated=_gated(measured, recipe),
            scores=measured.scores,
            samples=measured.samples,
            max_tokens_per_document=recipe.evaluate.max_tokens_per_document,
            inputs={kind: inputs[kind].id for kind in _NEEDS},
            tasks=tuple(
                task_report(
                    *pair,
                    confidence=recipe.evaluate.gate.confidence,
                    seed=recipe.seed,
                    overlap=measured.overlaps.get(pair[1].task),
                )
                for pair in measured.tasks
            ),
            recipe=_recipe_part(recipe),
        )
        _write(report, measured, draft.folder)
    facts = report_json(report)
    return draft.finish(facts={"gate": facts["gate"], "inputs": facts["inputs"]})


def _differs_in_gate(earlier: Artifact, recipe: Recipe) -> bool:
    """Whether an evaluation by another recipe measured what this one asks for: only the limits are others."""
    before, now = (
        {**part, "evaluate": {**part["evaluate"], "gate": None}}
        for part in (earlier.manifest.recipe, _recipe_part(recipe))
    )
    return before == now


def _measure(
    recipe: Recipe, inputs: Mapping[str, Artifact], draft: Draft, ports: Ports, open_model: _Open, overlaps: Overlaps
) -> _Measured:
    tokenizer = ChatTokenizer.load(inputs["model"].folder)
    domain, origins = _domain_documents(inputs["data"].folder, recipe, tokenizer)
    general = _general_documents(recipe.evaluate, tokenizer)
    base, tuned = (
        _reading(name, inputs[kind].folder, domain, general, recipe.evaluate, draft.work, ports)
        for name, kind in (("base", "model"), ("tuned", "package"))
    )
    runs = _task_runs(recipe, inputs, draft.work, ports, open_model)
    texts = {tuned.result.task: tuned.texts for _, tuned in runs}
    return _Measured(
        scores=_paired("domain", base.domain, tuned.domain, origins)
        + _paired("general", base.general, tuned.general, {}),
        samples=tuple(map(Sample, recipe.evaluate.prompts, base.answers, tuned.answers)),
        tasks=[(base.result, tuned.result) for base, tuned in runs],
        overlaps=overlaps(inputs["data"].folder, texts, ports.progress) if texts else {},
    )


def _measured_before(folder: Path) -> _Measured:
    """What `_write` left of it."""
    overlaps: dict[str, Any] = {}
    if (folder / _OVERLAPS).exists():
        overlaps = json.loads((folder / _OVERLAPS).read_text(encoding="utf-8"))
    tuned = sorted((folder / "tasks" / "tuned").glob("*"))
    return _Measured(
        scores=tuple(PairedScore(**row) for row in rows_in(folder / "scores.jsonl")),
        samples=tuple(Sample(**one) for one in json.loads((folder / "samples.json").read_text(encoding="utf-8"))),
        tasks=[(read_result(folder / "tasks" / "base" / one.name), read_result(one)) for one in tuned],
        overlaps={task: Contamination(**one) for task, one in overlaps.items()},
    )


def _estimate(recipe: Recipe) -> Estimate:
    wanted = recipe.evaluate
    tokens = wanted.domain_documents * wanted.max_tokens_per_document + _GENERAL_TOKENS
    one = seconds(tokens=tokens, questions=len(wanted.prompts), new_tokens=wanted.max_new_tokens)
    return Estimate(seconds=10 + 2 * (one + task_seconds(wanted)), memory_bytes=_MEMORY_BYTES)


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
    completer = InProcessCompleter.load(folder, precision="bfloat16")
    everything = [*domain, *general]
    ports.progress.start(f"scoring {name}", total=sum(len(one.token_ids) for one in everything), unit="tokens")
    scores = _scores(completer.model, everything, work / f"{name}-scores.json", ports)
    ports.progress.finish(f"{len(everything)} documents")
    ports.progress.start(f"asking {name}", total=len(recipe.prompts), unit="prompts")
    answered: dict[str, str] = {}
    for one in completer.generate([_question(prompt, recipe.max_new_tokens) for prompt in recipe.prompts]):
        answered[one.id] = one.text.strip() or (f"({one.error})" if one.error else "")
        ports.progress.advance(1)
    ports.progress.finish()
    del completer
    gc.collect()  # the next model must not lie in memory beside this one
    reading = _Reading(scores[: len(domain)], scores[len(domain) :], [answered[one] for one in recipe.prompts])
    storage.write_atomically(kept, json.dumps(asdict(reading), ensure_ascii=False).encode())
    return reading


def _scores(model: Any, documents: Sequence[TokenizedDocument], kept: Path, ports: Ports) -> list[DocumentScore]:
    """One score a document. Each batch is kept: what is read after a stop stands in the batch where it would have stood
    without one, and so has the same rounding."""
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for batch in batches([len(one.token_ids) for one in documents], max_tokens=BATCH_TOKENS):
        if reason := ports.interrupt.requested():
            raise TryAgainError(f"stopped by {reason} after {len(found)} documents", fix="run the same command again")
        if str(batch[0]) not in found:
            read = score(model, [documents[index] for index in batch])
            found |= {str(index): asdict(one) for index, one in zip(batch, read, strict=True)}
            storage.write_atomically(kept, json.dumps(found).encode())
        ports.progress.advance(sum(len(documents[index].token_ids) for index in batch))
    return [DocumentScore(**found[str(index)]) for index in range(len(documents))]


def _question(prompt: str, max_new_tokens: int) -> Question:
    return Question(prompt, messages=({"role": "user", "content": prompt},), max_new_tokens=max_new_tokens)


def _reading_from(values: dict[str, Any]) -> _Reading:
    domain, general = ([DocumentScore(**one) for one in values[name]] for name in ("domain", "general"))
    return _Reading(domain, general, values["answers"])


def _gated(measured: _Measured, recipe: Recipe) -> tuple[GatedComparison, ...]:
    gate = recipe.evaluate.gate
    compared = {}
    for name in ("domain", "general"):
        chosen = [one for one in measured.scores if one.set == name]
        base = [DocumentScore(one.id, one.tokens, one.base_nll) for one in chosen]
        tuned = [DocumentScore(one.id, one.tokens, one.tuned_nll) for one in chosen]
        compared[name] = compare(name, base, tuned, confidence=gate.confidence, seed=recipe.seed)
    return corrected(
        [
            judge_domain(compared["domain"], min_improvement=gate.min_domain_improvement),
            judge_general(compared["general"], max_regression=gate.max_general_regression),
            *judge_tasks(measured.tasks, gate, seed=recipe.seed),
        ],
        confidence=gate.confidence,
    )


def _task_runs(
    recipe: Recipe, inputs: Mapping[str, Artifact], work: Path, ports: Ports, open_model: _Open
) -> list[tuple[TaskRun, TaskRun]]:
    """(base, tuned) of every task that the recipe names, by name.

    Raises:
        EvaluationError: a task cannot be measured.
    """
    found: dict[str, dict[str, TaskRun]] = {"base": {}, "tuned": {}}
    wanted = recipe.evaluate
    sides = (("base", "model", recipe.model.base), ("tuned", "package", recipe.name))
    for name, kind, title in sides if wanted.benchmarks or wanted.tasks else ():
        completer = open_model(inputs[kind].folder, title)
        for run in run_named(completer, wanted, work / name, ports):
            found[name][run.result.task] = run
        del completer
        gc.collect()  # as above
    return [(found["base"][task], run) for task, run in sorted(found["tuned"].items())]


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


def _write(report: Report, measured: _Measured, folder: Path) -> None:
    for name, side in (("base", 0), ("tuned", 1)):
        for pair in measured.tasks:
            write_result(folder / "tasks" / name / pair[side].task, pair[side])
    if measured.overlaps:
        overlaps = {task: asdict(one) for task, one in measured.overlaps.items()}
        (folder / _OVERLAPS).write_text(json.dumps(overlaps, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    scores = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in report.scores)
    (folder / "scores.jsonl").write_text(scores, encoding="utf-8")
    samples = json.dumps([asdict(one) for one in report.samples], ensure_ascii=False, indent=2) + "\n"
    (folder / "samples.json").write_text(samples, encoding="utf-8")
    values = json.dumps(report_json(report), ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    (folder / "report.json").write_text(values, encoding="utf-8")
    (folder / "report.html").write_text(report_html(report), encoding="utf-8")


STAGE = evaluate_stage()

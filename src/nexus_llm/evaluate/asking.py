"""Asks a `Completer` and keeps each answer as it comes: whatever stops the run, the same command goes on after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from nexus_llm.errors import EvaluationError, TryAgainError
from nexus_llm.evaluate.perplexity import TokenizedDocument
from nexus_llm.evaluate.results import content_sha256
from nexus_llm.ports import Completer, Ports
from nexus_llm.records import Answer, CompleterFacts, Continuation, DocumentScore, Likelihood, Question

Given = TypeVar("Given", Question, Continuation, TokenizedDocument)
Got = TypeVar("Got", Answer, Likelihood, DocumentScore)
# Given at once: enough to fill any engine's batch.
_QUESTIONS = 64
# More of them, since those that begin alike are read together.
_CONTINUATIONS = 256


def kept_file(
    folder: Path,
    who: CompleterFacts,
    given: Sequence[Question] | Sequence[Continuation] | Sequence[TokenizedDocument],
) -> Path:
    """Where in `folder` the answers of this model to exactly these items are kept: another model, other weights of the
    same name, or another prompt have another file."""
    return folder / f"kept-{content_sha256([asdict(who), [asdict(one) for one in given]])[:16]}.jsonl"


def answers_to(questions: Sequence[Question], completer: Completer, kept: Path, ports: Ports) -> list[Answer]:
    """An answer to every question, in order; those that stand in the file `kept` already are not asked again.

    Raises:
        EvaluationError: `kept` belongs to other questions; or see `Completer.generate`.
        TryAgainError: somebody asked to stop.
    """
    return _all(
        questions, completer.generate, lambda row: Answer(**row), kept, ports, ("asking", "questions"), _QUESTIONS
    )


def likelihoods_of(
    continuations: Sequence[Continuation], completer: Completer, kept: Path, ports: Ports
) -> list[Likelihood]:
    """The likelihood of every continuation, in order; likewise."""
    ask = completer.log_likelihood
    return _all(
        continuations, ask, lambda row: Likelihood(**row), kept, ports, ("reading", "continuations"), _CONTINUATIONS
    )


def scores_of(
    documents: Sequence[TokenizedDocument],
    score: Callable[[Sequence[TokenizedDocument]], Iterator[DocumentScore]],
    kept: Path,
    ports: Ports,
) -> list[DocumentScore]:
    """The score of every document by a model in this process, in order; likewise."""
    return _all(documents, score, lambda row: DocumentScore(**row), kept, ports, ("reading", "windows"), _QUESTIONS)


def _all(
    given: Sequence[Given],
    ask: Callable[[Sequence[Given]], Iterator[Got]],
    read: Callable[[dict[str, Any]], Got],
    kept: Path,
    ports: Ports,
    words: tuple[str, str],
    at_once: int,
) -> list[Got]:
    label, unit = f"{words[0]} {kept.parent.name}", words[1]
    found = {one.id: one for one in _kept(kept, read)}
    if len({one.id for one in given}) != len(given):
        raise EvaluationError(f"{label}: two items have the same id", fix="give each item an id of its own")
    if not found.keys() <= {one.id for one in given}:
        raise EvaluationError(
            f"{kept} holds answers to other items", fix=f"delete {kept.parent}, or give another --out"
        )
    ports.progress.start(label, total=len(given), unit=unit)
    ports.progress.advance(len(found))
    kept.parent.mkdir(parents=True, exist_ok=True)
    rest = iter([one for one in given if one.id not in found])
    with kept.open("a", encoding="utf-8") as lines:
        while batch := list(islice(rest, at_once)):
            _stop_where_asked(ports, f"{len(found)} {unit}")
            for made, one in enumerate(ask(batch), start=1):
                lines.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")
                lines.flush()
                found[one.id] = one
                ports.progress.advance(1)
                if made % getattr(one, "at_once", at_once) == 0:  # not before those are kept that were made with it
                    _stop_where_asked(ports, f"{len(found)} {unit}")
    ports.progress.finish(f"{len(found)} {unit}")
    return [found[one.id] for one in given]


def _stop_where_asked(ports: Ports, made: str) -> None:
    if reason := ports.interrupt.requested():
        raise TryAgainError(f"stopped by {reason} after {made}", fix="run the same command again")


def _kept(path: Path, read: Callable[[dict[str, Any]], Got]) -> list[Got]:
    """What an earlier run stored; a line that was cut off in the middle is forgotten."""
    if not path.exists():
        return []
    whole, _, cut = path.read_bytes().rpartition(b"\n")
    if cut:
        with path.open("r+b") as file:
            file.truncate(len(whole) + 1 if whole else 0)
    return [read(json.loads(line)) for line in whole.splitlines()]

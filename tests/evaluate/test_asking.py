"""Answers are kept as they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nexus_llm.errors import EvaluationError, TryAgainError
from nexus_llm.evaluate.asking import answers_to, likelihoods_of
from nexus_llm.evaluate.results import ItemResult, TaskResult, read_result, write_result
from nexus_llm.ports import Ports, ScriptedCompleter
from nexus_llm.records import Answer, CompleterFacts, Continuation, Question

QUESTIONS = [Question(id=str(number), text=f"question {number}") for number in range(5)]


@dataclass(frozen=True)
class Breaking(ScriptedCompleter):
    """Answers so many questions and dies."""

    most: int = 2
    asked: list[str] = field(default_factory=list)

    def generate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        for one in questions:
            if len(self.asked) == self.most:
                raise EvaluationError("gone", fix="none")
            self.asked.append(one.id)
            yield Answer(one.id, f"answer {one.id}", "stop")


def test_a_run_that_was_stopped_goes_on_after_the_last_whole_answer(tmp_path: Path) -> None:
    kept = tmp_path / "answers.jsonl"
    with pytest.raises(EvaluationError, match="gone"):
        answers_to(QUESTIONS, Breaking(most=2), kept, Ports())
    with kept.open("a", encoding="utf-8") as lines:
        lines.write('{"id": "2", "text": "cut in the mid')
    again = Breaking(most=5)
    answers = answers_to(QUESTIONS, again, kept, Ports())
    assert [one.text for one in answers] == [f"answer {number}" for number in range(5)]
    assert again.asked == ["2", "3", "4"]


def test_who_wishes_to_stop_waits_for_one_batch_and_loses_none_of_it(tmp_path: Path) -> None:
    wishes: list[str] = []

    class Batches(ScriptedCompleter):
        def generate(self, questions: Sequence[Question]) -> Iterator[Answer]:
            for one in questions:
                if one.id == "3":
                    wishes.append("SIGINT")
                yield Answer(one.id, "said", "stop", at_once=2)

    class Interrupt:
        def requested(self) -> str | None:
            return next(iter(wishes), None)

    kept = tmp_path / "answers.jsonl"
    with pytest.raises(TryAgainError, match="stopped by SIGINT after 4 questions"):
        answers_to(QUESTIONS, Batches(), kept, Ports(interrupt=Interrupt()))
    assert len(kept.read_text().splitlines()) == 4


def test_answers_to_other_items_are_not_taken(tmp_path: Path) -> None:
    kept = tmp_path / "likelihoods.jsonl"
    likelihoods_of([Continuation("a", "one", "two")], ScriptedCompleter(), kept, Ports())
    with pytest.raises(EvaluationError, match="other items"):
        likelihoods_of([Continuation("b", "one", "two")], ScriptedCompleter(), kept, Ports())


def test_answers_are_taken_in_any_order_and_given_back_in_the_order_of_the_questions(tmp_path: Path) -> None:
    class Backwards(ScriptedCompleter):
        def generate(self, questions: Sequence[Question]) -> Iterator[Answer]:
            yield from (Answer(one.id, f"answer {one.id}", "stop") for one in reversed(questions))

    kept = tmp_path / "answers.jsonl"
    with kept.open("w", encoding="utf-8") as lines:
        lines.write('{"id": "3", "text": "kept", "finish_reason": "stop"}\n')
    answers = answers_to(QUESTIONS, Backwards(), kept, Ports())
    assert [one.text for one in answers] == ["answer 0", "answer 1", "answer 2", "kept", "answer 4"]
    with pytest.raises(EvaluationError, match="two items have the same id"):
        answers_to([QUESTIONS[0], QUESTIONS[0]], Backwards(), kept, Ports())


def test_a_result_is_read_as_it_was_written_and_not_with_items_missing(tmp_path: Path) -> None:
    items = (ItemResult("1", {"accuracy": 1.0}, answer="yes", wanted="yes"), ItemResult("2", {}, error="timeout"))
    facts = CompleterFacts(model="m", road="scripted")
    result = TaskResult("t", "1", "accuracy", "0" * 64, few_shot=0, completer=facts, items=items, settings={"seed": 1})
    write_result(tmp_path, result)
    assert read_result(tmp_path) == result
    lines = (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "items.jsonl").write_text(lines[0], encoding="utf-8")
    with pytest.raises(EvaluationError, match="1 of 2 items"):
        read_result(tmp_path)

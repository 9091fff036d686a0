"""Domain tasks, from the YAML to the result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus_llm.errors import EvaluationError, NexusError, RecipeError
from nexus_llm.evaluate.domain_tasks import Drawing, run_tasks
from nexus_llm.evaluate.results import read_result
from nexus_llm.evaluate.task_file import load_task
from nexus_llm.ports import Ports, ScriptedCompleter
from nexus_llm.records import Answer, Continuation, Likelihood, Question

DOCS = Path(__file__).parents[2] / "docs" / "evaluation-tasks.md"
BASIC: dict[str, Any] = {
    "task": "capitals",
    "prompt": "What is the capital of {{ country }}?",
    "target": "capital",
    "scorer": {"type": "exact"},
    "items": [
        {"id": "fr", "country": "France", "capital": "Paris"},
        {"id": "it", "country": "Italy", "capital": "Rome"},
    ],
}


def task_file(folder: Path, **changes: Any) -> Path:
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump({**BASIC, **changes}, sort_keys=False), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Failing(ScriptedCompleter):
    """Has no answer for one item, and breaks off another."""

    def generate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        for one in super().generate(questions):
            if one.id == "no answer":
                yield replace(one, text="", finish_reason="error", error="timed out after 300 s")
            elif one.id == "cut":
                yield replace(one, finish_reason="length", cut_tokens=7)
            else:
                yield replace(one, seconds=0.5, first_token_seconds=0.1)


def test_no_item_is_skipped_and_the_counts_add_up(tmp_path: Path) -> None:
    items = [{"id": name, "country": "France", "capital": "Paris"} for name in ("right", "wrong", "no answer", "cut")]
    completer = Failing(texts={"right": "Paris", "wrong": "Rome and on", "cut": "Paris"})
    (found,) = run_tasks([task_file(tmp_path, items=items)], completer, tmp_path, Ports(), usd_per_hour=3.6)
    assert (found.items, found.errors) == (4, 1)
    assert (found.cut_answers, found.cut_items) == (1, 1)
    assert found.value == pytest.approx(2 / 3)
    assert found.speed is not None
    assert found.speed.tokens_per_second == 4.0  # 4 words in two answers of half a second each
    assert found.speed.first_token_seconds == 0.1
    assert found.speed.usd_per_million_tokens == pytest.approx(250)
    result = read_result(tmp_path / "capitals")
    assert [one.id for one in result.items] == ["right", "wrong", "no answer", "cut"]
    assert result.items[2].error == "timed out after 300 s"
    assert result.items[2].scores == {}


def test_examples_and_system_become_turns_and_count_as_few_shot(tmp_path: Path) -> None:
    example = {"country": "Spain", "capital": "Madrid"}
    path = task_file(tmp_path, system="One word.", examples=[example])
    first = load_task(path).items[0].question
    assert [(one["role"], one["content"]) for one in first.messages] == [
        ("system", "One word."),
        ("user", "What is the capital of Spain?"),
        ("assistant", "Madrid"),
        ("user", "What is the capital of France?"),
    ]
    run_tasks([path], ScriptedCompleter(), tmp_path, Ports())
    assert read_result(tmp_path / "capitals").few_shot == 1
    plain = load_task(task_file(tmp_path, chat=False, examples=[example])).items[0].question
    assert plain.messages == ()
    assert plain.text == "What is the capital of Spain? Madrid\n\nWhat is the capital of France?"


def test_a_limit_draws_the_same_items_each_time_and_from_everywhere(tmp_path: Path) -> None:
    items = [{"id": str(number), "country": "x", "capital": "y"} for number in range(100)]
    task = load_task(task_file(tmp_path, items=items))
    drawn = [one.id for one in task.drawn(10, seed=1)]
    assert drawn == [one.id for one in task.drawn(10, seed=1)]
    assert drawn == sorted(drawn, key=int)
    assert drawn != [one.id for one in task.drawn(10, seed=2)]
    assert max(map(int, drawn)) > 50
    assert task.drawn(None, seed=1) == task.items


def test_another_model_is_asked_again_and_the_same_one_is_not(tmp_path: Path) -> None:
    path = task_file(tmp_path)

    @dataclass(frozen=True)
    class Named(ScriptedCompleter):
        name: str = "one"

        def describe(self) -> Any:
            return replace(super().describe(), model=self.name)

    def value(**given: Any) -> float:
        (found,) = run_tasks([path], Named(**given), tmp_path / "out", Ports())
        return found.value

    assert value(texts={"fr": "Paris", "it": "Rome"}) == 1.0
    assert value(texts={}) == 1.0  # kept answers
    assert value(texts={}, name="two") == 0.0


def test_items_and_answers_are_read_from_files_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id": "a", "country": "France"}\n\n{"id": "b", "country": "Italy"}\n')
    (tmp_path / "a.jsonl").write_text('{"id": "b", "capital": ["Rome", "Roma"]}\n{"id": "a", "capital": "Paris"}\n')
    task = load_task(task_file(tmp_path, items="q.jsonl", answers="a.jsonl"))
    assert [(one.id, one.target) for one in task.items] == [("a", "Paris"), ("b", ["Rome", "Roma"])]
    (tmp_path / "q.csv").write_text('country,capital\n"France,\nthe",Paris\nItaly,Rome\n')
    task = load_task(task_file(tmp_path, items="q.csv"))
    assert [one.id for one in task.items] == ["q.csv:2", "q.csv:4"]
    assert "France,\nthe" in task.items[0].question.messages[0]["content"]


LABELS = {"type": "classification", "choices": ["refund", "lost_card"]}
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "key": ({"promt": "x"}, r"task.yaml:\d+: promt is not a key of this file", "did you mean prompt?"),
    "key of the scorer": (
        {"scorer": {"type": "exact", "ignore_caze": True}},
        r"task.yaml:\d+: scorer.ignore_caze is not a key of scorer",
        "did you mean ignore_case?",
    ),
    "scorer": ({"scorer": {"type": "exat"}}, r"task.yaml:\d+: scorer.type is 'exat'", "did you mean exact?"),
    "empty items": ({"items": []}, r"task.yaml:\d+: the task has no items", "add some"),
    "no file": ({"items": "gone.jsonl"}, r"task.yaml:\d+: .*gone.jsonl cannot be read", "check the path"),
    "kind of file": ({"items": "items.xml"}, r"task.yaml:\d+: items.xml is not", "one of these"),
    "label": (
        {"scorer": LABELS, "items": [{"country": "x", "capital": "lostcard"}]},
        r"task.yaml:\d+: capital 'lostcard' is not one of the 2 choices",
        "did you mean 'lost_card'?",
    ),
    "field of the prompt": (
        {"items": [{"land": "x", "capital": "y"}]},
        r"task.yaml:\d+: the prompt cannot be made: 'country'",
        "land",
    ),
    "target": ({"target": "city"}, r"task.yaml:\d+: the item has no 'city'", "name the field"),
    "empty target": (
        {"items": [{"country": "x", "capital": None}]},
        r"task.yaml:\d+: capital has no text",
        "give a text",
    ),
    "number": (
        {"scorer": {"type": "numeric"}, "items": [{"country": "x", "capital": "many"}]},
        r"task.yaml:\d+: capital has no number",
        "give a number",
    ),
    "twice": ({"items": [BASIC["items"][0]] * 2}, r"task.yaml:\d+: the id 'fr' stands at", "another"),
    "pattern": (
        {"scorer": {"type": "regex", "pattern": "("}},
        r"task.yaml:\d+: scorer.pattern is no regular",
        "mend it",
    ),
    "schema": (
        {"scorer": {"type": "json_schema", "schema": {"type": 5}}},
        r"task.yaml:\d+: scorer.schema is no JSON",
        "mend it",
    ),
    "template": ({"prompt": "{{ country"}, r"task.yaml:\d+: prompt: ", "mend the Jinja text"),
    "attack": (
        {"prompt": "{{ ''.__class__.__mro__ }}"},
        r"task.yaml:\d+: the prompt cannot be made",
        "the item has",
    ),
    "likelihood of a chat": (
        {"scorer": {**LABELS, "by": "likelihood"}},
        r"task.yaml.*: scorer.by likelihood judges running text",
        "chat: false",
    ),
    "calls without functions": ({"scorer": {"type": "function_call"}}, r"needs the functions", "name their field"),
    "choices alike": ({"scorer": {"type": "classification", "choices": ["a b", "A_B"]}}, r"has 'a b' twice", "remove"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_task_is_said_with_its_line_and_a_fix(name: str, tmp_path: Path) -> None:
    changes, what, fix = WRONG[name]
    with pytest.raises(NexusError) as caught:
        load_task(task_file(tmp_path, **changes))
    assert re.search(what, caught.value.what), caught.value.what
    assert fix in caught.value.fix
    assert "\n" not in caught.value.what


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{"country": "x", "capital": "y"}\n{"country": \n', r"items.jsonl:2 is no JSON"),
        ("[1]\n", r"items.jsonl:1 is no JSON object"),
        ("", r"task.yaml:\d+: the task has no items"),
    ],
)
def test_a_broken_row_of_a_file_is_named(content: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text(content)
    with pytest.raises(EvaluationError, match=what):
        load_task(task_file(tmp_path, items="items.jsonl"))


def test_a_row_of_a_table_with_a_column_too_few_is_named(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("country,capital\nFrance,Paris\nItaly\n")
    with pytest.raises(EvaluationError, match=r"items.csv:3: the row has another number of columns"):
        load_task(task_file(tmp_path, items="items.csv"))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "task: [\n"])
def test_a_file_that_is_no_task_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"task.yaml"):
        load_task(path)


def test_nothing_is_asked_when_one_of_several_files_is_wrong(tmp_path: Path) -> None:
    good = task_file(tmp_path)
    bad = tmp_path / "bad.yaml"
    bad.write_text(good.read_text())
    with pytest.raises(EvaluationError, match=r"bad.yaml: a task of the name capitals stands in .*task.yaml too"):
        run_tasks([good, bad], ScriptedCompleter(), tmp_path / "out", Ports())
    assert not (tmp_path / "out").exists()


def test_a_classification_reports_macro_f1_and_answers_without_a_label(tmp_path: Path) -> None:
    items = [{"id": str(number), "country": "x", "capital": "refund"} for number in range(3)]
    items.append({"id": "3", "country": "x", "capital": "lost_card"})
    texts = {"0": "refund", "1": "Refund.", "2": "who knows", "3": "refund"}
    path = task_file(tmp_path, scorer=LABELS, items=items)
    (found,) = run_tasks([path], ScriptedCompleter(texts=texts), tmp_path, Ports())
    assert found.value == 0.5
    others = {name: one.value for name, one in found.scores.items() if name != "accuracy"}
    assert others == {"macro_f1": pytest.approx((2 * 2 / 6 + 0) / 2), "no_label": 1.0}
    assert read_result(tmp_path / "capitals").items[2].answer == "who knows"


@dataclass(frozen=True)
class Broken(ScriptedCompleter):
    """Finds the second choice likelier, and has no number for one item."""

    def log_likelihood(self, continuations: Sequence[Continuation]) -> Iterator[Likelihood]:
        for one in continuations:
            value = float("nan") if one.id.startswith("nan#") else -1.0 if one.text == " lost_card" else -2.0
            yield Likelihood(one.id, value, 1, False, cut_tokens=3 if one.id.startswith("long#") else 0)


def test_the_likeliest_choice_is_the_answer_and_nan_is_no_answer(tmp_path: Path) -> None:
    items = [{"id": name, "country": "x", "capital": "lost_card"} for name in ("good", "nan", "long")]
    scorer = {**LABELS, "by": "likelihood"}
    (found,) = run_tasks([task_file(tmp_path, scorer=scorer, items=items, chat=False)], Broken(), tmp_path, Ports())
    assert (found.value, found.items, found.errors, found.cut_items) == (1.0, 3, 1, 1)


def test_a_verdict_that_changes_with_the_place_is_a_tie_and_reported(tmp_path: Path) -> None:
    items = [{"id": name, "country": "x", "capital": "reference"} for name in ("win", "loss", "flip", "tie", "mute")]
    said = {
        "win": ("[[A]]", "[[B]]"), "loss": ("[[B]]", "so [[A]]"), "flip": ("[[A]]", "[[A]]"),
        "tie": ("[[C]]", "[[A]]"), "mute": ("[[A]]", "I cannot say"),
    }  # fmt: skip
    texts = {
        f"{name}#{place}-first": text
        for name, both in said.items()
        for place, text in zip(("answer", "reference"), both, strict=True)
    }
    path = task_file(tmp_path, scorer={"type": "judge"}, items=items)
    with pytest.raises(EvaluationError, match="needs a judge"):
        run_tasks([path], ScriptedCompleter(), tmp_path, Ports())
    judge = ScriptedCompleter(texts=texts)
    (found,) = run_tasks([path], ScriptedCompleter(), tmp_path, Ports(), judge=judge, drawing=Drawing())
    scores = {one.id: one.scores for one in read_result(tmp_path / "capitals").items}
    assert {name: one.get("preferred") for name, one in scores.items()} == {
        "win": 1.0, "loss": 0.0, "flip": 0.5, "tie": 0.5, "mute": None,
    }  # fmt: skip
    assert (found.errors, found.scores["flipped"].value) == (1, 0.25)


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL))
    assert "intents.yaml" in blocks
    for name, text in blocks.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name in blocks:
        assert load_task(tmp_path / name).items


def test_two_results_of_the_same_task_can_be_compared_and_of_another_prompt_cannot(tmp_path: Path) -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        run_tasks([task_file(tmp_path, **changes)], ScriptedCompleter(), tmp_path / "out", Ports())
        return read_result(tmp_path / "out" / "capitals").identity()

    assert identity() == identity()
    assert identity(prompt="Capital of {{ country }}?") != identity()
    assert json.dumps(identity())

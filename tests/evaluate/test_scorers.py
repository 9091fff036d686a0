"""What an answer is worth."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from pydantic import TypeAdapter

from nexus_llm.evaluate.function_calls import as_tools, calls_in, mismatch
from nexus_llm.evaluate.scorers import NO_LABEL, Scorer, macro_f1, numbers
from nexus_llm.records import Answer, ToolCall

SCORER: TypeAdapter[Any] = TypeAdapter(Scorer)
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("definition", "answer", "target", "score"),
    [
        ({"type": "exact"}, " Paris \n", "paris", 1),
        ({"type": "exact"}, "Paris.", "paris", 0),
        ({"type": "exact", "ignore_punctuation": True}, "Paris.", ["London", "paris"], 1),
        ({"type": "exact", "ignore_case": False}, "paris", "Paris", 0),
        ({"type": "exact"}, "7", 7, 1),
        ({"type": "contains"}, "It costs 5 EUR in Paris", ["paris", "5 eur"], 1),
        ({"type": "contains"}, "It costs 5 EUR", ["paris", "5 eur"], 0),
        ({"type": "contains", "of_several": "any"}, "It costs 5 EUR", ["paris", "5 eur"], 1),
        ({"type": "regex"}, "order AB-1234 was sent", r"[A-Z]{2}-\d{4}", 1),
        ({"type": "regex", "pattern": r"#### (\S+)"}, "#### 17 no, #### 18", "17", 1),
        ({"type": "regex", "pattern": r"#### (\S+)", "which": "last"}, "#### 17 no, #### 18", "18", 1),
        ({"type": "regex", "pattern": r"#### (\S+)"}, "18", "18", 0),
        ({"type": "json_schema", "schema": SCHEMA}, '```json\n{"age": 3}\n```', None, 1),
        ({"type": "json_schema", "schema": SCHEMA}, '{"age": "3"}', None, 0),
        ({"type": "json_schema"}, 'Here it is: {"age": 3}', SCHEMA, 0),
        ({"type": "numeric"}, "16 - 3 - 4 = 9, times 2 is $18.", "… is 18\n#### 18", 1),
        ({"type": "numeric"}, "1,234.50", 1234.5, 1),
        ({"type": "numeric", "which": "first"}, "18 or 19", 19, 0),
        ({"type": "numeric", "absolute_tolerance": 0.5}, "about 3.6", 4, 1),
        ({"type": "numeric", "relative_tolerance": 0.05}, "about 3.6", 4, 0),
        ({"type": "numeric"}, "I do not know", 4, 0),
        ({"type": "classification", "choices": ["card_lost", "refund"]}, "It is: Card lost!", "card_lost", 1),
        ({"type": "classification", "choices": ["hateful", "non-hateful"]}, "Non-hateful.", "hateful", 0),
    ],
)
def test_an_answer_has_the_score_that_its_rule_gives(
    definition: dict[str, Any], answer: str, target: Any, score: float
) -> None:
    scorer = SCORER.validate_python(definition)
    assert scorer.wrong_target(target) is None
    assert scorer.scores(Answer("1", answer, "stop"), target, ())[scorer.metric] == score


@pytest.mark.parametrize(("said", "recall"), [("police kill the gunman", 3 / 4), ("the gunman kill police", 2 / 4)])
def test_rouge_l_gives_what_its_paper_publishes(said: str, recall: float) -> None:
    """Lin 2004, section 3.1: with both texts of four words precision, recall and F are the same."""
    scorer = SCORER.validate_python({"type": "rouge"})
    found = scorer.scores(Answer("1", said, "stop"), "police killed the gunman", ())
    assert found["rougeL"] == pytest.approx(recall)


def test_rouge_gives_what_the_readme_of_the_reference_library_shows() -> None:
    scorer = SCORER.validate_python({"type": "rouge"})
    answer = Answer("1", "The quick brown dog jumps on the log.", "stop")
    found = scorer.scores(answer, ["nothing alike", "The quick brown fox jumps over the lazy dog"], ())
    assert found["rouge1"] == pytest.approx(2 * (6 / 8) * (6 / 9) / (6 / 8 + 6 / 9))
    assert found["rougeL"] == pytest.approx(2 * (5 / 8) * (5 / 9) / (5 / 8 + 5 / 9))


def test_macro_f1_is_that_of_scikit_learn_over_the_wanted_labels() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="comes with the [eval] extra")
    chosen = random.Random(0)
    for _ in range(20):
        pairs = [(chosen.choice("abc"), chosen.choice(["a", "b", "c", "d", NO_LABEL])) for _ in range(30)]
        wanted, answered = zip(*pairs, strict=True)
        reference = metrics.f1_score(wanted, answered, labels=sorted(set(wanted)), average="macro", zero_division=0)
        assert macro_f1(pairs) == pytest.approx(reference)


def test_two_choices_in_one_answer_are_no_choice_unless_one_is_part_of_the_other() -> None:
    scorer = SCORER.validate_python({"type": "classification", "choices": ["refund", "lost card", "lost card abroad"]})
    assert scorer.label("a refund, or a lost card") == NO_LABEL
    assert scorer.label("lost_card_abroad") == "lost card abroad"
    assert scorer.label("discard") == NO_LABEL


@pytest.mark.parametrize(
    ("text", "found"),
    [("2024-05-03", [2024, 5, 3]), ("−3.5e2 and +4", [-350, 4]), ("1,2345", [1, 2345]), ("v2.10", [2.1])],
)
def test_numbers_are_read_as_people_write_them(text: str, found: list[float]) -> None:
    assert numbers(text) == found


FUNCTIONS = [
    {
        "name": "trip.book",
        "parameters": {
            "type": "dict",
            "properties": {
                "to": {"type": "string"},
                "days": {"type": "integer"},
                "budget": {"type": "float"},
                "stops": {"type": "array", "items": {"type": "string"}},
                "who": {"type": "dict"},
            },
            "required": ["to"],
        },
    }
]
WANTED = [{"trip.book": {"to": ["New York", "NYC"], "days": [3], "budget": ["", 100.0], "stops": ["", ["Boston"]]}}]


def call(name: str, **arguments: Any) -> ToolCall:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([call("trip.book", to="new york", days=3)], None),
        ([call("trip_book", to="NYC", days=3, budget=100, stops=["boston"])], None),
        ([call("trip.book", to="Boston", days=3)], "another value of to"),
        ([call("trip.book", to="NYC")], "lacks days"),
        ([call("trip.book", to="NYC", days=3.0)], "another value of days"),
        ([call("trip.book", to="NYC", days=3, budget=True)], "another value of budget"),
        ([call("trip.book", to="NYC", days=3, hotel="any")], "has hotel"),
        ([call("trip.cancel", to="NYC", days=3)], "trip.cancel was called"),
        ([call("trip.book", to="NYC", days=3)] * 2, "2 calls instead of 1"),
        ([], "0 calls instead of 1"),
        ([{"type": "function", "function": {"name": "trip.book", "arguments": '{"to": "NYC", "days": 3}'}}], None),
        ([{"type": "function", "function": {"name": "trip.book", "arguments": "{to"}}], "no JSON"),
    ],
)
def test_a_call_matches_as_the_leaderboard_judges_it(calls: list[Any], reason: str | None) -> None:
    found = mismatch(calls, WANTED, as_tools(FUNCTIONS))
    assert found == reason if reason is None else reason in str(found)


def test_several_calls_may_come_in_any_order_and_each_answers_for_one() -> None:
    first, second = ({"trip.book": {"to": [one], "days": ["", 1]}} for one in ("Rome", "Oslo"))
    tools = as_tools(FUNCTIONS)
    assert (
        mismatch([call("trip.book", to="Oslo"), call("trip.book", to="Rome", days=1)], [first, second], tools) is None
    )
    assert mismatch([call("trip.book", to="Oslo"), call("trip.book", to="Oslo")], [first, second], tools) is not None
    assert mismatch([], [], tools) is None


def test_an_objects_keys_hold_what_they_allow() -> None:
    wanted = [{"trip.book": {"to": ["Rome"], "who": [{"name": ["Ann"], "age": ["", 7]}]}}]
    tools = as_tools(FUNCTIONS)
    assert mismatch([call("trip.book", to="Rome", who={"name": "ann"})], wanted, tools) is None
    assert mismatch([call("trip.book", to="Rome", who={"name": "Ann", "age": 8})], wanted, tools) is not None
    assert mismatch([call("trip.book", to="Rome", who={})], wanted, tools) is not None


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "f", "arguments": {"x": [1, {"y": 2}]}}\n</tool_call>',
        '<|python_tag|>{"name": "f", "parameters": {"x": [1, {"y": 2}]}}',
        '[TOOL_CALLS][{"name": "f", "arguments": {"x": [1, {"y": 2}]}}]',
        'I will call it. {"name": "f", "arguments": {"x": [1, {"y": 2}]}}',
        '```python\n[f(x=[1, {"y": 2}])]\n```',
        'f(x=[1, {"y": 2}])',
    ],
)
def test_calls_are_read_in_every_spelling(text: str) -> None:
    assert calls_in(text) == (call("f", x=[1, {"y": 2}]),)


@pytest.mark.parametrize("text", ["", "no call", "{broken", '{"name": 3, "arguments": {}}', "f(x=g(1))", "[1, 2]"])
def test_what_is_no_call_is_none(text: str) -> None:
    assert calls_in(text) == ()


def test_tools_are_given_to_templates_in_the_words_of_json_schema() -> None:
    (tool,) = as_tools(FUNCTIONS)
    assert tool["type"] == "function"
    assert tool["function"]["parameters"]["properties"]["budget"] == {"type": "number"}
    assert as_tools([tool]) == (tool,)
    assert json.dumps(tool)

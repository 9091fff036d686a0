from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from nexus_llm.data.intake import take
from nexus_llm.data.judging import block_lists, decontaminate, rules
from nexus_llm.data.reading.blocks import BrokenRecord
from nexus_llm.data.taken import KEPT_SCHEMA, REJECTED_SCHEMA, Taken, Tools
from nexus_llm.recipe import DataRecipe
from nexus_llm.records import Document

PROSE = "The harbour was quiet in the morning, and the boats lay still on the water. " * 4


def document(number: int, text: str, **fields: Any) -> tuple[int, Document]:
    return number, Document(f"id{number}", "own", f"a.jsonl:{number}", text, **fields)


def tools(evaluation: dict[str, str] | None = None, **changes: Any) -> Tools:
    recipe = DataRecipe.model_validate(changes)
    block = recipe.block
    return Tools(
        recipe,
        rules.load_spec(),
        blocked=block_lists.load(domains=["bad.example"], licenses=block.licenses),
        evaluation_index=decontaminate.build_index({"exam": list(evaluation.items())}) if evaluation else None,
        erased_ids=frozenset({"id77"}),
    )


def reasons(taken: Taken) -> dict[int, str]:
    return dict(taken.rejected.select("ordinal", "rule").iter_rows())


def test_every_record_is_kept_rejected_or_broken_exactly_once() -> None:
    records = [
        document(1, PROSE + "One."),
        document(2, "short"),
        (3, BrokenRecord("a.jsonl", 3, "not JSON")),
        document(4, PROSE + "Four.", metadata={"url": "https://www.bad.example/page"}),
        document(5, PROSE + "Five."),
        document(77, PROSE + "A secret."),
    ]
    taken = take(records, tools())
    assert taken.kept["ordinal"].to_list() == [1, 5]
    assert reasons(taken) == {2: "min_characters", 4: "blocked_domain", 77: "erased"}
    assert [one.line for one in taken.broken] == [3]
    assert taken.read == {"own": 5}
    assert taken.kept.schema == pl.Schema(KEPT_SCHEMA)
    assert taken.rejected.schema == pl.Schema(REJECTED_SCHEMA)


def test_nothing_of_an_erased_record_is_shown() -> None:
    taken = take([document(77, PROSE + "A secret.")], tools())
    assert taken.rejected["excerpt"].to_list() == [""]


def test_judging_sees_what_cleaning_removes() -> None:
    taken = take([document(1, "word" + "\x00" * 300)], tools())
    assert reasons(taken) == {1: "min_alphabetic_share"}


def test_each_turn_of_a_conversation_is_cleaned_and_redacted() -> None:
    messages = (
        {"role": "user", "content": "Write to ann@example.org  \r\n" + PROSE},
        {"role": "assistant", "content": "\ufeffHello"},
    )
    text = "\n".join(one["content"] for one in messages)
    taken = take([document(1, text, messages=messages), document(2, PROSE)], tools())
    cleaned = json.loads(taken.kept["messages"][0])
    assert cleaned[0]["content"].startswith("Write to <EMAIL_ADDRESS>\nThe harbour")
    assert cleaned[1]["content"] == "Hello"
    assert taken.kept["text"][0] == "\n".join(one["content"] for one in cleaned)
    assert taken.kept["messages"][1] is None
    assert taken.personal == {"EMAIL_ADDRESS": 1} | dict.fromkeys(set(taken.personal) - {"EMAIL_ADDRESS"}, 0)


def test_an_excerpt_of_a_rejected_document_shows_no_personal_data() -> None:
    taken = take([document(1, "ann@example.org")], tools())
    assert taken.rejected["excerpt"].to_list() == ["<EMAIL_ADDRESS>"]


@pytest.mark.parametrize(("action", "kept"), [("keep", 2), ("redact", 2), ("drop", 1)])
def test_personal_data_is_kept_redacted_or_drops_the_document(action: str, kept: int) -> None:
    records = [document(1, PROSE), document(2, PROSE + "Write to ann@example.org now.")]
    taken = take(records, tools(pii={"action": action}))
    assert len(taken.kept) == kept
    shown = "ann@example.org" in "".join(taken.kept["text"])
    assert shown == (action == "keep")


def test_text_that_the_model_will_be_examined_on_is_not_learned() -> None:
    question = "Which of the seven old bridges of the city did the surveyors cross twice on that long walk home?"
    taken = take([document(1, PROSE), document(2, f"{PROSE} {question} {PROSE}")], tools({"q1": question}))
    assert reasons(taken) == {2: "contaminated"}
    assert taken.rejected["reason"].to_list() == ["holds a part of exam q1"]
    assert taken.contaminated == {"exam": 1}


def test_rows_do_not_depend_on_which_records_come_together() -> None:
    records = [document(number, f"{PROSE} Number {number}. " + "word " * (number % 3)) for number in range(1, 30)]
    together = take(records, tools())
    apart = [take([one], tools()) for one in records]
    assert pl.concat([one.kept for one in apart]).equals(together.kept)
    assert pl.concat([one.rejected for one in apart]).equals(together.rejected)


def test_equal_content_has_equal_hashes_and_keys_whatever_it_was_wrapped_in() -> None:
    first, second = take([document(1, PROSE), document(2, f"\ufeff{PROSE}\r\n")], tools()).kept.iter_rows(named=True)
    assert first["content_hash"] == second["content_hash"]
    assert first["band_keys"] == second["band_keys"]

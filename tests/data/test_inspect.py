from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_artifacts import FIRST, KEPT, Kept, identity, write_files, write_rejected, write_shard
from nexus_llm.chat import ChatTokenizer
from nexus_llm.data.looking import inspect
from nexus_llm.errors import DataError
from tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return ChatTokenizer.load(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: ChatTokenizer) -> Path:
    place = tmp_path_factory.mktemp("data")
    write_files(place, tokenizer)
    return place


def origins(records: list[inspect.Record]) -> list[str]:
    return [one.origin for one in records]


@pytest.mark.parametrize(
    "name",
    [FIRST, FIRST[:8], FIRST.upper(), "docs/a.jsonl:1", "a.jsonl:1"],
    ids=["id", "start of id", "id in capitals", "origin", "end of path"],
)
def test_a_kept_record_is_found_by_each_of_its_names_with_its_place(folder: Path, name: str) -> None:
    (record,) = inspect.find(folder, name)
    assert record.state == "kept"
    assert record.id == FIRST
    assert record.place is not None
    assert (record.place.shard, record.place.row, record.place.repeats) == ("train-00000", 0, 2)
    assert record.place.split == "train"
    assert record.place.tokens == len(inspect.encoded(folder, record.place).token_ids)


def test_a_rejected_record_tells_its_rule_value_and_excerpt(folder: Path) -> None:
    (record,) = inspect.find(folder, "docs/a.jsonl:3")
    assert (record.state, record.rule, record.value) == ("rejected", "min_characters", 5.0)
    assert record.excerpt == "short <b>&"


def test_a_quarantined_record_is_found_by_its_place_with_its_error(folder: Path) -> None:
    (record,) = inspect.find(folder, "c.jsonl:7")
    assert (record.state, record.id) == ("quarantined", None)
    assert record.error == "not JSON: unexpected end"


def test_a_file_without_a_line_means_all_its_records_in_their_order(folder: Path) -> None:
    assert origins(inspect.find(folder, "b.jsonl")) == [f"docs/b.jsonl:{line}" for line in range(1, 6)]
    assert origins(inspect.find(folder, "docs/c.jsonl")) == ["docs/c.jsonl:7"]


def test_a_part_of_a_name_is_no_name(folder: Path) -> None:
    for name in ("jsonl:1", "ocs/a.jsonl:1", "b.json", ".*", FIRST[:3], ""):
        assert inspect.find(folder, name) == []


def test_what_personal_data_rules_took_out_is_not_shown(folder: Path) -> None:
    (record,) = inspect.find(folder, "docs/b.jsonl:4")
    assert record.rule == "pii"
    assert record.excerpt is None
    assert inspect.rejected_by(folder, "pii", 5)[0].excerpt is None


@pytest.mark.parametrize("line", [1, 2, 3, 5])
def test_copies_and_copies_of_copies_are_found_from_each_of_them(folder: Path, line: int) -> None:
    group = ["docs/a.jsonl:1", "docs/a.jsonl:2", "docs/a.jsonl:5", "docs/b.jsonl:3"]
    start = {1: group[0], 2: group[1], 5: group[2], 3: group[3]}[line]
    found = inspect.same_text(folder, inspect.find(folder, start))
    assert origins(found) == [one for one in group if one != start]


def test_near_duplicates_that_were_all_kept_are_found_by_their_cluster(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    kept = [Kept(number, f"f:{number}", "What is it?", cluster) for number, cluster in ((1, "a"), (2, "b"), (4, "a"))]
    write_shard(tmp_path, "train-00000", kept, tokenizer)
    write_rejected(tmp_path, [(3, "f:3", "exact_duplicate", f"equal to {identity('f:4')}", 1.0, "What is it?")])
    for start, others in (("f:1", ["f:3", "f:4"]), ("f:3", ["f:1", "f:4"]), ("f:2", [])):
        assert origins(inspect.same_text(tmp_path, inspect.find(tmp_path, start))) == others


def test_a_record_without_copies_has_none(folder: Path) -> None:
    for origin in ("docs/a.jsonl:4", "docs/a.jsonl:3", "docs/c.jsonl:7"):
        assert inspect.same_text(folder, inspect.find(folder, origin)) == []


def test_an_unknown_line_names_the_nearest_lines_and_a_mistyped_file_the_nearest_file(folder: Path) -> None:
    assert inspect.nearest_origins(folder, "docs/a.jsonl:7", count=2) == ["docs/a.jsonl:5", "docs/a.jsonl:4"]
    assert inspect.nearest_origins(folder, "docs/aa.jsonl:1", count=1) == ["docs/a.jsonl"]
    assert inspect.nearest_origins(folder, "nothing-like-it") == []


def test_examples_are_spread_over_all_that_a_rule_rejected(tmp_path: Path) -> None:
    rows = [(number, f"f:{number}", "too_short", "too short", 1.0, "x") for number in range(1, 101)]
    write_rejected(tmp_path, rows)
    assert [one.ordinal for one in inspect.rejected_by(tmp_path, "too_short", 4)] == [1, 26, 51, 76]
    assert len(inspect.rejected_by(tmp_path, "too_short", 500)) == 100
    assert inspect.rejected_by(tmp_path, "no_such_rule", 4) == []


def test_rules_are_counted_most_first(folder: Path) -> None:
    assert inspect.rule_counts(folder) == {"exact_duplicate": 2, "min_characters": 2, "near_duplicate": 1, "pii": 1}


def test_the_first_documents_of_a_split_go_on_in_its_next_shard(folder: Path) -> None:
    assert [one.ordinal for one in inspect.first_kept(folder, "train", 3)] == [1, 4, 6]
    assert [one.ordinal for one in inspect.first_kept(folder, "train", 2)] == [1, 4]
    assert inspect.first_kept(folder, "test", 2) == []


def test_tokens_and_mask_of_a_document_are_those_of_its_shard(folder: Path, tokenizer: ChatTokenizer) -> None:
    (record,) = inspect.find(folder, "docs/a.jsonl:4")
    assert record.place is not None
    document = inspect.encoded(folder, record.place)
    expected = tokenizer.encode_conversation(KEPT["train-00000"][1].messages)  # type: ignore[arg-type]
    assert document.token_ids.tolist() == expected.token_ids
    assert document.loss_mask.tolist() == expected.is_assistant
    assert document.is_conversation


def test_located_records_are_those_of_the_ids_kept_or_not(folder: Path) -> None:
    ids = [identity("docs/a.jsonl:3"), identity("docs/b.jsonl:1"), "0" * 32]
    assert [(one.origin, one.state) for one in inspect.locate(folder, ids)] == [
        ("docs/a.jsonl:3", "rejected"),
        ("docs/b.jsonl:1", "kept"),
    ]


def test_a_folder_that_is_no_data_artifact_is_refused_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data artifact") as caught:
        inspect.find(tmp_path, "x")
    assert "nexus data" in caught.value.fix


def test_a_cut_shard_is_named(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    write_files(tmp_path, tokenizer)
    (record,) = inspect.find(tmp_path, "docs/a.jsonl:4")
    path = tmp_path / "train-00000.tokens.npy"
    path.write_bytes(path.read_bytes()[:60])
    assert record.place is not None
    with pytest.raises(DataError, match="train-00000 cannot be read at row 1"):
        inspect.encoded(tmp_path, record.place)


@given(st.lists(st.booleans()))
def test_spans_cover_the_mask_without_gaps_and_alternate(mask: list[bool]) -> None:
    found = inspect.spans(np.array(mask, np.bool_))
    assert [value for begin, end, value in found for _ in range(begin, end)] == mask
    assert all(one[2] != other[2] for one, other in pairwise(found))

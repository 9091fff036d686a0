from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.looking import erasure
from nexus_llm.errors import DataError

ONE, TWO = "0" * 31 + "1", "f" * 32
ids = st.text("0123456789abcdef", min_size=32, max_size=32)
lists = st.dictionaries(ids, st.text())


def test_comments_empty_lines_capitals_and_windows_line_ends_are_read() -> None:
    text = f"\ufeff# why\r\n\r\n{TWO.upper()}  # request 17 # urgent\r\n{ONE}\r\n{TWO}"
    assert erasure.parse(text, place="list") == {TWO: "request 17 # urgent", ONE: ""}


@pytest.mark.parametrize("line", ["abc", ONE[1:], ONE + "0", f"{ONE} {TWO}", f"{ONE} because", "g" * 32])
def test_a_line_that_is_no_id_is_named_with_its_place(line: str) -> None:
    with pytest.raises(DataError) as caught:
        erasure.parse(f"{TWO}\n{line}\n", place="erased.txt")
    assert caught.value.what.startswith("erased.txt:2: ")


def test_what_stood_in_the_list_stays_and_known_ids_are_not_written_twice() -> None:
    before = f"# mine\n{ONE}  # first"
    after = erasure.appended(before, {ONE: "again", TWO: "new\nline"}, place="list")
    assert after == f"# mine\n{ONE}  # first\n{TWO}  # new line\n"


def test_something_else_than_an_id_cannot_be_appended() -> None:
    with pytest.raises(DataError):
        erasure.appended("", {"../../etc": ""}, place="list")


@given(lists, lists)
def test_appending_keeps_every_id_and_appending_again_changes_nothing(
    first: dict[str, str], second: dict[str, str]
) -> None:
    once = erasure.appended(erasure.appended("", first, place="list"), second, place="list")
    assert list(erasure.parse(once, place="list")) == list(first | second)
    assert erasure.appended(once, first | second, place="list") == once


def test_everything_made_from_an_artifact_is_found_over_any_number_of_steps() -> None:
    inputs = {
        "data": ["model", "sha256:1"],
        "train": ["model", "data"],
        "package": ["train", "model"],
        "evaluate": ["data", "package", "model"],
        "other data": ["model"],
        "other train": ["other data"],
    }
    assert erasure.made_from(inputs, ["data"]) == ["evaluate", "package", "train"]
    assert erasure.made_from(inputs, ["evaluate", "nowhere"]) == []


def test_a_ring_of_artifacts_ends() -> None:
    assert erasure.made_from({"a": ["b"], "b": ["a"]}, ["a"]) == ["a", "b"]

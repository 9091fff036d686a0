from __future__ import annotations

import json
import pickle
import random
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.data.judging.decontaminate import MAX_ITEMS, SCHEMA, Index, build_index, contaminated, items_of
from nexus_llm.errors import DataError

ITEM = "A train leaves the station at nine and arrives in the capital city at noon on the same day."
SHORT = "What is the name of the tallest mountain?"  # 8 words


def found(text: str, index: Index) -> list[tuple[str, str, int]]:
    return contaminated(pl.Series([text]), index).select("set", "item", "hits").rows()


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def brute(texts: list[str], sets: dict[str, list[tuple[str, str]]]) -> list[tuple[int, str, str, int]]:
    """(row, set, item, hits) by comparing tuples of words."""
    owners: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for name, items in sets.items():
        for item, text in items:
            words = words_of(text)
            width = min(13, len(words))
            if width >= 8:
                for start in range(len(words) - width + 1):
                    owners.setdefault(tuple(words[start : start + width]), set()).add((name, item))
    hits: dict[tuple[int, str, str], set[tuple[str, ...]]] = {}
    for row, text in enumerate(texts):
        words = words_of(text)
        for width in range(8, 14):
            for start in range(len(words) - width + 1):
                run = tuple(words[start : start + width])
                for owner in owners.get(run, ()) if len(owners.get(run, ())) <= 10 else ():
                    hits.setdefault((row, *owner), set()).add(run)
    return sorted((*key, len(runs)) for key, runs in hits.items())


def test_an_item_inside_a_text_is_found_whatever_its_case_and_punctuation() -> None:
    index = build_index({"trains": [("t1", ITEM)]})
    text = "Être ou ne pas être — " + ITEM.upper().replace(" ", ", ") + " The end."
    assert found(text, index) == [("trains", "t1", len(ITEM.split()) - 12)]


def test_twelve_words_of_an_item_are_no_piece_of_it_and_thirteen_are() -> None:
    index = build_index({"trains": [("t1", ITEM)]})
    words = ITEM.split()
    assert found("so " + " ".join(words[2:14]) + " so", index) == []
    assert found("so " + " ".join(words[2:15]) + " so", index) == [("trains", "t1", 1)]


def test_an_item_of_eight_words_counts_as_a_whole_and_one_of_seven_is_not_checked() -> None:
    index = build_index({"quiz": [("8", SHORT), ("7", "What is the name of this mountain?"), ("0", "")]})
    assert found(f"She asked: {SHORT} He knew.", index) == [("quiz", "8", 1)]
    assert found("She asked: What is the name of this mountain? He knew.", index) == []
    assert index.unchecked == {"quiz": 2}


def test_what_many_items_share_is_ignored_and_counted() -> None:
    common = "choose the best of the following answers and write down its letter only please"
    items = [(str(n), f"{common} {n}a {n}b {n}c") for n in range(MAX_ITEMS + 1)]
    index = build_index({"quiz": items})
    assert index.ignored == len(words_of(common)) - 12
    assert found(f"now {common} now", index) == []
    assert found(f"now {common} 3a now", index) == [("quiz", "3", 1)]
    assert index.unchecked == {}
    assert build_index({"quiz": [(str(n), common) for n in range(11)]}).unchecked == {"quiz": 11}
    assert found(f"now {common} now", build_index({"quiz": items[:MAX_ITEMS]})) != []


def test_texts_of_one_item_are_one_item() -> None:
    index = build_index({"b": [("1", ITEM), ("1", SHORT)], "a": [("1", SHORT)]})
    rows = contaminated(pl.Series([None, f"{SHORT} {ITEM}", "", ITEM]), index)
    assert rows.select("row", "set", "item", "hits").rows() == [(1, "a", "1", 1), (1, "b", "1", 8), (3, "b", "1", 7)]
    assert dict(rows.schema) == SCHEMA


def test_nothing_to_look_for_finds_nothing() -> None:
    for index in (build_index({}), build_index({"empty": []})):
        rows = contaminated(pl.Series([ITEM]), index)
        assert dict(rows.schema) == SCHEMA
        assert rows.is_empty()
    assert contaminated(pl.Series([], dtype=pl.String), build_index({"trains": [("t1", ITEM)]})).is_empty()


def test_an_index_survives_the_way_to_another_process() -> None:
    index = pickle.loads(pickle.dumps(build_index({"trains": [("t1", ITEM)]})))
    assert len(found(ITEM, index)) == 1


@pytest.mark.parametrize("before", [4_070, 4_083, 4_084, 4_090, 4_095, 4_096, 8_180])
def test_a_run_across_two_pieces_of_a_long_text_is_found_once(before: int) -> None:
    index = build_index({"trains": [("t1", ITEM)], "quiz": [("8", SHORT)]})
    text = "x " * before + ITEM + " x" * 5_000
    assert found(text, index) == [("trains", "t1", 7)]
    assert found("x " * before + SHORT, index) == [("quiz", "8", 1)]


def test_every_text_of_a_row_is_a_part_of_its_item(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    rows = [{"question": SHORT, "choices": ["K2", {"text": ITEM}], "label": 1}, {"question": "Who?", "notes": None}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    items = list(items_of(path, origin="s3://sets/quiz.jsonl"))
    assert items == [("quiz.jsonl:1", SHORT), ("quiz.jsonl:1", "K2"), ("quiz.jsonl:1", ITEM), ("quiz.jsonl:2", "Who?")]
    index = build_index({"quiz": items})
    assert index.unchecked == {"quiz": 1}
    assert found(ITEM, index) == [("quiz", "quiz.jsonl:1", 7)]


def test_an_evaluation_set_with_a_broken_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text('{"question": "Who?"}\n{"question": ', encoding="utf-8")
    with pytest.raises(DataError, match=r"quiz\.jsonl:2 cannot be read"):
        list(items_of(path, origin="quiz.jsonl"))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[str], dict[str, list[tuple[str, str]]]]:
    """Texts and sets of two or three different words, so that runs meet by chance, are common and repeat themselves."""
    chance = random.Random(draw(st.integers(0, 10_000)))

    def text(most: int) -> str:
        return " ".join(chance.choices("ab" if chance.random() < 0.7 else "abc", k=chance.randrange(most)))

    sets = {name: [(str(number // 2), text(20)) for number in range(chance.randrange(15))] for name in "xy"}
    return [text(60) for _ in range(3)], sets


@given(case=cases())
def test_the_same_is_found_as_by_comparing_words(case: tuple[list[str], dict[str, list[tuple[str, str]]]]) -> None:
    texts, sets = case
    rows = contaminated(pl.Series(texts), build_index(sets))
    assert rows.select("row", "set", "item", "hits").rows() == brute(texts, sets)


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "gsm8k").exists(), reason="needs ../shared/data")
def test_real_items_planted_in_real_pages_are_found_and_pages_as_they_are_hold_none() -> None:
    with (SHARED / "gsm8k" / "test.jsonl").open(encoding="utf-8") as lines:
        gsm8k = [(str(place), json.loads(line)["question"]) for place, line in enumerate(lines)]
    with (SHARED / "hellaswag-val" / "hellaswag_val.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
        hellaswag = [(str(row["ind"]), f"{row['ctx']} {row['endings'][int(row['label'])]}") for row in rows]
    sst2 = (SHARED / "glue-dev" / "data" / "SST2" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    sentences = [(str(place), line.split("\t")[0]) for place, line in enumerate(sst2)]
    sets = {"gsm8k": gsm8k, "hellaswag": hellaswag, "sst2": sentences}
    index = build_index(sets)
    with (SHARED / "awsdocs-neardup" / "documents.jsonl").open(encoding="utf-8") as lines:
        pages = [json.loads(line)["text"] for line, _ in zip(lines, range(200), strict=False)]
    assert contaminated(pl.Series(pages), index).is_empty()
    planted, expected = [], []
    for name, items in sets.items():
        for item, text in random.Random(1).sample([one for one in items if len(words_of(one[1])) >= 8], 60):
            page = pages[len(planted)]
            cut = page.index(" ", len(page) // 2)
            expected.append((len(planted), name, item))
            planted.append(f"{page[:cut]}\n{text}\n{page[cut:]}")
    hits = contaminated(pl.Series(planted), index)
    assert set(expected) <= set(hits.select("row", "set", "item").rows())
    # Items that share a run with the planted one are there too, and few.
    assert len(hits) <= 1.2 * len(expected)

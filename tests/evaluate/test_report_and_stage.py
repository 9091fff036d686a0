from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from nexus_llm.artifacts import Artifact
from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import DataError
from nexus_llm.evaluate.comparison import Comparison
from nexus_llm.evaluate.gate import judge_domain, judge_general
from nexus_llm.evaluate.general import general_files, read_general
from nexus_llm.evaluate.report import PairedScore, Report, report_html, report_json
from nexus_llm.evaluate.stage import STAGE
from nexus_llm.recipe import Recipe
from nexus_llm.records import Sample
from nexus_llm.svg import linear_ticks
from running_stages import folder_as_artifact, run_stage
from tiny_model import write_tiny_model

ATTACK = "<script>alert('x')</script>"


def report(*, high: float = -0.05) -> Report:
    found = Comparison("domain", 40, 9_000, 16.5, 15.1, -0.085, -0.11, high, 0.95)
    return Report(
        name="demo",
        base=ATTACK,
        gated=(
            judge_domain(found, min_improvement=0),
            judge_general(replace(found, name="general", change=0.01, low=0.0, high=0.02), max_regression=0.1),
        ),
        scores=(PairedScore("domain", "a", ATTACK, 10, 25.0, 24.0), PairedScore("general", "b", "b", 10, 30.0, 31.0)),
        samples=(Sample(ATTACK, ATTACK, ""),),
        max_tokens_per_document=256,
        inputs={"model": "m"},
    )


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone_and_escapes_what_came_from_outside() -> None:
    html = report_html(report())
    page = _Page()
    page.feed(html)
    assert page.tags.count("svg") == 2
    assert "script" not in page.tags
    assert page.links == []
    assert "http" not in html
    assert html.count("&lt;script&gt;") >= 4
    assert "may replace its base" in html


def test_an_interval_that_does_not_exist_is_null_in_json_and_said_in_words() -> None:
    found = report()
    few = judge_domain(replace(found.gated[0].comparison, documents=3, low=-1.0, high=float("inf")), min_improvement=0)
    values = report_json(replace(found, gated=(few, found.gated[1])))
    assert json.loads(json.dumps(values, allow_nan=False))["gate"]["verdict"] == "inconclusive"
    assert values["gate"]["comparisons"][0]["high"] is None
    assert "3 documents are too few" in report_html(replace(found, gated=(few, found.gated[1])))


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-0.5, 3.0), (-0.001, 0.0), (-1.0, 40.0)])
def test_ticks_enclose_what_is_drawn(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 9


def test_the_general_text_that_ships_is_varied_and_of_even_length() -> None:
    passages = read_general(general_files(None))
    assert len(passages) == 64 == len({name for name, _ in passages}) == len({text[:30] for _, text in passages})
    assert all(90 <= len(text.split()) <= 140 for _, text in passages)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', r"a\.jsonl:2 is no JSON object"),
        ("a.txt", b"caf\xe9", "is not UTF-8"),
        ("a.pdf", b"x", "has no file to read"),
    ],
)
def test_general_text_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_general(general_files(str(tmp_path)))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("inputs")
    base, tuned = write_tiny_model(root / "base"), write_tiny_model(root / "tuned", seed=1)
    data = root / "data"
    data.mkdir()
    texts = [f"Page {number}: the quick brown fox jumps over {number} lazy dogs." for number in range(12)]
    encoded = ChatTokenizer.load(base).encode_documents(texts)
    ids = [f"id{number}" for number in range(12)]
    rows = pl.DataFrame({"id": ids, "origin": [f"book:{name}" for name in ids]})
    for shard, (start, stop) in enumerate(((0, 5), (5, 12))):
        part = encoded[start:stop]
        np.save(data / f"test-{shard:05d}.tokens.npy", np.concatenate(part).astype(np.uint16))
        np.save(data / f"test-{shard:05d}.offsets.npy", np.cumsum([0, *map(len, part)]).astype(np.int64))
        rows[start:stop].write_parquet(data / f"test-{shard:05d}.documents.parquet")
    folders = {"model": base, "data": data, "package": tuned}
    return {kind: folder_as_artifact(kind, folder) for kind, folder in folders.items()}


def recipe(**changes: Any) -> Recipe:
    evaluate = {"max_tokens_per_document": 40, "max_new_tokens": 4, "prompts": ["Hi", "What?"], **changes}
    return Recipe.model_validate({"name": "t", "evaluate": evaluate})


def test_the_stage_leaves_scores_samples_and_a_report_and_repeats_itself(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="needs the [eval] extra")
    made, again = (run_stage(STAGE, recipe(domain_documents=10), inputs, tmp_path / name) for name in ("one", "two"))
    assert made.id == again.id
    assert [entry.path for entry in made.manifest.files] == [
        "report.html",
        "report.json",
        "samples.json",
        "scores.jsonl",
    ]
    rows = [json.loads(line) for line in (made.folder / "scores.jsonl").read_text().splitlines()]
    assert [row["set"] for row in rows] == ["domain"] * 10 + ["general"] * 64
    assert rows[0]["origin"].startswith("book:id")
    # Neither the first token of a page nor the one that closes it is counted.
    page = int(rows[0]["id"].removeprefix("id"))
    text = f"Page {page}: the quick brown fox jumps over {page} lazy dogs."
    assert rows[0]["tokens"] == len(ChatTokenizer.load(inputs["model"].folder).encode_document(text)) - 2
    gate = made.manifest.facts["gate"]
    assert gate == json.loads((made.folder / "report.json").read_text())["gate"]
    assert [one["name"] for one in gate["comparisons"]] == ["domain", "general"]
    assert [one["prompt"] for one in json.loads((made.folder / "samples.json").read_text())] == ["Hi", "What?"]


def test_what_an_interrupted_run_has_read_is_not_read_again(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the [eval] extra")
    whole = run_stage(STAGE, recipe(), inputs, tmp_path / "whole")
    without_package = {**inputs, "package": folder_as_artifact("package", tmp_path / "gone")}
    with pytest.raises(Exception, match="gone"):
        run_stage(STAGE, recipe(), without_package, tmp_path / "cut")
    without_base_weights = tmp_path / "no-weights"
    write_tiny_model(without_base_weights)
    (without_base_weights / "model.safetensors").unlink()
    resumed = run_stage(
        STAGE, recipe(), {**inputs, "model": folder_as_artifact("model", without_base_weights)}, tmp_path / "cut"
    )
    assert resumed.id == whole.id

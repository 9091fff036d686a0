from __future__ import annotations

import json
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from nexus_llm.artifacts import Artifact
from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import DataError, NexusError, TryAgainError
from nexus_llm.evaluate.comparison import Comparison
from nexus_llm.evaluate.contamination import Contamination
from nexus_llm.evaluate.gate import corrected, gate_json, judge_domain, judge_general, judge_tasks
from nexus_llm.evaluate.general import general_files, read_general
from nexus_llm.evaluate.junit import junit_xml
from nexus_llm.evaluate.named_tasks import run_named
from nexus_llm.evaluate.perplexity import score
from nexus_llm.evaluate.report import PairedScore, Report, report_html, report_json, task_report
from nexus_llm.evaluate.results import ItemResult, TaskResult, read_result, write_result
from nexus_llm.evaluate.stage import STAGE, evaluate_stage
from nexus_llm.ports import Completer, Ports, ScriptedCompleter
from nexus_llm.recipe import GateRecipe, Recipe, TaskRule
from nexus_llm.records import CompleterFacts, Sample
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


def result(model: str, right: int, *, items: int = 40, name: str = ATTACK) -> TaskResult:
    """The first `right` items are right; the last has no score."""
    found = tuple(
        ItemResult(f"{ATTACK}{place}", {"accuracy": float(place < right)}, answer=ATTACK, wanted="yes")
        for place in range(items - 1)
    )
    who = CompleterFacts(model=model, road="scripted", precision="float32")
    failed = ItemResult("last", {}, error="the endpoint gave nothing")
    return TaskResult(name, "1", "accuracy", "abc", 0, who, (*found, failed))


def report_with_tasks() -> Report:
    gate = GateRecipe(tasks={ATTACK: TaskRule(max_regression=0.05, min_score=0.2)}, max_error_share=0.1)
    base, tuned = result("base", 20), result("tuned", 30)
    judged = corrected([*report().gated, *judge_tasks([(base, tuned)], gate, seed=1)], confidence=0.95)
    one = task_report(base, tuned, confidence=0.95, seed=1, overlap=Contamination(40, 36, tuple("abcdefghi")))
    return replace(report(), gated=judged, tasks=(one,), recipe={"seed": 17})


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


def test_the_page_shows_every_task_its_rules_and_where_the_two_disagree() -> None:
    html = report_html(report_with_tasks())
    page = _Page()
    page.feed(html)
    assert page.tags.count("svg") == 3
    assert page.tags.count("table") == 3
    assert "script" not in page.tags
    assert page.links == []
    for words in (
        "max_regression",
        "min_score",
        "9 of 36 (25.0%)",
        "1 / 1",
        "0.513",
        "0.769",
        "+0.256",
        "Exact McNemar",
        "base (s",
    ):
        assert words in html
    assert html.count('class="sample"') == 1 + 2
    assert "&#34;seed&#34;: 17" in html
    values = json.loads(json.dumps(report_json(report_with_tasks()), allow_nan=False))
    assert values["tasks"][0]["asked"] == 40
    assert values["tasks"][0]["contamination"]["share"] == 0.25


def test_a_junit_reader_finds_a_case_a_rule_and_no_inconclusive_one_that_looks_like_a_pass(tmp_path: Path) -> None:
    junitparser = pytest.importorskip("junitparser", reason="needs the [dev] extra")
    gate = gate_json(report_with_tasks().gated)
    verdicts = {(row["name"], row.get("rule", "perplexity")): row["verdict"] for row in gate["comparisons"]}
    gate["comparisons"][0]["verdict"] = "fail"
    gate["comparisons"][1]["verdict"] = "inconclusive"
    (tmp_path / "gate.xml").write_bytes(junit_xml(gate, suite="nexus gate demo"))
    suite = next(iter(junitparser.JUnitXml.fromfile(str(tmp_path / "gate.xml"))))
    cases = list(suite)
    assert {case.name for case in cases} == {" ".join(key) for key in verdicts}
    assert (suite.tests, suite.failures, suite.errors) == (4, 1, 1)
    assert [[type(one).__name__ for one in case.result] for case in cases] == [["Failure"], ["Error"], [], []]
    assert cases[0].result[0].message == gate["comparisons"][0]["reason"]


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


class StopsAfter:
    """Lets so many questions pass and asks to stop from then on."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def requested(self) -> str | None:
        self.left -= 1
        return "SIGINT" if self.left < 0 else None


def test_a_run_that_was_stopped_while_it_scored_reads_no_batch_twice_and_ends_the_same(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs the [eval] extra")
    whole = run_stage(STAGE, recipe(), inputs, tmp_path / "whole")
    read: list[str] = []

    def noted(model: Any, documents: Any) -> Any:
        read.extend(one.id for one in documents)
        return score(model, documents)

    monkeypatch.setattr("nexus_llm.evaluate.stage.score", noted)
    with pytest.raises(TryAgainError, match=r"stopped by SIGINT after [1-9]"):
        run_stage(STAGE, recipe(), inputs, tmp_path / "cut", Ports(interrupt=StopsAfter(1)))
    assert 0 < len(read) < 76
    resumed = run_stage(STAGE, recipe(), inputs, tmp_path / "cut")
    assert resumed.id == whole.id
    assert len(read) == 2 * 76 == 2 * len(set(read))


def test_what_a_model_says_is_read_again_whatever_signs_it_holds(tmp_path: Path) -> None:
    said = "one\u2028two\u0085three\x1cfour\rfive\nsix"
    given = replace(result("m", 1), items=(ItemResult("1", {"accuracy": 1.0}, answer=said),))
    write_result(tmp_path, given)
    assert read_result(tmp_path).items == given.items


QUIZ = """
task: quiz
prompt: "{{ id }}?"
scorer: {type: exact}
items:
"""


def test_the_stage_measures_what_the_recipe_names_and_judges_it(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the [eval] extra")
    rows = "".join(f"  - {{id: q{place}, target: yes it is}}\n" for place in range(40))
    (tmp_path / "quiz.yaml").write_text(QUIZ + rows)
    (tmp_path / "general.txt").write_text("A short text, so that the perplexities take no time.")
    said = {side: {f"q{place}": "Yes it is" for place in range(right)} for side, right in (("base", 10), ("tuned", 35))}
    stage = evaluate_stage(
        lambda folder, _: ScriptedCompleter(said["tuned" if "tuned" in str(folder) else "base"]),
        lambda data, texts, _: {task: Contamination(len(some), 30, (data.name,)) for task, some in texts.items()},
    )
    gate = {"tasks": {"quiz": {"min_improvement": 0.1}}}
    general = str(tmp_path / "general.txt")
    wanted = recipe(domain_documents=2, general_path=general, tasks=[str(tmp_path / "quiz.yaml")], gate=gate)
    made = run_stage(stage, wanted, inputs, tmp_path / "one")
    row = made.manifest.facts["gate"]["comparisons"][2]
    assert (row["name"], row["rule"], row["verdict"]) == ("quiz", "min_improvement", "pass")
    assert (row["base_score"], row["tuned_score"], row["p_pass"] < 0.001) == (0.25, 0.875, True)
    assert read_result(made.folder / "tasks" / "tuned" / "quiz").items[34].answer == "Yes it is"
    assert "quiz" in (made.folder / "report.html").read_text()
    assert "1 of 30 (3.3%)" in (made.folder / "report.html").read_text()
    assert run_stage(stage, wanted, inputs, tmp_path / "two").id == made.id
    # Other limits are judged again on what was measured; nobody is asked.
    gone = {kind: folder_as_artifact(kind, tmp_path / "gone") for kind in inputs}
    gate = {"tasks": {"quiz": {"min_improvement": 0.9}}, "confidence": 0.9}
    other = recipe(domain_documents=2, general_path=general, tasks=[str(tmp_path / "quiz.yaml")], gate=gate)
    judged = run_stage(stage, other, gone, tmp_path / "one")
    assert judged.key != made.key
    assert judged.manifest.facts["gate"]["comparisons"][2]["verdict"] == "fail"
    assert run_stage(stage, other, inputs, tmp_path / "three").id == judged.id
    (made.folder / "samples.json").write_text("[]")
    (judged.folder / "samples.json").write_text("[]")
    with pytest.raises(Exception, match="gone"):  # what somebody altered is not taken over
        gate["confidence"] = 0.8
        run_stage(
            stage,
            other.model_copy(
                update={"evaluate": other.evaluate.model_copy(update={"gate": GateRecipe.model_validate(gate)})}
            ),
            gone,
            tmp_path / "one",
        )


def test_only_the_files_that_are_read_decide_what_an_evaluation_is_called(tmp_path: Path) -> None:
    sets, task = tmp_path / "sets", tmp_path / "quiz.yaml"
    for name in ("piqa/validation.jsonl", "sciq/test.jsonl", "hellaswag-val/hellaswag_val.jsonl"):
        (sets / name).parent.mkdir(parents=True)
        (sets / name).write_text("{}")
    (tmp_path / "questions.jsonl").write_text('{"question": "?", "target": "yes"}\n')
    task.write_text("task: quiz\nprompt: '{{ question }}'\nitems: questions.jsonl\nscorer: {type: exact}\n")
    wanted = recipe(benchmarks=["piqa", "hellaswag"], datasets=str(sets), tasks=[str(task)])
    found = STAGE.outside_inputs(wanted, Ports())
    read = [
        sets / "hellaswag-val/hellaswag_val.jsonl",
        sets / "piqa/validation.jsonl",
        task,
        tmp_path / "questions.jsonl",
    ]
    assert list(found) == ["general text", *map(str, read)]


def tasks_below(folder: Path, **changes: Any) -> Recipe:
    """A recipe with PIQA, of four rows of 100 characters, and a quiz of 32 items."""
    (folder / "piqa").mkdir()
    (folder / "piqa/validation.jsonl").write_text(("x" * 99 + "\n") * 4)
    rows = "".join(f"  - {{id: q{place}, target: yes}}\n" for place in range(32))
    (folder / "quiz.yaml").write_text(QUIZ + rows)
    named = {"benchmarks": ["piqa"], "datasets": str(folder), "tasks": [str(folder / "quiz.yaml")]}
    return recipe(**named | changes)


def test_a_plan_counts_the_tasks_of_both_models(tmp_path: Path) -> None:
    texts = recipe()
    both = tasks_below(tmp_path)
    alone = otherwise(both, benchmarks=())
    # 32 answers of at most 256 tokens in two batches, at 20 steps a second; two models.
    assert STAGE.estimate(alone).seconds - STAGE.estimate(texts).seconds == pytest.approx(2 * 2 * 256 / 20, rel=0.02)
    of_piqa = [
        STAGE.estimate(otherwise(both, benchmark_items=items)).seconds - STAGE.estimate(alone).seconds
        for items in (None, 2, 1_000)
    ]
    assert of_piqa == [pytest.approx(2 * characters / 4 / 850) for characters in (400, 200, 400)]
    hub = STAGE.estimate(otherwise(both, benchmarks=("gsm8k",), datasets=None, benchmark_items=32))
    assert hub.seconds - STAGE.estimate(alone).seconds == pytest.approx(2 * (32 * 100 / 850 + 2 * 256 / 20))


def otherwise(given: Recipe, **changes: Any) -> Recipe:
    return given.model_copy(update={"evaluate": given.evaluate.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"benchmarks": ["piqqa"]}, "holds no set of piqqa"),
        ({"gate": {"tasks": {"piqqa": {"min_score": 0.5}}}}, r"nothing measured piqqa \(measured: piqa, quiz\)"),
        ({"tasks": ["quiz.yaml", "quiz.yaml"]}, "a task of the name quiz stands in"),
        ({"tasks": ["judged.yaml"]}, "the task judged needs a judge"),
        ({"tasks": ["broken.yaml"]}, "the item has no 'target'"),
        ({"tasks": ["piqa.yaml"]}, "two tasks are called piqa"),
    ],
)
def test_what_is_wrong_with_tasks_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    row = "  - {id: q1, target: yes}\n"
    for name, text in {
        "judged": QUIZ.replace("quiz", "judged").replace("exact", "judge") + row,
        "broken": QUIZ + "  - {id: q1}\n",
        "piqa": QUIZ.replace("quiz", "piqa") + row,
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(NexusError, match=complaint):
        STAGE.outside_inputs(tasks_below(tmp_path, **changes), Ports())


def test_the_recipes_benchmarks_are_run_from_its_folder_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run_task(name: str, known: str, completer: Completer, wishes: Any, folder: Path, ports: Ports) -> Any:
        asked.append((name, known, str(wishes.datasets), wishes.limit, folder))
        return SimpleNamespace(result=result("m", 3, name=name))

    monkeypatch.setattr("nexus_llm.evaluate.benchmarks.run_task", run_task)
    monkeypatch.setitem(sys.modules, "nexus_llm.evaluate.harness", SimpleNamespace(HarnessTasks=lambda: "harness"))
    wanted = recipe(benchmarks=["hellaswag", "piqa"], datasets="sets", benchmark_items=50).evaluate
    found = run_named(ScriptedCompleter(), wanted, tmp_path, Ports())
    assert [one.result.task for one in found] == ["hellaswag", "piqa"]
    assert asked[1] == ("piqa", "harness", "sets", 50, tmp_path / "benchmarks" / "piqa")


def test_fields_of_tasks_do_not_change_what_an_evaluation_without_tasks_is_called() -> None:
    part = STAGE.recipe_part(recipe())["evaluate"]
    assert set(part) == {
        "domain_documents",
        "general_path",
        "max_tokens_per_document",
        "prompts",
        "max_new_tokens",
        "gate",
    }
    assert set(part["gate"]) == {"min_domain_improvement", "max_general_regression", "confidence"}
    assert "tasks" in STAGE.recipe_part(recipe(benchmarks=["hellaswag"]))["evaluate"]["gate"]

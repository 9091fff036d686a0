"""Public benchmarks from local files, through lm-evaluation-harness, with any model."""

from __future__ import annotations

import json
import logging
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexus_llm import weights
from nexus_llm.cli import run_command
from nexus_llm.errors import DataError, EvaluationError, UsageError
from nexus_llm.evaluate.benchmarks import BenchmarkWishes, run_task
from nexus_llm.evaluate.in_process import InProcessCompleter
from nexus_llm.evaluate.local_sets import rows_of, split_of, tasks_of
from nexus_llm.evaluate.results import ItemResult, TaskResult
from nexus_llm.evaluate.summary import pooled, summary_of
from nexus_llm.ports import Ports, ScriptedCompleter
from nexus_llm.records import CompleterFacts, Likelihood
from tiny_model import write_tiny_model

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install nexus-llm-platform[eval]")

WORDS = ["fox", "dog", "it", "lazy", "brown", "return", "quick", "13"]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def some(number: int, count: int) -> str:
    return " ".join(WORDS[(number * 3 + place * (number + 1)) % len(WORDS)] for place in range(count))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sets of a few items each, in the layout that `local_sets.yaml` describes."""
    folder = tmp_path_factory.mktemp("sets")
    write_rows(
        folder / "hellaswag-val/hellaswag_val.jsonl",
        [
            {"activity_label": some(n, 2), "ctx_a": f"The {some(n, 5 + n)}.", "ctx_b": "he",
             "endings": [some(n + place, 1 + (n + place) % 4) + "." for place in range(4)], "label": str(n % 4)}
            for n in range(7)
        ],
    )  # fmt: skip
    for split, count in (("dev", 5), ("test", 6)):
        path = folder / f"mmlu-dev/data/mmlu/{split}/anatomy_{split}.csv"
        path.parent.mkdir(parents=True)
        lines = [
            f'"What, {some(n, 6)}?",{",".join(some(n + place, 2) for place in range(4))},{n % 4}' for n in range(count)
        ]
        path.write_text("\n".join(["question,choice0,choice1,choice2,choice3,answer", *lines]), encoding="utf-8")
    gauntlet = folder / "eval-gauntlet-dev"
    write_rows(
        gauntlet / "winogrande.jsonl",
        [{"context_options": [f"The {some(n, 4)} so fox", f"The {some(n, 4)} so dog"], "continuation": f"{some(n, 3)}.",
          "gold": n % 2} for n in range(5)],
    )  # fmt: skip
    write_rows(gauntlet / "lambada_openai.jsonl", [{"context": some(n, 9), "continuation": WORDS[n]} for n in range(5)])
    write_rows(folder / "gsm8k/test.jsonl", [{"question": some(n, 8), "answer": f"It is. #### {n}"} for n in range(3)])
    return folder


@pytest.fixture(scope="module")
def tasks() -> Any:
    from nexus_llm.evaluate.harness import HarnessTasks

    return HarnessTasks()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=700)


@pytest.mark.parametrize(
    ("name", "few_shot"),
    [("hellaswag", 0), ("mmlu_anatomy", 5), ("winogrande", 0), ("lambada_openai", 0), ("gsm8k", 0)],
)
def test_each_item_gets_what_the_harness_gives_it_by_its_own_model(
    name: str, few_shot: int, sets: Path, model: Path, tasks: Any, tmp_path: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    from nexus_llm.evaluate.harness import CompleterLM, samples

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    theirs = HFLM(str(model), dtype="float32", device="cpu", batch_size=2)
    ours = CompleterLM(InProcessCompleter.load(model), tmp_path, Ports())
    found = []
    for one in (theirs, ours):
        task = tasks.load(name, folder=sets, few_shot=few_shot)
        if name == "gsm8k":
            task.set_config("generation_kwargs", {"max_gen_toks": 24}, update=True)
        found.append(samples(one, task, limit=None, as_chat=False))
    first, second = found
    assert len(first) == len(second) > 2
    for wanted, got in zip(first, second, strict=True):
        assert got["arguments"] == wanted["arguments"]
        for (before,), (after,) in zip(wanted["resps"], got["resps"], strict=True):
            if isinstance(before, str):
                assert after == before
            else:
                assert after[0] == pytest.approx(before[0], abs=2e-4)
                assert after[1] == before[1]
        assert [got[metric] for metric in got["metrics"]] == pytest.approx(
            [wanted[metric] for metric in wanted["metrics"]], abs=2e-4
        )
    assert not ours.errors


@dataclass(frozen=True)
class Likes(ScriptedCompleter):
    """Finds a continuation likely that has a given word; fails for one id; counts what it was asked."""

    word: str = "so dog"
    failing: str = ""
    asked: list[str] = field(default_factory=list)

    def log_likelihood(self, continuations: Any) -> Any:
        for one in continuations:
            self.asked.append(one.id)
            if one.id == self.failing:
                yield Likelihood(one.id, math.nan, 0, False, error="no sign within 9 s, 2 times")
            else:
                likely = self.word in (one.context + one.text)
                yield Likelihood(one.id, -1.0 if likely else -9.0, 2, likely, cut_tokens=3 if one.id == "1.0" else 0)


def run(name: str, tasks: Any, completer: Any, sets: Path, folder: Path, **wishes: Any) -> Any:
    return run_task(name, tasks, completer, BenchmarkWishes(sets, **wishes), folder, Ports())


def test_an_item_that_failed_is_counted_and_in_no_score(sets: Path, tasks: Any, tmp_path: Path) -> None:
    result = run("winogrande", tasks, Likes(failing="3.1"), sets, tmp_path).result
    # The second choice is always found likeliest: right where the label is 1, and item 3 of those has no answer.
    assert [one.scores.get("acc") for one in result.items] == [0.0, 1.0, 0.0, None, 0.0]
    assert result.items[3].error == "no sign within 9 s, 2 times"
    told = summary_of(result)
    assert (told.items, told.errors, told.cut_items, told.metric) == (5, 1, 1, "acc")
    assert told.scores["acc"].value == pytest.approx(0.25)
    assert result.items[1].answer.endswith("dog")


def test_where_there_are_no_choices_the_answer_tells_whether_the_model_would_say_what_is_wanted(
    sets: Path, tasks: Any, tmp_path: Path
) -> None:
    items = run("lambada_openai", tasks, Likes(word="fox"), sets, tmp_path).result.items
    assert {one.scores["acc"] for one in items} == {0.0, 1.0}
    assert all(one.answer == (one.wanted if one.scores["acc"] else "(something else)") for one in items)


def test_a_finished_task_is_not_asked_again_and_another_models_answers_are_not_taken(
    sets: Path, tasks: Any, tmp_path: Path
) -> None:
    first = run("winogrande", tasks, Likes(), sets, tmp_path).result
    again = Likes()
    assert run("winogrande", tasks, again, sets, tmp_path).result == first
    assert again.asked == []
    other = replace(first.completer, model="another")

    class Another(Likes):
        def describe(self) -> Any:
            return other

    with pytest.raises(EvaluationError, match="model was scripted, and now it is another"):
        run("winogrande", tasks, Another(), sets, tmp_path)
    with pytest.raises(EvaluationError, match="limit"):
        run("winogrande", tasks, Likes(), sets, tmp_path, limit=2)


def test_a_label_outside_the_choices_is_an_error_of_its_item(sets: Path, tasks: Any, tmp_path: Path) -> None:
    write_rows(tmp_path / "glue-superglue-val-wheel/super_glue_cb_val.jsonl",
               [{"premise": "The fox ran.", "hypothesis": "It ran", "label": n} for n in (0, 7)])  # fmt: skip
    result = run("cb", tasks, Likes(), tmp_path, tmp_path / "out").result
    assert result.items[0].error is None
    assert result.items[1].error == "the label 7 is none of its 3 choices"
    # The harness takes COPA's second choice for whatever is not 0.
    write_rows(
        tmp_path / "copa/validation.jsonl",
        [{"premise": "It ran.", "question": "cause", "choice1": "A", "choice2": "B", "label": n} for n in (1, 7)],
    )
    copa = run("copa", tasks, Likes(), tmp_path, tmp_path / "copa-out").result
    assert [one.error for one in copa.items] == [None, "the label 7 is none of its 2 choices"]
    assert summary_of(result).errors == 1


def test_a_missing_split_names_its_file_and_a_malformed_one_its_line(tmp_path: Path, sets: Path, tasks: Any) -> None:
    with pytest.raises(DataError, match=r"piqa: the split validation is missing, .*eval-gauntlet-dev/piqa\.jsonl"):
        run("piqa", tasks, Likes(), sets, tmp_path)
    with pytest.raises(DataError, match=r"gsm8k: the split train is missing"):
        run("gsm8k", tasks, Likes(), sets, tmp_path)  # whose five examples come from there
    bad = tmp_path / "eval-gauntlet-dev/piqa.jsonl"
    write_rows(bad, [{"query": "Question: a\n", "choices": ["b", "c"], "gold": 0}, {"query": "Question: a\n"}])
    with pytest.raises(DataError, match=r"piqa\.jsonl:2 has other fields"):
        rows_of(split_of("piqa", "validation", tmp_path))
    bad.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="holds no rows"):
        rows_of(split_of("piqa", "validation", tmp_path))
    bad.write_text("[1]\n", encoding="utf-8")
    with pytest.raises(DataError, match="no JSON object"):
        rows_of(split_of("piqa", "validation", tmp_path))


def test_a_set_that_is_not_mapped_is_read_from_a_folder_of_its_name(tmp_path: Path, tasks: Any) -> None:
    row = {"question": "What is it?", "mc1_targets": {"choices": ["a dog", "a fox"], "labels": [1, 0]},
           "mc2_targets": {"choices": ["a dog", "a fox"], "labels": [1, 0]}}  # fmt: skip
    write_rows(tmp_path / "truthfulqa_mc1/validation.jsonl", [row, row])
    result = run("truthfulqa_mc1", tasks, Likes(word="a dog"), tmp_path, tmp_path / "out").result
    assert summary_of(result).scores["acc"].value == 1.0


def test_a_group_is_run_as_far_as_it_is_here_and_says_what_is_not(sets: Path) -> None:
    found, absent = tasks_of(["mmlu", "winogrande"], sets)
    assert found == ["mmlu_anatomy", "winogrande"]
    assert len(absent["mmlu"]) == 56
    with pytest.raises(DataError, match="holds no set of glue"):
        tasks_of(["glue"], sets)


def test_every_item_of_a_group_has_the_same_weight() -> None:
    def result(task: str, *scores: float) -> TaskResult:
        items = tuple(ItemResult(str(place), {"acc": one}) for place, one in enumerate(scores))
        facts = CompleterFacts(model="m", road="scripted")
        return TaskResult(task, "1", "acc", "", 5, facts, items, aggregates={"acc": sum(scores) / len(scores)})

    found = pooled("mmlu", [result("mmlu_a", 1.0), result("mmlu_b", 0.0, 0.0, 1.0)])
    assert (found.task, found.items, found.few_shot, found.value) == ("mmlu", 4, 5, 0.5)


def test_code_that_a_model_wrote_is_stored_and_not_run(tmp_path: Path, tasks: Any) -> None:
    row = {"task_id": "HumanEval/0", "prompt": "def f():\n", "canonical_solution": "    return 1\n", "test": "1 / 0",
           "entry_point": "f"}  # fmt: skip
    write_rows(tmp_path / "humaneval/HumanEval.jsonl", [row])
    harmful = ScriptedCompleter(texts={"0.0": "    raise SystemExit\n"})
    result = run("humaneval", tasks, harmful, tmp_path, tmp_path / "out").result
    assert result.items[0].answer == "    raise SystemExit\n"
    assert result.items[0].scores == {"answered": 1.0}
    with pytest.raises(UsageError, match="no sandbox"):
        run("mbpp", tasks, harmful, tmp_path, tmp_path / "mbpp")
    with pytest.raises(UsageError, match="no task of lm-evaluation-harness"):
        run("helaswag", tasks, harmful, tmp_path, tmp_path / "helaswag")


def test_ifeval_without_nltks_sentences_ends_in_two_lines(
    sets: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr("nexus_llm.evaluate.harness.importlib.util.find_spec", lambda name: name)
    words = ["evaluate", "benchmarks", str(model), "--tasks", "ifeval", "--datasets", str(sets)]
    assert run_command([*words, "--out", str(tmp_path / "out")]) == EvaluationError.exit_code
    told = capsys.readouterr().err.splitlines()[-2:]
    assert "ifeval needs NLTK's punkt_tab, which is not on this machine" in told[0]
    assert "python -m nltk.downloader punkt_tab" in told[1]


def test_a_killed_evaluation_goes_on_behind_the_last_pass_of_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = write_tiny_model(tmp_path / "large", hidden_size=512, intermediate_size=2048, max_position_embeddings=700)
    row = {"activity_label": "fox", "ctx_b": "he", "label": "1"}
    rows = [
        row | {"ctx_a": f"{some(n, 60 + n % 9)}.", "endings": [some(n + place, 4) for place in range(4)]}
        for n in range(64)
    ]
    write_rows(tmp_path / "sets/hellaswag-val/hellaswag_val.jsonl", rows)
    words = ["evaluate", "benchmarks", str(large), "--tasks", "hellaswag", "--datasets", str(tmp_path / "sets")]
    kept = tmp_path / "killed/hellaswag/likelihoods.jsonl"
    started = [sys.executable, "-m", "nexus_llm.cli", *words, "--out", str(tmp_path / "killed")]
    with subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (kept.exists() and kept.stat().st_size) and process.poll() is None:
            time.sleep(0.005)
        process.kill()
    before = kept.read_bytes().splitlines(keepends=True)
    assert 0 < len(before) < 200  # of 256, which are looked at together
    for name in ("killed", "whole"):
        assert run_command([*words, "--out", str(tmp_path / name), "--json"]) == 0
    capsys.readouterr()
    after = kept.read_bytes().splitlines(keepends=True)
    whole = [line for line in before if line.endswith(b"\n")]
    assert (after[: len(whole)], len(after)) == (whole, 256)
    found, wanted = ((tmp_path / name / "hellaswag/items.jsonl").read_text() for name in ("killed", "whole"))
    assert found == wanted


def test_a_task_of_which_no_item_was_answered_has_a_line_that_says_why(
    sets: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    good = weights.Weights.open(model)
    shapes = {name: good.shape(name) for name in good.names}
    nan = 0x7FC0  # in bfloat16
    weights.write_bfloat16(broken / weights.SINGLE_FILE, shapes, lambda name: np.full(shapes[name], nan, np.uint16))
    words = ["evaluate", "benchmarks", str(broken), "--tasks", "winogrande", "--datasets", str(sets)]
    assert run_command([*words, "--out", str(tmp_path / "out")]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("winogrande")]
    assert line.split()[1:4] == ["5", "not", "known"]
    assert line.endswith("5 without an answer (the model predicts nan)")


def test_a_misspelt_task_is_told_what_is_near_it(tasks: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="helaswag is no task") as caught:
        tasks.load("helaswag", folder=tmp_path, few_shot=None)
    assert "hellaswag" in caught.value.fix


def test_the_command_measures_a_folder_and_goes_on_where_it_was(
    sets: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "benchmarks", str(model), "--tasks", "winogrande,mmlu", "--datasets", str(sets)]
    words += ["--out", str(tmp_path / "out"), "--json"]
    assert run_command(words) == 0
    first = capsys.readouterr().out
    found = json.loads(first)
    (task, anatomy), (mmlu,) = found["tasks"], found["groups"]
    assert (task["task"], task["items"], task["errors"]) == ("winogrande", 5, 0)
    assert (mmlu["task"], mmlu["items"], mmlu["sets"], mmlu["scores"]) == ("mmlu", 6, 1, anatomy["scores"])
    assert found["completer"]["precision"] == "float32"
    assert json.loads((tmp_path / "out/benchmarks.json").read_text(encoding="utf-8")) == found
    assert run_command(words) == 0
    assert capsys.readouterr().out == first
    assert run_command(words[:5]) == UsageError.exit_code
    assert "nobody says where the sets are" in capsys.readouterr().err

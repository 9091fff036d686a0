"""The embedded engine on a corpus of several tasks: workers, resuming, and processes that die."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexus_llm.artifacts import Artifact
from nexus_llm.data.stage import STAGE
from nexus_llm.data.workers import Workers
from nexus_llm.errors import DataError, TryAgainError
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe
from running_stages import folder_as_artifact, run_stage
from tiny_model import write_tiny_model
from worker_examples import Dies, ProcessIds, Sleeps, Squares

MEGABYTES = 12  # two tasks of the engine
WORDS = np.array([f"{stem}{number}" for stem in ("sea", "wind", "stone", "light", "road") for number in range(400)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return folder_as_artifact("model", write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """jsonl with exact and near duplicates far apart, broken lines and conversations."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(5)
    texts: list[str] = []
    with (folder / "a.jsonl").open("w") as stream:
        for number in range(MEGABYTES * 1_000_000 // 20_000):
            text = " ".join(WORDS[draw.integers(len(WORDS), size=2_700)])
            if number % 50 == 7:
                text = texts[draw.integers(len(texts))]
            elif number % 50 == 9:
                text = texts[draw.integers(len(texts))] + " and nothing more"
            texts.append(text)
            row: dict[str, Any] = {"text": text}
            if number % 50 == 11:
                row = {"prompt": text, "completion": "Yes."}
            stream.write(json.dumps(row) + "\n")
    (folder / "b.jsonl").write_text('{"broken\n{"text": "short"}\n')
    return folder


def recipe(corpus: Path, **changes: Any) -> Recipe:
    source = {"type": "files", "path": str(corpus), "name": "own", "max_broken_share": 0.5}
    return Recipe.model_validate({"name": "t", "data": {"sources": [source], "shard_tokens": 2_000_000, **changes}})


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, model: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run_stage(STAGE, recipe(corpus, workers=1), {"model": model}, tmp_path_factory.mktemp("undisturbed"))


def test_the_corpus_tries_everything(undisturbed: Artifact) -> None:
    facts = undisturbed.manifest.facts
    assert min(facts["duplicates"].values()) > 5
    assert facts["quarantined"] == 1
    assert facts["sources"]["own"]["formats"]["prompt-completion"] > 5
    assert facts["shards"]["train"] > 1


def test_three_workers_make_the_same_artifact_as_one(
    corpus: Path, model: Artifact, undisturbed: Artifact, tmp_path: Path
) -> None:
    made = run_stage(STAGE, recipe(corpus, workers=3), {"model": model}, tmp_path)
    assert made.id == undisturbed.id
    assert made.manifest.facts == undisturbed.manifest.facts


class StopAfter:
    """An `Interrupt` that asks to stop once somebody has asked so often."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def requested(self) -> str | None:
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None


@pytest.mark.parametrize("calls", [1, 3, 5, 7])
def test_a_stopped_run_goes_on_and_ends_the_same(
    corpus: Path, model: Artifact, undisturbed: Artifact, tmp_path: Path, calls: int
) -> None:
    with pytest.raises(TryAgainError, match="SIGTERM"):
        run_stage(STAGE, recipe(corpus, workers=1), {"model": model}, tmp_path, Ports(interrupt=StopAfter(calls)))
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("taken/*.json")}
    assert done
    assert not list(tmp_path.rglob("manifest.json"))
    made = run_stage(STAGE, recipe(corpus, workers=1), {"model": model}, tmp_path, Ports(interrupt=Watch(done)))
    assert made.id == undisturbed.id


class Watch:
    """Never asks to stop, and sees that finished tasks stay as they are."""

    def __init__(self, files: dict[Path, int]) -> None:
        self.files = files

    def requested(self) -> str | None:
        assert all(not path.exists() or path.stat().st_mtime_ns == time for path, time in self.files.items())
        return None


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from nexus_llm.data.stage import STAGE
from nexus_llm.recipe import Recipe
from running_stages import folder_as_artifact, run_stage

if __name__ == "__main__":
    recipe = Recipe.model_validate_json(Path({recipe!r}).read_text())
    run_stage(STAGE, recipe, {{"model": folder_as_artifact("model", Path({model!r}))}}, Path({root!r}))
"""


@pytest.mark.parametrize(
    ("moment", "spoiled"),
    [
        ("taken/0000000.json", "taken/0000000.kept.arrow"),
        ("duplicates", ""),
        ("encoded/0000000", "encoded/0000000/tokens.npy"),
        ("shards/train-00000.json", "shards/train-00000.tokens.npy"),
    ],
)
def test_a_run_killed_at_once_in_any_pass_ends_the_same_even_if_a_power_cut_spoiled_a_file(
    corpus: Path, model: Artifact, undisturbed: Artifact, tmp_path: Path, moment: str, spoiled: str
) -> None:
    wanted = recipe(corpus, workers=2)
    (tmp_path / "recipe.json").write_text(wanted.model_dump_json())
    values = {"tests": str(Path(__file__).parents[1]), "recipe": str(tmp_path / "recipe.json")}
    values |= {"model": str(model.folder), "root": str(tmp_path / "root")}
    (tmp_path / "run.py").write_text(SCRIPT.format(**values))
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py")])
    while process.poll() is None and not list((tmp_path / "root").glob(f"data/*/work/{moment}")):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it was faster than the test: the moment never came"
    if spoiled:
        (work,) = (tmp_path / "root" / "data").glob("*/work")
        path = work / spoiled
        path.write_bytes(path.read_bytes()[:-3])
    made = run_stage(STAGE, recipe(corpus, workers=1), {"model": model}, tmp_path / "root")
    assert made.id == undisturbed.id


def test_results_come_in_the_order_of_items(tmp_path: Path) -> None:
    with Workers(3, folder=tmp_path, stop_if_asked=lambda: None) as workers:
        found = workers.run_all(Squares, (), range(20))
        assert list(found) == [item * item for item in range(20)]


def test_what_an_earlier_run_finished_is_not_done_again(tmp_path: Path) -> None:
    with Workers(2, folder=tmp_path, stop_if_asked=lambda: None) as workers:
        found = workers.run_all(Squares, (), range(6), finished=lambda item: -1 if item % 2 else None)
        assert list(found) == [0, -1, 4, -1, 16, -1]


def test_the_same_processes_do_one_pass_after_the_other(tmp_path: Path) -> None:
    with Workers(2, folder=tmp_path, stop_if_asked=lambda: None) as workers:
        first = set(workers.run_all(ProcessIds, (), range(20)))
        assert list(workers.run_all(Squares, (), range(3))) == [0, 1, 4]
        assert set(workers.run_all(ProcessIds, (), range(20))) == first


def test_an_error_ends_the_processes_at_once(tmp_path: Path) -> None:
    started = time.monotonic()

    def stop() -> None:
        if time.monotonic() - started > 2:
            raise TryAgainError("stopped by SIGTERM", fix="again")

    with pytest.raises(TryAgainError), Workers(2, folder=tmp_path, stop_if_asked=stop) as workers:
        list(workers.run_all(Sleeps, (600.0,), range(2)))
    assert time.monotonic() - started < 60


def test_a_dead_worker_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="worker process of the data stage died") as caught,
        Workers(2, folder=tmp_path, stop_if_asked=lambda: None) as workers,
    ):
        list(workers.run_all(Dies, (), range(8)))
    assert "data.workers=1" in caught.value.fix


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from nexus_llm.data.workers import Workers\n"
        "class Sleeps:\n"
        "    def __call__(self, item):\n"
        f"        (Path({str(tmp_path)!r}) / f'{{os.getpid()}}.pid').touch()\n"
        "        time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        f"    with Workers(2, folder=Path({str(tmp_path)!r}), stop_if_asked=lambda: None) as workers:\n"
        "        list(workers.run_all(Sleeps, (), range(2)))\n"
    )
    process = subprocess.Popen([sys.executable, str(script)])
    while len(list(tmp_path.glob("*.pid"))) < 2:
        time.sleep(0.02)
    children = [int(path.stem) for path in tmp_path.glob("*.pid")]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]

"""The train image's other words: a stage from folders to folders, as SageMaker's processing jobs lay them out."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.artifacts import ArtifactStore, load
from nexus_llm.cli import processing_job, train_job
from nexus_llm.cloud.training_processes import TerminationNotice
from nexus_llm.errors import ArtifactError
from nexus_llm.recipe import Recipe, recipe_yaml
from tiny_model import write_tiny_model


@pytest.fixture
def opt_ml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree as a processing job finds it, with a recipe whose text lies on this machine."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(12):
        words = " ".join(f"word{number * 1_000 + place}" for place in range(60))
        (texts / f"{number:02d}.txt").write_text(words)
    source = {"type": "files", "name": "own", "path": str(texts)}
    recipe = Recipe.model_validate({"name": "demo", "data": {"sources": [source], "engine": "glue"}})
    root = tmp_path / "opt-ml"
    folder = root / "processing" / "input" / "recipe"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe_yaml(recipe))
    monkeypatch.setenv(train_job.ROOT_VARIABLE, str(root))
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return root


def give(root: Path, kind: str, **files: Any) -> Path:
    """A finished artifact in the place of an input."""
    with ArtifactStore(root / "made").draft(kind, kind, stage_version=1, recipe={}, inputs={}) as draft:
        if kind == "model":
            write_tiny_model(draft.folder)
        for name, text in files.items():
            (draft.folder / f"{name}.txt").write_text(text)
        draft.finish(facts={})
    target = root / "processing" / "input" / kind
    target.parent.mkdir(parents=True, exist_ok=True)
    (root / "made" / kind / kind).rename(target)
    return target


def test_the_data_stage_runs_on_this_machine_and_leaves_a_whole_artifact_in_its_place(opt_ml: Path) -> None:
    given = load(give(opt_ml, "model"))
    assert train_job.run(["data"]) == 0
    made = load(opt_ml / "processing" / "output" / "data")
    assert made.manifest.inputs["model"] == given.id
    assert sorted(path.name for path in (opt_ml / "processing" / "output").iterdir()) == ["data"]
    assert not list(made.folder.glob("work"))


def test_a_missing_input_is_told_in_the_exit_message(opt_ml: Path) -> None:
    give(opt_ml, "model")
    assert train_job.run(["evaluate"]) == 1
    message = (opt_ml / "output" / "message").read_text()
    assert "stage evaluate needs data" in message
    assert "fix: give the job an input named data" in message
    assert not (opt_ml / "output" / "failure").exists()


def test_an_input_that_changed_on_the_way_is_refused_and_a_training_jobs_archive_is_unpacked(opt_ml: Path) -> None:
    folder = give(opt_ml, "train", adapter="learned")
    with tarfile.open(opt_ml / "model.tar.gz", "w:gz") as tar:
        for path in folder.iterdir():
            tar.add(path, arcname=path.name)
    packed = opt_ml / "packed"
    packed.mkdir()
    (opt_ml / "model.tar.gz").rename(packed / "model.tar.gz")
    found = processing_job._given(packed, opt_ml / "scratch")
    assert found is not None
    assert found.id == load(folder).id
    (folder / "adapter.txt").write_text("changed")
    with pytest.raises(ArtifactError, match=r"adapter.txt did not arrive as it was made"):
        processing_job._given(folder, opt_ml / "scratch")


def test_an_unknown_word_is_still_refused(opt_ml: Path) -> None:
    assert train_job.run(["serve"]) == 1
    assert "was started with 'serve'" in (opt_ml / "output" / "failure").read_text()
    assert TerminationNotice().requested() is None

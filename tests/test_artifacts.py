from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.artifacts import (
    Artifact,
    ArtifactStore,
    altered_files,
    artifact_key,
    changed_fields,
    load,
    stable_hash,
)
from nexus_llm.errors import ArtifactError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def make(store: ArtifactStore, *, content: bytes = b"words", inputs: dict[str, str] | None = None) -> Artifact:
    with store.draft("data", "k1", stage_version=1, recipe={"a": 1}, inputs=inputs or {}) as draft:
        (draft.folder / "a.txt").write_bytes(content)
        (draft.folder / "log.jsonl").write_text("took 3 s")
        draft.work.mkdir(exist_ok=True)
        (draft.work / "scratch").write_text("x")
        return draft.finish(facts={"documents": 1}, logs=("log.jsonl",))


def test_a_finished_artifact_reads_back_as_it_was_made(tmp_path: Path) -> None:
    made = make(ArtifactStore(tmp_path))
    assert load(made.folder) == made
    assert not (made.folder / "work").exists()
    assert [entry.path for entry in made.manifest.files] == ["a.txt"]


def test_the_id_depends_on_content_and_not_on_logs(tmp_path: Path) -> None:
    first = make(ArtifactStore(tmp_path / "1"))
    (first.folder / "log.jsonl").write_text("took 4 s")
    assert make(ArtifactStore(tmp_path / "2")).id == first.id
    assert make(ArtifactStore(tmp_path / "3"), content=b"other").id != first.id
    assert altered_files(first) == []


def test_a_stage_that_crashes_leaves_no_artifact_but_its_work(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with (
        pytest.raises(RuntimeError),
        store.draft("train", "k", stage_version=1, recipe={}, inputs={"data": "1"}) as one,
    ):
        (one.work / "checkpoint").write_text("half")
        (one.folder / "half.bin").write_text("half")
        raise RuntimeError
    assert store.find("train", "k") is None
    with store.draft("train", "k", stage_version=1, recipe={}, inputs={"data": "1"}) as again:
        assert (again.work / "checkpoint").read_text() == "half"
        assert not (again.folder / "half.bin").exists()


def test_work_of_other_inputs_is_not_continued(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with store.draft("train", "k", stage_version=1, recipe={}, inputs={"data": "1"}) as one:
        (one.work / "checkpoint").write_text("of data 1")
    with store.draft("train", "k", stage_version=1, recipe={}, inputs={"data": "2"}) as other:
        assert not (other.work / "checkpoint").exists()


def test_an_altered_file_or_other_inputs_mean_that_it_is_made_again(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    made = make(store, inputs={"model": "m1"})
    assert store.find("data", "k1", inputs={"model": "m1"}) == made
    assert store.find("data", "k1", inputs={"model": "m2"}) is None
    (made.folder / "a.txt").write_bytes(b"w0rds")
    assert altered_files(made) == ["a.txt"]
    assert store.find("data", "k1", inputs={"model": "m1"}) is None


def test_two_makers_of_one_artifact_do_not_meet(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with (
        store.draft("data", "k", stage_version=1, recipe={}, inputs={}),
        pytest.raises(ArtifactError, match="another process"),
        store.draft("data", "k", stage_version=1, recipe={}, inputs={}),
    ):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"files": [{"nope": 1}]})])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load(tmp_path)


def test_a_folder_without_manifest_never_happened(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="did not finish"):
        load(tmp_path)


@given(value=JSON)
def test_the_hash_of_a_value_survives_a_round_trip(value: object) -> None:
    assert stable_hash(json.loads(json.dumps(value))) == stable_hash(value)


def test_the_key_depends_on_each_of_its_parts() -> None:
    base = {"stage_version": 1, "recipe": {"a": 1}, "inputs": {"model": "m"}}
    keys = {
        artifact_key("data", **base),  # type: ignore[arg-type]
        artifact_key("train", **base),  # type: ignore[arg-type]
        artifact_key("data", **{**base, "stage_version": 2}),  # type: ignore[arg-type]
        artifact_key("data", **{**base, "recipe": {"a": 2}}),  # type: ignore[arg-type]
        artifact_key("data", **{**base, "inputs": {"model": "n"}}),  # type: ignore[arg-type]
    }
    assert len(keys) == 5


def test_values_without_stable_identity_are_refused() -> None:
    with pytest.raises(TypeError):
        stable_hash({"f": object()})


@given(value=JSON)
def test_nothing_differs_from_itself(value: object) -> None:
    assert changed_fields(value, value) == []

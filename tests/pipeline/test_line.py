from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.artifacts import Artifact, Draft, Estimate, Stage
from nexus_llm.errors import ArtifactError, DataError, UsageError
from nexus_llm.pipeline import Workspace, execute, plan, stages
from nexus_llm.pipeline.lineage import differences, find_artifact, lineage
from nexus_llm.ports import Ports
from nexus_llm.recipe import Recipe

PORTS = Ports()


def stage(kind: str, needs: tuple[str, ...], *, calls: list[str], outside: dict[str, str] | None = None) -> Stage:
    """A stage that writes its inputs' ids and the seed into one file."""

    def run(recipe: Recipe, inputs: Mapping[str, Artifact], draft: Draft, ports: Ports) -> Artifact:
        calls.append(kind)
        if recipe.seed == 666 and kind == "train":
            raise DataError("no", fix="yes")
        parents = ",".join(inputs[name].id for name in needs)
        (draft.folder / "out.txt").write_text(f"{parents} {recipe.seed if kind != 'data' else ''}")
        return draft.finish(facts={"gate": {"verdict": "pass", "comparisons": []}, "seed": recipe.seed})

    return Stage(
        kind=kind,
        version=1,
        needs=needs,
        recipe_part=lambda recipe: {} if kind == "data" else {"seed": recipe.seed},
        outside_inputs=lambda recipe, ports: outside or {},
        run=run,
        estimate=lambda recipe: Estimate(60, 2**30),
    )


def line(calls: list[str], source: str = "sha256:aa") -> tuple[Stage, ...]:
    return (
        stage("data", (), calls=calls, outside={"words.txt": source}),
        stage("train", ("data",), calls=calls),
        stage("evaluate", ("data", "train"), calls=calls),
    )


def run(root: Path, *, calls: list[str], name: str = "r", seed: int = 1, source: str = "sha256:aa") -> Any:
    place = Workspace(root=root, cache=root / "cache")
    return execute(Recipe(name=name, seed=seed), place, PORTS, line=line(calls, source), provenance={})


def test_the_plan_knows_every_key_before_anything_is_made(tmp_path: Path) -> None:
    place = Workspace(root=tmp_path, cache=tmp_path / "cache")
    planned = plan(Recipe(name="r", seed=1), place, PORTS, line=line([]))
    assert [step.artifact for step in planned] == [None, None, None]
    assert list(tmp_path.iterdir()) == []
    made = run(tmp_path, calls=[])
    assert [step.key for step in planned] == [row.key for row in made.stages]


def test_a_second_run_makes_nothing(tmp_path: Path) -> None:
    calls: list[str] = []
    first = run(tmp_path, calls=calls)
    second = run(tmp_path, calls=calls)
    assert calls == ["data", "train", "evaluate"]
    assert [row.skipped for row in second.stages] == [True, True, True]
    assert [row.id for row in second.stages] == [row.id for row in first.stages]


def test_only_what_a_changed_field_reaches_is_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    run(tmp_path, calls=calls)
    run(tmp_path, calls=calls, seed=2)
    assert calls == ["data", "train", "evaluate", "train", "evaluate"]


def test_a_changed_source_file_reaches_everything(tmp_path: Path) -> None:
    calls: list[str] = []
    run(tmp_path, calls=calls)
    run(tmp_path, calls=calls, source="sha256:bb")
    assert len(calls) == 6


def test_an_altered_artifact_and_what_depends_on_it_are_checked_again(tmp_path: Path) -> None:
    calls: list[str] = []
    first = run(tmp_path, calls=calls)
    (Path(first.stages[0].path) / "out.txt").write_text("tampered")
    second = run(tmp_path, calls=calls)
    assert calls == ["data", "train", "evaluate", "data"]  # the same bytes came out again: the rest still fits
    assert [row.id for row in second.stages] == [row.id for row in first.stages]


def test_a_failed_stage_keeps_what_was_finished_before_it(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(DataError):
        run(tmp_path, calls=calls, seed=666)
    assert list(json.loads((tmp_path / "runs/r/artifacts.json").read_text())) == ["data"]
    with pytest.raises(DataError):
        run(tmp_path, calls=calls, seed=666)
    assert calls == ["data", "train", "train"]


def test_the_run_folder_tells_what_was_made(tmp_path: Path) -> None:
    made = run(tmp_path, calls=[])
    rows = json.loads((tmp_path / "runs/r/artifacts.json").read_text())
    assert {name: row["id"] for name, row in rows.items()} == {row.stage: row.id for row in made.stages}
    events = [json.loads(text) for text in (tmp_path / "runs/r/events.jsonl").read_text().splitlines()]
    assert [event["stage"] for event in events] == ["data", "train", "evaluate"]
    assert "seed: 1" in (tmp_path / "runs/r/recipe.resolved.yaml").read_text()


def test_running_an_early_stage_again_does_not_unmake_the_later_ones(tmp_path: Path) -> None:
    run(tmp_path, calls=[])
    place = Workspace(root=tmp_path, cache=tmp_path / "cache")
    for seed, stages_run, kept in ((1, 2, ["data", "train", "evaluate"]), (2, 1, ["data"])):
        execute(Recipe(name="r", seed=seed), place, PORTS, line=line([])[:stages_run], provenance={})
        assert list(json.loads((tmp_path / "runs/r/artifacts.json").read_text())) == kept


def test_lineage_leads_back_to_the_source_file(tmp_path: Path) -> None:
    made = run(tmp_path, calls=[])
    place = Workspace(root=tmp_path, cache=tmp_path / "cache")
    rows = lineage(find_artifact("r", place), place)
    assert [row.kind for row in rows] == ["evaluate", "data", "file", "train", "data"]
    assert rows[2].id == "sha256:aa"
    for name in (made.stages[1].id[:6], f"train/{made.stages[1].key}", made.stages[1].path):
        assert find_artifact(name, place).kind == "train"


def test_an_unknown_artifact_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact here"):
        find_artifact("ffff0000", Workspace(root=tmp_path, cache=tmp_path / "cache"))


def test_a_difference_is_named_by_the_field_that_caused_it(tmp_path: Path) -> None:
    run(tmp_path, calls=[], name="one", seed=1)
    run(tmp_path, calls=[], name="two", seed=2, source="sha256:bb")
    place = Workspace(root=tmp_path, cache=tmp_path / "cache")
    rows = differences(find_artifact("one", place), find_artifact("two", place), place)
    named = {(row.artifact, row.field, row.before, row.after) for row in rows}
    assert ("data", "inputs.words.txt", "sha256:aa", "sha256:bb") in named
    assert ("train", "recipe.seed", 1, 2) in named


def test_runs_without_a_difference_have_none(tmp_path: Path) -> None:
    run(tmp_path, calls=[], name="one")
    run(tmp_path, calls=[], name="two")
    place = Workspace(root=tmp_path, cache=tmp_path / "cache")
    assert differences(find_artifact("one", place), find_artifact("two", place), place) == []


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(UsageError, match="trian is not a stage"):
        stages(until="trian")
    assert [one.kind for one in stages(until="train")] == ["model", "data", "train"]

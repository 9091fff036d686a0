"""Conversations for a model that has no chat template: said at once where nothing else is there, else counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.artifacts import Artifact
from nexus_llm.data.stage import STAGE
from nexus_llm.errors import ModelError
from nexus_llm.recipe import Recipe
from running_stages import folder_as_artifact, run_stage
from tiny_model import write_tiny_model

PROSE = "The harbour was quiet in the morning, and the boats lay still on the water. "
TALKS = [{"prompt": f"Question {number}? {PROSE * 3}", "completion": f"{number} {PROSE}"} for number in range(9)]


def recipe_for(path: Path, **changes: Any) -> Recipe:
    source = {"type": "files", "path": str(path), "name": "own", **changes.pop("source", {})}
    return Recipe.model_validate({"name": "t", "data": {"sources": [source], **changes}})


@pytest.fixture
def bare_model(tmp_path: Path) -> Artifact:
    """A base model: no chat template."""
    folder = write_tiny_model(tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    return folder_as_artifact("model", folder)


def write_lines(path: Path, content: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content))
    return path


def test_conversations_for_a_model_without_template_are_refused_with_what_is_missing(
    bare_model: Artifact, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "a.jsonl", TALKS)
    with pytest.raises(ModelError, match="this model has no chat template") as caught:
        run_stage(STAGE, recipe_for(path), {"model": bare_model}, tmp_path / "made")
    assert "use an instruct model" in caught.value.fix


def test_where_the_recipe_pins_the_layout_nothing_is_read_before_that_is_said(
    bare_model: Artifact, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["{broken"] * 9)  # reading it would be another error
    recipe = recipe_for(path, source={"chat_format": "messages"})
    with pytest.raises(ModelError, match="this model has no chat template"):
        run_stage(STAGE, recipe, {"model": bare_model}, tmp_path / "made")


def test_mixed_data_for_a_model_without_template_keep_counting(bare_model: Artifact, tmp_path: Path) -> None:
    texts = [{"text": f"{word} " * 60 + PROSE * 3} for word in ("bread", "rain", "boats", "maps", "bees", "glass")]
    path = write_lines(tmp_path / "a.jsonl", [*TALKS, *texts])
    recipe = recipe_for(path, near_duplicates={"keep": "all"}, quality={"families": []})
    made = run_stage(STAGE, recipe, {"model": bare_model}, tmp_path / "made")
    assert made.manifest.facts["rejected"] == {"chat_template": 9}
    assert made.manifest.facts["kept"] == 6

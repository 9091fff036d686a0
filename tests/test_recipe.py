from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nexus_llm.errors import RecipeError
from nexus_llm.recipe import Recipe, load_recipe, recipe_yaml

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_survives_a_round_trip(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert Recipe.model_validate(yaml.safe_load(recipe_yaml(recipe))) == recipe


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("name: q\ntrain:\n  learnig_rate: 1\n", "r.yaml:3: train.learnig_rate is not a key of train", "learning_rate"),
        ("name: q\ntrian: {}\n", "r.yaml:2: trian is not a key of a recipe", "did you mean train?"),
        ("name: q\nxyzzy: {}\n", "r.yaml:2: xyzzy is not a key", "a recipe has: name, seed, model"),
        ("name: q\ntrain:\n  max_steps: many\n", "r.yaml:3: train.max_steps is 'many'", "valid integer"),
        ("name: q\ntrain:\n  max_steps: 0\n", "r.yaml:3: train.max_steps is 0", "greater than or equal to 1"),
        (
            "name: q\ntrain:\n  method: magic\n",
            "r.yaml:3: train.method is 'magic'",
            "'lora', 'dora', 'qlora' or 'full'",
        ),
        ("seed: 1\n", "name is missing", "add `name: …`"),
        (
            "name: q\ndata:\n  sources:\n    - type: files\n",
            "r.yaml:4: data.sources.0.path is missing",
            "add `path: …`",
        ),
        ("name: q\ndata:\n  sources:\n    - type: files\n      paht: x\n", "data.sources.0.path", "add"),
        ("name: q\ndata:\n  sources:\n    - type: fils\n      path: x\n", "r.yaml:4: data.sources.0", "python-docs"),
        ("name: q\ndata:\n  sources: []\n", "r.yaml:3: data.sources", "at least 1 item"),
        ("name: Not Good\n", "r.yaml:1: name is 'Not Good'", "match pattern"),
        ("name: q\nname: p\n", "r.yaml:2: name is written twice", "keep one"),
        ("name: [\n", "r.yaml:2", "mend the YAML"),
        ("- a\n", "a recipe is a mapping", "nexus recipe new"),
        ("", "this is empty", "nexus recipe new"),
        (
            "name: q\ndata:\n  split: {validation_share: 0.6, test_share: 0.5}\n",
            "leaves nothing to train on",
            "below 1",
        ),
    ],
)
def test_a_wrong_recipe_is_answered_with_its_line_and_the_fix(tmp_path: Path, text: str, what: str, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert what in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.exit_code == 2


def test_an_absent_or_binary_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no\.yaml cannot be read"):
        load_recipe(tmp_path / "no.yaml")
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"bin\.yaml cannot be read"):
        load_recipe(tmp_path / "bin.yaml")


def test_overrides_win_over_the_file_and_reach_into_lists(tmp_path: Path) -> None:
    path = write(tmp_path, "name: q\ndata:\n  sources:\n    - {type: files, path: here}\n")
    recipe = load_recipe(
        path, overrides=("train.learning_rate=1e-3", "data.sources.0.path=there", "evaluate.general_path=null")
    )
    assert recipe.train.learning_rate == 1e-3
    assert recipe.data.sources[0].path == "there"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.max_steps", "not of the form"),
        ("train.max_stps=3", "--set train.max_stps=3: train.max_stps is not a key of train"),
        ("data.sources.7.path=x", "'7' is not one of the 1 positions"),
        ("name.first=x", "name is a single value"),
        ("train.max_steps=[", "the value is not YAML"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(tmp_path: Path, override: str, what: str) -> None:
    path = write(tmp_path, "name: q\ndata:\n  sources:\n    - {type: python-docs}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides=(override,))
    assert what in caught.value.what


def test_every_field_of_a_recipe_says_what_it_is_for_or_speaks_for_itself() -> None:
    schema = Recipe.model_json_schema()
    undocumented = [name for name, section in schema["$defs"].items() if not section.get("description")]
    assert undocumented == []

"""`nexus recipe new|check|schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, Overrides, RecipePath

_TEMPLATE = """\
# A recipe for Nexus LLM. Every field and its default: nexus recipe schema
name: {name}

model:
  base: smollm2-135m-instruct   # or hf:ORG/NAME, a local folder, a GGUF file

data:
  sources:
    - type: files
      path: {path}              # jsonl, jsonl.gz, jsonl.zst, parquet, txt, md; a folder is searched at any depth

train:
  method: lora                  # or full
  max_steps: 100
"""
group = typer.Typer(help="Write, check and describe recipes.", rich_markup_mode=None)


@group.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the run.")],
    text: Annotated[str, typer.Option("--text", help="Folder or files with your text.", metavar="PATH")] = "my-text/",
    folder: Annotated[Path, typer.Option("--folder", help="Where to put it.")] = Path("recipes"),
) -> int:
    """Start a recipe: writes recipes/NAME.yaml."""
    from nexus_llm.errors import UsageError
    from nexus_llm.recipe import load_recipe
    from nexus_llm.storage import write_atomically

    target = folder / f"{name}.yaml"
    if target.exists():
        raise UsageError(f"{target} exists already", fix="choose another name, or delete it first")
    write_atomically(target, _TEMPLATE.format(name=name, path=text).encode())
    try:
        load_recipe(target)
    except Exception:
        target.unlink()
        raise
    print(f"{target}\nnext: nexus run {target} --dry-run")
    return 0


@group.command()
def check(recipe: RecipePath, overrides: Overrides = [], as_json: AsJson = False) -> int:  # noqa: B006
    """Validate a recipe; exit 2 with file:line and the nearest right key where it is wrong."""
    from nexus_llm.recipe import load_recipe

    loaded = load_recipe(recipe, overrides=tuple(overrides))
    if as_json:
        print_json(loaded.model_dump(mode="json"))
    else:
        print(f"{recipe} is a valid recipe: {loaded.name}")
    return 0


@group.command()
def schema() -> int:
    """The JSON Schema of recipes, for editors: every field with its bounds, default and reason."""
    from nexus_llm.recipe import Recipe

    print_json(Recipe.model_json_schema())
    return 0

"""What the pages say is true of this tree: commands, recipes, code, links, error texts, generated pages."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from documented_commands import blocks, commands, console_commands, objection, unknown_word
from nexus_llm import errors
from nexus_llm.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("infra/*.md"))]
GENERATED = ("reference-cli.md", "reference-recipe.md", "data-rules.md")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_of_a_page_is_taken_by_the_command_line(page: Path) -> None:
    shown = [text for _, text in blocks(page, "bash")]
    shown += [console_commands(text) for _, text in blocks(page, "console")]
    assert [said for text in shown for words in commands(text, "nexus") if (said := objection(words))] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_in_a_sentence_has_verbs_and_options_that_exist(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$|<!--.*?-->", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`(nexus [^`]+)`", prose)
    unknown = {text: word for text in inline if (word := unknown_word(shlex.split(text.replace("\n", " "))))}
    assert unknown == {}


def test_the_pages_show_commands_at_all() -> None:
    assert sum(1 for page in PAGES for _, text in blocks(page, "bash") for _ in commands(text, "nexus")) > 100


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_example_is_well_formed(page: Path, tmp_path: Path) -> None:
    for line, text in blocks(page, "python"):
        ast.parse(text, filename=f"{page.name}:{line}")
    for _line, text in blocks(page, "json"):
        json.loads(text)
    for line, text in blocks(page, "bash"):
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"{page.name}:{line}: {done.stderr}"
    for line, text in blocks(page, "yaml"):
        document = yaml.safe_load(text)
        if set(document) <= set(Recipe.model_fields):
            path = tmp_path / f"line-{line}.yaml"
            path.write_text(text if "name" in document else f"name: page\n{text}")
            load_recipe(path)
        else:
            assert "task" in document, f"{page.name}:{line} is neither a recipe nor a task"


def test_every_make_word_that_a_page_shows_exists() -> None:
    words = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        shown = [word for _, text in blocks(page, "bash") for word in commands(text, "make")]
        shown += [shlex.split(text) for text in re.findall(r"`(make [^`]+)`", page.read_text())]
        used = {word for line in shown for word in line[1:] if re.fullmatch(r"[a-z][a-z-]*", word)}
        assert used <= words, page


def test_the_layers_that_the_architecture_draws_are_those_that_are_checked() -> None:
    drawn = (DOCS / "architecture.md").read_text().partition("## Layers\n\n```\n")[2].partition("```")[0]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (checked,) = [one["layers"] for one in contracts if one["type"] == "layers"]
    rows = [line.partition("(")[0] for line in drawn.splitlines()]
    assert [set(re.findall(r"\w+", row)) for row in rows] == [set(re.findall(r"\w+", row)) for row in checked]


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "benchmarks" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_current() -> None:
    made = reference().pages()
    assert tuple(made) == GENERATED
    for page, text in made.items():
        assert (DOCS / page).read_text() == text, f"docs/{page} is out of date: make reference"


def test_the_recipe_page_names_every_field() -> None:
    fields = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "reference-recipe.md").read_text(), re.MULTILINE))
    schema: dict[str, Any] = Recipe.model_json_schema()
    assert fields == {key for part in (schema, *schema["$defs"].values()) for key in part.get("properties", ())}


def test_troubleshooting_quotes_what_the_code_says_and_names_every_error() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    kinds = {one.__name__: one.exit_code for one in vars(errors).values() if isinstance(one, type)}
    rows = {
        int(code): set(re.findall(r"`(\w+Error)`", row)) for code, row in re.findall(r"^\| (\d+) \|(.*)$", page, re.M)
    }
    assert {kind: code for code, names in rows.items() for kind in names} == kinds
    source = "".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.py")))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    quoted = re.findall(r"^### .*?`(.+?)`", page, re.M) + re.findall(r"^\| `([^`]+)`", page, re.M)
    quoted = [text for text in quoted if not text.endswith("Error")]
    assert len(quoted) > 50
    assert [text for text in quoted for part in text.split("…") if part.strip() not in source] == []


def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    """Links, anchors, and that each page is in the navigation."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install -e '.[docs]'")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "site" / "index.html").read_text()
    assert not re.search(r'(?:src|href)="https?://(?!squidfunk)[^"]*\.(?:js|css|woff2)', text), "a file of another host"
    shutil.rmtree(tmp_path / "site")

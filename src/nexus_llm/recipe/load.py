"""One YAML file, plus `--set a.b=c`, becomes one frozen, validated Recipe, or two lines that say what to mend."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nexus_llm.errors import RecipeError
from nexus_llm.recipe.schema import FilesSource, PythonDocsSource, Recipe


def load_recipe(path: Path, *, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe in a YAML file, with `a.b=c` overrides applied in order.

    Raises:
        RecipeError: the file is absent or no YAML, or a key, type or value is wrong; names `file:line` and the
            nearest right key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error})",
            fix="check the path, or start one with: nexus recipe new NAME",
        ) from error
    values, lines = _parse(text, path)
    return _validated(values, lines, path, overrides)


def default_recipe(name: str, *, overrides: tuple[str, ...] = ()) -> Recipe:
    """A recipe with every field at its default but for the overrides.

    Raises:
        RecipeError: an override's key, type or value is wrong.
    """
    return _validated({"name": name}, {}, Path("the default recipe"), overrides)


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every field, in the order of this file."""
    dumped: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
    return dumped


def _validated(values: dict[str, Any], lines: dict[str, str], path: Path, overrides: tuple[str, ...]) -> Recipe:
    for override in overrides:
        dotted = _apply_override(values, override)
        lines[dotted] = f"--set {override}"
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _explain(error.errors()[0], values, lines, path) from error


def _parse(text: str, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The YAML's values, and the place (`file:line`) of each dotted key."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "not YAML"
        raise RecipeError(f"{place}: {problem}", fix="mend the YAML at that line (indentation, quotes)") from error
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping of keys, this is {_kind(values)}", fix="nexus recipe new NAME"
        )
    lines: dict[str, str] = {}
    _collect_lines(node, "", path, lines)
    return values, lines


def _collect_lines(node: yaml.Node | None, prefix: str, path: Path, lines: dict[str, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            dotted = f"{prefix}.{key.value}" if prefix else str(key.value)
            place = f"{path}:{key.start_mark.line + 1}"
            if key.value in seen:
                raise RecipeError(f"{place}: {dotted} is written twice", fix="keep one of the two lines")
            seen.add(key.value)
            lines[dotted] = place
            _collect_lines(value, dotted, path, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[f"{prefix}.{index}"] = f"{path}:{value.start_mark.line + 1}"
            _collect_lines(value, f"{prefix}.{index}", path, lines)


def _apply_override(values: dict[str, Any], override: str) -> str:
    """Sets one `a.b=c` in place and returns its dotted key. The value is read as YAML."""
    dotted, equals, raw = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"--set {override} is not of the form a.b=c", fix="for example: --set train.max_steps=50")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not YAML", fix="quote it") from error
    current: Any = values
    *parents, last = dotted.split(".")
    for part in parents:
        current = _child(current, part, override)
    if isinstance(current, list):
        current[_index(current, last, override)] = value
    else:
        current[last] = value
    return dotted


def _child(container: Any, part: str, override: str) -> Any:
    if isinstance(container, list):
        return container[_index(container, part, override)]
    child = container.setdefault(part, {})
    if not isinstance(child, dict | list):
        raise RecipeError(f"--set {override}: {part} is a single value, it has no parts", fix="shorten the dotted key")
    return child


def _index(container: list[Any], part: str, override: str) -> int:
    if part.isdecimal() and int(part) < len(container):
        return int(part)
    raise RecipeError(
        f"--set {override}: {part!r} is not one of the {len(container)} positions of that list",
        fix=f"use a number from 0 to {len(container) - 1}, or change the recipe file",
    )


def _explain(error: ErrorDetails, values: dict[str, Any], lines: dict[str, str], path: Path) -> RecipeError:
    """One error of pydantic in two lines that a user can act on."""
    keys = [str(part) for part in error["loc"]]
    if keys[:2] == ["data", "sources"]:
        del keys[3:4]  # pydantic puts the union's tag ("files") there, which is no key of the file
    dotted = ".".join(keys)
    place = next((lines[".".join(keys[:n])] for n in range(len(keys), 0, -1) if ".".join(keys[:n]) in lines), str(path))
    if error["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1], values)
        near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        parent = ".".join(keys[:-1]) or "a recipe"
        fix = f"did you mean {near[0]}?" if near else f"{parent} has: {', '.join(known)}"
        return RecipeError(f"{place}: {dotted} is not a key of {parent}", fix=fix)
    if error["type"] == "missing":
        return RecipeError(f"{place}: {dotted} is missing", fix=f"add `{keys[-1]}: …` there")
    if error["type"] == "value_error":
        what, _, fix = str(error["msg"]).removeprefix("Value error, ").partition(": ")
        return RecipeError(f"{place}: {what}", fix=fix)
    given = error["input"]
    shown = f"{dotted} is {given!r}" if not isinstance(given, dict | list) else f"{dotted} does not fit"
    return RecipeError(f"{place}: {shown}", fix=f"{_lower(error['msg'])} (see: nexus recipe schema)")


def _known_keys(parents: list[str], values: dict[str, Any]) -> list[str]:
    """Keys of the section at a dotted place, in order."""
    section: Any = Recipe
    current: Any = values
    for part in parents:
        current = current[int(part)] if isinstance(current, list) else current.get(part, {})
        if part.isdecimal():
            section = PythonDocsSource if current.get("type") == "python-docs" else FilesSource
        elif hasattr(section.model_fields[part].annotation, "model_fields"):
            section = section.model_fields[part].annotation
    return list(section.model_fields)


def _kind(value: object) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]

"""One YAML file, plus `--set a.b=c`, becomes one frozen, validated Recipe, or two lines that say what to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nexus_llm.errors import RecipeError
from nexus_llm.recipe.schema import Recipe
from nexus_llm.recipe.section import Section

AnySection = TypeVar("AnySection", bound=Section)


def load_recipe(path: Path, *, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe in a YAML file, with `a.b=c` overrides applied in order.

    Raises:
        RecipeError: the file is absent or no YAML, or a key, type or value is wrong; names `file:line` and the
            nearest right key.
    """
    values, lines = _parse(path, "a recipe", fix="nexus recipe new NAME")
    for override in overrides:
        lines[_apply_override(values, override)] = f"--set {override}"
    return _validated(Recipe, values, lines, path)


def load_section(path: Path, kind: type[AnySection], *, what: str, fix: str) -> tuple[AnySection, dict[str, str]]:
    """A YAML file that is no recipe as a `kind`, and the place (`file:line`) of each of its dotted keys.

    `what` it is (`a task`) and how to `fix` an absent or empty one stand in the errors.

    Raises:
        RecipeError: as of `load_recipe`.
    """
    values, lines = _parse(path, what, fix=fix)
    return _validated(kind, values, lines, path), lines


def default_recipe(name: str, *, overrides: tuple[str, ...] = ()) -> Recipe:
    """A recipe with every field at its default but for the overrides.

    Raises:
        RecipeError: an override's key, type or value is wrong.
    """
    values: dict[str, Any] = {"name": name}
    lines = {_apply_override(values, override): f"--set {override}" for override in overrides}
    return _validated(Recipe, values, lines, Path("the default recipe"))


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every field, in the order of this file."""
    dumped: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
    return dumped


def _validated(kind: type[AnySection], values: dict[str, Any], lines: dict[str, str], path: Path) -> AnySection:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(error.errors()[0], kind, values, lines, path) from error


def _parse(path: Path, what: str, *, fix: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The YAML's values, and the place (`file:line`) of each dotted key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(
            f"{path} cannot be read ({reason})", fix=f"check the path, or start one with: {fix}"
        ) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "not YAML"
        raise RecipeError(f"{place}: {problem}", fix="mend the YAML at that line (indentation, quotes)") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: {what} is a mapping of keys, this is {_kind(values)}", fix=fix)
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


def _explain(
    error: ErrorDetails, kind: type[Section], values: dict[str, Any], lines: dict[str, str], path: Path
) -> RecipeError:
    """One error of pydantic in two lines that a user can act on."""
    keys = _keys_of_the_file(error["loc"], values)
    dotted = ".".join(keys)
    place = next((lines[".".join(keys[:n])] for n in range(len(keys), 0, -1) if ".".join(keys[:n]) in lines), str(path))
    if error["type"] == "extra_forbidden":
        known = _known_keys(kind, keys[:-1], values)
        near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        parent = ".".join(keys[:-1]) or ("a recipe" if kind is Recipe else "this file")
        fix = f"did you mean {near[0]}?" if near else f"{parent} has: {', '.join(known)}"
        return RecipeError(f"{place}: {dotted} is not a key of {parent}", fix=fix)
    if error["type"] == "missing":
        return RecipeError(f"{place}: {dotted} is missing", fix=f"add `{keys[-1]}: …` there")
    if error["type"] == "value_error":
        what, _, fix = str(error["msg"]).removeprefix("Value error, ").partition(": ")
        return RecipeError(f"{place}: {what}", fix=fix)
    if error["type"] == "union_tag_invalid":
        tag, known = error["ctx"]["tag"], [one.strip("' ") for one in error["ctx"]["expected_tags"].split(",")]
        near = difflib.get_close_matches(tag, known, n=1, cutoff=0.5)
        fix = f"{f'did you mean {near[0]}? ' if near else ''}one of: {', '.join(known)}"
        return RecipeError(f"{lines.get(f'{dotted}.type', place)}: {dotted}.type is {tag!r}", fix=fix)
    given = error["input"]
    shown = f"{dotted} is {given!r}" if not isinstance(given, dict | list) else f"{dotted} does not fit"
    hint = " (see: nexus recipe schema)" if kind is Recipe else ""
    return RecipeError(f"{place}: {shown}", fix=f"{_lower(error['msg'])}{hint}")


def _keys_of_the_file(location: tuple[int | str, ...], values: Any) -> list[str]:
    """Pydantic's location without the tags of unions (`files` of a source), which are no keys of the file."""
    keys: list[str] = []
    current = values
    for part in location:
        if isinstance(current, dict) and part not in current and part == current.get("type"):
            continue
        keys.append(str(part))
        try:
            current = current[part]
        except (KeyError, IndexError, TypeError):
            current = None
    return keys


def _known_keys(kind: type[Section], parents: list[str], values: dict[str, Any]) -> list[str]:
    """Keys of the section at a dotted place, in order."""
    section: type[Section] = kind
    current: Any = values
    annotation: Any = kind
    for part in parents:
        if isinstance(current, list):
            current = current[int(part)]
        else:
            if part in section.model_fields:  # else a name that the user chose, as in `gate.tasks`
                annotation = section.model_fields[part].annotation
            current = current.get(part, {})
        tag = current.get("type") if isinstance(current, dict) else None
        found = list(_sections(annotation))
        section = next((one for one in found if tag in _tags(one)), found[0] if found else section)
    return [field.alias or name for name, field in section.model_fields.items()]


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _tags(section: type[Section]) -> tuple[Any, ...]:
    field = section.model_fields.get("type")
    return get_args(field.annotation) if field else ()


def _kind(value: object) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]

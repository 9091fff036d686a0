"""Writes docs/reference-cli.md, reference-recipe.md and data-rules.md, from the code: `make reference`.

A test compares the pages with what this makes, so that none can fall behind the code.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

DOCS = Path(__file__).parent.parent / "docs"
CLI_HEAD = """\
# Command line

Generated from the commands by `make reference`; do not edit.

`--json` prints one document on stdout and nothing else there; prose and progress go to stderr. Exit codes:
[troubleshooting](troubleshooting.md). `nexus` without an installation on the PATH: `python -m nexus_llm.cli`.
"""
RECIPE_HEAD = """\
# Recipe

Generated from the schema by `make reference`; do not edit. `nexus recipe schema` prints it as JSON Schema for editors,
`nexus recipe check RECIPE` says what is wrong with a recipe, with its line. Any field can be set from the command line:
`--set train.max_steps=50`.

Only `name` is required. A key that is not listed here is refused.
"""


def main() -> None:
    """Writes the pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """File name below docs/ → its text."""
    import typer.main

    from nexus_llm.cli import app
    from nexus_llm.recipe import Recipe

    commands = "\n".join(_command_lines(typer.main.get_command(app), ("nexus",)))
    schema = Recipe.model_json_schema()
    fields = "\n".join(_section_lines(schema, "", schema["$defs"]))
    return {
        "reference-cli.md": f"{CLI_HEAD}\n{commands}",
        "reference-recipe.md": f"{RECIPE_HEAD}\n{fields}",
        "data-rules.md": _rules_page(),
    }


def _command_lines(group: Any, path: tuple[str, ...]) -> Iterator[str]:
    """The commands below a group, depth first: those of `nexus` are `##`, those below a verb `###`."""
    for name, command in group.commands.items():
        here = path if name == "RECIPE" else (*path, name)  # `nexus data RECIPE`: the verb that is a group as well
        said = inspect.cleandoc(command.help or command.callback.__doc__ or "")
        if name != "RECIPE":
            yield from (f"{'#' * len(here)} {' '.join(here)}", "", said, "")
        if hasattr(command, "commands"):
            yield from _command_lines(command, here)
            continue
        hints = get_type_hints(command.callback)
        shown = [one for one in command.params if "--help" not in one.opts]
        arguments = [one for one in shown if one.param_type_name == "argument"]
        yield from ("```text", " ".join([*here, *map(_argument_word, arguments), "[OPTIONS]"]), "```", "")
        if shown:
            rows = [_parameter_row(one, hints.get(one.name)) for one in shown]
            yield from ("| | default | |", "|---|---|---|", *rows, "")


def _argument_word(argument: Any) -> str:
    word = f"{(argument.metavar or argument.name.upper()).strip('[]')}{'…' if argument.nargs == -1 else ''}"
    return word if argument.required else f"[{word}]"


def _parameter_row(parameter: Any, hint: Any) -> str:
    """One line of a command's table."""
    if parameter.param_type_name == "argument":
        name = f"`{_argument_word(parameter)}`"
    else:
        value = "" if parameter.is_flag else f" {parameter.metavar or _value_word(hint)}"
        name = ", ".join(f"`{one}{value}`" for one in (*parameter.opts, *parameter.secondary_opts))
    said = _cell(parameter.help or "")
    if parameter.envvar:
        said += f" `${parameter.envvar}` where it is not given."
    return f"| {name} | {_parameter_default(parameter)} | {said} |"


def _value_word(hint: Any) -> str:
    """What an option takes, by its annotation.

    >>> _value_word(int | None), _value_word(list[str]), _value_word(Literal["a", "b"])
    ('N', 'TEXT', 'a,b')
    """
    if get_origin(hint) is Literal:
        return ",".join(str(one) for one in get_args(hint))
    inner = [one for one in get_args(hint) if one is not type(None)]
    if inner:
        return _value_word(inner[0])
    return {int: "N", float: "N", Path: "PATH"}.get(hint, "TEXT")


def _parameter_default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if isinstance(value, (bool, list, tuple)) or value in (None, ""):
        return "on" if value is True else "–"
    return f"`{value}`"


def _section_lines(node: Mapping[str, Any], place: str, parts: Mapping[str, Any]) -> Iterator[str]:
    """A section's fields as a table, then the sections below it, each under its dotted name."""
    if place:
        yield from (f"{'#' * min(2 + place.count('.'), 4)} {place}", "", _words(node.get("description", "")), "")
    yield from ("| field | value | default | |", "|---|---|---|---|")
    below: list[tuple[str, str]] = []
    for name, field in node["properties"].items():
        found = [(f"{place}.{name}{kind}".lstrip("."), part) for kind, part in _sections_of(field)]
        value = " or ".join(f"[{one}](#{_anchor(one)})" for one, _ in found) or _value(field)
        default = "required" if name in node.get("required", ()) else "" if found else _default(field.get("default"))
        yield f"| `{name}` | {value} | {default} | {_cell(field.get('description', ''))} |"
        below += found
    yield ""
    for one, part in below:
        yield from _section_lines(parts[part], one, parts)


def _sections_of(field: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what tells it apart, name in the schema) of the sections that a field holds: itself, in a list, by name."""
    several = field.get("items", {})
    for kind, part in several.get("discriminator", {}).get("mapping", {}).items():
        yield f"[{kind}]", part.rpartition("/")[2]
    for kind, one in (("", field), ("[…]", several), (".NAME", field.get("additionalProperties"))):
        for here in (one, *one.get("anyOf", ())) if isinstance(one, Mapping) else ():
            if "$ref" in here:
                yield kind, here["$ref"].rpartition("/")[2]


def _anchor(place: str) -> str:
    """As Python-Markdown makes it of a heading."""
    return "".join(letter for letter in place.lower() if (letter.isalnum() and letter.isascii()) or letter in "-_")


def _value(field: Mapping[str, Any]) -> str:
    """What a field takes, with its bounds.

    >>> _value({"type": "array", "items": {"type": "integer", "minimum": 1}})
    'list: whole number ≥ 1'
    """
    if "anyOf" in field:
        return " or ".join(_value(one) for one in field["anyOf"])
    if "const" in field or "enum" in field:
        return ", ".join(f"`{one}`" for one in field.get("enum", [field.get("const")]))
    kind = field.get("type", "anything")
    if kind == "array":
        return f"list: {_value(field.get('items', {}))}"
    if kind == "object":
        return f"name → {_value(field.get('additionalProperties', {}))}"
    words = {"string": "text", "integer": "whole number", "boolean": "`true`, `false`"}.get(kind, kind)
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return " ".join([words, *(f"{sign} {field[name]:,}" for name, sign in signs.items() if name in field)])


def _default(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _words(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    """Text of a table's cell."""
    return _words(text).replace("|", "\\|").replace("<", "&lt;")


def _rules_page() -> str:
    from nexus_llm.data.judging.rules import load_spec

    spec = load_spec()
    lines = [
        "# Rules that text is judged by",
        "",
        "Generated from `src/nexus_llm/data/judging/rules.yaml` by `make reference`; do not edit.",
        "",
        "A text is kept while its value is at least (≥) or at most (≤) the threshold. The first rule that it breaks,",
        "in this order, is the reason that `nexus data why` gives. *Spaces*: the rule means nothing in languages",
        "written without spaces between words. Where languages are named, the rule is for texts in these only.",
    ]
    for family, purpose in spec.families.items():
        lines += ["", f"## {family}", "", purpose, ""]
        lines += ["| rule | kept while | unit | languages | source |", "|---|---|---|---|---|"]
        rules = [rule for rule in spec.rules if rule.family == family]
        lines += [_rule_row(rule) for rule in rules]
        deviations = [f"- `{rule.id}`: {rule.deviation}" for rule in rules if rule.deviation]
        lines += ["", "Known to differ:", "", *deviations] if deviations else []
    return "\n".join(lines) + "\n"


def _rule_row(rule: Any) -> str:
    languages = "any" if rule.languages == "any" else ", ".join(rule.languages)
    languages += "; spaces" if rule.assumes_spaces else ""
    sign = "≤" if rule.at_least is None else "≥"
    return f"| `{rule.id}` | {sign} {rule.threshold:,} | {rule.unit} | {languages} | {rule.source} |"


if __name__ == "__main__":
    main()

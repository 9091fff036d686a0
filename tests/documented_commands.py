"""The commands that pages show, and what the real command line says against them."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from nexus_llm.cli import app

ENDS_A_COMMAND = ("|", "||", "&&", "&", ";", ">", ">>", "2>", "<")
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the page's examples in one of the languages, without their indentation."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if found[2] in languages:
            lines = (line.removeprefix(found[1]) for line in found[3].splitlines())
            yield text.count("\n", 0, found.start()) + 2, "\n".join(lines) + "\n"


def commands(text: str, *programs: str) -> Iterator[list[str]]:
    """The words of each command of one of `programs`, also inside of `$(…)`, behind variables and behind pipes."""
    flat = re.sub(r"\\\n\s*", " ", text)
    flat = re.sub(
        r"\$\(([^()]*)\)", lambda found: f"VALUE\n{found[1]}\n" if found[1].startswith(programs) else "VALUE", flat
    )
    for line in flat.splitlines():
        if not any(program in line for program in programs):
            continue
        words: list[str] = []
        for word in [*shlex.split(line.replace(";", " ; "), comments=True), "|"]:
            if word in ENDS_A_COMMAND:
                if words and Path(words[0]).name in programs:
                    yield [Path(words[0]).name, *words[1:]]
                words = []
            elif words or not re.match(r"[A-Z_]+=", word):
                words.append(word)


def console_commands(text: str) -> str:
    """What was typed in an example that shows answers, too: the lines behind `$ `."""
    return "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))


@functools.cache
def root() -> Any:
    """`nexus` as it parses."""
    return typer.main.get_command(app)


def objection(words: list[str]) -> str | None:
    """What the command line says against a whole `nexus …` before it would do anything; None where it would begin."""
    command, rest = root(), words[1:]
    while hasattr(command, "commands"):
        name = rest.pop(0) if rest and rest[0] in command.commands else "RECIPE"
        if name not in command.commands:
            return None if rest[:1] in (["--help"], ["--version"]) else f"{' '.join(words)}: no such verb"
        command = command.commands[name]
    try:
        command.make_context(name, rest)
    except typer.Exit:
        return None  # --help
    except typer.TyperException as error:
        return f"{' '.join(words)}: {error.format_message()}"
    return None


def unknown_word(words: list[str]) -> str | None:
    """The first verb or option of a shortened `nexus … --option` that the command line does not have."""
    command, rest = root(), words[1:]
    while hasattr(command, "commands") and rest:
        is_recipe = rest[0] not in command.commands and "RECIPE" in command.commands
        if not is_recipe and rest[0] not in command.commands:
            return None if not rest[0].strip("…").isalpha() or rest[0].isupper() else rest[0]
        command = command.commands["RECIPE" if is_recipe else rest.pop(0)]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    given = [word.partition("=")[0] for word in rest if word.startswith("--")]
    return next((word for word in given if word not in known), None)

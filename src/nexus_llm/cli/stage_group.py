"""A stage's verb that is also a group: `nexus data RECIPE` beside `nexus data why`, `nexus train RECIPE` beside
`nexus train drill`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import typer
from typer.core import TyperGroup

from nexus_llm.errors import UsageError

_RECIPE = "RECIPE"
"""Name of the hidden command that `nexus VERB RECIPE` runs."""


class CommandFile(Protocol):
    """A module of `nexus_llm.cli` that adds commands."""

    def register(self, app: typer.Typer, /) -> None:
        """Adds them."""


class RecipeOrCommand(TyperGroup):
    """A group whose first word may be a command or a recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        commands = [name for name in self.commands if name != _RECIPE]
        if not ctx.resilient_parsing and args[:1] not in [[name] for name in (*commands, *ctx.help_option_names)]:
            if args:
                _refuse_mistyped(args[0], commands, verb=str(self.name))
            args = [_RECIPE, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == _RECIPE else name), command, rest


def replace_verb(app: typer.Typer, verb: str, *, about: str, modules: Sequence[CommandFile]) -> typer.Typer:
    """Puts a group in the place of a stage's verb, which stays as `nexus VERB RECIPE`; gives the group.

    `about` follows the verb's own sentence in the group's help. The verb must be registered already: typer lets a
    group win over a command of the same name and keeps its place.
    """
    stage = next(command for command in app.registered_commands if command.name == verb)
    assert stage.callback is not None
    group = typer.Typer(cls=RecipeOrCommand, subcommand_metavar="RECIPE | COMMAND [ARGS]...", rich_markup_mode=None)
    group.command(_RECIPE, hidden=True, help=stage.help)(stage.callback)
    for module in modules:
        module.register(group)
    app.add_typer(group, name=verb, help=f"{stage.help}\n\n{about}")
    return group


def _refuse_mistyped(word: str, commands: list[str], *, verb: str) -> None:
    """Names the nearest command where `word` is neither a file nor written like one."""
    if word.startswith("-") or "/" in word or word.endswith((".yaml", ".yml")) or Path(word).exists():
        return
    near = difflib.get_close_matches(word, commands, n=1, cutoff=0.5)
    raise UsageError(
        f"{word} is neither a recipe file nor a command of nexus {verb}",
        fix=f"did you mean: nexus {verb} {near[0]}" if near else f"give a recipe, or one of: {', '.join(commands)}",
    )

"""`nexus data RECIPE`, and the commands that look into what came out of it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from nexus_llm.errors import UsageError

_RECIPE = "RECIPE"
"""Name of the hidden command that `nexus data RECIPE` runs."""


class RecipeOrCommand(TyperGroup):
    """A group whose first word may be a command or a recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        commands = [name for name in self.commands if name != _RECIPE]
        if not ctx.resilient_parsing and args[:1] not in [[name] for name in (*commands, *ctx.help_option_names)]:
            if args:
                _refuse_mistyped(args[0], commands)
            args = [_RECIPE, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == _RECIPE else name), command, rest


data = typer.Typer(cls=RecipeOrCommand, subcommand_metavar="RECIPE | COMMAND [ARGS]...", rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Puts the group in the place of the stage's verb `data`, which stays as `nexus data RECIPE`.

    The verb must be registered already: typer lets a group win over a command of the same name and keeps its place.
    """
    from nexus_llm.cli import data_convert, data_erase, data_records, data_sources

    verb = next(command for command in app.registered_commands if command.name == "data")
    assert verb.callback is not None
    data.command(_RECIPE, hidden=True, help=verb.help)(verb.callback)
    for module in (data_sources, data_convert, data_records, data_erase):
        module.register(data)
    app.add_typer(data, name="data", help=_help(verb.help or ""))


def _help(what: str) -> str:
    return (
        f"{what}\n\nnexus data RECIPE makes the token shards of a recipe (its options: nexus data RECIPE --help). "
        "The commands find, fetch and convert text, and look into what came out."
    )


def _refuse_mistyped(word: str, commands: list[str]) -> None:
    """Names the nearest command where `word` is neither a file nor written like one.

    Raises:
        UsageError: it is not.
    """
    if word.startswith("-") or "/" in word or word.endswith((".yaml", ".yml")) or Path(word).exists():
        return
    near = difflib.get_close_matches(word, commands, n=1, cutoff=0.5)
    raise UsageError(
        f"{word} is neither a recipe file nor a command of nexus data",
        fix=f"did you mean: nexus data {near[0]}" if near else f"give a recipe, or one of: {', '.join(commands)}",
    )

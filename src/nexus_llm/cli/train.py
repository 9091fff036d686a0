"""`nexus train RECIPE`, and the commands about training."""

from __future__ import annotations

import typer

from nexus_llm.cli.stage_group import replace_verb

_ABOUT = (
    "nexus train RECIPE trains what a recipe says (its options: nexus train RECIPE --help). The same command goes on "
    "where a killed run stopped. The commands show that it does (drill), and follow a run that is elsewhere."
)


def register(app: typer.Typer) -> None:
    """Makes the stage's verb `train` a group, as `replace_verb` says."""
    from nexus_llm.cli import train_drill, train_remote

    replace_verb(app, "train", about=_ABOUT, modules=(train_drill, train_remote))

"""`nexus data RECIPE`, and the commands that look into what came out of it."""

from __future__ import annotations

import typer

from nexus_llm.cli.stage_group import replace_verb

_ABOUT = (
    "nexus data RECIPE makes the token shards of a recipe (its options: nexus data RECIPE --help). "
    "The commands find, fetch and convert text, and look into what came out."
)


def register(app: typer.Typer) -> None:
    """Makes the stage's verb `data` a group, as `replace_verb` says."""
    from nexus_llm.cli import data_convert, data_erase, data_records, data_sources

    replace_verb(app, "data", about=_ABOUT, modules=(data_sources, data_convert, data_records, data_erase))

"""`nexus aws`: the account, looked at before, made, used, and taken down again. One file a verb."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds the group to the command line."""
    from nexus_llm.cli import aws_iam, aws_pipeline, aws_preflight, aws_recovery, aws_rehearse, aws_up

    group = typer.Typer(
        help="Your AWS account: what it lacks, what was made in it, what is left.", rich_markup_mode=None
    )
    aws_preflight.register(group)
    aws_up.register(group)
    aws_pipeline.register(group)
    aws_rehearse.register(group)
    aws_recovery.register(group)
    aws_iam.register(group)
    app.add_typer(group, name="aws")

"""`nexus aws`: the account, looked at before, made, used, and taken down again. One file a verb."""

from __future__ import annotations

import typer

from nexus_llm.cli import aws_iam, aws_pipeline, aws_preflight, aws_recovery, aws_rehearse, aws_up

group = typer.Typer(help="Your AWS account: what it lacks, what was made in it, what is left.", rich_markup_mode=None)
for module in (aws_preflight, aws_up, aws_pipeline, aws_rehearse, aws_recovery, aws_iam):
    module.register(group)

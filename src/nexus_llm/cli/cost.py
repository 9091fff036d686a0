"""`nexus cost`: the plan before, the lock in between, the meter after."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds the group to the command line."""
    from nexus_llm.cli import cost_actual, cost_calibrate, cost_contract, cost_plan

    group = typer.Typer(
        help="What it will cost, whether it pays, and what it must never exceed.", rich_markup_mode=None
    )
    for module in (cost_plan, cost_contract, cost_calibrate, cost_actual):
        module.register(group)
    app.add_typer(group, name="cost")

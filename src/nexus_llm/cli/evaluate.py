"""`nexus evaluate RECIPE`, and the evaluations that need no recipe."""

from __future__ import annotations

import typer

from nexus_llm.cli.stage_group import replace_verb

_ABOUT = (
    "nexus evaluate RECIPE compares base and tuned model as a recipe says (its options: nexus evaluate RECIPE --help). "
    "The commands measure any model or server."
)


def register(app: typer.Typer) -> None:
    """Makes the stage's verb `evaluate` a group, as `replace_verb` says."""
    from nexus_llm.cli import (
        evaluate_benchmarks,
        evaluate_compare,
        evaluate_glue,
        evaluate_measures,
        evaluate_tasks,
    )

    modules = (evaluate_benchmarks, evaluate_tasks, evaluate_measures, evaluate_glue, evaluate_compare)
    replace_verb(app, "evaluate", about=_ABOUT, modules=modules)

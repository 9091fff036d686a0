"""`nexus gate`: the verdict of an evaluation that was made before, for people and for CI.

Nothing is trained or measured here: a recipe that was changed since its run has no verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, Overrides, Root, ports, workspace
from nexus_llm.errors import ArtifactError, GateFailedError, GateInconclusiveError, UsageError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact

GATE_EXIT_CODES = {"pass": 0, "fail": GateFailedError.exit_code, "inconclusive": GateInconclusiveError.exit_code}
Junit = Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML, one case a rule.", metavar="FILE")]


def gate(
    name: str = typer.Argument(help="A recipe, a run folder or a run's name.", metavar="RECIPE|RUN"),
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    junit: Junit = None,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """The verdict of an evaluation: exit 0 pass, 3 fail, 4 inconclusive."""
    from nexus_llm.evaluate.junit import junit_xml
    from nexus_llm.storage import write_atomically

    evaluation = _evaluation(name, tuple(overrides), root)
    verdict: dict[str, Any] = evaluation.manifest.facts["gate"]
    if junit is not None:
        write_atomically(junit, junit_xml(verdict, suite=f"nexus gate {name}"))
    if as_json:
        print_json(verdict)
    else:
        print_gate(verdict)
    return GATE_EXIT_CODES[verdict["verdict"]]


def print_gate(verdict: dict[str, Any]) -> None:
    """A line a rule, and the verdict over all."""
    for row in verdict["comparisons"]:
        print(f"{_measured(row)}  {row['verdict']}: {row['reason']}")
    print(f"verdict  {verdict['verdict']}")


def _evaluation(name: str, overrides: tuple[str, ...], root: Path) -> Artifact:
    """The evaluation of exactly this recipe, or of the run."""
    from nexus_llm.pipeline.lineage import find_artifact

    if not name.endswith((".yaml", ".yml")):
        if overrides:
            raise UsageError("--set changes a recipe, and a run is made already", fix=f"nexus gate {name}")
        found = find_artifact(name, workspace(root))
        if found.kind != "evaluate":
            raise ArtifactError(f"{name} was not evaluated yet", fix="nexus run its recipe to the end")
        return found
    from nexus_llm.pipeline import plan, stages
    from nexus_llm.recipe import load_recipe

    last = plan(load_recipe(Path(name), overrides=overrides), workspace(root), ports(), line=stages())[-1]
    if last.artifact is None:
        raise ArtifactError(
            f"{name} was not evaluated as it stands (no {last.folder})", fix=f"nexus evaluate {name}, then this again"
        )
    return last.artifact


def _measured(row: dict[str, Any]) -> str:
    if "base_perplexity" in row:
        return (
            f"{row['name']:<8} perplexity {row['base_perplexity']:.2f} → {row['tuned_perplexity']:.2f}  "
            f"{row['change']:+.1%} {_interval(row)}"
        )
    scores = [f"{row[side]:.3f}" for side in ("base_score", "tuned_score") if row[side] is not None]
    change = "" if row["change"] is None else f"  {row['change']:+.3f}"
    return f"{row['name']:<8} {row['rule']} {row['metric']} {' → '.join(scores) or 'unknown'}{change}"


def _interval(row: dict[str, Any]) -> str:
    low, high = row["low"], row["high"]
    if high is None:
        return "[too few documents for an interval]"
    return f"[{low:+.1%}, {high:+.1%}]"

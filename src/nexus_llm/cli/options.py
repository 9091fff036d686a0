"""Options that several verbs share, and the ports that they hand to the stages."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.errors import UsageError

if TYPE_CHECKING:
    from nexus_llm.pipeline import Workspace
    from nexus_llm.ports import Ports, Tracker
    from nexus_llm.recipe import Recipe

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]
Overrides = Annotated[
    list[str], typer.Option("--set", help="Override one field: --set train.max_steps=50", metavar="A.B=C")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
BudgetUsd = Annotated[
    float | None,
    typer.Option("--budget-usd", min=0, help="What jobs on AWS may cost: refused (exit 5) where the plan is above."),
]
MeteredBy = Annotated[
    Path | None, typer.Option("--recipe", help="With --budget-usd: says what the job costs an hour.", metavar="RECIPE")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan; make nothing.")]
Root = Annotated[Path, typer.Option("--root", help="Folder that holds runs/ and artifacts/.", metavar="DIR")]

KeysDatabase = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="NEXUS_DATABASE",
        help="Where keys, limits and usage are kept: a file, sqlite:///… or postgresql+psycopg://…",
        metavar="URL",
    ),
]


def cache_folder() -> Path:
    """What is fetched once for all runs: $NEXUS_CACHE, else $XDG_CACHE_HOME/nexus-llm, else ~/.cache/nexus-llm."""
    if own := os.environ.get("NEXUS_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nexus-llm"


def workspace(root: Path) -> Workspace:
    """The workspace below `root`."""
    from nexus_llm.pipeline import Workspace

    return Workspace(root=root, cache=cache_folder())


def ports() -> Ports:
    """Real ports for a command at the terminal; SIGINT and SIGTERM are caught from now on."""
    from nexus_llm.cli.console import SignalInterrupt, console_progress
    from nexus_llm.cli.job_account import account
    from nexus_llm.cli.package_reader import OwnPackageReader
    from nexus_llm.cli.train_remote import LauncherTrainService
    from nexus_llm.cloud.data_submit import AwsDataService
    from nexus_llm.cloud.hub import hub_from_environment
    from nexus_llm.cloud.pip import PipIndex
    from nexus_llm.ports import Ports

    interrupt, progress = SignalInterrupt(), console_progress()
    interrupt.install()
    return Ports(
        progress=progress,
        interrupt=interrupt,
        cache=cache_folder(),
        hub=hub_from_environment(os.environ),
        packages=PipIndex(),
        data_service=AwsDataService(lambda region: account(region, interrupt), progress),
        train_service=LauncherTrainService(progress, interrupt),
        package_reader=OwnPackageReader(),
    )


def tracker(recipe: Recipe, *, runs: Path) -> Tracker:
    """Whom the recipe's `train.tracking` wants to be told; `runs` is the folder of runs."""
    from nexus_llm.cloud.tracking import tracker_for

    def warn(words: str) -> None:
        print(f"warning: {words}", file=sys.stderr)

    return tracker_for(recipe.train.tracking, runs=runs, environment=os.environ, warn=warn)


def json_object(path: Path, *, fix: str) -> dict[str, Any]:
    """The object in a JSON file that a user named."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON ({error})", fix=fix) from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is no JSON object", fix=fix)
    return found


def key_headers() -> dict[str, str]:
    """What a gateway with keys is sent."""
    key = os.environ.get("NEXUS_API_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def command_line() -> list[str]:
    """What the user typed, for provenance."""
    return ["nexus", *sys.argv[1:]]

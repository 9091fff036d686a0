"""The composition root: `nexus` and its verbs. One file a group of verbs, no logic.

Nothing heavy is imported here: `nexus --help` answers in a fraction of a second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

import nexus_llm
from nexus_llm.cli import (
    artifacts,
    aws,
    backup,
    bench,
    chat,
    cost,
    data,
    deploy,
    evaluate,
    gate,
    jobs,
    keys,
    model,
    observe,
    recipe,
    run,
    serve,
    train,
    usage,
)
from nexus_llm.cli.console import Stopped, print_error
from nexus_llm.errors import NexusError, TryAgainError, UsageError

app = typer.Typer(
    name="nexus",
    help="Own your LLM: from your own text to an answering model, with one recipe.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(nexus_llm.__version__)
        raise typer.Exit


@app.callback()
def nexus(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Own your LLM: from your own text to an answering model, with one recipe."""


run.register(app)
data.register(app)
train.register(app)
evaluate.register(app)
jobs.register(app)
for verb in (
    gate.gate,
    serve.serve,
    chat.chat,
    bench.bench,
    deploy.deploy,
    deploy.rollback,
    usage.usage,
    backup.backup,
    backup.restore,
    artifacts.show,
    artifacts.lineage,
    artifacts.diff,
    artifacts.doctor,
):
    app.command()(verb)
app.add_typer(keys.group, name="keys")
app.add_typer(observe.group, name="observe")
cost.register(app)
app.add_typer(aws.group, name="aws")
app.add_typer(recipe.group, name="recipe")
app.add_typer(model.group, name="model")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with the documented exit code.

    0 done · 1 failure · 2 recipe or usage error · 3 gate failed · 4 gate inconclusive · 5 budget refused ·
    6 preflight failed · 7 leftovers · 75 try again
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(run_command(given or ["--help"]))


def run_command(arguments: Sequence[str]) -> int:
    """The exit code of one command line; every error is printed here and nowhere else."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' bars beside ours; read when they are imported
    as_json = "--json" in arguments
    try:
        result = app(list(arguments), prog_name="nexus", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except NexusError as error:
        print_error(error, as_json=as_json)
        return error.exit_code
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = " ".join(context.command_path.split()) if context else "nexus"
        print_error(UsageError(error.format_message(), fix=f"see: {command} --help"), as_json=as_json)
        return error.exit_code
    except Stopped as signal:
        print_error(TryAgainError(f"stopped by {signal}", fix="the same command continues"), as_json=as_json)
        return TryAgainError.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) has gone: there is nobody to tell
        return 0

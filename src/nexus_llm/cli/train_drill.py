"""`nexus train drill`: kill a recipe's own training at random moments, and show that nothing of it is left in the
result."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, Overrides, RecipePath, Root, command_line, ports, workspace
from nexus_llm.errors import TrainingError

if TYPE_CHECKING:
    from nexus_llm.cloud.drill_runs import DrillResult
    from nexus_llm.ports import Ports
    from nexus_llm.recipe import Recipe
    from nexus_llm.train.drill import Kill

# Nobody is told of a drill, and it happens on this machine.
_ALWAYS = (
    "train.launcher=local",
    "train.tracking.mlflow=false",
    "train.tracking.tensorboard=false",
    "train.tracking.wandb_project=null",
    "train.early_stopping_patience=null",
)


def register(app: typer.Typer) -> None:
    """Adds the command to the group."""
    app.command()(drill)


def drill(
    recipe: RecipePath,
    kills: Annotated[int, typer.Option("--kills", min=1, max=1000, help="How often to kill -9 it.")] = 5,
    corrupt: Annotated[bool, typer.Option(help="Change one byte of one checkpoint as well.")] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the moments; the same ones again.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=4, help="Train so many steps of the recipe's at most.")] = 16,
    keep: Annotated[bool, typer.Option("--keep", help="Keep both runs' files.")] = False,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Kill this recipe's training at random moments; exit 0 where nothing of it is left."""
    from nexus_llm.cloud.drill_runs import run_drill
    from nexus_llm.recipe import load_recipe
    from nexus_llm.train.drill import plan_kills, shortened

    wanted = load_recipe(recipe, overrides=tuple(overrides))
    train = wanted.train
    shorter, every = shortened(max_steps=train.max_steps, save_steps=train.save_steps, wanted=steps)
    settings = (*overrides, f"train.max_steps={shorter}", f"train.save_steps={every}", *_ALWAYS)
    load_recipe(recipe, overrides=settings)  # refuses here what every process would refuse
    notes = _notes(wanted, shorter, every)
    planned = plan_kills(kills=kills, steps=shorter, save_steps=every, corrupt=corrupt, seed=seed)
    openings = ports()
    folder = _own_folder(workspace(root).run_folder(wanted))
    keeps = keep
    try:
        for note in notes:
            print(f"note: {note}", file=sys.stderr, flush=True)
        _make_inputs(recipe, tuple(overrides), root, folder, openings)
        result = run_drill(
            planned,
            steps=shorter,
            roots=(folder / "undisturbed", folder / "killed"),
            command=lambda place: _command(recipe, settings, place),
            seed=seed,
            ports=openings,
        )
        keeps = keep or not result.is_equal  # what differs is kept to be looked at
    except TrainingError:
        keeps = True  # it names the log
        raise
    finally:
        if not keeps:
            shutil.rmtree(folder, ignore_errors=True)
    document = _document(wanted, result, seed=seed, steps=shorter, save_steps=every, notes=notes)
    document["folder"] = str(folder) if keeps else None
    if as_json:
        print_json(document)
    else:
        _print_result(document, planned)
    return 0 if result.is_equal else 1


def _notes(recipe: Recipe, steps: int, save_steps: int) -> list[str]:
    """What the drill does otherwise than the recipe says."""
    train, notes = recipe.train, []
    if steps != train.max_steps:
        notes.append(f"{steps} steps instead of {train.max_steps}, so that it takes minutes (--steps)")
    if save_steps != train.save_steps:
        notes.append(f"a checkpoint every {save_steps} steps instead of {train.save_steps}, so that there are some")
    if train.launcher != "local":
        notes.append(f"on this machine instead of train.launcher {train.launcher}")
    return notes


def _own_folder(run: Path) -> Path:
    """A new folder beside the run's."""
    from nexus_llm import storage

    with storage.explained(str(run.parent)):
        run.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".drill-{run.name}-", dir=run.parent)).absolute()


def _make_inputs(recipe: Path, overrides: tuple[str, ...], root: Path, folder: Path, openings: Ports) -> None:
    """Base model and data by the ordinary line, into the ordinary place; the run's own folder is not touched."""
    from nexus_llm.cloud.local import provenance
    from nexus_llm.pipeline import execute, stages
    from nexus_llm.recipe import load_recipe

    shared = (root / "artifacts" / "data").absolute()
    shared.mkdir(parents=True, exist_ok=True)
    for place in ("inputs", "undisturbed", "killed"):
        (folder / place / "artifacts").mkdir(parents=True)
        (folder / place / "artifacts" / "data").symlink_to(shared, target_is_directory=True)
    execute(
        load_recipe(recipe, overrides=overrides),
        workspace(folder / "inputs"),
        openings,
        line=stages(until="data"),
        provenance=provenance(command_line()),
    )


def _command(recipe: Path, settings: Sequence[str], root: Path) -> list[str]:
    """`nexus train` as a user would type it."""
    chosen = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "nexus_llm.cli", "train", str(recipe), "--root", str(root), *chosen]


def _document(
    recipe: Recipe, result: DrillResult, *, seed: int, steps: int, save_steps: int, notes: list[str]
) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "seed": seed,
        "steps": steps,
        "save_steps": save_steps,
        "notes": notes,
        "equal": result.is_equal,
        "kills": [asdict(one) for one in result.casualties],
        "missed": list(result.missed),
        "comparison": [asdict(one) for one in result.agreements],
        "undisturbed_seconds": result.undisturbed_seconds,
        "killed_seconds": result.killed_seconds,
    }


def _print_result(document: dict[str, Any], planned: Sequence[Kill]) -> None:
    print(f"\n{'kill -9':<36}{'left behind':<50}went on")
    for number, one in enumerate(document["kills"], start=1):
        print(f"{number:>3}  {one['hit']:<31}{_left_behind(one):<50}{_went_on(one)}")
        if one["corrupted"]:
            print(f"     changed  {one['corrupted']}")
        for broken in one["set_aside"]:
            print(f"     set aside  {broken['name']}: {broken['reason']}")
    for missed in document["missed"]:
        print(f"     missed  {missed}")
    print(f"\n{'':<38}{'undisturbed':<18}killed")
    for one in document["comparison"]:
        mark = "=" if one["equal"] else "DIFFERENT"
        print(f"{one['what']:<38}{one['undisturbed']:<18}{one['killed']:<18}{mark}  {one['note']}")
    count, seconds = len(document["kills"]), document["undisturbed_seconds"]
    verdict = "equal to the last bit" if document["equal"] else "NOT equal"
    print(f"\n{verdict} after {count} of {len(planned)} kills ({seconds:.0f} s undisturbed, ", end="")
    print(f"{document['killed_seconds']:.0f} s with them)")
    if document["folder"]:
        print(f"both runs  {document['folder']}")
    sys.stdout.flush()


def _left_behind(casualty: dict[str, Any]) -> str:
    whole = ", ".join(str(step) for step in casualty["whole"])
    parts = [f"checkpoints after step {whole}" if whole else "no checkpoint"]
    if casualty["half_written"]:
        parts.append("one half-written")
    return "; ".join(parts)


def _went_on(casualty: dict[str, Any]) -> str:
    return f"after step {casualty['continued_from']}" if casualty["continued_from"] else "from the start"

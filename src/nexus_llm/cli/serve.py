"""`nexus serve`, and how the other verbs find a model to talk to."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_llm.cli.admin_token import AdminToken
from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, KeysDatabase, Overrides, Root, cache_folder, command_line
from nexus_llm.errors import ArtifactError, MissingExtraError, ServingError

if TYPE_CHECKING:
    from nexus_llm.recipe import ServeRecipe
    from nexus_llm.serve.server import ServerInfo

NEEDED_MODULES = ("fastapi", "uvicorn", "httptools", "prometheus_client", "sqlalchemy")

# Each has a variable: SageMaker starts the image as `serve`, and nothing else (cloud/sagemaker_transform.py).
Target = Annotated[
    str,
    typer.Argument(
        help="A run (runs/NAME), a packaged model folder, a base model, or NAME@ALIAS of the registry.",
        metavar="RUN|MODEL",
        envvar="NEXUS_SERVE_MODEL",
    ),
]
Host = Annotated[
    str | None,
    typer.Option(help="Address to listen on [default: the recipe's, 127.0.0.1].", envvar="NEXUS_SERVE_HOST"),
]
SageMakerPort = Annotated[
    int | None,
    typer.Option(
        help="Also answer SageMaker's /ping and /invocations, without keys, on this port: it calls 8080.",
        envvar="NEXUS_SAGEMAKER_PORT",
    ),
]


def serve(
    target: Target,
    port: Annotated[int | None, typer.Option(help="Port to listen on [default: the recipe's, 8000].")] = None,
    host: Host = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model [default: the run's name].")] = None,
    sagemaker_port: SageMakerPort = None,
    engine: Annotated[
        str | None,
        typer.Option(help="openvino, llama.cpp, transformers, vllm or openai [default: the recipe's, openvino]."),
    ] = None,
    database: KeysDatabase = None,
    drain_seconds: Annotated[float, typer.Option(help="Time for open answers to finish at the end.")] = 30.0,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error: JSON lines on stderr.")] = "warning",
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Answer at an OpenAI-compatible address until Ctrl-C; SIGHUP swaps in the target's newest package."""
    require_serving()
    if engine is not None:
        overrides = [*overrides, f"serve.engine={engine}"]
    model = find_model(target, root=root, overrides=tuple(overrides))
    from nexus_llm.cli.keys import database_password  # which imports this module
    from nexus_llm.serve.engines.commands import require_engine
    from nexus_llm.serve.logs import log_to_stderr
    from nexus_llm.serve.server import run_server

    require_engine(model.recipe)
    log_to_stderr(log_level)
    recipe = _with_keys(model.recipe, database)
    if sagemaker_port is not None:
        recipe = recipe.model_copy(update={"sagemaker": True, "sagemaker_port": sagemaker_port})

    token = AdminToken()

    def on_ready(info: ServerInfo) -> None:
        if recipe.keys.database is None:  # else an admin key opens it
            token.leave(info.url)
        _print_ready(info, as_json=as_json)

    try:
        run_server(
            model.folder,
            recipe=recipe,
            model_name=name or model.name,
            host=host or model.recipe.host,
            port=model.recipe.port if port is None else port,
            drain_seconds=drain_seconds,
            on_ready=on_ready,
            upstream_key=upstream_key(model.recipe),
            database_password=None if recipe.keys.database is None else database_password(recipe.keys.database),
            admin_token=token.value,
            find_folder=lambda: find_model(target, root=root, overrides=tuple(overrides)).folder,
        )
    finally:
        token.remove()
    return 0


def upstream_key(recipe: ServeRecipe) -> str | None:
    """The key that the environment holds for the upstream; None where the recipe names no variable."""
    variable = recipe.upstream.key_variable
    if recipe.engine != "openai" or variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ServingError(
            f"the environment variable {variable}, which serve.upstream.key_variable names, is not set",
            fix=f"export {variable}=... before nexus serve",
        )
    return key


@dataclass(frozen=True)
class FoundModel:
    """A packaged model on disk, and how its recipe wants it served."""

    folder: Path
    name: str
    recipe: ServeRecipe


def find_model(target: str, *, root: Path, overrides: tuple[str, ...] = ()) -> FoundModel:
    """The packaged model that a user means by a run, a packaged folder, or a base model (packaged in the cache)."""
    from nexus_llm.recipe import default_recipe, load_recipe
    from nexus_llm.serve.model_folder import weights_in

    if "@" in target and not Path(target).exists() and not {":", "/"} & set(target):
        return _registered(target, root, overrides)
    given = Path(target)
    run = next((one for one in (given, root / "runs" / target) if (one / "artifacts.json").is_file()), None)
    if run is not None:
        recipe = load_recipe(run / "recipe.resolved.yaml", overrides=overrides)
        folder = _package_of(run, root)
        _refuse_altered(folder)
        return FoundModel(folder, recipe.name, recipe.serve)
    recipe = default_recipe("served", overrides=overrides)
    if recipe.serve.engine == "openai":
        return FoundModel(given, target, recipe.serve)  # nothing is read here: the name is what clients say
    is_read_as_it_is = recipe.serve.engine in ("transformers", "vllm") and (given / "config.json").is_file()
    if is_read_as_it_is or weights_in(given, recipe.serve.engine) is not None:
        _refuse_altered(given)
        return FoundModel(given, given.resolve().name, recipe.serve)
    if not given.exists() and "/" in target and ":" not in target:
        raise ArtifactError(
            f"{target} is neither a run nor a model folder", fix="make one with: nexus run recipes/quickstart.yaml"
        )
    return FoundModel(_packaged_base(target), target.rstrip("/").rsplit("/", 1)[-1], recipe.serve)


def _registered(target: str, root: Path, overrides: tuple[str, ...]) -> FoundModel:
    from nexus_llm.cli.model_registry import registered_folder
    from nexus_llm.recipe import default_recipe

    folder = registered_folder(target, root)
    _refuse_altered(folder)
    return FoundModel(folder, target.partition("@")[0], default_recipe("served", overrides=overrides).serve)


def require_serving() -> None:
    """Checks the optional dependencies without loading them."""
    for module in NEEDED_MODULES:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError.for_extra("serve", module)


def _package_of(run: Path, root: Path) -> Path:
    made = json.loads((run / "artifacts.json").read_text(encoding="utf-8"))
    if "package" not in made:
        raise ArtifactError(
            f"{run} has no packaged model yet", fix=f"finish it: nexus run {run / 'recipe.resolved.yaml'}"
        )
    written = Path(made["package"]["path"])
    # The path was written where the run was made: from another folder it is looked for beside the run.
    places = (written, root / written, run.resolve().parent.parent / written)
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise ArtifactError(f"{written}, the packaged model of {run}, is gone", fix="run the recipe again")
    return folder


def _packaged_base(name: str) -> Path:
    """A base model as it is, fetched and packaged once for all: to try one before training on it."""
    from nexus_llm.cli.console import console_progress
    from nexus_llm.cloud.local import provenance
    from nexus_llm.model.stage import pull
    from nexus_llm.package.stage import package_base
    from nexus_llm.ports import Ports

    ports = Ports(progress=console_progress(), cache=cache_folder())
    origin = provenance(command_line())
    base, _ = pull(name, ports, provenance=origin)
    return package_base(base, ports, provenance=origin)[0].folder


def _refuse_altered(folder: Path) -> None:
    from nexus_llm.artifacts import MANIFEST, altered_files, load

    if (folder / MANIFEST).exists() and (altered := altered_files(load(folder))):
        raise ArtifactError(
            f"{folder}/{altered[0]} is not the file that was packaged", fix="run the recipe again: it is made anew"
        )


def _with_keys(recipe: ServeRecipe, database: str | None) -> ServeRecipe:
    if database is None:
        return recipe
    return recipe.model_copy(update={"keys": recipe.keys.model_copy(update={"database": database})})


def _print_ready(info: ServerInfo, *, as_json: bool) -> None:
    if as_json:
        document = {"url": info.url, "model": info.model, "engine_pid": info.engine_pid}
        if info.sagemaker_url is not None:
            document["sagemaker_url"] = info.sagemaker_url
        print_json({**document, "load_seconds": round(info.load_seconds, 2)})
        return
    body = json.dumps({"model": info.model, "messages": [{"role": "user", "content": "Hello!"}]})
    print(f"{info.model} answers at {info.url}  (chat page there, API below /v1; Ctrl-C stops)")
    key = '-H "authorization: Bearer $OPENAI_API_KEY" ' if info.needs_keys else ""
    print(f"curl -s {info.url}/v1/chat/completions {key}-H 'content-type: application/json' -d '{body}'", flush=True)
    if info.sagemaker_url is not None:
        print(f"SageMaker's /ping and /invocations at {info.sagemaker_url}, without keys", flush=True)
    if not info.is_loopback and not info.needs_keys:
        print(
            "warning: no key is needed: whoever reaches this address can use the model (see: nexus keys --help)",
            file=sys.stderr,
        )

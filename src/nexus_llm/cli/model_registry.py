"""`nexus model promote`, `alias` and `show`: packaged models under names, versions and aliases."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, Root, workspace
from nexus_llm.errors import ArtifactError, GateFailedError, GateInconclusiveError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.cloud.registry import ModelRegistry, RegisteredModel

Registry = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="NEXUS_REGISTRY",
        help="An MLflow server [default: runs/mlflow.db, an SQLite file].",
        metavar="URL",
    ),
]
Reference = Annotated[str, typer.Argument(help="NAME, NAME@ALIAS or NAME@VERSION.", metavar="NAME[@ALIAS]")]


def register(models: typer.Typer) -> None:
    """Adds the commands to `nexus model`."""
    models.command("promote")(promote)
    models.command("alias")(alias)
    models.command("show")(show)


def promote(
    run: Annotated[str, typer.Argument(help="A run, or a package's folder, key or id.", metavar="RUN")],
    name: Annotated[str | None, typer.Option(help="Under which name [default: the recipe's].")] = None,
    to: Annotated[list[str], typer.Option("--alias", help="Also point this alias at it; may be repeated.")] = [],  # noqa: B006
    unproven: Annotated[bool, typer.Option("--unproven", help="Even if the gate did not say pass.")] = False,
    sign_key: Annotated[
        Path | None, typer.Option(help="Sign the manifest with this private Ed25519 key (PEM).", metavar="FILE")
    ] = None,
    registry: Registry = None,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Register a run's package as the newest version of a name, with its card; refused unless its gate says pass."""
    line = _line_of(run, root)
    package = line["package"]
    gate = line["evaluate"].manifest.facts["gate"] if "evaluate" in line else None
    verdict = None if gate is None else str(gate["verdict"])
    if verdict != "pass" and not unproven:
        raise _not_proven(run, verdict)
    opened = _open(registry, root)
    signature = None
    if sign_key is not None:
        from nexus_llm.package.signature import sign

        signature = sign(package.folder, sign_key)
    chosen = name or str(package.manifest.recipe.get("name") or "model")
    found = opened.promote(chosen, package, verdict=verdict, card=_card(chosen, line), signature=signature)
    for one in to:
        found = opened.point(chosen, one, str(found.version))
    _print(found, as_json=as_json)
    return 0


def alias(
    reference: Reference,
    name: Annotated[str, typer.Argument(help="Such as champion.", metavar="ALIAS")],
    registry: Registry = None,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Point an alias at a version, whatever it pointed at before."""
    model, _, version = reference.partition("@")
    opened = _open(registry, root)
    _print(opened.point(model, name, str(opened.find(model, version or None).version)), as_json=as_json)
    return 0


def show(
    target: Annotated[str, typer.Argument(help="NAME, NAME@ALIAS, NAME@VERSION, or a run.", metavar="NAME|RUN")],
    verify_key: Annotated[
        Path | None, typer.Option(help="Check files and signature with this public Ed25519 key.", metavar="FILE")
    ] = None,
    registry: Registry = None,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """The model's card: data, training, metrics with intervals, checks, costs, limits."""
    found = None
    if (Path(target) / "artifacts.json").exists() or (root / "runs" / target / "artifacts.json").exists():
        line = _line_of(target, root)
    else:
        model, _, reference = target.partition("@")
        found = _open(registry, root).find(model, reference or None)
        line = _line_of(str(found.folder), root)
    package = line["package"]
    if verify_key is not None:
        from nexus_llm.artifacts import altered_files
        from nexus_llm.package.signature import verify

        verify(package.folder, verify_key)
        if altered := altered_files(package):
            raise ArtifactError(f"{package.folder}/{altered[0]} is not the file that was signed", fix="fetch it again")
        print("the signature is good, and every file is the one that was signed", file=sys.stderr)
    if as_json:
        registered = None if found is None else _document(found)
        facts = {kind: artifact.manifest.facts for kind, artifact in line.items()}
        print_json({"registered": registered, "folder": str(package.folder), "id": package.id, "facts": facts})
    else:
        print(_card(found.name if found else str(package.manifest.recipe.get("name")), line), end="")
    return 0


def registered_models(root: Path, registry: str | None) -> list[dict[str, Any]]:
    """What `nexus model list` tells of the registry; nothing where there is none."""
    from nexus_llm.cloud.trackers import DATABASE

    if registry is None and not (root / "runs" / DATABASE).exists():
        return []
    return [_document(one) for one in _open(registry, root).all()]


def registered_folder(target: str, root: Path) -> Path:
    """The package that NAME@ALIAS or NAME@VERSION names in the registry below `root`."""
    name, _, reference = target.partition("@")
    return _open(None, root).find(name, reference).folder


def _open(registry: str | None, root: Path) -> ModelRegistry:
    from nexus_llm.cloud.registry import ModelRegistry

    return ModelRegistry(registry, runs=root / "runs")


def _line_of(target: str, root: Path) -> dict[str, Artifact]:
    """The package that a user means and the artifacts of its line: those it was made from, and its evaluation."""
    from nexus_llm.pipeline.lineage import find_artifact

    space = workspace(root)
    found = find_artifact(target, space)
    everything = {one.id: one for one in space.all_artifacts()} | {found.id: found}
    package = everything.get(found.manifest.inputs.get("package", ""), found)
    if package.kind != "package":
        raise ArtifactError(f"{target} has no package yet", fix="make it: nexus package its recipe")
    line = {"package": package}
    line |= {kind: everything[made] for kind, made in package.manifest.inputs.items() if made in everything}
    judged = [
        one
        for one in everything.values()
        if one.kind == "evaluate" and one.manifest.inputs.get("package") == package.id
    ]
    if found.kind == "evaluate" or judged:
        line["evaluate"] = found if found.kind == "evaluate" else judged[0]
    return line


def _card(name: str, line: dict[str, Artifact]) -> str:
    from nexus_llm.package.card import model_card

    facts = {kind: artifact.manifest.facts for kind, artifact in line.items()}
    if "model" not in line:
        return (line["package"].folder / "README.md").read_text(encoding="utf-8")  # its base is no longer here
    train = line.get("train")
    return model_card(
        name=name,
        model=facts["model"],
        data=facts.get("data"),
        train=facts.get("train"),
        package=facts["package"],
        recipe=train.manifest.recipe.get("train") if train else None,
        gate=facts["evaluate"]["gate"] if "evaluate" in line else None,
        costs={kind: artifact.manifest.cost for kind, artifact in line.items() if kind != "model"},
    )


def _not_proven(run: str, verdict: str | None) -> ArtifactError | GateFailedError | GateInconclusiveError:
    fix = "evaluate it on more text, or take it anyway: --unproven (the registry keeps the verdict)"
    if verdict is None:
        return ArtifactError(f"{run} was not evaluated, so nobody knows whether it is better than its base", fix=fix)
    error = GateFailedError if verdict == "fail" else GateInconclusiveError
    return error(f"the gate of {run} says {verdict}", fix=fix)


def _document(found: RegisteredModel) -> dict[str, Any]:
    return {**asdict(found), "aliases": list(found.aliases), "folder": str(found.folder)}


def _print(found: RegisteredModel, *, as_json: bool) -> None:
    if as_json:
        print_json(_document(found))
        return
    aliases = f" ({', '.join(found.aliases)})" if found.aliases else ""
    print(f"{found.name}@{found.version}{aliases}: package {found.artifact} in {found.folder}")

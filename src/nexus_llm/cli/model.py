"""`nexus model`: fetch base models, and list them and the registered ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli import model_registry
from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, Root, cache_folder, command_line, ports

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact

group = typer.Typer(help="Fetch base models; register, name and show your own.")


@group.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="A name, hf:ORG/NAME[@REV], s3://…, a folder or a GGUF file.")],
    fresh: Annotated[bool, typer.Option("--fresh", help="Look again where it comes from.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a base model, check it, and keep it as safetensors, tokenizer and chat template."""
    from nexus_llm.cloud.local import provenance
    from nexus_llm.model.stage import pull

    artifact, was_here = pull(name, ports(), provenance=provenance(command_line()), is_fresh=fresh)
    row = _row(artifact)
    if as_json:
        print_json({**row, "skipped": was_here})
        return
    print(f"{name}: {row['parameters'] / 1e6:.1f} M parameters from {row['source']}, licence {row['license']}")
    print(f"{'already in' if was_here else 'now in'} {row['path']}")


@group.command("list")
def list_models(registry: model_registry.Registry = None, as_json: AsJson = False, root: Root = Path()) -> None:
    """The base models in the cache, and the registered models below `--root`."""
    from nexus_llm.artifacts import ArtifactStore

    store = ArtifactStore(cache_folder() / "artifacts")
    rows = [_row(artifact) for artifact in store.all() if artifact.kind == "model"]
    registered = model_registry.registered_models(root, registry)
    if as_json:
        print_json({"models": rows, "registered": registered})
        return
    if not rows:
        print("no model is here yet: nexus model pull smollm2-135m-instruct", file=sys.stderr)
    for row in rows:
        print(f"{row['base']:<28} {row['id']}  {row['bytes'] / 1e6:>8.1f} MB  {row['license']:<12} {row['source']}")
    for one in registered:
        label = f"{one['name']}@{one['version']}"
        print(f"{label:<28} {one['artifact']}  {one['verdict'] or 'not judged':<12} {', '.join(one['aliases'])}")


model_registry.register(group)


def _row(artifact: Artifact) -> dict[str, Any]:
    facts = artifact.manifest.facts
    return {
        "base": facts["base"],
        "key": artifact.key,
        "id": artifact.id,
        "path": str(Path(artifact.folder)),
        "bytes": sum(entry.bytes for entry in artifact.manifest.files),
        **{name: facts[name] for name in ("parameters", "source", "sha256", "license")},
    }
